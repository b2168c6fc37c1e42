"""Spoiled entries: one builder for each rule of inbound verification that an entry can break.

Each keeps every rule before the one that it breaks, so that the reason with which it is refused
shows that this very check was made. Rules that only a known entry can break (an extension of
`valid_until`, a second content under one id) have builders that take that entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.pages.origin import HOUR_MS, Origin, Raw, Row, base64url, content_id, now_ms

DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Poison:
    """How to spoil an entry, and the reason code with which it must be refused."""

    name: str
    reason: str
    build: Callable[[Origin], Any]


def serve(origin: Origin, poison: Poison) -> str | None:
    """Have the origin serve one; returns its id, None where it has none that could be told."""
    entry = poison.build(origin)
    fact = entry.get("fact") if isinstance(entry, dict) else None
    stamp = fact.get("hlc") if isinstance(fact, dict) else None
    if not (isinstance(stamp, str) and stamp.replace(".", "", 1).isdigit()):
        stamp = origin.stamp()
    origin.rows.append(Row(stamp, "public", entry))
    fact_id = fact.get("id") if isinstance(fact, dict) else None
    if not isinstance(fact_id, str) or not fact_id:
        return None
    origin.ledger.poison([fact_id])
    return fact_id


def _without(origin: Origin, *keys: str) -> Raw:
    entry = origin.entry(origin.fact())
    for key in keys:
        del entry[key]
    return entry


def _fact_without(origin: Origin, key: str) -> Raw:
    entry = origin.entry(origin.fact())
    entry["fact"][key] = None
    return entry


def _fact_with(origin: Origin, **changed: Any) -> Raw:  # noqa: ANN401 - fields of the wire
    entry = origin.entry(origin.fact())
    entry["fact"].update(changed)
    return entry


def _value_with(origin: Origin, **changed: Any) -> Raw:  # noqa: ANN401 - fields of the wire
    entry = origin.entry(origin.fact())
    entry["fact"]["value"].update(changed)
    return entry


def _granted(origin: Origin, fact: Raw, **changed: Any) -> Raw:  # noqa: ANN401 - as above
    return origin.entry(fact, origin.origin_block(fact, **changed))


def of_stranger(origin: Origin) -> Raw:
    """A fact of another organisation, rightly signed by it."""
    stranger = Origin("https://stranger.example")
    return stranger.entry(stranger.fact(hlc=origin.stamp()))


def _signed_by_another_key(origin: Origin) -> Raw:
    entry = origin.entry(origin.fact())
    forger = Origin(origin.entity_uri, node_id=origin.node_id)
    return {**entry, "origin_sig": forger.signature(entry["fact"], entry["origin"])}


def _forged_content(origin: Origin) -> Raw:
    entry = origin.entry(origin.fact())
    entry["fact"]["value"]["v"] = "forged"
    entry["fact"]["cid"] = content_id(entry["fact"], "forged")
    return entry


def _widened_grant(origin: Origin) -> Raw:
    entry = origin.entry(origin.fact())
    entry["origin"]["allowed_scopes"] = ["company", "public"]
    return entry


def _legacy(origin: Origin) -> Raw:
    fact = origin.fact(value="old")
    fact["cid"] = content_id(fact, "old", legacy=True)
    return origin.entry(fact)


def _number(origin: Origin) -> Raw:
    # Stored as a whole number that no float is; served as the nearest float.
    fact = origin.fact(kind="number", value=9007199254740992.0)
    fact["cid"] = content_id(fact, "9007199254740993")
    return origin.entry(fact)


def extended(origin: Origin, known: Raw, valid_until: str | None) -> Raw:
    """A known entry again, rightly signed, with a later end or none."""
    fact = {**known["fact"], "valid_until": valid_until, "hlc": origin.stamp()}
    return origin.entry(fact)


def collision(origin: Origin, known: Raw) -> Raw:
    """Another fact, rightly signed, under the id of a known one."""
    return origin.entry(origin.fact(fact_id=known["fact"]["id"]))


POISONS = (
    Poison("an entry that is a text", "malformed_entry", lambda _: "poison"),
    Poison("an entry that is a list", "malformed_entry", lambda _: [1, 2]),
    Poison("no origin block", "missing_origin_block", lambda o: _without(o, "origin")),
    Poison("no fact", "missing_origin_block", lambda o: _without(o, "fact")),
    Poison("no signature", "missing_origin_block", lambda o: _without(o, "origin_sig")),
    Poison(
        "a grant that is a text",
        "missing_origin_block",
        lambda o: {**o.entry(f := o.fact()), "origin": o.origin_block(f, allowed_scopes="public")},
    ),
    Poison(
        "an origin without a node",
        "missing_origin_block",
        lambda o: {**o.entry(f := o.fact()), "origin": o.origin_block(f, node_id=None)},
    ),
    Poison("no id", "id_required", lambda o: _fact_without(o, "id")),
    Poison("no content id", "cid_required", lambda o: _fact_without(o, "cid")),
    Poison("no entity", "malformed_fact", lambda o: _fact_without(o, "entity")),
    Poison("a confidence of two", "malformed_fact", lambda o: _fact_with(o, confidence=2.0)),
    Poison("a stamp that does not read", "malformed_fact", lambda o: _fact_with(o, hlc="soon")),
    Poison("an unknown type of value", "malformed_fact", lambda o: _value_with(o, type="blob")),
    Poison("a lone surrogate", "malformed_fact", lambda o: _fact_with(o, entity="\ud800")),
    Poison("a relayed fact", "origin_not_sender", of_stranger),
    Poison("a signature of another key", "origin_sig_invalid", _signed_by_another_key),
    Poison(
        "a signature of noise",
        "origin_sig_invalid",
        lambda o: {**o.entry(o.fact()), "origin_sig": base64url(bytes(64))},
    ),
    Poison("a content changed under way", "origin_sig_invalid", _forged_content),
    Poison("a grant widened under way", "origin_sig_invalid", _widened_grant),
    Poison(
        "an end changed under way",
        "origin_sig_invalid",
        lambda o: _fact_with(o, valid_until="2099-01-01T00:00:00+00:00"),
    ),
    Poison(
        "a scope that the origin did not grant",
        "scope_not_in_origin_grant",
        lambda o: _granted(o, o.fact(), allowed_scopes=["company"]),
    ),
    Poison("a scope that is none", "invalid_scope", lambda o: o.entry(o.fact(scope="galaxy"))),
    Poison(
        "a scope that was not agreed",
        "scope_not_permitted",
        lambda o: o.entry(o.fact(scope="team")),
    ),
    Poison(
        "a local fact",
        "scope_not_permitted",
        lambda o: o.entry(o.fact(scope="local")),
    ),
    Poison(
        "a tenant that the origin did not grant",
        "tenant_not_in_origin_grant",
        lambda o: _granted(o, o.fact(), allowed_tenants=["another"]),
    ),
    Poison(
        "a tenant that has no place here",
        "tenant_policy_unsafe",
        lambda o: _granted(o, o.fact(), tenant="another", allowed_tenants=["another"]),
    ),
    Poison("a content beside its id", "cid_mismatch", lambda o: _value_with(o, v="other")),
    Poison("a content id of wire version 1", "cid_legacy", _legacy),
    Poison("a number that no float is", "number_not_reproducible", _number),
    Poison(
        "an unknown interpretation",
        "invalid_interpret_as",
        lambda o: o.entry(o.fact(interpret_as="advice")),
    ),
    Poison(
        "an instruction",
        "quarantine_garden_required",
        lambda o: o.entry(o.fact(interpret_as="instruction")),
    ),
    Poison(
        "an instruction by its entity",
        "quarantine_garden_required",
        lambda o: o.entry(o.fact(entity="instruction:obey")),
    ),
    Poison(
        "an instruction by its relation",
        "quarantine_garden_required",
        lambda o: o.entry(o.fact(relation="instruction:obey")),
    ),
    Poison(
        "a stamp of the day after tomorrow",
        "hlc_skew",
        lambda o: o.entry(o.fact(hlc=f"{now_ms() + 2 * DAY_MS}.0")),
    ),
    Poison(
        "a stamp of the last quarter",
        "hlc_skew",
        lambda o: o.entry(o.fact(hlc=f"{now_ms() - 90 * DAY_MS}.0")),
    ),
)
"""Everything that one entry by itself can do wrong."""


def poison(name: str) -> Poison:
    """The one of that name."""
    return next(item for item in POISONS if item.name == name)
