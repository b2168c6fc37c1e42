"""What happened to a peer, and what operators did: the rows of ``replicator_events``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, select

from stigmem_replicator.clock import Clock
from stigmem_replicator.store.own_models import Event

EVENTS_KEPT: Final = 20
"""How many of a peer's own events are kept; what operators did is always kept."""

REPLICATOR: Final = "replicator"
"""The actor of events that no operator caused."""

_PEER: Final = "of_node_id"

CURSOR_MOVED: Final = "cursor_moved_elsewhere"
CURSOR_RESET: Final = "cursor_reset"
CURSOR_SET: Final = "cursor_set"
CURSOR_IMPORTED: Final = "cursor_imported"
STATE_CHANGED: Final = "state_changed"
FIRST_CONTACT: Final = "first_contact"
PAUSED: Final = "paused"
RESUMED: Final = "resumed"


def note(
    connection: Connection,
    node_id: str,
    event: str,
    actor: str,
    detail: Mapping[str, object],
    clock: Clock,
) -> None:
    """Add an event of a peer; of what the replicator did itself, the last 20 are kept."""
    note_all(connection, [(node_id, detail)], event, actor, clock)


def note_all(
    connection: Connection,
    details: Sequence[tuple[str, Mapping[str, object]]],
    event: str,
    actor: str,
    clock: Clock,
) -> None:
    """Add events of one kind, each a peer's node id and details, as :func:`note` does."""
    if not details:
        return
    at_ms = clock.now_ms()
    connection.execute(
        insert(Event),
        [
            {
                "node_id": node_id,
                "at_ms": at_ms,
                "event": event,
                "actor": actor,
                "detail": json.dumps(detail, sort_keys=True),
            }
            for node_id, detail in details
        ],
    )
    if actor != REPLICATOR:
        return
    of_peer = (Event.node_id == bindparam(_PEER), Event.actor == REPLICATOR)
    oldest_kept = (
        select(Event.id).where(*of_peer).order_by(Event.id.desc()).offset(EVENTS_KEPT - 1).limit(1)
    )
    connection.execute(
        delete(Event).where(*of_peer, Event.id < oldest_kept.scalar_subquery()),
        [{_PEER: node_id} for node_id in dict.fromkeys(node_id for node_id, _ in details)],
    )
