"""The cursors of all peers as they go into a checkpoint file and come back from one.

What an operator did with a stream's cursor is read here too.  This module knows rows and
values; the file's form is the command line's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, select

from stigmem_replicator.clock import Clock
from stigmem_replicator.replication.positions import Checkpoint, lowest
from stigmem_replicator.store import events, positions, reads, records, tombstones
from stigmem_replicator.store.node_models import Peer, ReplicationCursor
from stigmem_replicator.store.own_models import FACTS, Event
from stigmem_replicator.store.reads import INBOUND, PeerRow

DIRECTIONS: Final = frozenset({INBOUND, "outbound"})
"""What the node's table admits as a direction."""

_CURSOR_EVENTS: Final = (
    events.CURSOR_RESET,
    events.CURSOR_SET,
    events.CURSOR_IMPORTED,
    events.CURSOR_MOVED,
    events.FIRST_CONTACT,
)


@dataclass(frozen=True, slots=True)
class CursorEntry:
    """One cursor of the node's table with its peer, named and ordered as in the node's file."""

    peer_id: str
    peer_node_id: str
    peer_url: str
    peer_status: str
    direction: str
    cursor: str | None
    updated_at: str


@dataclass(frozen=True, slots=True)
class StreamState:
    """What our own tables hold of a peer's facts beside the cursor; checkpoints oldest first."""

    settled: str | None
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """What a checkpoint file says of one cursor; ``node_id`` is None where it does not say."""

    peer_id: str
    node_id: str | None
    direction: str
    cursor: str | None
    state: StreamState | None = None


class Outcome(StrEnum):
    """What became of one statement of a file."""

    RESTORED = "restored"
    PEER_NOT_FOUND = "peer not found"
    ALREADY_SET = "already set"
    SAID_BEFORE = "said before"


@dataclass(frozen=True, slots=True)
class Restored:
    """One statement of a file, the peer that it was taken to mean, and what became of it."""

    statement: Statement
    peer: PeerRow | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CursorEvent:
    """One change of a stream's cursor, newest first in a history; ``at_ms`` since 1970.

    ``forced`` says that an operator set a position that the peer is not known to have given.
    """

    at_ms: int
    event: str
    actor: str
    direction: str
    before: str | None
    after: str | None
    forced: bool


def entries(connection: Connection) -> list[CursorEntry]:
    """Return every cursor of the node's table, ordered by the peer's node id and direction."""
    rows = connection.execute(
        select(
            ReplicationCursor.peer_id,
            Peer.node_id,
            Peer.node_url,
            Peer.status,
            ReplicationCursor.direction,
            ReplicationCursor.cursor,
            ReplicationCursor.updated_at,
        )
        .join(Peer, Peer.id == ReplicationCursor.peer_id)
        .order_by(Peer.node_id, ReplicationCursor.direction)
    )
    return [CursorEntry(*row) for row in rows]


def states(connection: Connection) -> dict[str, StreamState]:
    """Return what our own tables hold of the peers that were ever pulled, by node id."""
    found = {}
    for peer in reads.peers(connection):
        stored = reads.stored_position(connection, peer, FACTS)
        if not stored.first_contact:
            position = stored.position
            found[peer.node_id] = StreamState(position.settled, position.checkpoints)
    return found


def restore(
    connection: Connection,
    statements: Sequence[Statement],
    *,
    force: bool,
    actor: str,
    clock: Clock,
) -> list[Restored]:
    """Set the cursors that a file states, in the caller's transaction.

    A peer is found by its registry id, else by its node id, which a new registration keeps.  A
    cursor that is set already stays unless ``force``.  What a file states counts as settled,
    unless it says itself how far its cursor was.
    """
    peers = reads.peers(connection)
    by_id = {peer.id: peer for peer in peers}
    by_node_id = {peer.node_id: peer for peer in peers}
    seen: set[tuple[str, str]] = set()
    done = []
    # Whoever is named by the id of today's registration goes before the same peer's older ones.
    for statement in sorted(statements, key=lambda item: item.peer_id not in by_id):
        peer = by_id.get(statement.peer_id) or by_node_id.get(statement.node_id or "")
        if peer is None:
            done.append(Restored(statement, None, Outcome.PEER_NOT_FOUND))
            continue
        key = (peer.id, statement.direction)
        if key in seen:
            outcome = Outcome.SAID_BEFORE
        elif not force and _cursor(connection, *key) is not None:
            outcome = Outcome.ALREADY_SET
        else:
            _restore_one(connection, peer, statement, actor, clock)
            outcome = Outcome.RESTORED
        seen.add(key)
        done.append(Restored(statement, peer, outcome))
    return done


