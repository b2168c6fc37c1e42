"""From verdicts to rows: what one page writes, in which order, one transaction at a time.

Given the verdicts on a page and what the database already holds beside them, this module says
which rows to write and where a transaction ends; ``rows`` has their columns.  It reads nothing,
writes nothing and stamps no HLC: a row that gets one says from which wire HLC, and the
transaction stamps it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.tombstone import Revocation
from stigmem_replicator.replication import rows
from stigmem_replicator.replication.rows import (
    FactRow,
    Judged,
    PageContext,
    RefusedBefore,
    Row,
)
from stigmem_replicator.trust.facts import Admit
from stigmem_replicator.trust.tombstones import AdmitRecord
from stigmem_replicator.trust.verdicts import Duplicate, Reject

__all__ = [
    "Batch",
    "ConflictKey",
    "Counts",
    "FactRow",
    "Judged",
    "PageContext",
    "RefusedBefore",
    "Row",
    "Siblings",
    "conflict_key",
    "plan_batch",
]


BYTES_MAX: Final = 512 * 1024
"""Bytes of text after which a transaction ends; one entry may be longer."""


@dataclass(frozen=True, slots=True)
class ConflictKey:
    """Facts that share all four contradict each other."""

    tenant: str
    entity: str
    relation: str
    scope: str


@dataclass(frozen=True, slots=True)
class Siblings:
    """The facts that already stand under a key: the newest ids first, and how many in all."""

    newest: tuple[str, ...] = ()
    count: int = 0


Word = TypeVar("Word", bound=str)


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the entries of a page; ``skewed`` are rejected ones by their clock's side."""

    admitted: int = 0
    duplicates: int = 0
    rejected: Mapping[Reason, int] = field(default_factory=dict)
    refused_before: Mapping[Reason, int] = field(default_factory=dict)
    conflicts: int = 0
    conflicts_capped: int = 0
    skewed: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        """Add up two pages."""
        return Counts(
            self.admitted + other.admitted,
            self.duplicates + other.duplicates,
            _merged(self.rejected, other.rejected),
            _merged(self.refused_before, other.refused_before),
            self.conflicts + other.conflicts,
            self.conflicts_capped + other.conflicts_capped,
            _merged(self.skewed, other.skewed),
        )


