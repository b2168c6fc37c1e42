"""The answer to a request for facts: bytes in, typed page and entries out.

Decoding has two stages, so that one bad entry is one rejected entry and not a failed page:
:meth:`Envelope.decode_page` reads the page with its entries raw, :meth:`Envelope.decode_entry`
reads one entry.  Both are strict (types, bounds, UTF-8) and neither verifies anything.

There is one envelope for each wire version, chosen once by the local database.  In version 1 an
entry is a fact; in version 2 it is a fact, its origin and the origin's signature.  The fact
itself is read in ``fact``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import hlc
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.fact import (
    ID_CHARACTERS,
    Fact,
    FieldError,
    decode_fact,
    encodes,
    storable,
    text_of,
)

RELEASES: Final[Mapping[Dialect, str]] = {
    Dialect.V1: "stigmem-node 0.9.0a10 and before",
    Dialect.V2: "stigmem-node 0.9.0a11 and later",
}
"""Who speaks which wire version, as people know it."""

_CURSOR_CHARACTERS: Final = 256
_INTEGER_DIGITS: Final = 400
_OPENINGS_PER_ENTRY: Final = 256
_OPENINGS_SPARE: Final = 1024
_QUOTE: Final = ord('"')
# A string as far as it goes (it never gives back, so no body takes long), or an opening.
_STRING_OR_OPENING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{\[]', re.DOTALL)


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
class PlainEntry:
    """One well-formed entry of wire version 1: a fact that nobody signed."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """One well-formed entry of wire version 2: a fact, its origin, and the origin's signature."""

    fact: Fact
    origin: Origin
    origin_sig: str


Entry = PlainEntry | SignedEntry


def holds_nul(entry: Entry) -> bool:
    """Say whether a text of the entry that would be stored holds a NUL."""
    texts: list[object] = [getattr(entry.fact, item.name) for item in fields(Fact)]
    if isinstance(entry, SignedEntry):
        origin = entry.origin
        texts += (origin.node_id, origin.tenant, origin.entity_uri, entry.origin_sig)
        texts += (*origin.allowed_scopes, *origin.allowed_tenants)
    return any(isinstance(text, str) and "\x00" in text for text in texts)


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


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two values under one key another reader might take the other one: what was checked would
    # not be what is meant (RFC 7493 section 2.3 forbids it).
    found = dict(pairs)
    if len(found) < len(pairs):
        message = "an object holds a key twice"
        raise ValueError(message)
    return found


def _read_document(body: bytes, entries_max: int | None) -> dict[str, Any]:
    if entries_max is not None:
        most = _OPENINGS_PER_ENTRY * max(entries_max, 1) + _OPENINGS_SPARE
        if _opens_more(body, most):
            message = f"the body holds more than {most} objects and lists"
            raise PageError(Reason.MALFORMED_PAGE, message)
    try:
        document = json.loads(
            body,
            parse_int=_bounded_integer,
            parse_constant=_no_constant,
            object_pairs_hook=_distinct,
        )
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {_describe(error)}"
        raise PageError(Reason.MALFORMED_PAGE, message) from error
    if not isinstance(document, dict) or not isinstance(document.get("facts"), list):
        message = "the body is JSON but has no list of facts"
        raise PageError(Reason.MALFORMED_PAGE, message)
    return document


def _read_paging(document: dict[str, Any]) -> Page:
    cursor, has_more = document.get("cursor"), document.get("has_more")
    if not isinstance(has_more, bool):
        raise PageError(Reason.MALFORMED_PAGE, "has_more is not true or false")
    if cursor is not None and not (isinstance(cursor, str) and cursor and encodes(cursor)):
        raise PageError(Reason.MALFORMED_PAGE, "cursor is neither a text nor null")
    if cursor is not None and "\x00" in cursor:
        raise PageError(Reason.MALFORMED_PAGE, "cursor holds a NUL")
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


def _decode_origin(origin: dict[str, Any]) -> Origin:
    lists = {}
    for key in ("allowed_scopes", "allowed_tenants"):
        items = origin.get(key)
        if not isinstance(items, list) or not all(
            isinstance(item, str) and encodes(item) for item in items
        ):
            message = f"origin.{key} is not a list of texts"
            raise FieldError(message, Reason.MISSING_ORIGIN_BLOCK)
        lists[key] = tuple(items)
    try:
        node_id, tenant, entity_uri = (
            text_of(origin, key, "origin") for key in ("node_id", "tenant", "entity_uri")
        )
    except FieldError as error:
        raise FieldError(str(error), Reason.MISSING_ORIGIN_BLOCK) from error
    return Origin(node_id, tenant, entity_uri, lists["allowed_scopes"], lists["allowed_tenants"])


