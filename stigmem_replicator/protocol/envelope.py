"""The answer to a request for facts: bytes in, typed page and entries out.

Decoding has two stages, so that one bad entry is one rejected entry and not a failed page:
:func:`decode_page` reads the page with its entries raw, :func:`decode_entry` reads one entry.
Both are strict (types, bounds, UTF-8) and neither verifies anything.  Wire version 2.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import hlc

WIRE_VERSION: Final = 2
VALUE_TYPES: Final = frozenset({"string", "text", "number", "boolean", "datetime", "ref", "null"})
SCOPES: Final = frozenset({"local", "team", "company", "public"})
INTERPRETATIONS: Final = frozenset({"content", "instruction"})

_CURSOR_CHARACTERS: Final = 256
_INTEGER_DIGITS: Final = 400
_OPENINGS_PER_ENTRY: Final = 256
_OPENINGS_SPARE: Final = 1024
_QUOTE: Final = ord('"')
# A string as far as it goes (it never gives back, so no body takes long), or an opening.
_STRING_OR_OPENING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{\[]', re.DOTALL)
_ENTRY_ID_CHARACTERS: Final = 256


class PageError(ValueError):
    """The body is not a page of this dialect; ``reason`` says which way."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Page:
    """One decoded answer whose entries are still raw JSON values."""

    entries: tuple[Any, ...]
    cursor: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """The signed origin block of an entry."""

    node_id: str
    tenant: str
    entity_uri: str
    allowed_scopes: tuple[str, ...]
    allowed_tenants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact as the wire carries it; ``hlc`` is the sender's."""

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
    cid: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One well-formed entry: a fact, who originated it, and the origin's signature."""

    fact: Fact
    origin: Origin
    origin_sig: str


@dataclass(frozen=True, slots=True)
class MalformedEntry:
    """One entry that does not decode, and why."""

    reason: Reason
    detail: str


def _bounded_integer(text: str) -> int | float:
    # Python refuses to convert huge integers; as a float it is infinite and its entry, not
    # the page, is refused.
    return int(text) if len(text) <= _INTEGER_DIGITS else math.inf


def _no_constant(name: str) -> float:
    message = f"{name} is not JSON"
    raise ValueError(message)


