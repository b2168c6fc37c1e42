"""The row of a peer in our tables: put into a test, and read by it."""

from __future__ import annotations

import json
from typing import Any, Final

from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import standings, views
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.standings import Holder, Note
from tests.integration.world import PEER, FakeClock
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

HOLDER: Final = Holder("host-1", 4711, "pull", NOW_MS)
IDLE: Final = Standing(PeerState.IDLE, since_ms=NOW_MS, next_attempt_ms=NOW_MS + 30_000)
THROTTLED: Final = Standing(
    PeerState.THROTTLED,
    "throttled",
    "asked us to wait",
    "wait",
    since_ms=NOW_MS,
    failures=2,
    next_attempt_ms=NOW_MS + 60_000,
    not_before_ms=NOW_MS + 60_000,
)
TIMEOUT: Final = Standing(PeerState.BACKING_OFF, "timeout", "slow", since_ms=NOW_MS, failures=1)
NEVER_PULLED: Final = Standing(since_ms=NOW_MS)


def status(node: NodeDatabase, node_id: str = PEER.node_id) -> dict[str, Any]:
    found = {row["node_id"]: row for row in node.rows("replicator_peers")}
    return found[node_id]


def told(database: Database, node_id: str = PEER.node_id) -> list[tuple[str, str, dict[str, Any]]]:
    with reading(database) as connection:
        found = views.events(connection, node_id)
    return [(event.event, event.actor, json.loads(event.detail)) for event in reversed(found)]


def stands(database: Database, node_id: str = PEER.node_id) -> Standing:
    with reading(database) as connection:
        return standings.standing(connection, node_id)


def write(database: Database, clock: FakeClock, *notes: Note | Standing) -> None:
    """Write notes; a standing is one of the peer of all tests."""
    given = [item if isinstance(item, Note) else Note(PEER.node_id, item) for item in notes]
    with writing(database) as connection:
        standings.write(connection, given, clock)