def _merged(one: Mapping[Word, int], other: Mapping[Word, int]) -> Mapping[Word, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


@dataclass(slots=True)
class Batch:
    """The rows of one transaction, for the first ``entries`` entries of what was planned.

    ``sibling_counts`` is what the transaction must still find under each key, and
    ``admitted_ids`` must still be unknown; otherwise the rest of the page is planned again.
    ``standing`` is what stands under each key once the batch is committed.
    """

    entries: int = 0
    text_bytes: int = 0
    facts: list[FactRow] = field(default_factory=list)
    conflicts: list[Row] = field(default_factory=list)
    tombstones: list[Row] = field(default_factory=list)
    revocations: list[Row] = field(default_factory=list)
    fact_audit: list[Row] = field(default_factory=list)
    federation_audit: list[Row] = field(default_factory=list)
    dead_letters: list[Row] = field(default_factory=list)
    touched_letters: list[str] = field(default_factory=list)
    settled_letters: list[str] = field(default_factory=list)
    admitted_ids: list[str] = field(default_factory=list)
    sibling_counts: dict[ConflictKey, int] = field(default_factory=dict)
    standing: dict[ConflictKey, Siblings] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def rows(self) -> int:
        """Return how many rows the batch writes."""
        return (
            len(self.facts)
            + len(self.conflicts)
            + len(self.tombstones)
            + len(self.revocations)
            + len(self.fact_audit)
            + len(self.federation_audit)
            + len(self.dead_letters)
            + len(self.touched_letters)
            + len(self.settled_letters)
        )


def conflict_key(admit: Admit) -> ConflictKey | None:
    """Return the key under which an admitted fact may contradict others.

    The node's own bookkeeping facts (``stigmem:`` names, not ``stigmem://`` URIs) never do, nor
    do names with a NUL, for which SQLite's functions cannot look.
    """
    fact = admit.entry.fact
    for name in (fact.entity, fact.relation):
        if name.startswith("stigmem:") and not name.startswith("stigmem://"):
            return None
        if "\x00" in name:
            return None
    return ConflictKey(admit.tenant, fact.entity, fact.relation, fact.scope)


def plan_batch(
    judged: Sequence[Judged],
    siblings: Mapping[ConflictKey, Siblings],
    open_letters: Collection[str],
    context: PageContext,
    row_budget: int,
    *,
    alone: bool = False,
) -> Batch:
    """Plan the next transaction: entries from the first on, until it has ``row_budget`` rows.

    ``alone`` makes it one entry, so that what the database says of it is said of that entry.

    Long texts take longer than many rows, so it also ends once they are ``BYTES_MAX``.

    ``siblings`` is what stands under each key now; ``open_letters`` are the ids whose dead letter
    is settled once their fact is here.  An entry is never split, so one batch takes at least one.
    """
    batch = Batch(standing=dict(siblings))
    for item in judged:
        verdict = item.verdict
        if isinstance(verdict, Admit):
            _plan_admitted(batch, verdict, context)
        elif isinstance(verdict, AdmitRecord):
            _plan_record(batch, verdict, context)
        elif isinstance(verdict, Duplicate):
            batch.counts += Counts(duplicates=1)
        elif isinstance(verdict, Reject):
            _plan_rejected(batch, item, verdict, context)
        else:
            batch.counts += Counts(refused_before={verdict.reason: 1})
            if verdict.touch:
                batch.touched_letters.append(item.entry_id)
        if isinstance(verdict, Admit | AdmitRecord | Duplicate) and item.entry_id in open_letters:
            batch.settled_letters.append(item.entry_id)
        batch.entries += 1
        if alone or batch.rows() >= row_budget or batch.text_bytes >= BYTES_MAX:
            break
    return batch


def _plan_admitted(batch: Batch, admit: Admit, context: PageContext) -> None:
    fact = admit.entry.fact
    batch.facts += (rows.admitted_fact(admit, context), rows.meta_fact(admit, context))
    batch.admitted_ids.append(fact.id)
    batch.text_bytes += len(fact.entity) + len(fact.relation) + len(admit.value_text)
    batch.counts += Counts(admitted=1)
    key = conflict_key(admit)
    if key is None:
        return
    before = batch.standing.get(key, Siblings())
    if key not in batch.sibling_counts:
        batch.sibling_counts[key] = before.count
    _plan_conflicts(batch, admit, before, context)
    # A fact of confidence zero is a retraction: it contradicts, but nothing contradicts it.
    if fact.confidence > 0.0:
        newest = (fact.id, *before.newest)
        if context.max_conflicts:
            newest = newest[: context.max_conflicts]
        batch.standing[key] = Siblings(newest, before.count + 1)


def _plan_record(batch: Batch, admit: AdmitRecord, context: PageContext) -> None:
    record = admit.entry.record
    rows_of_kind = batch.revocations if isinstance(record, Revocation) else batch.tombstones
    row = rows.record(admit)
    rows_of_kind.append(row)
    batch.fact_audit.append(rows.record_audit(admit, context))
    batch.admitted_ids.append(record.id)
    batch.text_bytes += sum(len(text) for text in row.values() if isinstance(text, str))
    batch.counts += Counts(admitted=1)


def _plan_conflicts(batch: Batch, admit: Admit, before: Siblings, context: PageContext) -> None:
    newest = before.newest
    if context.max_conflicts:
        newest = newest[: context.max_conflicts]
    for sibling in newest:
        pair, row = rows.conflict(admit, sibling, context)
        batch.facts += pair
        batch.conflicts.append(row)
    batch.counts += Counts(conflicts=len(newest), conflicts_capped=before.count - len(newest))


def _plan_rejected(batch: Batch, item: Judged, reject: Reject, context: PageContext) -> None:
    direction = reject.facts.get("direction")
    skewed = {direction: 1} if isinstance(direction, str) else {}
    batch.counts += Counts(rejected={reject.reason: 1}, skewed=skewed)
    batch.dead_letters.append(rows.dead_letter(item, reject, context))
    batch.text_bytes += len(item.payload)
    # One that only came before its tombstone is no refusal: the node records none either.
    if item.audited or reject.reason is Reason.WAITING_FOR_TOMBSTONE:
        return
    if context.artifact is not None:
        audit = rows.refused_record_audit(item, reject, context.artifact, context)
        batch.fact_audit.append(audit)
        return
    batch.federation_audit.append(rows.federation_audit(item, reject, context))
    also = rows.fact_audit(item, reject, context)
    if also is not None:
        batch.fact_audit.append(also)
