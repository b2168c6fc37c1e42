"""The fact object, which both wire versions carry alike: a JSON object in, a typed fact out.

Strict about types, bounds and UTF-8, and nothing more: whether a fact may be admitted is judged
in ``trust``, and what is around it on the wire is in ``envelope``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import hlc

VALUE_TYPES: Final = frozenset({"string", "text", "number", "boolean", "datetime", "ref", "null"})
SCOPES: Final = frozenset({"local", "team", "company", "public"})
INTERPRETATIONS: Final = frozenset({"content", "instruction"})
ID_CHARACTERS: Final = 256


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


class FieldError(ValueError):
    """One field is missing or has the wrong type; ``reason`` is what the entry is refused for."""

    def __init__(self, message: str, reason: Reason = Reason.MALFORMED_FACT) -> None:
        super().__init__(message)
        self.reason = reason


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
    clock = _optional_text(fact, "hlc")
    if clock is not None and not hlc.fits_wire(clock):
        message = f"fact.hlc {clock[:40]!r} does not parse"
        raise FieldError(message)
    interpret_as = (
        text_of(value, "interpret_as", "fact.value") if "interpret_as" in value else "content"
    )
    return Fact(
        id=_entry_id(fact),
        entity=text_of(fact, "entity", "fact"),
        relation=text_of(fact, "relation", "fact"),
        value_type=value_type,
        value=_decode_value(value_type, value.get("v")),
        interpret_as=interpret_as,
        source=text_of(fact, "source", "fact"),
        timestamp=text_of(fact, "timestamp", "fact"),
        hlc=clock,
        valid_until=_optional_text(fact, "valid_until"),
        confidence=_decode_confidence(fact.get("confidence")),
        scope=text_of(fact, "scope", "fact"),
        cid=_optional_text(fact, "cid"),
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


def _entry_id(fact: dict[str, Any]) -> str:
    text = text_of(fact, "id", "fact")
    if len(text) > ID_CHARACTERS:
        message = f"fact.id has more than {ID_CHARACTERS} characters"
        raise FieldError(message)
    return text


def text_of(holder: dict[str, Any], key: str, where: str) -> str:
    """Return a text field.  ``where`` names the object; raises :class:`FieldError`."""
    value = holder.get(key)
    if not isinstance(value, str):
        message = f"{where}.{key} is not a text"
        raise FieldError(message)
    if not encodes(value):
        message = f"{where}.{key} holds a lone surrogate"
        raise FieldError(message)
    return value


def _optional_text(holder: dict[str, Any], key: str) -> str | None:
    return None if holder.get(key) is None else text_of(holder, key, "fact")


def storable(text: str) -> bool:
    """Say whether every kind of database can hold a text: it has a UTF-8 form and no NUL."""
    return encodes(text) and "\x00" not in text


def encodes(text: str) -> bool:
    """Say whether a text has a UTF-8 form, which one with a lone surrogate has not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
