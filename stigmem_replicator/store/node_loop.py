"""Whether the node's own loop still pulls beside us.

It moves the node's cursor of a peer, and each time we find it elsewhere than where we left it an
event says so.  Once may be an operator's doing; again and again is the loop.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, func, select

from stigmem_replicator.store import events, reads
from stigmem_replicator.store.own_models import Event

MOVES: Final = 2
"""How often a cursor is moved elsewhere before the node's loop is taken to do it."""

WITHIN_MS: Final = 15 * 60_000
"""Within how many milliseconds."""

ADVICE: Final = (
    "the node's own loop is still on: set STIGMEM_FEDERATION_PULL_INTERVAL_S to a very large "
    "number and restart the node"
)
"""What to tell the operator of it."""


def seen(connection: Connection, now_ms: int) -> frozenset[str]:
    """Return the node ids of the peers that the node's own loop still pulls, as far as we saw.

    Works before our own tables exist.
    """
    if not reads.has_own_tables(connection):
        return frozenset()
    rows = connection.scalars(
        select(Event.node_id)
        .where(
            Event.event == events.CURSOR_MOVED,
            Event.actor == events.REPLICATOR,
            Event.at_ms > now_ms - WITHIN_MS,
        )
        .group_by(Event.node_id)
        .having(func.count() >= MOVES)
    )
    return frozenset(rows)
