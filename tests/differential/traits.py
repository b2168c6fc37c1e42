"""Ways in which an entry may part us from the node, told from its JSON alone.

The wire's types are written down here once more, with nothing of the replicator's.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from tests.differential.pen import JsonObject, Pen

MISTYPED = "mistyped"
ODD_CLOCK = "odd clock"
LENIENT_SIGNATURE = "lenient signature"
UNSERVABLE = "unservable number"
LONG_ID = "long id"
UNAGREED_SCOPE = "unagreed scope"
WHOLE_AS_SERVED = "whole number as served"

_TYPES = ("string", "text", "number", "boolean", "datetime", "ref", "null")
_CLOCK = re.compile(r"[0-9]{1,18}(\.[0-9]{1,12})?")
_SIGNATURE = re.compile(r"[A-Za-z0-9_/+-]*=*")
ID_CHARACTERS = 256


def traits(raw: JsonObject, scopes: frozenset[str], pen: Pen) -> frozenset[str]:
    """Ways in which an entry may part us from the node; `scopes` are those agreed with its peer."""
    signed = pen.dialect == 2
    fact: Any = raw.get("fact") if signed else raw
    if not _has_types_of_a_fact(fact, cid_optional=not signed):
        return frozenset({MISTYPED})
    if signed and not _has_types_of_an_envelope(raw):
        return frozenset({MISTYPED})
    value, clock = fact["value"], fact.get("hlc")
    number = value.get("v") if value["type"] == "number" else 0
    found = {
        ODD_CLOCK: clock is not None and not _CLOCK.fullmatch(clock),
        LENIENT_SIGNATURE: signed and not _SIGNATURE.fullmatch(raw["origin_sig"]),
        UNSERVABLE: number is None or not _is_finite(number),
        LONG_ID: len(fact["id"]) > ID_CHARACTERS,
        UNAGREED_SCOPE: fact["scope"] not in scopes,
        WHOLE_AS_SERVED: isinstance(number, float)
        and number.is_integer()
        and fact.get("cid") not in (None, pen.content_id(fact)),
    }
    return frozenset(trait for trait, has in found.items() if has)


def _has_types_of_a_fact(fact: Any, *, cid_optional: bool) -> bool:  # noqa: ANN401 - any JSON
    if not isinstance(fact, dict) or not isinstance(fact.get("value"), dict):
        return False
    value, confidence = fact["value"], fact.get("confidence")
    texts = [fact.get(key) for key in ("id", "entity", "relation", "source", "timestamp")]
    if fact.get("cid") is not None or not cid_optional:
        texts.append(fact.get("cid"))
    texts += [fact.get("scope"), value.get("interpret_as", "content")]
    texts += [fact[key] for key in ("hlc", "valid_until") if fact.get(key) is not None]
    kind, v = value.get("type"), value.get("v")
    if isinstance(kind, str) and kind in ("string", "text", "ref", "datetime"):
        texts.append(v)
    return (
        all(_is_text(text) for text in texts)
        and fact["id"] != ""
        and (cid_optional or fact["cid"] != "")
        and isinstance(kind, str)
        and kind in _TYPES
        and (kind != "boolean" or isinstance(v, bool))
        and (kind != "number" or v is None or _is_number(v))
        and _is_number(confidence)
        and 0 <= confidence <= 1
    )


def _has_types_of_an_envelope(raw: JsonObject) -> bool:
    origin, signature = raw.get("origin"), raw.get("origin_sig")
    if not isinstance(origin, dict) or not _is_text(signature) or not signature:
        return False
    lists = [origin.get(key) for key in ("allowed_scopes", "allowed_tenants")]
    return all(_is_text(origin.get(key)) for key in ("node_id", "tenant", "entity_uri")) and all(
        isinstance(items, list) and all(_is_text(item) for item in items) for items in lists
    )


def _is_text(value: object) -> bool:
    # Half a character cannot be written as UTF-8.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