class Envelope(ABC):
    """How one wire version wraps facts; ``signed`` says that its entries carry signatures."""

    dialect: ClassVar[Dialect]
    signed: ClassVar[bool]

    def decode_page(self, body: bytes, entries_max: int | None = None) -> Page:
        """Decode the body of an answer.

        ``entries_max`` is how many entries were asked for: a body with far more objects and
        lists than those can hold would take many times its size in memory, and is refused
        unread.

        Raises :class:`PageError` with ``malformed_page`` when the body is not the JSON of a
        page, and with ``wrong_dialect`` when it is a page of another wire version.
        """
        document = _read_document(body, entries_max)
        # The first version did not number its pages.
        spoken = document.get("v", 1)
        if spoken != int(self.dialect) or spoken is True:
            raise PageError(Reason.WRONG_DIALECT, self._other_dialect(spoken))
        return _read_paging(document)

    def _other_dialect(self, spoken: object) -> str:
        known = [dialect for dialect in Dialect if spoken == int(dialect) and spoken is not True]
        theirs = f" ({RELEASES[known[0]]})" if known else ""
        return (
            f"the peer speaks wire version {spoken!r:.20}{theirs}, "
            f"this node's database {self.dialect} ({RELEASES[self.dialect]})"
        )

    def raw_hlc(self, raw: object) -> str | None:
        """Return the HLC text of a raw entry when it parses, else None: what paging may use."""
        fact = self._raw_fact(raw)
        text = fact.get("hlc") if isinstance(fact, dict) else None
        if isinstance(text, str) and hlc.wall_ms(text) is not None:
            return text
        return None

    def entry_id(self, raw: object) -> str:
        """Return the fact id that a raw entry claims, or a name made of its payload's digest."""
        fact = self._raw_fact(raw)
        claimed = fact.get("id") if isinstance(fact, dict) else None
        if isinstance(claimed, str) and 0 < len(claimed) <= ID_CHARACTERS and storable(claimed):
            return claimed
        return f"unidentified:{payload_hash(payload(raw))[:32]}"

    def decode_entry(self, raw: object) -> Entry | MalformedEntry:
        """Decode one raw entry in the order in which a node looks at it."""
        if not isinstance(raw, dict):
            return MalformedEntry(Reason.MALFORMED_ENTRY, "the entry is not an object")
        try:
            return self._decode(raw)
        except FieldError as error:
            return MalformedEntry(error.reason, str(error))

    @abstractmethod
    def _raw_fact(self, raw: object) -> object:
        """Return what a raw entry has in the place of its fact."""

    @abstractmethod
    def _decode(self, raw: dict[str, Any]) -> Entry:
        """Decode an entry.  Raises :class:`FieldError`."""


class _PlainEnvelope(Envelope):
    dialect = Dialect.V1
    signed = False

    def _raw_fact(self, raw: object) -> object:
        return raw

    def _decode(self, raw: dict[str, Any]) -> PlainEntry:
        if not raw.get("id"):
            raise FieldError("fact.id is missing", Reason.ID_REQUIRED)
        return PlainEntry(decode_fact(raw))


class _SignedEnvelope(Envelope):
    dialect = Dialect.V2
    signed = True

    def _raw_fact(self, raw: object) -> object:
        return raw.get("fact") if isinstance(raw, dict) else None

    def _decode(self, raw: dict[str, Any]) -> SignedEntry:
        fact, origin, signature = raw.get("fact"), raw.get("origin"), raw.get("origin_sig")
        if not isinstance(fact, dict) or not isinstance(origin, dict):
            raise FieldError("fact or origin is not an object", Reason.MISSING_ORIGIN_BLOCK)
        if not isinstance(signature, str) or not signature:
            raise FieldError("origin_sig is missing", Reason.MISSING_ORIGIN_BLOCK)
        if not fact.get("id"):
            raise FieldError("fact.id is missing", Reason.ID_REQUIRED)
        if not fact.get("cid"):
            raise FieldError("fact.cid is missing", Reason.CID_REQUIRED)
        return SignedEntry(decode_fact(fact), _decode_origin(origin), signature)


V1: Final[Envelope] = _PlainEnvelope()
V2: Final[Envelope] = _SignedEnvelope()
ENVELOPES: Final[Mapping[Dialect, Envelope]] = {Dialect.V1: V1, Dialect.V2: V2}
"""The envelope of each wire version."""
