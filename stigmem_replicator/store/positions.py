"""Where a stream stands, written: with a page, and by an operator's reset.

The node's own row ``replication_cursors`` holds the frontier of the facts, so that the node's
loop and this replicator can take over from each other; what the settled position needs beside
it stands in our own tables, as does all of the streams of tombstones and revocations.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert

from stigmem_replicator.clock import Clock
from stigmem_replicator.replication.session import Position, Progress
from stigmem_replicator.store.node_models import ReplicationCursor
from stigmem_replicator.store.own_models import FACTS, StreamCheckpoint, StreamCursor
from stigmem_replicator.store.reads import INBOUND, CursorRow, OwnCursor, PeerRow, StreamRow
from stigmem_replicator.store.sql import insert_or


def save(
    connection: Connection,
    peer: PeerRow,
    stream: str,
    row: StreamRow,
    progress: Progress,
    clock: Clock,
) -> StreamRow:
    """Write the position that a page leads to and return the row that is compared afterwards.

    The node's row, which only facts have, is only written when the frontier moved.
    """
    if stream != FACTS:
        write_position(connection, peer, stream, progress.after)
        return OwnCursor(progress.after.frontier, progress.after.settled)
    if progress.after.frontier != progress.before.frontier:
        row = write_cursor_row(connection, peer, progress.after.frontier, clock)
    write_position(connection, peer, stream, progress.after)
    return row


def write_cursor_row(
    connection: Connection,
    peer: PeerRow,
    cursor: str | None,
    clock: Clock,
    direction: str = INBOUND,
) -> CursorRow:
    """Set the node's cursor row of a peer in one direction."""
    row = CursorRow(cursor, clock.now_iso())
    values = {"cursor": row.cursor, "updated_at": row.updated_at}
    connection.execute(
        insert_or(connection, ReplicationCursor)
        .values(peer_id=peer.id, direction=direction, **values)
        .on_conflict_do_update(index_elements=["peer_id", "direction"], set_=values)
    )
    return row


def write_position(connection: Connection, peer: PeerRow, stream: str, position: Position) -> None:
    """Set our own rows of a stream's position, with exactly its checkpoints."""
    values = {
        "frontier": position.frontier,
        "settled": position.settled,
        "origin_time_ms": position.origin_time_ms,
        "origin_time_at_ms": position.origin_time_at_ms,
    }
    connection.execute(
        insert_or(connection, StreamCursor)
        .values(node_id=peer.node_id, stream=stream, **values)
        .on_conflict_do_update(index_elements=["node_id", "stream"], set_=values)
    )
    connection.execute(
        delete(StreamCheckpoint).where(
            StreamCheckpoint.node_id == peer.node_id, StreamCheckpoint.stream == stream
        )
    )
    if position.checkpoints:
        connection.execute(
            insert(StreamCheckpoint),
            [
                {
                    "node_id": peer.node_id,
                    "stream": stream,
                    "position": checkpoint.position,
                    "kept_at_ms": checkpoint.kept_at_ms,
                }
                for checkpoint in position.checkpoints
            ],
        )
