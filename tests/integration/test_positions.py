"""Where a stream stands, written with a page."""

from __future__ import annotations

from stigmem_replicator.replication.session import Checkpoint, Position
from stigmem_replicator.store import positions
from stigmem_replicator.store.engine import Database, writing
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import CursorRow, StreamRow
from tests.integration.world import PEER, FakeClock, progress
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW, NOW_MS


def save(
    database: Database,
    clock: FakeClock,
    row: StreamRow,
    frontier: str | None,
    *,
    before: Position | None = None,
    settled: str | None = None,
    checkpoints: tuple[Checkpoint, ...] = (),
) -> StreamRow:
    done = progress(frontier, before=before, settled=settled, checkpoints=checkpoints)
    with writing(database) as connection:
        return positions.save(connection, PEER, FACTS, row, done, clock)


def test_a_frontier_that_moved_is_the_nodes_cursor(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The node's own row moves with the page, so that its loop could take over from here."""
    row = save(database, clock, None, "5.0")
    assert row == CursorRow("5.0", NOW.isoformat())
    (written,) = node.rows("replication_cursors")
    assert (written["peer_id"], written["direction"]) == (PEER.id, "inbound")
    assert (written["cursor"], written["updated_at"]) == ("5.0", NOW.isoformat())
    (own,) = node.rows("replicator_cursors")
    assert own == {
        "node_id": PEER.node_id,
        "stream": FACTS,
        "frontier": "5.0",
        "settled": None,
        "origin_time_ms": NOW_MS - 50,
        "origin_time_at_ms": NOW_MS,
    }


def test_a_frontier_that_stayed_does_not_touch_the_nodes_row(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A page that only settles a position writes our own row and leaves the node's as it was."""
    first = save(database, clock, None, "5.0")
    clock.advance(60)
    again = save(database, clock, first, "5.0", before=Position("5.0", None), settled="4.0")
    assert again == first
    assert node.rows("replication_cursors")[0]["updated_at"] == NOW.isoformat()
    assert node.rows("replicator_cursors")[0]["settled"] == "4.0"


def test_a_stream_without_any_position_writes_no_cursor(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """An empty first page makes no row in the node's table."""
    assert save(database, clock, None, None) is None
    assert node.rows("replication_cursors") == []
    assert node.rows("replicator_cursors")[0]["frontier"] is None


def test_checkpoints_are_exactly_those_of_the_position(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Checkpoints that were thinned out are gone, and those of other streams stay."""
    one, two, three = (Checkpoint(f"{n}.0", n) for n in (1, 2, 3))
    save(database, clock, None, "5.0", checkpoints=(one, two))
    with writing(database) as connection:
        positions.write_position(
            connection, PEER, "tombstones", Position(None, None, checkpoints=(one,))
        )
    save(database, clock, None, "6.0", checkpoints=(two, three))
    kept = node.rows("replicator_checkpoints", "stream, position")
    assert [(row["stream"], row["position"], row["kept_at_ms"]) for row in kept] == [
        (FACTS, "2.0", 2),
        (FACTS, "3.0", 3),
        ("tombstones", "1.0", 1),
    ]
