"""Whether the node's own loop still pulls beside us.

It moves the node's cursor of a peer, and each time we find it elsewhere than where we left it an
event says so.  Once may be an operator's doing; again and again is the loop.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from sqlalchemy import Connection, select

from stigmem_replicator.store import events, reads
from stigmem_replicator.store.own_models import Event

MOVES: Final = 2
"""How often a cursor is moved elsewhere before the node's loop is taken to do it."""

WITHIN_MS: Final = 15 * 60_000
"""Within how many milliseconds."""

_OPERATORS: Final = (events.CURSOR_RESET, events.CURSOR_SET, events.CURSOR_IMPORTED)

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
    rows = connection.execute(
        select(Event.node_id, Event.event, Event.detail).where(
            Event.event.in_((events.CURSOR_MOVED, *_OPERATORS)), Event.at_ms > now_ms - WITHIN_MS
        )
    )
    moves: Counter[str] = Counter()
    asked: set[tuple[str, str | None]] = set()
    found = [(row.node_id, row.event, json.loads(row.detail).get("after")) for row in rows]
    for node_id, event, after in found:
        if event != events.CURSOR_MOVED:
            asked.add((node_id, after))
    for node_id, event, after in found:
        # A page in flight finds the cursor where an operator has just set it; and the loop never
        # goes back to the beginning.
        if event == events.CURSOR_MOVED and after is not None and (node_id, after) not in asked:
            moves[node_id] += 1
    return frozenset(node_id for node_id, count in moves.items() if count >= MOVES)