def _cursor(connection: Connection, peer_id: str, direction: str) -> str | None:
    return connection.scalar(
        select(ReplicationCursor.cursor).where(
            ReplicationCursor.peer_id == peer_id, ReplicationCursor.direction == direction
        )
    )


def _restore_one(
    connection: Connection, peer: PeerRow, statement: Statement, actor: str, clock: Clock
) -> None:
    cursor = statement.cursor
    if statement.direction != INBOUND:
        before = _cursor(connection, peer.id, statement.direction)
        positions.write_cursor_row(connection, peer, cursor, clock, statement.direction)
        detail = {"direction": statement.direction, "before": before, "after": cursor}
        events.note(connection, peer.node_id, events.CURSOR_IMPORTED, actor, detail, clock)
        return
    records.reset_cursor(
        connection, peer, FACTS, cursor, actor, clock, event=events.CURSOR_IMPORTED
    )
    if statement.state is not None:
        stored = reads.stored_position(connection, peer, FACTS).position
        settled = lowest(cursor, statement.state.settled)
        kept = _up_to(settled, statement.state.checkpoints)
        position = replace(stored, settled=settled, checkpoints=kept)
        positions.write_position(connection, peer, FACTS, position)


def _up_to(settled: str | None, checkpoints: Collection[Checkpoint]) -> tuple[Checkpoint, ...]:
    return tuple(
        checkpoint
        for checkpoint in checkpoints
        if settled is not None and checkpoint.position <= settled
    )


def history(
    connection: Connection, node_id: str, limit: int | None = None, *, stream: str = FACTS
) -> list[CursorEvent]:
    """Return what happened to a stream's cursor, newest first.  Works before our tables exist."""
    if not reads.has_own_tables(connection):
        return []
    rows = connection.execute(
        select(Event.at_ms, Event.event, Event.actor, Event.detail)
        .where(Event.node_id == node_id, Event.event.in_(_CURSOR_EVENTS))
        .order_by(Event.id.desc())
    )
    # Which stream an event is of only its JSON says; of the outbound cursors it says nothing.
    of_stream = (row for row in rows if json.loads(row.detail).get("stream", FACTS) == stream)
    return [_cursor_event(*row) for row in islice(of_stream, limit)]


def _cursor_event(at_ms: int, event: str, actor: str, text: str) -> CursorEvent:
    detail: dict[str, Any] = json.loads(text)
    return CursorEvent(
        at_ms=at_ms,
        event=event,
        actor=actor,
        direction=detail.get("direction", INBOUND),
        before=detail.get("before"),
        after=detail.get("after"),
        forced=detail.get("forced", False),
    )


def given_positions(connection: Connection, peer: PeerRow) -> frozenset[str]:
    """Return the positions of a peer's facts that it gave us, as far as the tables know them.

    Those are its checkpoints, where reading stands now, and where it stood before a change;
    what an operator forced or imported is none of them once the stream has left it.
    """
    position = reads.stored_position(connection, peer, FACTS).position
    now = {checkpoint.position for checkpoint in position.checkpoints}
    now |= {text for text in (position.frontier, position.settled) if text is not None}
    changes = [item for item in history(connection, peer.node_id) if item.direction == INBOUND]
    stated = {item.after for item in changes if item.forced or item.event == events.CURSOR_IMPORTED}
    before = {item.before for item in changes if item.before is not None}
    return frozenset(now | (before - stated))


def given_times(connection: Connection, peer: PeerRow) -> frozenset[str]:
    """Return the times of a peer's tombstones and revocations that the tables know it gave us.

    Those are where both streams stand now, and where each began before a change.
    """
    stands = tombstones.stored_positions(connection, peer).values()
    now = {text for position in stands for text in (position.frontier, position.settled)}
    before = {
        item.before
        for stream in tombstones.STREAM_OF.values()
        for item in history(connection, peer.node_id, stream=stream)
    }
    return frozenset(text for text in now | before if text is not None)
