"""The JSON of an answer: bounded before it is decoded, strict while it is, known again after.

What the document means is read in ``envelope`` (facts) and ``tombstone``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.fields import ID_CHARACTERS, encodes, storable

CURSOR_CHARACTERS: Final = 256
_INTEGER_DIGITS: Final = 400
OPENINGS_PER_ENTRY: Final = 256
_OPENINGS_SPARE: Final = 1024
_QUOTE: Final = ord('"')
# A string as far as it goes (it never gives back, so no body takes long), or an opening.
_STRING_OR_OPENING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{\[]', re.DOTALL)


class PageError(ValueError):
    """The body is not a page of this dialect; ``reason`` says which way."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_page(
    body: bytes,
    lists: tuple[str, ...],
    dialect: Dialect,
    entries_max: int | None,
    openings_per_entry: int = OPENINGS_PER_ENTRY,
) -> dict[str, Any]:
    """Read the object of a page that has these ``lists``.

    ``entries_max`` is how many entries were asked for, ``openings_per_entry`` how many objects
    and lists each of them may hold: a body with far more would take many times its size in
    memory, and is refused unread.  Raises :class:`PageError` with ``malformed_page`` or
    ``wrong_dialect``.
    """
    if entries_max is not None:
        _bound(body, openings_per_entry * max(entries_max, 1) + _OPENINGS_SPARE)
    document = _read(body)
    for name in lists:
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            message = f"the body is JSON but has no list of {name}"
            raise PageError(Reason.MALFORMED_PAGE, message)
    assert isinstance(document, dict)  # noqa: S101 - it has lists
    # The first version did not number its pages.
    spoken = document.get("v", 1)
    if spoken != int(dialect) or spoken is True:
        raise PageError(Reason.WRONG_DIALECT, _other_dialect(spoken, dialect))
    return document


def read_cursor(document: dict[str, Any]) -> str | None:
    """Return the cursor of a page.  Raises :class:`PageError` with ``malformed_page``."""
    cursor = document.get("cursor")
    if cursor is not None and not (isinstance(cursor, str) and cursor and encodes(cursor)):
        raise PageError(Reason.MALFORMED_PAGE, "cursor is neither a text nor null")
    if cursor is not None and "\x00" in cursor:
        raise PageError(Reason.MALFORMED_PAGE, "cursor holds a NUL")
    if cursor is not None and len(cursor) > CURSOR_CHARACTERS:
        message = f"cursor has more than {CURSOR_CHARACTERS} characters"
        raise PageError(Reason.MALFORMED_PAGE, message)
    return cursor


def read_has_more(document: dict[str, Any]) -> bool:
    """Return whether a page says that there is more.  Raises :class:`PageError`."""
    has_more = document.get("has_more")
    if not isinstance(has_more, bool):
        raise PageError(Reason.MALFORMED_PAGE, "has_more is not true or false")
    return has_more


def _bound(body: bytes, most: int) -> None:
    if _opens_more(body, most):
        message = f"the body holds more than {most} objects and lists"
        raise PageError(Reason.MALFORMED_PAGE, message)


def _read(body: bytes) -> object:
    try:
        document: object = json.loads(
            body,
            parse_int=_bounded_integer,
            parse_constant=_no_constant,
            object_pairs_hook=_distinct,
        )
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {_describe(error)}"
        raise PageError(Reason.MALFORMED_PAGE, message) from error
    return document


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


def _other_dialect(spoken: object, ours: Dialect) -> str:
    known = [dialect for dialect in Dialect if spoken == int(dialect) and spoken is not True]
    theirs = f" ({known[0].releases})" if known else ""
    return (
        f"the peer speaks wire version {spoken!r:.20}{theirs}, "
        f"this node's database {ours} ({ours.releases})"
    )


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


def claimed_id(content: object, raw: object) -> str:
    """Return the id in an entry's ``content``, or a name made of the digest of all of it."""
    claimed = content.get("id") if isinstance(content, dict) else None
    if isinstance(claimed, str) and 0 < len(claimed) <= ID_CHARACTERS and storable(claimed):
        return claimed
    return f"unidentified:{payload_hash(payload(raw))[:32]}"
