"""From verdicts to rows: what one page writes, in which order, one transaction at a time.

Given the verdicts on a page and what the database already holds beside them, this module says
which rows to write, column for column as a node would.  It reads nothing, writes nothing and
stamps no HLC: a row that gets one says from which wire HLC, and the transaction stamps it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.trust.facts import Admit, Duplicate, Reject

Row = dict[str, object]

SYSTEM_SOURCE: Final = "system:stigmem"
FEDERATION_ENTITY: Final = "system:federation"

_SCOPE_VIOLATIONS: Final = frozenset(
    {
        Reason.SCOPE_NOT_IN_ORIGIN_GRANT,
        Reason.INVALID_SCOPE,
        Reason.SCOPE_NOT_PERMITTED,
    }
)
_AUDIT_EVENTS: Final[Mapping[Reason, str]] = {
    Reason.CID_MISMATCH: "federation_integrity_rejected",
    Reason.CID_LEGACY: "federation_integrity_rejected",
    Reason.NUMBER_NOT_REPRODUCIBLE: "federation_integrity_rejected",
    Reason.WIRE_ID_COLLISION: "federation_integrity_rejected",
    Reason.HLC_SKEW: "peer_hlc_anomaly",
    Reason.VALID_UNTIL_EXTENSION: "federation_valid_until_extension_rejected",
    Reason.TENANT_POLICY_UNSAFE: "federation_tenant_policy_rejected",
}
"""Rejections that a node also records in its fact audit log, and under which event."""


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


@dataclass(frozen=True, slots=True)
class RefusedBefore:
    """A verdict of the planner's own: the same entry is in the dead letters already.

    ``touch`` says that its row was last counted long enough ago to be counted again.
    """

    reason: Reason
    touch: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """One entry of a page with its verdict; a rejected one keeps its payload and digest.

    ``audited`` says that the audit logs hold this rejection already, from an earlier judgement.
    """

    entry_id: str
    verdict: Admit | Duplicate | Reject | RefusedBefore
    payload: bytes = b""
    payload_hash: str = ""
    audited: bool = False


@dataclass(frozen=True, slots=True)
class FactRow:
    """A row of ``facts`` but for its HLC; ``remote_hlc`` is the wire's, None for our own facts."""

    values: Row
    remote_hlc: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the entries of a page."""

    admitted: int = 0
    duplicates: int = 0
    rejected: Mapping[Reason, int] = field(default_factory=dict)
    refused_before: Mapping[Reason, int] = field(default_factory=dict)
    conflicts: int = 0
    conflicts_capped: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Add up two pages."""
        return Counts(
            self.admitted + other.admitted,
            self.duplicates + other.duplicates,
            _merged(self.rejected, other.rejected),
            _merged(self.refused_before, other.refused_before),
            self.conflicts + other.conflicts,
            self.conflicts_capped + other.conflicts_capped,
        )


def _merged(one: Mapping[Reason, int], other: Mapping[Reason, int]) -> Mapping[Reason, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


@dataclass(slots=True)
class Batch:
    """The rows of one transaction, for the first ``entries`` entries of what was planned.

    ``sibling_counts`` is what the transaction must still find under each key, and
    ``admitted_ids`` must still be unknown; otherwise the rest of the page is planned again.
    ``standing`` is what stands under each key once the batch is committed.
    """

    entries: int = 0
    facts: list[FactRow] = field(default_factory=list)
    conflicts: list[Row] = field(default_factory=list)
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
            + len(self.fact_audit)
            + len(self.federation_audit)
            + len(self.dead_letters)
            + len(self.touched_letters)
        )


@dataclass(frozen=True, slots=True)
class PageContext:
    """What every row of the page shares.

    ``peer_id`` is the registry's id of the sender and ``sender_node_id`` its wire identity;
    ``generation`` names the policy and keys under which the page was judged.
    """

    peer_id: str
    sender_node_id: str
    stream: str
    generation: str
    now_iso: str
    now_ms: int
    max_conflicts: int
    new_id: Callable[[], str]


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
) -> Batch:
    """Plan the next transaction: entries from the first on, until it has ``row_budget`` rows.

    ``siblings`` is what stands under each key now; ``open_letters`` are the ids whose dead letter
    is settled when they are admitted.  An entry is never split, so one batch takes at least one.
    """
    batch = Batch(standing=dict(siblings))
    for item in judged:
        verdict = item.verdict
        if isinstance(verdict, Admit):
            _plan_admitted(batch, verdict, context)
            if item.entry_id in open_letters:
                batch.settled_letters.append(item.entry_id)
        elif isinstance(verdict, Duplicate):
            batch.counts += Counts(duplicates=1)
        elif isinstance(verdict, Reject):
            _plan_rejected(batch, item, verdict, context)
        else:
            batch.counts += Counts(refused_before={verdict.reason: 1})
            if verdict.touch:
                batch.touched_letters.append(item.entry_id)
        batch.entries += 1
        if batch.rows() >= row_budget:
            break
    return batch


def _plan_admitted(batch: Batch, admit: Admit, context: PageContext) -> None:
    fact = admit.entry.fact
    batch.facts.append(FactRow(_fact_values(admit, context), fact.hlc))
    batch.facts.append(_meta_fact(admit, context))
    batch.admitted_ids.append(fact.id)
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


