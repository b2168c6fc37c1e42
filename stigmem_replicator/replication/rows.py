"""The rows that one entry of a page writes, column for column as a node would.

A row of ``facts`` is complete but for its HLC, which the transaction stamps, and for columns
that this node's table does not have.  Which entries get which rows is decided in ``plan``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.envelope import PlainEntry
from stigmem_replicator.protocol.tombstone import Artifact, Revocation, Tombstone
from stigmem_replicator.trust.facts import Admit
from stigmem_replicator.trust.tombstones import AdmitRecord
from stigmem_replicator.trust.verdicts import Duplicate, Reject

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
    verdict: Admit | AdmitRecord | Duplicate | Reject | RefusedBefore
    payload: bytes = b""
    payload_hash: str = ""
    audited: bool = False


@dataclass(frozen=True, slots=True)
class FactRow:
    """A row of ``facts`` but for its HLC; ``remote_hlc`` is the wire's, None for our own facts."""

    values: Row
    remote_hlc: str | None


@dataclass(frozen=True, slots=True)
class PageContext:
    """What every row of the page shares.

    ``peer_id`` is the registry's id of the sender and ``sender_node_id`` its wire identity;
    ``generation`` names the policy and keys under which the page was judged, ``lacking`` the
    columns of ``facts`` that this node's table does not have.  ``artifact`` is what the stream
    has in place of facts, None where it has facts.
    """

    peer_id: str
    sender_node_id: str
    stream: str
    generation: str
    now_iso: str
    now_ms: int
    max_conflicts: int
    new_id: Callable[[], str]
    lacking: frozenset[str] = frozenset()
    artifact: Artifact | None = None


def admitted_fact(admit: Admit, context: PageContext) -> FactRow:
    """Return the row of an admitted fact."""
    fact = admit.entry.fact
    values = _fact_row(
        context,
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
        re_federation_blocked=int(fact.scope == "company"),
        source_trust=admit.source_trust,
        interpret_as=fact.interpret_as,
        cid=admit.cid,
        tenant_id=admit.tenant,
        **_origin_columns(admit, context),
    )
    return FactRow(values, fact.hlc)


def _origin_columns(admit: Admit, context: PageContext) -> Row:
    entry = admit.entry
    if isinstance(entry, PlainEntry):
        return {
            "origin_node_id": context.sender_node_id,
            "origin_allowed_scopes": json.dumps(sorted(admit.agreed_scopes)),
        }
    return {
        "origin_node_id": entry.origin.node_id,
        "origin_allowed_scopes": json.dumps(sorted(entry.origin.allowed_scopes)),
        "origin_tenant": entry.origin.tenant,
        "origin_allowed_tenants": json.dumps(sorted(entry.origin.allowed_tenants)),
        "origin_sig": entry.origin_sig,
        "origin_entity_uri": entry.origin.entity_uri,
    }


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


@cache
def _defaults(lacking: frozenset[str]) -> Row:
    return {name: value for name, value in _FACT_DEFAULTS.items() if name not in lacking}


def _fact_row(context: PageContext, **values: object) -> Row:
    # One set of columns for every row, so that a batch is one statement.
    return {**_defaults(context.lacking), **values}


def _own_fact(tenant: str, context: PageContext, **values: object) -> FactRow:
    row = _fact_row(
        context,
        source=SYSTEM_SOURCE,
        timestamp=context.now_iso,
        confidence=1.0,
        tenant_id=tenant,
        **values,
    )
    return FactRow(row, None)


def meta_fact(admit: Admit, context: PageContext) -> FactRow:
    """Return our own fact about from whom an admitted one was received."""
    return _own_fact(
        admit.tenant,
        context,
        id=context.new_id(),
        entity=admit.entry.fact.id,
        relation="stigmem:received_from",
        value_type="ref",
        value_v=context.sender_node_id,
        scope="local",
    )


def conflict(
    admit: Admit, sibling: str, context: PageContext
) -> tuple[tuple[FactRow, FactRow], Row]:
    """Return the two facts and the row by which a fact contradicts a standing one."""
    name = f"stigmem:conflict:{context.new_id()}"
    fact = admit.entry.fact

    def about(relation: str, value_type: str, text: str) -> FactRow:
        return _own_fact(
            admit.tenant,
            context,
            id=context.new_id(),
            entity=name,
            relation=relation,
            value_type=value_type,
            value_v=text,
            scope=fact.scope,
        )

    pair = (
        about("stigmem:conflict:between", "text", f"{fact.id} {sibling}"),
        about("stigmem:conflict:status", "string", "unresolved"),
    )
    row: Row = {
        "id": name,
        "fact_a_id": fact.id,
        "fact_b_id": sibling,
        "status": "unresolved",
        "detected_at": context.now_iso,
    }
    return pair, row


