"""Peers that the node's registry no longer has: remembered for 30 days, then forgotten."""

from __future__ import annotations

from stigmem_replicator.replication.session import Checkpoint, Position
from stigmem_replicator.store import events, positions, pruning, views
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS
from tests.integration.world import PEER, FakeClock, add_peer
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

DAY_MS = 86_400_000


def due(database: Database, now_ms: int) -> bool:
    with reading(database) as connection:
        return pruning.is_due(connection, now_ms)


def prune(database: Database, now_ms: int) -> bool:
    """Prune as the daemon does; say whether there was anything to do."""
    if not due(database, now_ms):
        return False
    with writing(database) as connection:
        pruning.prune(connection, now_ms)
    assert not due(database, now_ms)
    return True


def known(database: Database) -> bool:
    with reading(database) as connection:
        return PEER.node_id in views.peer_numbers(connection)


def test_a_registered_peer_is_nothing_to_prune(database: Database) -> None:
    """Where nobody is gone there is nothing to write."""
    assert not prune(database, NOW_MS + 1000 * DAY_MS)
    assert known(database)


def test_a_peer_is_forgotten_after_thirty_days(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Its standing, positions and own events go; dead letters and operators' acts stay."""
    position = Position("1.0", "1.0", checkpoints=(Checkpoint("1.0", NOW_MS),))
    letter = {
        "node_id": PEER.node_id,
        "stream": FACTS,
        "entry_id": "e",
        "reason": "hlc_skew",
        "detail": "",
        "payload_hash": "",
        "generation": "",
        "first_seen_at_ms": 1,
        "last_seen_at_ms": 1,
        "times_seen": 1,
        "status": "open",
    }
    node.insert("replicator_dead_letters", **letter)
    with writing(database) as connection:
        positions.write_position(connection, PEER, FACTS, position)
        events.note(connection, PEER.node_id, "e", events.REPLICATOR, {}, clock)
        events.note(connection, PEER.node_id, "e", "alice", {}, clock)
    node.run("DELETE FROM peers")
    assert prune(database, NOW_MS)
    assert not prune(database, NOW_MS + 30 * DAY_MS)
    assert known(database)
    assert prune(database, NOW_MS + 30 * DAY_MS + 1)
    assert not known(database)
    for table in ("replicator_cursors", "replicator_checkpoints"):
        assert node.rows(table) == []
    assert [row["actor"] for row in node.rows("replicator_events")] == ["alice"]
    assert len(node.rows("replicator_dead_letters")) == 1


def test_a_peer_that_comes_back_begins_its_time_anew(
    database: Database, node: NodeDatabase
) -> None:
    """Also under another id: it is the node id that counts."""
    node.run("DELETE FROM peers")
    assert prune(database, NOW_MS)
    add_peer(node, id="peer-2", status="pending_approval")
    assert prune(database, NOW_MS + 40 * DAY_MS)
    assert known(database)
    node.run("DELETE FROM peers")
    assert prune(database, NOW_MS + 50 * DAY_MS)
    assert not prune(database, NOW_MS + 70 * DAY_MS)
    assert known(database)
