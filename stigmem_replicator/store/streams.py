"""How the streams stand that are worked on beside the facts: the rows of ``replicator_streams``.

How the peer stands as a whole, which is how its facts do, is in ``standings``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from stigmem_replicator.clock import Clock
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store import events, reads
from stigmem_replicator.store.own_models import PeerStatus, StreamStatus
from stigmem_replicator.store.sql import insert_or
from stigmem_replicator.store.standings import columns, standing_of

_KEY: Final = frozenset({"node_id", "stream"})
_TOLD: Final = ("stream", "state", "reason", "detail")


@dataclass(frozen=True, slots=True)
class StreamNote:
    """How a stream of a peer stands now, to be written.

    ``attempted_ms`` is when it was last asked for, ``caught_up_ms`` the sending time of the last
    answer that said there is no more, ``token_not_after_ms`` when its capability token ends, 0
    where it has none (milliseconds since 1970); what is None stays as stored.
    """

    node_id: str
    stream: str
    standing: Standing
    attempted_ms: int | None = None
    caught_up_ms: int | None = None
    token_not_after_ms: int | None = None

    def values(self) -> dict[str, object]:
        """Return what is to be written, by column."""
        values = columns(self.standing)
        if self.attempted_ms is not None:
            values["last_attempt_ms"] = self.attempted_ms
        if self.caught_up_ms is not None:
            values["caught_up_ms"] = self.caught_up_ms
        if self.token_not_after_ms is not None:
            values["token_not_after_ms"] = self.token_not_after_ms or None
        return values


@dataclass(frozen=True, slots=True)
class StreamView:
    """How a stream of a peer stands, as was written last; times are milliseconds since 1970."""

    standing: Standing
    last_attempt_ms: int | None = None
    caught_up_ms: int | None = None
    token_not_after_ms: int | None = None


def views(
    connection: Connection, stream: str, node_ids: Collection[str] | None = None
) -> dict[str, StreamView]:
    """Return how a stream stands at these peers, or at all, as far as anything was written.

    Works before our own tables exist.
    """
    if not reads.has_own_tables(connection):
        return {}
    query = select(StreamStatus).where(StreamStatus.stream == stream)
    if node_ids is not None:
        query = query.where(StreamStatus.node_id.in_(list(node_ids)))
    rows = connection.execute(query)
    return {row.node_id: _view(row) for row in rows}


def standing(connection: Connection, node_id: str, stream: str) -> Standing:
    """Return how a stream stands, as was written last; that of a new one when nothing was."""
    found = views(connection, stream, [node_id]).get(node_id)
    return Standing() if found is None else found.standing


def _view(row: Row[Any]) -> StreamView:
    return StreamView(
        standing_of(row), row.last_attempt_ms, row.caught_up_ms, row.token_not_after_ms
    )


def write(connection: Connection, notes: Sequence[StreamNote], clock: Clock) -> None:
    """Write how streams stand; a change of state or reason becomes an event of the peer.

    A peer whose row was removed meanwhile gets none.
    """
    if not notes:
        return
    ids = {note.node_id for note in notes}
    there = set(connection.scalars(select(PeerStatus.node_id).where(PeerStatus.node_id.in_(ids))))
    before = connection.execute(
        select(
            StreamStatus.node_id, StreamStatus.stream, StreamStatus.state, StreamStatus.reason
        ).where(StreamStatus.node_id.in_(ids))
    )
    stood = {(row.node_id, row.stream): (row.state, row.reason) for row in before}
    changes: list[tuple[str, dict[str, object]]] = []
    # One statement for all of which the same is known: a thousand idle ones are one.
    alike: dict[frozenset[str], list[dict[str, object]]] = {}
    for note in notes:
        if note.node_id not in there:
            continue
        row = {"node_id": note.node_id, "stream": note.stream, **note.values()}
        alike.setdefault(frozenset(row), []).append(row)
        now = (note.standing.state, note.standing.reason)
        if stood.get((note.node_id, note.stream)) != now:
            changes.append((note.node_id, {name: row[name] for name in _TOLD}))
        stood[note.node_id, note.stream] = now
    for names, rows in alike.items():
        new = insert_or(connection, StreamStatus)
        changed = {name: new.excluded[name] for name in sorted(names - _KEY)}
        connection.execute(
            new.on_conflict_do_update(index_elements=sorted(_KEY), set_=changed), rows
        )
    events.note_all(connection, changes, events.STATE_CHANGED, events.REPLICATOR, clock)