def dead_letter(item: Judged, reject: Reject, context: PageContext) -> Row:
    """Return the row that keeps a rejected entry."""
    return {
        "node_id": context.sender_node_id,
        "stream": context.stream,
        "entry_id": item.entry_id,
        "reason": reject.reason.value,
        # Words of a peer may be among it, and one database takes no NUL.
        "detail": reject.detail.replace("\x00", "\\0"),
        "payload": item.payload.decode("ascii"),
        "payload_hash": item.payload_hash,
        "generation": context.generation,
        "first_seen_at_ms": context.now_ms,
        "last_seen_at_ms": context.now_ms,
        "times_seen": 1,
        "status": "open",
    }


def federation_audit(item: Judged, reject: Reject, context: PageContext) -> Row:
    """Return the audit row of a rejection; the table has a closed list of events."""
    scoped = reject.reason in _SCOPE_VIOLATIONS
    shown = {
        "fact_id": item.entry_id,
        "reason": reject.reason.value,
        "node_id": context.sender_node_id,
    }
    if scoped:
        shown["scope"] = str(reject.facts.get("scope"))
    return {
        "id": context.new_id(),
        "peer_id": context.peer_id,
        "event_type": "scope_violation" if scoped else "rejected_fact",
        "detail": json.dumps(shown),
        "ts": context.now_iso,
    }


def fact_audit(item: Judged, reject: Reject, context: PageContext) -> Row | None:
    """Return the row in the log of facts for those rejections that a node records there too."""
    event = _AUDIT_EVENTS.get(reject.reason)
    if event is None:
        return None
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


def record(admit: AdmitRecord) -> Row:
    """Return the row of an admitted tombstone or revocation that the sender itself made."""
    record = admit.entry.record
    values: Row = {
        "id": record.id,
        "reason": record.reason,
        "signed_by": record.signed_by,
        "key_id": record.key_id,
        "signature": record.signature,
        "created_at": record.created_at,
    }
    if isinstance(record, Revocation):
        return {**values, "tombstone_id": record.tombstone_id}
    return {
        **values,
        "entity_uri": record.entity_uri,
        "scope": record.scope,
        "legal_hold": int(record.legal_hold),
        "tenant_id": admit.tenant,
    }


def record_audit(admit: AdmitRecord, context: PageContext) -> Row:
    """Return the audit row of an admitted tombstone or revocation."""
    record = admit.entry.record
    shown: dict[str, object]
    if isinstance(record, Tombstone):
        event, tombstone_id = "tombstone_federation_ingested", record.id
        shown = {
            "target_entity_uri": record.entity_uri,
            "scope": record.scope,
            "legal_hold": record.legal_hold,
        }
    else:
        event, tombstone_id = "tombstone_revocation_federation_ingested", record.tombstone_id
        shown = {
            "target_entity_uri": record.tombstone_id,
            "scope": None,
            "revocation_id": record.id,
        }
    return _record_event(event, record.signed_by, tombstone_id, shown, context)


def refused_record_audit(
    item: Judged, reject: Reject, artifact: Artifact, context: PageContext
) -> Row:
    """Return the audit row of a refused tombstone or revocation, as a node's push route has it."""
    facts = reject.facts
    shown: dict[str, object] = {
        "artifact": artifact.value,
        "artifact_id": item.entry_id,
        "target_entity_uri": facts.get("target_entity_uri", item.entry_id),
        "key_id": facts.get("key_id", ""),
        "reason": reject.reason.value,
    }
    signer = str(facts.get("signed_by") or FEDERATION_ENTITY)
    event = "tombstone_federation_rejected"
    return _record_event(event, signer, item.entry_id, shown, context)


def _record_event(
    event: str,
    entity_uri: str,
    fact_id: str,
    shown: Mapping[str, object],
    context: PageContext,
) -> Row:
    return {
        "id": context.new_id(),
        "fact_id": fact_id,
        "event_type": event,
        "entity_uri": entity_uri,
        "source": "federation",
        "ts": context.now_iso,
        "tenant_id": "default",
        "detail": json.dumps(shown),
    }