def decode_page(body: bytes, entries_max: int | None = None) -> Page:
    """Decode the body of an answer.

    ``entries_max`` is how many entries were asked for: a body with far more objects and lists
    than those can hold would take many times its size in memory, and is refused unread.

    Raises :class:`PageError` with ``malformed_page`` when the body is not the JSON of a page,
    and with ``wrong_dialect`` when it is a page of another wire version.
    """
    if entries_max is not None:
        most = _OPENINGS_PER_ENTRY * max(entries_max, 1) + _OPENINGS_SPARE
        if _opens_more(body, most):
            message = f"the body holds more than {most} objects and lists"
            raise PageError(Reason.MALFORMED_PAGE, message)
    try:
        document = json.loads(body, parse_int=_bounded_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {_describe(error)}"
        raise PageError(Reason.MALFORMED_PAGE, message) from error
    if not isinstance(document, dict) or not isinstance(document.get("facts"), list):
        message = "the body is JSON but has no list of facts"
        raise PageError(Reason.MALFORMED_PAGE, message)
    if document.get("v") != WIRE_VERSION or document.get("v") is True:
        spoken = document.get("v", 1)
        message = (
            f"the peer speaks wire version {spoken!r:.20}, this node's database {WIRE_VERSION}"
        )
        raise PageError(Reason.WRONG_DIALECT, message)
    cursor, has_more = document.get("cursor"), document.get("has_more")
    if not isinstance(has_more, bool):
        raise PageError(Reason.MALFORMED_PAGE, "has_more is not true or false")
    if cursor is not None and not (isinstance(cursor, str) and cursor and _encodes(cursor)):
        raise PageError(Reason.MALFORMED_PAGE, "cursor is neither a text nor null")
    if cursor is not None and len(cursor) > _CURSOR_CHARACTERS:
        message = f"cursor has more than {_CURSOR_CHARACTERS} characters"
        raise PageError(Reason.MALFORMED_PAGE, message)
    return Page(entries=tuple(document["facts"]), cursor=cursor, has_more=has_more)


def _opens_more(body: bytes, most: int) -> bool:
    if body.count(b"{") + body.count(b"[") <= most:
        return False
    # Texts may hold any number of them, so count again without those.  Where there are zero
    # bytes it is not UTF-8 JSON, and a quote byte need not be a quote.
    if b"\0" in body:
        return True
    found = 0
    for match in _STRING_OR_OPENING.finditer(body):
        found += body[match.start()] != _QUOTE
        if found > most:
            return True
    return False


def _describe(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)[:120]


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def raw_hlc(raw: object) -> str | None:
    """Return the HLC text of a raw entry when it parses, else None: what paging may use."""
    fact = raw.get("fact") if isinstance(raw, dict) else None
    text = fact.get("hlc") if isinstance(fact, dict) else None
    if isinstance(text, str) and hlc.wall_ms(text) is not None:
        return text
    return None


def payload(raw: object) -> bytes:
    """Return the canonical bytes of a raw entry, as kept in a dead letter."""
    try:
        return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode("ascii")
    except RecursionError:
        # What could just be read may be too deep to be written from a deeper stack.
        return b'"nested too deeply"'


def payload_hash(data: bytes) -> str:
    """Return the digest by which a dead letter knows its payload again."""
    return hashlib.sha256(data).hexdigest()


def entry_id(raw: object) -> str:
    """Return the fact id that a raw entry claims, or a name made of its payload's digest."""
    fact = raw.get("fact") if isinstance(raw, dict) else None
    claimed = fact.get("id") if isinstance(fact, dict) else None
    if isinstance(claimed, str) and 0 < len(claimed) <= _ENTRY_ID_CHARACTERS and _encodes(claimed):
        return claimed
    return f"unidentified:{payload_hash(payload(raw))[:32]}"


def decode_entry(raw: object) -> Entry | MalformedEntry:
    """Decode one raw entry in the order in which a node looks at it."""
    if not isinstance(raw, dict):
        return MalformedEntry(Reason.MALFORMED_ENTRY, "the entry is not an object")
    fact, origin, signature = raw.get("fact"), raw.get("origin"), raw.get("origin_sig")
    if not isinstance(fact, dict) or not isinstance(origin, dict):
        return MalformedEntry(Reason.MISSING_ORIGIN_BLOCK, "fact or origin is not an object")
    if not isinstance(signature, str) or not signature:
        return MalformedEntry(Reason.MISSING_ORIGIN_BLOCK, "origin_sig is missing")
    if not fact.get("id"):
        return MalformedEntry(Reason.ID_REQUIRED, "fact.id is missing")
    if not fact.get("cid"):
        return MalformedEntry(Reason.CID_REQUIRED, "fact.cid is missing")
    try:
        return Entry(_decode_fact(fact), _decode_origin(origin), signature)
    except _FieldError as error:
        return MalformedEntry(error.reason, str(error))


class _FieldError(ValueError):
    def __init__(self, message: str, reason: Reason = Reason.MALFORMED_FACT) -> None:
        super().__init__(message)
        self.reason = reason


def _text(holder: dict[str, Any], key: str, where: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str):
        message = f"{where}.{key} is not a text"
        raise _FieldError(message)
    if not _encodes(value):
        message = f"{where}.{key} holds a lone surrogate"
        raise _FieldError(message)
    return value


def _entry_id(fact: dict[str, Any]) -> str:
    text = _text(fact, "id", "fact")
    if len(text) > _ENTRY_ID_CHARACTERS:
        message = f"fact.id has more than {_ENTRY_ID_CHARACTERS} characters"
        raise _FieldError(message)
    return text


def _optional_text(holder: dict[str, Any], key: str) -> str | None:
    return None if holder.get(key) is None else _text(holder, key, "fact")


def _decode_origin(origin: dict[str, Any]) -> Origin:
    lists = {}
    for key in ("allowed_scopes", "allowed_tenants"):
        items = origin.get(key)
        if not isinstance(items, list) or not all(
            isinstance(item, str) and _encodes(item) for item in items
        ):
            message = f"origin.{key} is not a list of texts"
            raise _FieldError(message, Reason.MISSING_ORIGIN_BLOCK)
        lists[key] = tuple(items)
    try:
        node_id, tenant, entity_uri = (
            _text(origin, key, "origin") for key in ("node_id", "tenant", "entity_uri")
        )
    except _FieldError as error:
        raise _FieldError(str(error), Reason.MISSING_ORIGIN_BLOCK) from error
    return Origin(node_id, tenant, entity_uri, lists["allowed_scopes"], lists["allowed_tenants"])


def _decode_fact(fact: dict[str, Any]) -> Fact:
    value = fact.get("value")
    if not isinstance(value, dict):
        message = "fact.value is not an object"
        raise _FieldError(message)
    value_type = _text(value, "type", "fact.value")
    if value_type not in VALUE_TYPES:
        message = f"fact.value.type {value_type[:40]!r} is unknown"
        raise _FieldError(message)
    clock = _optional_text(fact, "hlc")
    if clock is not None and not hlc.fits_wire(clock):
        message = f"fact.hlc {clock[:40]!r} does not parse"
        raise _FieldError(message)
    interpret_as = (
        _text(value, "interpret_as", "fact.value") if "interpret_as" in value else "content"
    )
    return Fact(
        id=_entry_id(fact),
        entity=_text(fact, "entity", "fact"),
        relation=_text(fact, "relation", "fact"),
        value_type=value_type,
        value=_decode_value(value_type, value.get("v")),
        interpret_as=interpret_as,
        source=_text(fact, "source", "fact"),
        timestamp=_text(fact, "timestamp", "fact"),
        hlc=clock,
        valid_until=_optional_text(fact, "valid_until"),
        confidence=_decode_confidence(fact.get("confidence")),
        scope=_text(fact, "scope", "fact"),
        cid=_text(fact, "cid", "fact"),
    )


def _decode_confidence(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        message = "fact.confidence is not a number between 0 and 1"
        raise _FieldError(message)
    return float(value)


def _decode_value(value_type: str, value: object) -> str | float | bool | None:
    # The null of a number is what JSON makes of infinity and NaN: its text cannot be told.
    if value_type == "number":
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        message = "fact.value.v of a number is not a number"
        raise _FieldError(message)
    if value_type == "boolean":
        if isinstance(value, bool):
            return value
        message = "fact.value.v of a boolean is not true or false"
        raise _FieldError(message)
    if value_type == "null":
        return None
    if not isinstance(value, str) or not _encodes(value):
        message = f"fact.value.v of a {value_type} is not a text"
        raise _FieldError(message)
    return value
