"""How a stream beside the facts stands: written, read, told as events, and forgotten in time."""

from __future__ import annotations

from typing import Any, Final

from stigmem_replicator.replication import states
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import events, pruning, standings, streams
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS, TOMBSTONES
from stigmem_replicator.store.streams import StreamNote, StreamView
from tests.integration.peer_rows import IDLE, NEVER_PULLED, THROTTLED, TIMEOUT, stands, told
from tests.integration.world import PEER, SQLITE_ONLY, FakeClock
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

DAY_MS: Final = 86_400_000
BLOCKED: Final = Standing(
    PeerState.BLOCKED, "capability_required", "it gives nothing", "ask its operator", NOW_MS
)


def beside(standing: Standing, node_id: str = PEER.node_id, **times: Any) -> StreamNote:  # noqa: ANN401 - fields of the note
    return StreamNote(node_id, TOMBSTONES, standing, **times)


def write(database: Database, clock: FakeClock, *notes: StreamNote) -> None:
    with writing(database) as connection:
        streams.write(connection, notes, clock)


def views(database: Database, *node_ids: str, stream: str = TOMBSTONES) -> dict[str, StreamView]:
    with reading(database) as connection:
        return streams.views(connection, stream, node_ids or None)


def test_nothing_is_known_before_our_own_tables_exist(bare: Database) -> None:
    assert views(bare) == {}
    assert views(bare, PEER.node_id) == {}


def test_a_stream_stands_for_itself(database: Database, clock: FakeClock) -> None:
    """What is written comes back, and how the peer's facts stand is not touched by it."""
    write(database, clock, beside(BLOCKED, attempted_ms=3, caught_up_ms=2, token_not_after_ms=9))
    assert views(database) == {PEER.node_id: StreamView(BLOCKED, 3, 2, 9)}
    assert views(database, "another") == {}
    assert views(database, stream=FACTS) == {}
    assert stands(database) == NEVER_PULLED


@SQLITE_ONLY
def test_every_field_of_a_standing_is_kept(database: Database, clock: FakeClock) -> None:
    for standing in (THROTTLED, TIMEOUT, IDLE, Standing()):
        write(database, clock, beside(standing))
        assert views(database)[PEER.node_id].standing == standing


@SQLITE_ONLY
def test_times_that_are_not_known_stay_as_stored(database: Database, clock: FakeClock) -> None:
    """A failure does not say when the stream was caught up last."""
    write(database, clock, beside(IDLE, attempted_ms=1, caught_up_ms=2, token_not_after_ms=3))
    write(database, clock, beside(TIMEOUT, attempted_ms=4))
    assert views(database)[PEER.node_id] == StreamView(TIMEOUT, 4, 2, 3)


@SQLITE_ONLY
def test_a_token_that_is_taken_away_is_forgotten(database: Database, clock: FakeClock) -> None:
    """Zero says that there is none, which is not the same as not knowing."""
    write(database, clock, beside(IDLE, token_not_after_ms=3))
    write(database, clock, beside(IDLE, token_not_after_ms=0))
    assert views(database)[PEER.node_id].token_not_after_ms is None


@SQLITE_ONLY
def test_a_change_is_told_once(database: Database, clock: FakeClock) -> None:
    """Another state or reason is an event of the peer that names the stream; the rest is none."""
    write(database, clock, beside(BLOCKED))
    write(database, clock, beside(states.more(BLOCKED, NOW_MS)), beside(BLOCKED, attempted_ms=1))
    write(database, clock, beside(BLOCKED, attempted_ms=2))
    found = told(database)
    assert {(event, actor) for event, actor, _ in found} == {
        (events.STATE_CHANGED, events.REPLICATOR)
    }
    assert [detail["state"] for _, _, detail in found] == ["blocked", "catching_up", "blocked"]
    assert found[0][2] == {
        "stream": TOMBSTONES,
        "state": "blocked",
        "reason": "capability_required",
        "detail": "it gives nothing",
    }


def test_many_peers_are_written_together(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Whatever is known of each; one whose row was removed meanwhile gets nothing."""
    with writing(database) as connection:
        standings.enlist_all(connection, ["a", "b"], clock)
    notes = (beside(IDLE, "a", caught_up_ms=1), beside(TIMEOUT, "b"), beside(IDLE, "gone"))
    write(database, clock, *notes, beside(BLOCKED, attempted_ms=5))
    assert views(database) == {
        "a": StreamView(IDLE, caught_up_ms=1),
        "b": StreamView(TIMEOUT),
        PEER.node_id: StreamView(BLOCKED, 5),
    }
    assert set(views(database, "a", "gone")) == {"a"}
    assert told(database, "gone") == []
    before = node.rows("replicator_streams")
    write(database, clock)
    assert node.rows("replicator_streams") == before


def test_a_peer_that_is_gone_for_long_is_forgotten(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Its stream is kept as long as the peer is remembered, and goes with it; others stay."""
    with writing(database) as connection:
        standings.enlist(connection, "stays", clock)
    write(database, clock, beside(BLOCKED), beside(IDLE, "stays"))
    node.run("UPDATE peers SET node_id = 'stays'")
    for now_ms, left in ((NOW_MS, 2), (NOW_MS + 30 * DAY_MS, 2), (NOW_MS + 30 * DAY_MS + 1, 1)):
        with writing(database) as connection:
            pruning.prune(connection, now_ms)
        assert len(views(database)) == left
    assert set(views(database)) == {"stays"}
