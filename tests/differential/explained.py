"""In what a round of generated pages may leave the two databases different, and why.

`differences` lists what differs on pages that a test wrote by hand. Here the same is told for
any page, from the traits of its entries: what is allowed for one entry is not for another.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from tests.differential import traits
from tests.differential.differences import (
    FINER_REASONS,
    RECORDED_ONCE,
    REFUSALS_ON_RECORD,
    TENANT_REFUSALS,
    UNAGREED_SCOPES,
    UNREADABLE_TIMES,
    WHOLE_NUMBERS,
    WORDS_FOR_EXTENSION,
    mistyped,
    trust_by_scope,
)
from tests.differential.rows import Difference, Dump, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.differential.writing import Script

Scores = dict[tuple[str, str], float]


def differences(script: Script, scores: Scores) -> list[Difference]:
    """Everything in which the two may part on this script: the same for every one of a dialect."""
    signed = script.dialect == 2
    found = [
        FINER_REASONS,
        WORDS_FOR_EXTENSION,
        REFUSALS_ON_RECORD,
        TENANT_REFUSALS,
        Difference(UNREADABLE_TIMES.why, _unreadable_times),
        Difference(trust_by_scope({}).why, _trust(scores)),
        Difference(WHOLE_NUMBERS.why, _whole_numbers(script)),
        Difference(mistyped(set()).why, _mistyped(script)),
        Difference(UNAGREED_SCOPES.why, _node_alone(script.ids(traits.UNAGREED_SCOPE))),
        Difference(ODD_CLOCKS, _node_alone(script.ids(traits.ODD_CLOCK))),
        Difference(LENIENT_SIGNATURES, _node_alone(script.ids(traits.LENIENT_SIGNATURE))),
        Difference(LONG_IDS, _node_alone(script.ids(traits.LONG_ID))),
        Difference(UNSERVABLE_NUMBERS, _unservable(script)),
        Difference(NUL_NAMES, _nul_names),
        Difference(RECORDED_ONCE.why, _recorded_once),
        Difference(KNOWN_FIRST, _known_first),
        Difference(KNOWN_BY_OLD_ID, _known_by_old_id(script)),
        Difference(CURSORS, _cursors(script)),
    ]
    only_signed = (TENANT_REFUSALS.why, LENIENT_SIGNATURES, KNOWN_BY_OLD_ID)
    return [item for item in found if signed or item.why not in only_signed]


ODD_CLOCKS = (
    "The node reads an HLC as Python reads integers: with signs, blanks, underscores, digits of"
    " any script and any number of them, and an empty one as none. We read what a node writes."
)
LENIENT_SIGNATURES = (
    "The node leaves characters out of a signature that are no base64url; we refuse it, since what"
    " is stored would be served to others as it is."
)
LONG_IDS = "The node stores an id of any length; ours end at 256 characters, seven times a UUID."
UNSERVABLE_NUMBERS = (
    "The node stores a number that is null or beyond what a float holds, and could not serve it"
    " again; we refuse it."
)
NUL_NAMES = (
    "The node finds facts under a name with a NUL; we look for siblings in bulk, with functions"
    " of SQLite that end at one, and leave such names without conflicts."
)
KNOWN_FIRST = (
    "A known id with its content id and valid_until is set aside before anything else is looked"
    " at; the node computes the content id first and records one that does not fit."
)
KNOWN_BY_OLD_ID = (
    "A known fact served under the content id that wire version 1 gave it is the same fact, and a"
    " duplicate; the node records that the content id does not fit."
)
CURSORS = (
    "The node stores whatever cursor a page has: null, one behind the last, one of next year. We go"
    " on only, to a cursor in no future, else to the last HLC before it that is in none."
)


def _unreadable_times(_node: Dump, ours: Dump) -> int:
    def unreadable(row: Row) -> bool:
        if row["event_type"] != "federation_valid_until_extension_rejected":
            return False
        stored, incoming = (
            row["detail"][f"{which}_valid_until"] for which in ("stored", "incoming")
        )
        return incoming is not None and not (_reads(stored) and _reads(incoming))

    return len(ours.take("fact_audit_log", unreadable))


def _reads(time: str) -> bool:
    try:
        datetime.fromisoformat(time)
    except ValueError:
        return False
    return True


def _trust(scores: Scores) -> Callable[[Dump, Dump], int]:
    def explain(node: Dump, ours: Dump) -> int:
        mine = {row["id"]: row for row in ours["facts"] if row["source_trust"] is not None}
        found = 0
        for row in ours["facts"]:
            if row["source_trust"] is not None:
                assert row["source_trust"] == scores[row["source"], row["scope"]]
        for row in node["facts"]:
            own = mine.get(row["id"])
            if own is None or own["source_trust"] == row["source_trust"]:
                continue
            possible = {score for (source, _), score in scores.items() if source == row["source"]}
            assert row["source_trust"] in possible
            own["source_trust"] = row["source_trust"]
            found += 1
        return found

    return explain


def _whole_numbers(script: Script) -> Callable[[Dump, Dump], int]:
    ids = script.ids(traits.WHOLE_AS_SERVED)

    def explain(node: Dump, ours: Dump) -> int:
        found = ids & set(ours.received) - set(node.received)
        ours.take_facts(found)
        taken = _take_excess(
            node, ours, lambda row: row["fact_id"] in ids and _reason(row) == "cid_mismatch"
        )
        # What the node does not come to: it looks at the clock after the content id.
        _take_excess(
            ours,
            node,
            lambda row: row["fact_id"] in ids and row["event_type"] == "peer_hlc_anomaly",
        )
        assert found <= {row["fact_id"] for row in taken}, (
            "stored by us alone, unrefused by the node"
        )
        return len(taken)

    return explain


def _mistyped(script: Script) -> Callable[[Dump, Dump], int]:
    typed = script.well_typed()

    def explain(node: Dump, ours: Dump) -> int:
        extra = set(node.received) - set(ours.received) - typed
        node.take_facts(extra)
        taken = _take_excess(
            node,
            ours,
            lambda row: row["fact_id"] not in typed and row["event_type"] != "assert",
        )
        return len(extra) + len(taken)

    return explain


def _node_alone(ids: set[str]) -> Callable[[Dump, Dump], int]:
    """The node goes on with these entries, to store them or to refuse them later."""

    def explain(node: Dump, ours: Dump) -> int:
        extra = ids & set(node.received) - set(ours.received)
        node.take_facts(extra)
        taken = _take_excess(node, ours, lambda row: row["fact_id"] in ids)
        return len(extra) + len(taken)

    return explain


def _unservable(script: Script) -> Callable[[Dump, Dump], int]:
    ids = script.ids(traits.UNSERVABLE)
    alone = _node_alone(ids)

    def explain(node: Dump, ours: Dump) -> int:
        found = alone(node, ours)
        taken = _take_excess(ours, node, lambda row: row["fact_id"] in ids)
        assert all(_reason(row) == "cid_mismatch" for row in taken)
        return found + len(taken)

    return explain


def _nul_names(node: Dump, ours: Dump) -> int:
    names = {
        row["id"] for row in node["facts"] if "\x00" in row["entity"] or "\x00" in row["relation"]
    }
    pairs = {(row["fact_a_id"], row["fact_b_id"]) for row in ours["conflicts"]}
    missing = {
        row["id"]
        for row in node.take(
            "conflicts",
            lambda row: (
                row["fact_a_id"] in names and (row["fact_a_id"], row["fact_b_id"]) not in pairs
            ),
        )
    }
    facts = {row["id"] for row in node.take("facts", lambda row: row["entity"] in missing)}
    node.take("facts_fts", lambda row: row["fact_id"] in facts)
    node.take("facts_fts_content", lambda row: row["c0"] in facts)
    return len(missing)


def _recorded_once(node: Dump, ours: Dump) -> int:
    recorded = {_refusal(row) for row in ours["fact_audit_log"]}
    return len(_take_excess(node, ours, lambda row: _refusal(row) in recorded))


def _refusal(row: Row) -> tuple[str, str, str]:
    return (row["fact_id"], row["event_type"], _reason(row))


def _known_first(node: Dump, ours: Dump) -> int:
    held = {row["id"]: row["cid"] for row in ours["facts"]}

    def known(row: Row) -> bool:
        stored = row["detail"]["stored_cid"] if _reason(row) == "cid_mismatch" else None
        return stored is not None and held.get(row["fact_id"]) == stored

    return len(_take_excess(node, ours, known))


def _known_by_old_id(script: Script) -> Callable[[Dump, Dump], int]:
    old = script.old_content_ids()

    def explain(node: Dump, ours: Dump) -> int:
        held = {(row["id"], row["cid"]) for row in ours["facts"]}

        def known(row: Row) -> bool:
            if _reason(row) != "cid_mismatch":
                return False
            wire, computed = (row["detail"][f"{which}_cid"] for which in ("stored", "computed"))
            return (row["fact_id"], wire) in old and (row["fact_id"], computed) in held

        return len(_take_excess(node, ours, known))

    return explain


def _cursors(script: Script) -> Callable[[Dump, Dump], int]:
    """The node has the last page's cursor; we have the greatest position that we may store."""
    greatest = max(script.positions, default=None)

    def explain(node: Dump, ours: Dump) -> int:
        inbound = [dump.take("replication_cursors", lambda _row: True) for dump in (node, ours)]
        theirs, mine = (next((row["cursor"] for row in rows), None) for rows in inbound)
        assert theirs == script.cursors[-1], f"the node stands at {theirs}"
        assert mine == greatest, f"we stand at {mine}, expected {greatest}"
        return int(theirs != mine)

    return explain


def _take_excess(dump: Dump, other: Dump, wanted: Callable[[Row], bool]) -> list[Row]:
    """Remove those refusals in a dump's audit log that the other does not have."""
    there = Counter(_text(row) for row in other["fact_audit_log"])

    def excess(row: Row) -> bool:
        text = _text(row)
        if there[text] > 0:
            there[text] -= 1
            return False
        return wanted(row)

    taken: list[Row] = []
    kept: list[Row] = []
    for row in dump["fact_audit_log"]:
        (taken if excess(row) else kept).append(row)
    dump.tables["fact_audit_log"] = kept
    return taken


def _text(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


def _reason(row: Row) -> str:
    detail = row["detail"] or {}
    return str(detail.get("reason", ""))
