"""Pauses: kept whatever a worker writes that did not see them, ended by an operator or in time."""

from __future__ import annotations

from stigmem_replicator.replication import states
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import events, pauses, standings
from stigmem_replicator.store.engine import Database, writing
from stigmem_replicator.store.standings import Note, Observed, Turn
from tests.integration.peer_rows import HOLDER, IDLE, THROTTLED, stands, status, told, write
from tests.integration.world import PEER, FakeClock
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS


def pause(
    database: Database, clock: FakeClock, until_ms: int | None = None, why: str | None = "cleaning"
) -> None:
    with writing(database) as connection:
        pauses.pause(connection, PEER.node_id, why, until_ms, "alice", clock)


def resume(database: Database, clock: FakeClock, actor: str = "bob") -> None:
    with writing(database) as connection:
        pauses.resume(connection, PEER.node_id, actor, clock)


def test_a_pause_is_told_and_kept(database: Database, node: NodeDatabase, clock: FakeClock) -> None:
    """Why, until when, by whom and since when; what the peer asked for stays."""
    write(database, clock, THROTTLED)
    clock.advance(1)
    pause(database, clock, NOW_MS + 90_000)
    after = stands(database)
    assert (after.state, after.reason, after.detail) == (PeerState.PAUSED, None, "cleaning")
    assert (after.since_ms, after.next_attempt_ms) == (NOW_MS + 1000, NOW_MS + 90_000)
    assert (after.failures, after.not_before_ms) == (2, NOW_MS + 60_000)
    row = status(node)
    assert (row["paused_at_ms"], row["paused_until_ms"]) == (NOW_MS + 1000, NOW_MS + 90_000)
    assert (row["paused_by"], row["pause_reason"]) == ("alice", "cleaning")
    detail = {"reason": "cleaning", "until_ms": NOW_MS + 90_000}
    assert told(database)[-1] == ("paused", "alice", detail)


def test_a_peer_that_was_never_pulled_can_be_paused(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """It gets its row, so that nobody begins with it."""
    with writing(database) as connection:
        pauses.pause(connection, "new", None, None, "alice", clock)
    assert (status(node, "new")["state"], status(node, "new")["number"]) == ("paused", 2)
    with writing(database) as connection:
        pauses.resume(connection, "new", "alice", clock)
        pauses.resume(connection, "newer", "alice", clock)
    assert (status(node, "newer")["state"], status(node, "newer")["number"]) == ("catching_up", 3)


def test_a_worker_that_did_not_see_a_pause_does_not_end_it(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Its peer stays paused, with the operator's words; times and what the peer asked for count."""
    pause(database, clock, NOW_MS + 5_000)
    clock.advance(1)
    write(database, clock, Note(PEER.node_id, THROTTLED, 1, 2, Observed(3), Turn(4, 5)))
    expected = Standing(
        PeerState.PAUSED,
        detail="cleaning",
        since_ms=NOW_MS,
        failures=2,
        # The pause ends earlier, but the peer is not asked before it allows.
        next_attempt_ms=NOW_MS + 60_000,
        not_before_ms=NOW_MS + 60_000,
    )
    assert stands(database) == expected
    row = status(node)
    assert (row["last_attempt_ms"], row["caught_up_ms"], row["turn_admitted"]) == (1, 2, 4)
    assert row["certificate_not_after_ms"] == 3
    assert (row["paused_at_ms"], row["paused_until_ms"]) == (NOW_MS, NOW_MS + 5_000)
    write(database, clock, IDLE)
    assert stands(database).next_attempt_ms == NOW_MS + 5_000
    assert [event for event, _, _ in told(database)] == ["paused"]


def test_a_pull_by_hand_of_a_paused_peer_leaves_it_paused(
    database: Database, clock: FakeClock
) -> None:
    """Taking it, handing it over and every end of the pull leave it as the operator wants it."""
    pause(database, clock)
    paused = stands(database)
    with writing(database) as connection:
        before = standings.take(connection, [PEER.node_id], HOLDER)[PEER.node_id]
    assert before == paused
    write(database, clock, states.caught_up(states.taken(before, NOW_MS + 1), NOW_MS + 2, 30.0))
    with writing(database) as connection:
        standings.let_go(connection, [PEER.node_id], {PEER.node_id: "another"}, clock)
    assert stands(database) == paused
    assert [event for event, _, _ in told(database)] == ["paused"]


def test_a_worker_that_did_not_see_a_resume_does_not_pause_again(
    database: Database, clock: FakeClock
) -> None:
    """A pull by hand that began under a pause and ends after it leaves a peer that is pulled."""
    pause(database, clock)
    before = states.more(stands(database), NOW_MS + 1)
    resume(database, clock)
    clock.advance(1)
    write(database, clock, before)
    after = stands(database)
    assert (after.state, after.since_ms) == (PeerState.CATCHING_UP, NOW_MS)
    assert after.next_attempt_ms == NOW_MS + 1000
    assert [event for event, _, _ in told(database)] == ["paused", "resumed"]


def test_a_resume_forgets_failures_and_keeps_what_the_peer_asked_for(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Nothing of the pause is left, and whoever works on the peer is told of it by the time."""
    write(database, clock, THROTTLED)
    pause(database, clock)
    clock.advance(1)
    resume(database, clock)
    assert stands(database) == Standing(
        since_ms=NOW_MS + 1000,
        next_attempt_ms=NOW_MS + 60_000,
        not_before_ms=NOW_MS + 60_000,
    )
    row = status(node)
    assert row["resumed_at_ms"] == NOW_MS + 1000
    names = ("paused_at_ms", "paused_until_ms", "paused_by", "pause_reason")
    assert {row[name] for name in names} == {None}
    assert told(database)[-1] == ("resumed", "bob", {"state": "catching_up"})


def test_a_resume_is_also_for_a_peer_that_is_not_paused(
    database: Database, clock: FakeClock
) -> None:
    """An operator who mended what blocked a peer has it asked at once."""
    write(database, clock, Standing(PeerState.BLOCKED, "forbidden", "refused", failures=9))
    resume(database, clock)
    assert stands(database) == Standing(since_ms=NOW_MS, next_attempt_ms=NOW_MS)


def test_the_replicator_ends_only_a_pause_whose_time_has_come(
    database: Database, clock: FakeClock
) -> None:
    """An operator may have made it longer since the replicator looked."""
    for until_ms in (None, NOW_MS + 1, NOW_MS, NOW_MS - 1):
        pause(database, clock, until_ms)
        resume(database, clock, events.REPLICATOR)
        ended = until_ms is not None and until_ms <= NOW_MS
        assert (stands(database).state is PeerState.CATCHING_UP) is ended
    resume(database, clock, events.REPLICATOR)
    assert [(event, actor) for event, actor, _ in told(database)] == [
        *[("paused", "alice")] * 3,
        ("resumed", "replicator"),
        ("paused", "alice"),
        ("resumed", "replicator"),
    ]
