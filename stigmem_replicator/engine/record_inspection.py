"""One page of tombstones or revocations inspected: decoded, known ones set aside, others judged.

Runs in a worker thread: the lookups and the signature checks block.  The checks themselves are
in ``trust.tombstones``; here is what they are given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Connection

from stigmem_replicator.engine.refusals import Inspected, Letters, inspect_each
from stigmem_replicator.protocol import tombstone
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.envelope import MalformedEntry
from stigmem_replicator.protocol.tombstone import Artifact, RecordEntry, Revocation
from stigmem_replicator.store import reads, tombstones
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.trust.facts import Admit
from stigmem_replicator.trust.keys import Manifest, ManifestError, read_manifest
from stigmem_replicator.trust.tombstones import (
    JUDGEMENT_VERSION,
    MENDED_BY_TIME,
    AdmitRecord,
    KnownRecord,
    RecordPolicy,
    RecordVerdict,
    is_duplicate,
    judge,
)
from stigmem_replicator.trust.verdicts import Reject


@dataclass(frozen=True, slots=True)
class Batch:
    """The raw entries of one kind on one page, where they came from and when they are judged.

    ``admitted`` is, by kind, what this pass would have written and, in a dry run, did not.
    """

    node_id: str
    artifact: Artifact
    entries: Sequence[object]
    dialect: Dialect
    now_ms: int
    admitted: Mapping[Artifact, Mapping[str, KnownRecord]]


def generation(policy: RecordPolicy) -> str:
    """Return a name for everything that a verdict depends on beside the entry and its issuer.

    A dead letter made under another generation is judged again; one that waits for its issuer's
    key always is.
    """
    tenants = policy.tenants
    facts = [
        JUDGEMENT_VERSION,
        sorted(policy.keys),
        tenants.ingest_tenant,
        tenants.hosts_tenants,
        tenants.plugin_active,
        policy.relay_enabled,
        policy.relay_trusted,
        policy.signed,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def inspect(database: Database, batch: Batch, policy: RecordPolicy) -> Inspected:
    """Judge raw entries; the issuers' manifests are looked up here.

    Raises ``LocalError`` when a lookup fails.
    """
    decoded = [tombstone.decode_entry(raw, batch.artifact, batch.dialect) for raw in batch.entries]
    ids = [
        item.record.id
        if isinstance(item, RecordEntry)
        else tombstone.entry_id(raw, batch.artifact, batch.dialect)
        for raw, item in zip(batch.entries, decoded, strict=True)
    ]
    stream = tombstones.STREAM_OF[batch.artifact]
    with reading(database) as connection:
        known = {
            **tombstones.known_records(connection, stream, set(ids)),
            **batch.admitted[batch.artifact],
        }
        found = reads.known_letters(connection, batch.node_id, stream, set(ids))
        targets = {**batch.admitted[Artifact.TOMBSTONE], **_targets(connection, decoded)}
        policy = _with_issuers(connection, policy, decoded, batch.now_ms)
    letters = Letters(found, generation(policy), batch.now_ms, MENDED_BY_TIME, steady=True)
    entries = zip(batch.entries, ids, decoded, strict=True)
    return inspect_each(entries, letters, _Records(policy, known, targets))


@dataclass(frozen=True, slots=True)
class _Records:
    """What records are judged by, what is known under their ids, and the tombstones they name."""

    policy: RecordPolicy
    known: dict[str, KnownRecord]
    targets: Mapping[str, KnownRecord]

    def is_duplicate(self, entry_id: str, item: RecordEntry | MalformedEntry) -> bool:
        known = self.known.get(entry_id)
        return isinstance(item, RecordEntry) and is_duplicate(item.record, known)

    def judge(self, entry_id: str, item: RecordEntry | MalformedEntry) -> RecordVerdict:
        if isinstance(item, MalformedEntry):
            return Reject(item.reason, item.detail)
        record = item.record
        target = self.targets.get(record.tombstone_id) if isinstance(record, Revocation) else None
        return judge(item, self.policy, self.known.get(entry_id), target)

    def take(self, verdict: Admit | AdmitRecord) -> None:
        assert isinstance(verdict, AdmitRecord)  # noqa: S101 - as they were judged
        record = verdict.entry.record
        self.known[record.id] = KnownRecord(record.signed_by, record.signature)


def _targets(
    connection: Connection, decoded: Collection[RecordEntry | MalformedEntry]
) -> dict[str, KnownRecord]:
    """Return the tombstones that revocations of a page name, as far as they are here."""
    wanted = {
        item.record.tombstone_id
        for item in decoded
        if isinstance(item, RecordEntry) and isinstance(item.record, Revocation)
    }
    return tombstones.known_records(connection, tombstones.STREAM_OF[Artifact.TOMBSTONE], wanted)


def _with_issuers(
    connection: Connection,
    policy: RecordPolicy,
    decoded: Collection[RecordEntry | MalformedEntry],
    now_ms: int,
) -> RecordPolicy:
    """Return the policy with the manifests of a page's issuers that hold now."""
    issuers = {item.record.signed_by for item in decoded if isinstance(item, RecordEntry)}
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    holding: dict[str, Manifest] = {}
    for organisation, text in tombstones.manifests(connection, issuers).items():
        try:
            manifest = read_manifest(text)
        except ManifestError:
            continue
        if manifest.entity_uri == organisation and not manifest.expired(now):
            holding[organisation] = manifest
    return replace(policy, issuers=holding)
