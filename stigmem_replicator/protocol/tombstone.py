"""The answer to a request for tombstones: bytes in, typed page and entries out.

A tombstone orders every node to suppress the facts about an entity; a revocation takes one
tombstone back.  Both come in one answer, each with the signature of the organisation that issued
it; in wire version 2 an entry also carries its origin and the origin's signature.

As for facts, decoding has two stages, so that one bad entry is no failed page, and neither stage
verifies anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.envelope import MalformedEntry
from stigmem_replicator.protocol.fields import ID_CHARACTERS, FieldError, storable, text_of
from stigmem_replicator.protocol.origin import Origin, decode_origin, signed_parts
from stigmem_replicator.protocol.signatures import canonical_json
from stigmem_replicator.protocol.times import parse_time

TIME_CHARACTERS: Final = 64
TEXT_CHARACTERS: Final = 65_536

OPENINGS_PER_ENTRY: Final = 16
"""Objects and lists of an entry: one or five, and some to spare."""

ENTRY_BYTES: Final = 256
"""No entry is smaller: its names and its signatures alone are not."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_PLAIN: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", re.ASCII)


class Artifact(StrEnum):
    """What an entry is; the value is the key under which version 2 wraps it."""

    TOMBSTONE = "tombstone"
    REVOCATION = "revocation"


MALFORMED: Final[Mapping[Artifact, Reason]] = {
    Artifact.TOMBSTONE: Reason.MALFORMED_TOMBSTONE,
    Artifact.REVOCATION: Reason.MALFORMED_REVOCATION,
}
"""For what a record is refused that does not decode."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """An order to suppress the facts about ``entity_uri`` in ``scope`` (``*``: in every one).

    ``signed_by`` is the organisation that issued it and ``key_id`` names the key it signed with
    (empty: it names none).  ``created_at`` is the issuer's time, ISO 8601.  ``reason`` is not
    signed and may change on the way.
    """

    id: str
    entity_uri: str
    scope: str
    reason: str | None
    signed_by: str
    key_id: str
    signature: str
    created_at: str
    legal_hold: bool

    def signed_body(self) -> bytes:
        """Return the bytes that the issuer signs."""
        return canonical_json(
            {
                "created_at": self.created_at,
                "entity_uri": self.entity_uri,
                "id": self.id,
                "key_id": self.key_id,
                "legal_hold": self.legal_hold,
                "scope": self.scope,
                "signed_by": self.signed_by,
            }
        )


@dataclass(frozen=True, slots=True)
class Revocation:
    """The reversal of one tombstone, by the organisation that issued it; as in that."""

    id: str
    tombstone_id: str
    reason: str
    signed_by: str
    key_id: str
    signature: str
    created_at: str

    def signed_body(self) -> bytes:
        """Return the bytes that the issuer signs."""
        return canonical_json(
            {
                "created_at": self.created_at,
                "id": self.id,
                "key_id": self.key_id,
                "signed_by": self.signed_by,
                "tombstone_id": self.tombstone_id,
            }
        )


@dataclass(frozen=True, slots=True)
class Stamp:
    """A ``created_at``: its text as served, and its time in milliseconds since 1970, rounded down.

    It is ``plain`` when it is written as a node writes it.  Of two plain texts of different
    seconds the later is the greater, byte by byte and in any collation; within a second, and of
    other forms, that is not so.
    """

    text: str
    at_ms: int
    plain: bool


def read_stamp(text: str) -> Stamp | None:
    """Return what a text says as a time, None when it does not read."""
    moment = parse_time(text)
    if moment is None:
        return None
    return Stamp(text, (moment - _EPOCH) // _MILLISECOND, _PLAIN.fullmatch(text) is not None)


@dataclass(frozen=True, slots=True)
class TombstoneEntry:
    """One well-formed tombstone; ``origin`` is None in wire version 1, which signs no entry."""

    record: Tombstone
    origin: Origin | None = None
    origin_sig: str = ""


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """One well-formed revocation; as :class:`TombstoneEntry`."""

    record: Revocation
    origin: Origin | None = None
    origin_sig: str = ""


RecordEntry = TombstoneEntry | RevocationEntry


@dataclass(frozen=True, slots=True)
class TombstonePage:
    """One decoded answer whose entries are still raw JSON values, in the order served.

    ``has_more`` is of the tombstones alone, and None in wire version 1, which does not say.
    """

    tombstones: tuple[Any, ...]
    revocations: tuple[Any, ...]
    cursor: str | None
    has_more: bool | None

    def entries(self, artifact: Artifact) -> tuple[Any, ...]:
        """Return the raw entries of one kind."""
        return self.tombstones if artifact is Artifact.TOMBSTONE else self.revocations


def decode_page(body: bytes, dialect: Dialect, entries_max: int | None = None) -> TombstonePage:
    """Decode the body of an answer.

    ``entries_max`` is how many entries were asked for, of both kinds together; see
    :func:`document.read_page`, also for what is raised.  It can be so many that it bounds little:
    then how many the body has room for does.
    """
    if entries_max is not None:
        entries_max = min(entries_max, len(body) // ENTRY_BYTES)
    read = document.read_page(
        body, ("tombstones", "revocations"), dialect, entries_max, OPENINGS_PER_ENTRY
    )
    return TombstonePage(
        tombstones=tuple(read["tombstones"]),
        revocations=tuple(read["revocations"]),
        cursor=_cursor(read),
        has_more=None if dialect is Dialect.V1 else document.read_has_more(read),
    )


def _cursor(read: dict[str, Any]) -> str | None:
    """Return the cursor of a page, None where its text cannot be one.

    It is the time of the last tombstone, whatever that says, and one bad entry is no failed page.
    """
    try:
        return document.read_cursor(read)
    except document.PageError:
        if isinstance(read["cursor"], str):
            return None
        raise


def created_at(raw: object, artifact: Artifact, dialect: Dialect) -> Stamp | None:
    """Return the ``created_at`` of a raw entry when it is a time, else None: for paging."""
    record = _raw_record(raw, artifact, dialect)
    text = record.get("created_at") if isinstance(record, dict) else None
    return read_stamp(text) if isinstance(text, str) and _may_be_time(text) else None


def entry_id(raw: object, artifact: Artifact, dialect: Dialect) -> str:
    """Return the id that a raw entry claims, or a name made of its payload's digest."""
    return document.claimed_id(_raw_record(raw, artifact, dialect), raw)


