"""The fact object, which both wire versions carry alike: a JSON object in, a typed fact out.

Strict about types, bounds and UTF-8, and nothing more: whether a fact may be admitted is judged
in ``trust``, and what is around it on the wire is in ``envelope``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from stigmem_replicator.protocol import hlc
from stigmem_replicator.protocol.fields import FieldError, encodes, id_of, optional_text, text_of

VALUE_TYPES: Final = frozenset({"string", "text", "number", "boolean", "datetime", "ref", "null"})
SCOPES: Final = frozenset({"local", "team", "company", "public"})
INTERPRETATIONS: Final = frozenset({"content", "instruction"})


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact as the wire carries it; ``hlc`` is the sender's.

    ``cid`` is None only in wire version 1.
    """

    id: str
    entity: str
    relation: str
    value_type: str
    value: str | float | bool | None
    interpret_as: str
    source: str
    timestamp: str
    hlc: str | None
    valid_until: str | None
    confidence: float
    scope: str
    cid: str | None


def decode_fact(fact: dict[str, Any]) -> Fact:
    """Decode a fact object.  Raises :class:`FieldError` with ``malformed_fact``."""
    value = fact.get("value")
    if not isinstance(value, dict):
        message = "fact.value is not an object"
        raise FieldError(message)
    value_type = text_of(value, "type", "fact.value")
    if value_type not in VALUE_TYPES:
        message = f"fact.value.type {value_type[:40]!r} is unknown"
        raise FieldError(message)
    clock = optional_text(fact, "hlc", "fact")
    if clock is not None and not hlc.fits_wire(clock):
        message = f"fact.hlc {clock[:40]!r} does not parse"
        raise FieldError(message)
    interpret_as = (
        text_of(value, "interpret_as", "fact.value") if "interpret_as" in value else "content"
    )
    return Fact(
        id=id_of(fact, "fact"),
        entity=text_of(fact, "entity", "fact"),
        relation=text_of(fact, "relation", "fact"),
        value_type=value_type,
        value=_decode_value(value_type, value.get("v")),
        interpret_as=interpret_as,
        source=text_of(fact, "source", "fact"),
        timestamp=text_of(fact, "timestamp", "fact"),
        hlc=clock,
        valid_until=optional_text(fact, "valid_until", "fact"),
        confidence=_decode_confidence(fact.get("confidence")),
        scope=text_of(fact, "scope", "fact"),
        cid=optional_text(fact, "cid", "fact"),
    )


def _decode_confidence(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        message = "fact.confidence is not a number between 0 and 1"
        raise FieldError(message)
    return float(value)


def _decode_value(value_type: str, value: object) -> str | float | bool | None:
    # The null of a number is what JSON makes of infinity and NaN: its text cannot be told.
    if value_type == "number":
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        message = "fact.value.v of a number is not a number"
        raise FieldError(message)
    if value_type == "boolean":
        if isinstance(value, bool):
            return value
        message = "fact.value.v of a boolean is not true or false"
        raise FieldError(message)
    if value_type == "null":
        return None
    if not isinstance(value, str) or not encodes(value):
        message = f"fact.value.v of a {value_type} is not a text"
        raise FieldError(message)
    return value
