"""Everything in which our rows may differ from the node's, each with the reason why.

The list is meant to be read. A test names those that its pages bring about; whatever else differs
is a bug of ours.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.differential.rows import Difference, Dump, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _whole_numbers(node: Dump, ours: Dump) -> int:
    extra = set(ours.received) - set(node.received)
    whole = {
        row["id"]
        for row in ours["facts"]
        if row["id"] in extra and row["value_type"] == "number" and "." not in row["value_v"]
    }
    ours.take_facts(whole)
    refused = node.take(
        "fact_audit_log",
        lambda row: row["fact_id"] in whole and _detail(row)["reason"] == "cid_mismatch",
    )
    assert len(refused) == len(whole)
    return len(whole)


WHOLE_NUMBERS = Difference(
    "A whole number is stored as 42 and served as 42.0. The node computes the content id over the"
    " text of what was served and refuses every one; we try the whole number's text too, which the"
    " signed content id proves.",
    _whole_numbers,
)


def _trust_by_scope(scores: Mapping[tuple[str, str], float]) -> Callable[[Dump, Dump], int]:
    def explain(node: Dump, ours: Dump) -> int:
        mine = {row["id"]: row for row in ours["facts"] if row["source_trust"] is not None}
        first_scope: dict[str, str] = {}
        found = 0
        for row in node["facts"]:
            if row["source_trust"] is None:
                continue
            met_first = first_scope.setdefault(row["source"], row["scope"])
            assert row["source_trust"] == scores[row["source"], met_first]
            own = mine.get(row["id"])
            if own is not None and own["source_trust"] != row["source_trust"]:
                assert own["source_trust"] == scores[row["source"], row["scope"]]
                own["source_trust"] = row["source_trust"]
                found += 1
        return found

    return explain


def trust_by_scope(scores: Mapping[tuple[str, str], float]) -> Difference:
    """`scores` are the node's own for each (source, scope) before the pages came."""
    return Difference(
        "The node remembers a score a minute by its source alone, so that the scope in which it"
        " met a source first decides for all; we remember it by source and scope.",
        _trust_by_scope(scores),
    )


def _refusals_on_record(_node: Dump, ours: Dump) -> int:
    found = ours.take(
        "federation_audit", lambda row: row["event_type"] in ("rejected_fact", "scope_violation")
    )
    assert all({"fact_id", "reason", "node_id"} <= _detail(row).keys() for row in found)
    return len(found)


REFUSALS_ON_RECORD = Difference(
    "The node's loop records a refusal in federation_audit under an event type that the table's"
    " own CHECK forbids, which ends the loop, or not at all. We record each, with a legal type.",
    _refusals_on_record,
)


def _finer_reasons(_node: Dump, ours: Dump) -> int:
    found = 0
    for row in ours["fact_audit_log"]:
        detail = _detail(row)
        if detail.get("reason") in ("number_not_reproducible", "cid_legacy"):
            detail["reason"] = "cid_mismatch"
            found += 1
    return found


FINER_REASONS = Difference(
    "A content id that does not fit is cid_mismatch to the node. We tell apart a number whose text"
    " the wire cannot carry and an id of wire version 1: neither is tampering.",
    _finer_reasons,
)


def _words_for_extension(node: Dump, ours: Dump) -> int:
    found = 0
    for dump in (node, ours):
        for row in dump["fact_audit_log"]:
            if row["event_type"] == "federation_valid_until_extension_rejected":
                detail = _detail(row)
                assert detail.pop("reason")
                found += 1
    return found


WORDS_FOR_EXTENSION = Difference(
    "The reason in the audit detail of an extended valid_until is a sentence of the node's; ours"
    " is the reason code.",
    _words_for_extension,
)


def _unreadable_times(_node: Dump, ours: Dump) -> int:
    def unreadable(row: Row) -> bool:
        until = _detail(row).get("incoming_valid_until")
        return until is not None and not until[:4].isdigit()

    return len(ours.take("fact_audit_log", unreadable))


UNREADABLE_TIMES = Difference(
    "The node's loop dies of a known fact with a valid_until that does not read, before it records"
    " anything; we take it for an extension, since it cannot be shown to be none.",
    _unreadable_times,
)


def _tenant_refusals(_node: Dump, ours: Dump) -> int:
    return len(
        ours.take(
            "fact_audit_log",
            lambda row: row["event_type"] == "federation_tenant_policy_rejected",
        )
    )


TENANT_REFUSALS = Difference(
    "A fact for a tenant without policy is recorded by the node in federation_audit under an event"
    " type that the table forbids; we record it in fact_audit_log, where it is legal.",
    _tenant_refusals,
)


def _unagreed_scopes(node: Dump, ours: Dump) -> int:
    agreed = {scope for row in node["peers"] for scope in json.loads(row["allowed_scopes"])}
    extra = set(node.received) - set(ours.received)
    beyond = {row["id"] for row in node["facts"] if row["id"] in extra} & {
        row["id"] for row in node["facts"] if row["scope"] not in agreed
    }
    node.take_facts(beyond)
    return len(beyond)


UNAGREED_SCOPES = Difference(
    "The node admits a fact in any scope that the origin granted; we also require that the scope"
    " was agreed with the peer (peers.allowed_scopes), as the specification does.",
    _unagreed_scopes,
)


def mistyped(ids: set[str]) -> Difference:
    """`ids` are those of the mistyped facts."""

    def explain(node: Dump, _ours: Dump) -> int:
        assert ids <= set(node.received)
        node.take_facts(ids)
        return len(ids)

    return Difference(
        "The node turns whatever JSON a field holds into text and stores that; we admit only the"
        " type that the wire has for the field, which is all that a node ever sends.",
        explain,
    )


def _recorded_once(node: Dump, _ours: Dump) -> int:
    seen: set[str] = set()

    def again(row: Row) -> bool:
        if row["event_type"] == "assert":
            return False
        text = json.dumps({**row, "seq": None}, sort_keys=True)
        repeated = text in seen
        seen.add(text)
        return repeated

    repeats = [row for row in node["fact_audit_log"] if again(row)]
    node.tables["fact_audit_log"] = [
        row for row in node["fact_audit_log"] if not any(row is repeat for repeat in repeats)
    ]
    return len(repeats)


RECORDED_ONCE = Difference(
    "The node records a refusal each time the entry is served again; we know it by its dead letter"
    " and record it once.",
    _recorded_once,
)


def _capped_conflicts(node: Dump, ours: Dump) -> int:
    pairs = {(row["fact_a_id"], row["fact_b_id"]) for row in ours["conflicts"]}
    missing = {
        row["id"]
        for row in node.take(
            "conflicts", lambda row: (row["fact_a_id"], row["fact_b_id"]) not in pairs
        )
    }
    facts = {row["id"] for row in node.take("facts", lambda row: row["entity"] in missing)}
    node.take("facts_fts", lambda row: row["fact_id"] in facts)
    node.take("facts_fts_content", lambda row: row["c0"] in facts)
    assert len(facts) == 2 * len(missing)
    return len(missing)


CAPPED_CONFLICTS = Difference(
    "The node writes a conflict with every fact under the same key, however many; we write those"
    " with the newest max_conflicts_per_fact.",
    _capped_conflicts,
)


def _detail(row: Row) -> Row:
    """The detail of an audit row; a dump holds it as the JSON value that it is."""
    detail: Row = row["detail"] or {}
    return detail
