"""The answer to a request for facts: bytes in, typed page and entries out.

Decoding has two stages, so that one bad entry is one rejected entry and not a failed page:
:meth:`Envelope.decode_page` reads the page with its entries raw, :meth:`Envelope.decode_entry`
reads one entry.  Both are strict (types, bounds, UTF-8) and neither verifies anything.

There is one envelope for each wire version, chosen once by the local database.  In version 1 an
entry is a fact; in version 2 it is a fact, its origin and the origin's signature.  The fact
itself is read in ``fact``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document, hlc
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.fact import Fact, decode_fact
from stigmem_replicator.protocol.fields import FieldError
from stigmem_replicator.protocol.origin import Origin, decode_origin, signed_parts


@dataclass(frozen=True, slots=True)
class Page:
    """One decoded answer whose entries are still raw JSON values."""

    entries: tuple[Any, ...]
    cursor: str | None
    has_more: bool


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
        texts += (*entry.origin.texts(), entry.origin_sig)
    return any(isinstance(text, str) and "\x00" in text for text in texts)


@dataclass(frozen=True, slots=True)
class MalformedEntry:
    """One entry that does not decode, and why."""

    reason: Reason
    detail: str


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
        read = document.read_page(body, ("facts",), self.dialect, entries_max)
        return Page(
            entries=tuple(read["facts"]),
            cursor=document.read_cursor(read),
            has_more=document.read_has_more(read),
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
        return document.claimed_id(self._raw_fact(raw), raw)

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
        fact, origin, signature = signed_parts(raw, "fact")
        if not fact.get("id"):
            raise FieldError("fact.id is missing", Reason.ID_REQUIRED)
        if not fact.get("cid"):
            raise FieldError("fact.cid is missing", Reason.CID_REQUIRED)
        return SignedEntry(decode_fact(fact), decode_origin(origin), signature)


V1: Final[Envelope] = _PlainEnvelope()
V2: Final[Envelope] = _SignedEnvelope()
ENVELOPES: Final[Mapping[Dialect, Envelope]] = {Dialect.V1: V1, Dialect.V2: V2}
"""The envelope of each wire version."""