def _fact_values(admit: Admit, context: PageContext) -> Row:
    fact, origin = admit.entry.fact, admit.entry.origin
    return _fact_row(
        id=fact.id,
        entity=fact.entity,
        relation=fact.relation,
        value_type=fact.value_type,
        value_v=admit.value_text,
        source=fact.source,
        timestamp=fact.timestamp,
        valid_until=fact.valid_until,
        confidence=fact.confidence,
        scope=fact.scope,
        received_from=context.sender_node_id,
        origin_node_id=origin.node_id,
        origin_allowed_scopes=json.dumps(sorted(origin.allowed_scopes)),
        re_federation_blocked=int(fact.scope == "company"),
        source_trust=admit.source_trust,
        interpret_as=fact.interpret_as,
        cid=fact.cid,
        tenant_id=admit.tenant,
        origin_tenant=origin.tenant,
        origin_allowed_tenants=json.dumps(sorted(origin.allowed_tenants)),
        origin_sig=admit.entry.origin_sig,
        origin_entity_uri=origin.entity_uri,
    )


_FACT_DEFAULTS: Final[Row] = {
    "valid_until": None,
    "received_from": None,
    "origin_node_id": None,
    "origin_allowed_scopes": None,
    "re_federation_blocked": 0,
    "source_trust": None,
    "interpret_as": "content",
    "cid": None,
    "origin_tenant": None,
    "origin_allowed_tenants": None,
    "origin_sig": None,
    "origin_entity_uri": None,
}


def _fact_row(**values: object) -> Row:
    # One set of columns for every row, so that a batch is one statement.
    return {**_FACT_DEFAULTS, **values}


def _own_fact(tenant: str, timestamp: str, **values: object) -> FactRow:
    row = _fact_row(
        source=SYSTEM_SOURCE, timestamp=timestamp, confidence=1.0, tenant_id=tenant, **values
    )
    return FactRow(row, None)


def _meta_fact(admit: Admit, context: PageContext) -> FactRow:
    return _own_fact(
        admit.tenant,
        context.now_iso,
        id=context.new_id(),
        entity=admit.entry.fact.id,
        relation="stigmem:received_from",
        value_type="ref",
        value_v=context.sender_node_id,
        scope="local",
    )


def _plan_conflicts(batch: Batch, admit: Admit, before: Siblings, context: PageContext) -> None:
    newest = before.newest
    if context.max_conflicts:
        newest = newest[: context.max_conflicts]
    fact_id, scope = admit.entry.fact.id, admit.entry.fact.scope
    for sibling in newest:
        conflict = f"stigmem:conflict:{context.new_id()}"
        for relation, value_type, text in (
            ("stigmem:conflict:between", "text", f"{fact_id} {sibling}"),
            ("stigmem:conflict:status", "string", "unresolved"),
        ):
            batch.facts.append(
                _own_fact(
                    admit.tenant,
                    context.now_iso,
                    id=context.new_id(),
                    entity=conflict,
                    relation=relation,
                    value_type=value_type,
                    value_v=text,
                    scope=scope,
                )
            )
        batch.conflicts.append(
            {
                "id": conflict,
                "fact_a_id": fact_id,
                "fact_b_id": sibling,
                "status": "unresolved",
                "detected_at": context.now_iso,
            }
        )
    batch.counts += Counts(conflicts=len(newest), conflicts_capped=before.count - len(newest))


def _plan_rejected(batch: Batch, item: Judged, reject: Reject, context: PageContext) -> None:
    batch.counts += Counts(rejected={reject.reason: 1})
    batch.dead_letters.append(
        {
            "node_id": context.sender_node_id,
            "stream": context.stream,
            "entry_id": item.entry_id,
            "reason": reject.reason.value,
            "detail": reject.detail,
            "payload": item.payload.decode("ascii"),
            "payload_hash": item.payload_hash,
            "generation": context.generation,
            "first_seen_at_ms": context.now_ms,
            "last_seen_at_ms": context.now_ms,
            "times_seen": 1,
            "status": "open",
        }
    )
    if not item.audited:
        _plan_audit(batch, item, reject, context)


def _plan_audit(batch: Batch, item: Judged, reject: Reject, context: PageContext) -> None:
    scoped = reject.reason in _SCOPE_VIOLATIONS
    batch.federation_audit.append(
        {
            "id": context.new_id(),
            "peer_id": context.peer_id,
            "event_type": "scope_violation" if scoped else "rejected_fact",
            "detail": json.dumps(
                {
                    "fact_id": item.entry_id,
                    "reason": reject.reason.value,
                    "node_id": context.sender_node_id,
                    **({"scope": reject.facts.get("scope")} if scoped else {}),
                }
            ),
            "ts": context.now_iso,
        }
    )
    event = _AUDIT_EVENTS.get(reject.reason)
    if event is not None:
        batch.fact_audit.append(_fact_audit(event, item, reject, context))


def _fact_audit(event: str, item: Judged, reject: Reject, context: PageContext) -> Row:
    shown = {"sender_node_id": context.sender_node_id, **reject.facts}
    if event != "peer_hlc_anomaly":
        shown["reason"] = reject.reason.value
    return {
        "id": context.new_id(),
        "fact_id": item.entry_id,
        "event_type": event,
        "entity_uri": FEDERATION_ENTITY,
        "source": context.sender_node_id,
        "ts": context.now_iso,
        "tenant_id": "default",
        "detail": json.dumps(shown),
    }