def decode_entry(raw: object, artifact: Artifact, dialect: Dialect) -> RecordEntry | MalformedEntry:
    """Decode one raw entry in the order in which a node looks at it."""
    if not isinstance(raw, dict):
        return MalformedEntry(Reason.MALFORMED_ENTRY, "the entry is not an object")
    try:
        if dialect is Dialect.V1:
            return _entry(artifact, raw, None, "")
        record, block, signature = signed_parts(raw, artifact.value)
        return _entry(artifact, record, _origin(block), signature)
    except FieldError as error:
        return MalformedEntry(error.reason, str(error))


def _raw_record(raw: object, artifact: Artifact, dialect: Dialect) -> object:
    if dialect is Dialect.V1:
        return raw
    return raw.get(artifact.value) if isinstance(raw, dict) else None


def _origin(block: dict[str, Any]) -> Origin:
    origin = decode_origin(block)
    if any("\x00" in text for text in origin.texts()):
        raise FieldError("origin holds a NUL", Reason.MISSING_ORIGIN_BLOCK)
    return origin


def _entry(
    artifact: Artifact, record: dict[str, Any], origin: Origin | None, signature: str
) -> RecordEntry:
    try:
        if artifact is Artifact.TOMBSTONE:
            return TombstoneEntry(_tombstone(record), origin, signature)
        return RevocationEntry(_revocation(record), origin, signature)
    except FieldError as error:
        raise FieldError(str(error), MALFORMED[artifact]) from error


def _tombstone(record: dict[str, Any]) -> Tombstone:
    where = "tombstone"
    legal_hold = record.get("legal_hold", False)
    if not isinstance(legal_hold, bool):
        raise FieldError("tombstone.legal_hold is not true or false")
    return Tombstone(
        id=_name(record, "id", where, ID_CHARACTERS),
        entity_uri=_name(record, "entity_uri", where),
        scope=_text(record, "scope", where),
        reason=None if record.get("reason") is None else _text(record, "reason", where),
        legal_hold=legal_hold,
        **_issued(record, where),
    )


def _revocation(record: dict[str, Any]) -> Revocation:
    where = "revocation"
    return Revocation(
        id=_name(record, "id", where, ID_CHARACTERS),
        tombstone_id=_name(record, "tombstone_id", where, ID_CHARACTERS),
        reason=_text(record, "reason", where),
        **_issued(record, where),
    )


def _issued(record: dict[str, Any], where: str) -> dict[str, str]:
    """Return what the issuer says of itself."""
    created = _text(record, "created_at", where)
    if not _may_be_time(created) or parse_time(created) is None:
        # Whoever pages by it would ask for it again.
        message = f"{where}.created_at {created[:40]!r} is no time"
        raise FieldError(message)
    return {
        "signed_by": _text(record, "signed_by", where),
        "key_id": _text(record, "key_id", where) if "key_id" in record else "",
        "signature": _text(record, "signature", where),
        "created_at": created,
    }


def _name(record: dict[str, Any], key: str, where: str, longest: int = TEXT_CHARACTERS) -> str:
    text = _text(record, key, where, longest)
    if not text:
        message = f"{where}.{key} is empty"
        raise FieldError(message)
    return text


def _text(record: dict[str, Any], key: str, where: str, longest: int = TEXT_CHARACTERS) -> str:
    """Return a text that every database holds, and the node in its memory: it keeps them all."""
    text = text_of(record, key, where)
    if "\x00" in text:
        message = f"{where}.{key} holds a NUL"
        raise FieldError(message)
    if len(text) > longest:
        message = f"{where}.{key} has more than {longest} characters"
        raise FieldError(message)
    return text


def _may_be_time(text: str) -> bool:
    return len(text) <= TIME_CHARACTERS and storable(text)
