"""What people are shown of our own tables: how a peer stands, its pause, who wants it, its rate."""

from __future__ import annotations

import pytest

from stigmem_replicator.store import events, node_loop, pauses, standings, views
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.standings import Holder, Note, Turn
from stigmem_replicator.store.views import PauseView, PeerView
from tests.integration.world import PEER, FakeClock
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

MINUTE_MS = 60_000


def view(database: Database, clock: FakeClock) -> PeerView:
    with reading(database) as connection:
        found = views.peer_view(connection, PEER.node_id, clock.now_ms())
        assert views.peer_views(connection, clock.now_ms()) == {PEER.node_id: found}
    assert found is not None
    return found


def looped(database: Database, clock: FakeClock) -> frozenset[str]:
    with reading(database) as connection:
        return node_loop.seen(connection, clock.now_ms())


def test_before_our_tables_there_is_nothing_to_show(bare: Database, clock: FakeClock) -> None:
    """Looking works all the same."""
    with reading(bare) as connection:
        assert views.peer_views(connection, NOW_MS) == {}
        assert views.peer_view(connection, PEER.node_id, NOW_MS) is None
        assert views.frontiers(connection) == {}
    assert looped(bare, clock) == frozenset()


def test_a_pause_is_shown_with_all_that_was_said(database: Database, clock: FakeClock) -> None:
    """Who, when, until when and why; None once it has ended."""
    assert view(database, clock).paused is None
    with writing(database) as connection:
        pauses.pause(connection, PEER.node_id, "why", NOW_MS + 5, "ann", clock)
        assert views.peer_view(connection, "unknown", NOW_MS) is None
    assert view(database, clock).paused == PauseView(NOW_MS, NOW_MS + 5, "ann", "why")
    with writing(database) as connection:
        pauses.resume(connection, PEER.node_id, "ann", clock)
    assert view(database, clock).paused is None


def test_who_wants_a_peer_is_shown_while_it_asks(database: Database, clock: FakeClock) -> None:
    """It asks every second; whoever was killed meanwhile is forgotten after three."""
    wanting = Holder("host-1", 4711, "pull", NOW_MS)
    with writing(database) as connection:
        standings.want(connection, PEER.node_id, wanting, clock)
    assert view(database, clock).wanted_by == str(wanting)
    clock.advance(3)
    assert view(database, clock).wanted_by == str(wanting)
    clock.advance(0.001)
    assert view(database, clock).wanted_by is None


@pytest.mark.parametrize(
    ("turn", "rate"), [(None, None), (Turn(3_000, 2_000), 1500.0), (Turn(1, 0), 1000.0)]
)
def test_the_rate_is_of_the_last_turn(
    database: Database, clock: FakeClock, turn: Turn | None, rate: float | None
) -> None:
    """New facts a second; a turn that took no time has one too."""
    with writing(database) as connection:
        standing = standings.standing(connection, PEER.node_id)
        standings.write(connection, [Note(PEER.node_id, standing, turn=turn)], clock)
    assert view(database, clock).rate_per_s == rate


def test_the_lag_goes_by_the_last_look_and_the_cursor(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """None without both; 0 for two polls and the minute after which a look is written."""
    assert view(database, clock).lag_ms(None, NOW_MS, 30.0) is None
    assert view(database, clock).lag_ms("no position", NOW_MS, 30.0) is None
    assert view(database, clock).lag_ms(f"{NOW_MS - 7}.2", NOW_MS, 30.0) == 7
    node.run("UPDATE replicator_peers SET caught_up_ms = ?", NOW_MS - 2 * MINUTE_MS)
    assert view(database, clock).lag_ms(None, NOW_MS, 30.0) == 0
    assert view(database, clock).lag_ms(None, NOW_MS, 29.0) == 2 * MINUTE_MS
    assert view(database, clock).lag_ms(f"{NOW_MS - 7}.2", NOW_MS, 29.0) == 7


def test_frontiers_are_the_node_s_inbound_cursors(database: Database, node: NodeDatabase) -> None:
    """By the id of its registry; what the node sends is none of them."""
    for direction, cursor in (("inbound", "5.0"), ("outbound", "9.0")):
        node.insert(
            "replication_cursors",
            peer_id=PEER.id,
            direction=direction,
            cursor=cursor,
            updated_at="x",
        )
    with reading(database) as connection:
        assert views.frontiers(connection) == {PEER.id: "5.0"}


def test_the_node_s_own_loop_is_seen_by_cursors_that_it_moves(
    database: Database, clock: FakeClock
) -> None:
    """Two within a quarter of an hour; one may be an operator's, and so is what one did here."""

    def note(event: str, after: str | None, actor: str = events.REPLICATOR) -> None:
        with writing(database) as connection:
            events.note(connection, PEER.node_id, event, actor, {"after": after}, clock)

    note(events.CURSOR_MOVED, "1.0")
    note(events.CURSOR_RESET, "2.0", "somebody")
    assert looped(database, clock) == frozenset()
    clock.advance(14 * 60)
    note(events.CURSOR_MOVED, "3.0")
    assert looped(database, clock) == {PEER.node_id}
    clock.advance(60)
    assert looped(database, clock) == frozenset()


def test_pages_in_flight_when_an_operator_set_the_cursor_are_no_loop(
    database: Database, clock: FakeClock
) -> None:
    """They find it where he has put it, or at the beginning, where the loop never goes."""
    for after in (None, "5.0"):
        with writing(database) as connection:
            for event, actor in (
                (events.CURSOR_RESET, "somebody"),
                (events.CURSOR_MOVED, events.REPLICATOR),
            ):
                events.note(connection, PEER.node_id, event, actor, {"after": after}, clock)
    assert looped(database, clock) == frozenset()
