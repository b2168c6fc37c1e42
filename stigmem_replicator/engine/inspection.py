"""One page of facts inspected: decoded, known entries set aside, the rest judged.

Runs in a worker thread: the lookups and the signature checks block.  The checks themselves are
in ``trust.facts``; here is what they are given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stigmem_replicator.engine.refusals import Inspected, Letters, inspect_each
from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import envelope
from stigmem_replicator.protocol.envelope import Entry, Envelope, MalformedEntry
from stigmem_replicator.store import reads
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.trust.facts import (
    JUDGEMENT_VERSION,
    Admit,
    FactPolicy,
    KnownFact,
    Verdict,
    is_duplicate,
    judge,
)
from stigmem_replicator.trust.tombstones import AdmitRecord
from stigmem_replicator.trust.verdicts import Reject

MENDED_BY_TIME: Final = frozenset({Reason.HLC_SKEW})
"""Reasons that pass by themselves: such an entry is judged each time it is served."""


def generation(policy: FactPolicy) -> str:
    """Return a name for everything that a verdict depends on beside the entry.

    A dead letter made under another generation is judged again.
    """
    tenants = policy.tenants
    facts = [
        JUDGEMENT_VERSION,
        sorted(policy.keys),
        sorted(policy.scopes),
        sorted(tenants.tenant_map.items()),
        tenants.ingest_tenant,
        tenants.hosts_tenants,
        tenants.plugin_active,
        policy.relay_enabled,
        policy.relay_trusted,
        policy.future_skew_ms,
        policy.past_skew_ms,
        policy.signed,
        policy.admit_legacy_cid,
        policy.require_cid,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def inspect(
    database: Database,
    node_id: str,
    stream: str,
    entries: Sequence[object],
    wrapped: Envelope,
    policy: FactPolicy,
    now_ms: int,
) -> Inspected:
    """Judge the raw entries of one page, which came in the envelope ``wrapped``.

    Raises ``LocalError`` when a lookup fails.
    """
    decoded = [_storable(wrapped.decode_entry(raw), database) for raw in entries]
    ids = [
        item.fact.id if isinstance(item, Entry) else wrapped.entry_id(raw)
        for raw, item in zip(entries, decoded, strict=True)
    ]
    with reading(database) as connection:
        known = reads.known_facts(connection, set(ids))
        found = reads.known_letters(connection, node_id, stream, set(ids))
    letters = Letters(found, generation(policy), now_ms, MENDED_BY_TIME)
    return inspect_each(
        zip(entries, ids, decoded, strict=True), letters, _Facts(policy, known, now_ms)
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """What facts are judged by, and what is known under their ids."""

    policy: FactPolicy
    known: dict[str, KnownFact]
    now_ms: int

    def is_duplicate(self, entry_id: str, item: Entry | MalformedEntry) -> bool:
        return isinstance(item, Entry) and is_duplicate(item.fact, self.known.get(entry_id))

    def judge(self, entry_id: str, item: Entry | MalformedEntry) -> Verdict:
        if isinstance(item, MalformedEntry):
            return Reject(item.reason, item.detail)
        return judge(item, self.policy, self.known.get(entry_id), self.now_ms)

    def take(self, verdict: Admit | AdmitRecord) -> None:
        assert isinstance(verdict, Admit)  # noqa: S101 - as they were judged
        fact = verdict.entry.fact
        self.known[fact.id] = KnownFact(verdict.cid, fact.valid_until)


def _storable(item: Entry | MalformedEntry, database: Database) -> Entry | MalformedEntry:
    """Return the entry, refused when it has what the database cannot hold."""
    if isinstance(item, Entry) and not database.backend.stores_nul and envelope.holds_nul(item):
        detail = "a text of the entry holds a NUL, which PostgreSQL cannot store"
        return MalformedEntry(Reason.MALFORMED_FACT, detail)
    return item
