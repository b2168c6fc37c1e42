"""A receiver in memory, made of the pure pieces: it judges, plans and keeps rows in dictionaries.

What a transaction would do is done here to dictionaries, and what waits in the dead letters is
judged again as the tombstone stream does it: when a manifest or a tombstone came.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from stigmem_replicator.engine.refusals import Letters
from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import envelope, tombstone
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.envelope import MalformedEntry
from stigmem_replicator.protocol.tombstone import Artifact, Revocation
from stigmem_replicator.replication.plan import Judged, PageContext, Row, plan_batch
from stigmem_replicator.replication.rows import SYSTEM_SOURCE
from stigmem_replicator.store.reads import KnownLetter
from stigmem_replicator.trust import facts, tombstones
from stigmem_replicator.trust.facts import Admit, KnownFact
from stigmem_replicator.trust.keys import Manifest
from stigmem_replicator.trust.tombstones import MENDED_BY_TIME, AdmitRecord, KnownRecord
from stigmem_replicator.trust.verdicts import BlockPeer, Duplicate, Reject
from tests.unit.signed import NOW, NOW_MS, SENDER, policy
from tests.unit.signed_records import plain_policy, record_policy

WAITING: Final = frozenset({Reason.WAITING_FOR_KEY, Reason.WAITING_FOR_TOMBSTONE})
GENERATION: Final = "g1"

Verdict: TypeAlias = Admit | AdmitRecord | Duplicate | Reject


@dataclass(slots=True)
class Receiver:
    """Its tables: rows by id, dead letters by stream and id with what was served."""

    dialect: Dialect
    facts: dict[str, Row] = field(default_factory=dict)
    records: dict[Artifact, dict[str, Row]] = field(
        default_factory=lambda: {artifact: {} for artifact in Artifact}
    )
    letters: dict[tuple[str, str], Row] = field(default_factory=dict)
    served: dict[tuple[str, str], object] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    audits: list[tuple[object, object]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _awaited: tuple[int, int] = (0, 0)

    def take_facts(self, entries: Sequence[object]) -> None:
        """Judge and write a page of facts."""
        wire = envelope.ENVELOPES[self.dialect]
        given = policy(signed=False, keys=frozenset()) if self.dialect is Dialect.V1 else policy()

        def verdict(raw: object) -> Verdict | BlockPeer:
            entry = wire.decode_entry(raw)
            if isinstance(entry, MalformedEntry):
                return Reject(entry.reason, entry.detail)
            row = self.facts.get(entry.fact.id)
            known = None if row is None else KnownFact(_text(row["cid"]), None)
            return facts.judge(entry, given, known, NOW_MS)

        self._write("facts", None, [(wire.entry_id(raw), raw) for raw in entries], verdict)

    def take_records(self, artifact: Artifact, entries: Sequence[object]) -> None:
        """Judge and write a page of tombstones or of revocations."""
        make = plain_policy if self.dialect is Dialect.V1 else record_policy

        def verdict(raw: object) -> Verdict | BlockPeer:
            entry = tombstone.decode_entry(raw, artifact, self.dialect)
            if isinstance(entry, MalformedEntry):
                return Reject(entry.reason, entry.detail)
            record, target = entry.record, None
            if isinstance(record, Revocation):
                target = self._known(Artifact.TOMBSTONE, record.tombstone_id)
            known = self._known(artifact, record.id)
            return tombstones.judge(entry, make(issuers=self.manifests), known, target)

        named = [(tombstone.entry_id(raw, artifact, self.dialect), raw) for raw in entries]
        self._write(f"{artifact}s", artifact, named, verdict)

    def retry_waiting(self) -> None:
        """Judge again what waits, when what it waits for may have come."""
        awaited = (len(self.manifests), len(self.records[Artifact.TOMBSTONE]))
        if awaited == self._awaited:
            return
        for artifact in Artifact:
            waiting = [
                self.served[key]
                for key, letter in sorted(self.letters.items())
                if key[0] == f"{artifact}s"
                and letter["status"] == "open"
                and letter["reason"] in WAITING
            ]
            self.take_records(artifact, waiting)
        self._awaited = awaited

    def open_letters(self) -> dict[tuple[str, str], object]:
        """Return why each entry is refused that still is."""
        return {
            key: letter["reason"]
            for key, letter in self.letters.items()
            if letter["status"] == "open"
        }

    def _known(self, artifact: Artifact, record_id: str) -> KnownRecord | None:
        row = self.records[artifact].get(record_id)
        return None if row is None else KnownRecord(str(row["signed_by"]), str(row["signature"]))

    def _write(
        self,
        stream: str,
        artifact: Artifact | None,
        entries: Sequence[tuple[str, object]],
        judge: Callable[[object], Verdict | BlockPeer],
    ) -> None:
        """Write entry by entry, each judged by what the ones before it left."""
        for entry_id, raw in entries:
            letters = Letters(
                self._letter(stream, entry_id), GENERATION, NOW_MS, MENDED_BY_TIME, steady=True
            )
            verdict = judge(raw)
            assert not isinstance(verdict, BlockPeer), verdict
            judged, settles = Judged(entry_id, verdict), True
            before = letters.refused_before(entry_id, raw)
            if isinstance(verdict, Duplicate):
                settles = letters.settles(entry_id, raw)
            elif before is not None:
                judged, settles = before, False
            elif isinstance(verdict, Reject):
                judged, settles = letters.rejected(entry_id, raw, verdict), False
                self.served[(stream, entry_id)] = raw
            self._apply(judged, letters.open_ones() if settles else frozenset(), stream, artifact)

    def _letter(self, stream: str, entry_id: str) -> dict[str, KnownLetter]:
        row = self.letters.get((stream, entry_id))
        if row is None:
            return {}
        letter = KnownLetter(
            reason=str(row["reason"]),
            payload_hash=str(row["payload_hash"]),
            generation=str(row["generation"]),
            status=str(row["status"]),
            last_seen_at_ms=NOW_MS,
        )
        return {entry_id: letter}

    def _apply(
        self, judged: Judged, letters: frozenset[str], stream: str, artifact: Artifact | None
    ) -> None:
        context = PageContext(
            peer_id="peer-1",
            sender_node_id=SENDER,
            stream=stream,
            generation=GENERATION,
            now_iso=NOW.isoformat(),
            now_ms=NOW_MS,
            max_conflicts=100,
            new_id=lambda: f"id-{next(self._numbers)}",
            artifact=artifact,
        )
        batch = plan_batch([judged], {}, letters, context, 10**9)
        tables = (self.facts, *self.records.values())
        known = {entry_id for table in tables for entry_id in table}
        assert not known & set(batch.admitted_ids), "written twice"
        for fact in batch.facts:
            if fact.values["source"] != SYSTEM_SOURCE:
                self.facts[str(fact.values["id"])] = fact.values
        for kind, rows in zip(Artifact, (batch.tombstones, batch.revocations), strict=True):
            self.records[kind].update({str(row["id"]): row for row in rows})
        for entry_id in batch.settled_letters:
            self.letters[(stream, entry_id)]["status"] = "resolved"
        for row in batch.dead_letters:
            self.letters[(stream, str(row["entry_id"]))] = dict(row)
        self.audits += [(row["event_type"], row["fact_id"]) for row in batch.fact_audit]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
