"""Dead letters with their content, a bounded number of bytes at a time.

What a list or a single letter shows is in ``views``; this is for reading all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from stigmem_replicator.store import reads
from stigmem_replicator.store.own_models import DeadLetter
from stigmem_replicator.store.views import LetterView

CHUNK_ROWS: Final = 200
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""How much content one chunk holds at most, unless a single letter holds more."""

Key = tuple[str, str, str]
"""What names a dead letter: node id, stream, entry id."""

_KEY: Final = tuple_(DeadLetter.node_id, DeadLetter.stream, DeadLetter.entry_id)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Which dead letters are meant; None narrows nothing."""

    node_id: str | None = None
    reason: str | None = None
    stream: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what a letter must fulfil."""
        return [
            column == wanted
            for column, wanted in (
                (DeadLetter.node_id, self.node_id),
                (DeadLetter.reason, self.reason),
                (DeadLetter.stream, self.stream),
            )
            if wanted is not None
        ]


def chunk(connection: Connection, narrowing: Narrowing, after: Key | None) -> list[LetterView]:
    """Return the dead letters after a key, ordered by key; none: there are no more.

    A letter that comes or goes between two chunks may be missed; one that stays is not.
    """
    if not reads.has_own_tables(connection):
        return []
    conditions = narrowing.conditions()
    if after is not None:
        conditions.append(after < _KEY)
    size = func.coalesce(func.length(DeadLetter.payload), 0)
    rows = connection.execute(
        select(DeadLetter.node_id, DeadLetter.stream, DeadLetter.entry_id, size.label("size"))
        .where(*conditions)
        .order_by(DeadLetter.node_id, DeadLetter.stream, DeadLetter.entry_id)
        .limit(CHUNK_ROWS)
    )
    last, total = None, 0
    for row in rows:
        total += row.size
        if last is not None and total > CHUNK_BYTES:
            break
        last = (row.node_id, row.stream, row.entry_id)
    if last is None:
        return []
    found = connection.execute(
        select(*(getattr(DeadLetter, name) for name in LetterView.__dataclass_fields__))
        .where(*conditions, last >= _KEY)
        .order_by(DeadLetter.node_id, DeadLetter.stream, DeadLetter.entry_id)
    )
    return [LetterView(*row) for row in found]


def key(letter: LetterView) -> Key:
    """Return what names a letter."""
    return letter.node_id, letter.stream, letter.entry_id


def open_counts(connection: Connection) -> dict[str, int]:
    """Return how many open dead letters each peer has that has any, by node id."""
    rows = connection.execute(
        select(DeadLetter.node_id, func.count())
        .where(DeadLetter.status == "open")
        .group_by(DeadLetter.node_id)
    )
    return {row[0]: row[1] for row in rows}
