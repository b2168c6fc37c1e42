"""The streams that a command may be asked for, and where tombstones and revocations stand.

These two come in one answer, so that a pass over both begins at one place.  Where facts stand is
``cursor``'s.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection

from stigmem_replicator.cli import render
from stigmem_replicator.errors import Reason, UsageError
from stigmem_replicator.replication.tombstones import begin_at
from stigmem_replicator.store import own_models, tombstones
from stigmem_replicator.store.reads import PeerRow

BEGINNING: Final = "the beginning"


class Stream(StrEnum):
    """A stream by its name in the tables."""

    FACTS = own_models.FACTS
    TOMBSTONES = own_models.TOMBSTONES
    REVOCATIONS = own_models.REVOCATIONS


BESIDE: Final = (Stream.TOMBSTONES, Stream.REVOCATIONS)
"""The streams beside the facts."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Where one of these two streams stands, and where a pass over both begins unless it is full.

    ``newest`` is the newest time seen, ``settled`` what this stream itself would begin at.  Each
    is the ``created_at`` of a record as the peer gave it, None the beginning.
    """

    newest: str | None
    settled: str | None
    begins: str | None

    @property
    def words(self) -> str:
        """Where passes begin, for people."""
        return f"passes begin {self._begins}"

    @property
    def _begins(self) -> str:
        return f"at {BEGINNING}" if self.begins is None else f"after {self.begins}"

    @property
    def line(self) -> str:
        """Both in one line, for people."""
        newest = f"at {BEGINNING}" if self.newest is None else f"newest {self.newest}"
        return f"{newest}; {self.words}"


def beside(connection: Connection, peer: PeerRow) -> dict[Stream, Beside]:
    """Return where both streams of a peer stand.  Works before our own tables exist."""
    positions = tombstones.stored_positions(connection, peer)
    begins = begin_at(positions)
    return {
        Stream(tombstones.STREAM_OF[artifact]): Beside(position.frontier, position.settled, begins)
        for artifact, position in positions.items()
    }


def document(peer: PeerRow, stream: Stream, stands: Beside) -> dict[str, object]:
    """Return where one of them stands for machines, with the keys that facts have."""
    return {
        "peer": peer.node_id,
        "stream": stream,
        "cursor": stands.newest,
        "updated_at": None,
        "settled": stands.begins,
        "checkpoints": [],
    }


def text(peer: PeerRow, stream: Stream, stands: Beside) -> str:
    """Return where one of them stands for people."""
    return render.pairs(
        [
            ("peer", peer.node_id),
            ("stream", stream),
            ("newest", stands.newest or f"at {BEGINNING}"),
            ("passes begin", stands.words.removeprefix("passes begin ")),
        ]
    )


def given(stream: Stream, wanted: str, known: Collection[str]) -> str:
    """Return a time that the peer once gave.  Raises :class:`UsageError` for any other."""
    if wanted in known:
        return wanted
    raise cheap(stream, f"{wanted[:80]!r} is no created_at that we know this peer to have given")


def cheap(stream: Stream, message: str) -> UsageError:
    """Return the error that something is not done with one of these streams, and what is."""
    return UsageError(
        Reason.USAGE,
        message,
        hint=f"`cursor reset --stream {stream}` sets it to {BEGINNING}: that is cheap, the list is "
        "short and at times read in full anyway",
    )
