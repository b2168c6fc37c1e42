"""Where tombstones and revocations stand, set back by an operator, on both databases."""

from __future__ import annotations

from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.positions import Position
from stigmem_replicator.store import checkpoints, positions, reads, records, tombstones
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS, REVOCATIONS, TOMBSTONES
from stigmem_replicator.store.reads import OwnCursor
from tests.integration.peer_rows import told
from tests.integration.world import PEER, FakeClock

OLD, NEW, NEWER = (f"2026-01-01T0{hour}:00:00+00:00" for hour in (1, 2, 3))


def test_a_reset_sets_its_own_stream_alone(database: Database, clock: FakeClock) -> None:
    """Both texts of one row, the event with its stream, and nothing of facts or the other one."""
    with writing(database) as connection:
        records.reset_cursor(connection, PEER, FACTS, "5.0", "alice", clock)
        for stream, newest in ((TOMBSTONES, NEW), (REVOCATIONS, NEWER)):
            positions.write_position(connection, PEER, stream, Position(newest, OLD))
        known = checkpoints.given_times(connection, PEER)
        records.reset_beside(connection, PEER, TOMBSTONES, None, "alice", clock)
        records.reset_beside(connection, PEER, REVOCATIONS, NEW, "bob", clock)
    assert known == {OLD, NEW, NEWER}
    with reading(database) as connection:
        assert reads.stream_row(connection, PEER, TOMBSTONES) == OwnCursor(None, None)
        assert tombstones.stored_positions(connection, PEER)[Artifact.REVOCATION] == Position(
            NEW, NEW
        )
        assert reads.stored_position(connection, PEER, FACTS).position.frontier == "5.0"
        # Where it began before is still a time that the peer gave.
        assert checkpoints.given_times(connection, PEER) == {OLD, NEW}
        histories = {
            stream: [
                (item.actor, item.before, item.after)
                for item in checkpoints.history(connection, PEER.node_id, stream=stream)
            ]
            for stream in (FACTS, TOMBSTONES, REVOCATIONS)
        }
        assert checkpoints.history(connection, PEER.node_id, 0, stream=TOMBSTONES) == []
        assert "5.0" in checkpoints.given_positions(connection, PEER)
        assert OLD not in checkpoints.given_positions(connection, PEER)
    assert histories == {
        FACTS: [("alice", None, "5.0")],
        TOMBSTONES: [("alice", OLD, None)],
        REVOCATIONS: [("bob", OLD, NEW)],
    }
    assert [detail["stream"] for _, _, detail in told(database)] == [
        FACTS, TOMBSTONES, REVOCATIONS,
    ]  # fmt: skip
