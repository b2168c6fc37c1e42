"""Who works on a peer, who wants it, how it stands, and the events that tell of it."""

from __future__ import annotations

from typing import Final

import pytest

from stigmem_replicator.replication import states
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import events, pauses, standings
from stigmem_replicator.store.engine import Database, writing
from stigmem_replicator.store.standings import Holder, Note, Observed, Turn
from tests.integration.peer_rows import (
    HOLDER,
    IDLE,
    NEVER_PULLED,
    THROTTLED,
    TIMEOUT,
    stands,
    status,
    told,
    write,
)
from tests.integration.world import PEER, FakeClock
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

DAEMON: Final = Holder("host-1", 12, "run", NOW_MS)
ALL: Final = (PEER.node_id, "b", "a")


def holders(node: NodeDatabase) -> dict[str, int | None]:
    return {row["node_id"]: row["holder_pid"] for row in node.rows("replicator_peers")}


@pytest.fixture
def three(database: Database, clock: FakeClock) -> Database:
    """The database with three peers enlisted."""
    with writing(database) as connection:
        standings.enlist_all(connection, ALL, clock)
    return database


# numbers and holders


def test_each_peer_has_its_own_number_for_good(
    database: Database, clock: FakeClock, node: NodeDatabase
) -> None:
    """A peer is numbered once; its number is the byte by which it is locked."""
    with writing(database) as connection:
        assert standings.enlist_all(connection, [], clock) == {}
        assert standings.enlist_all(connection, ["b", "a", "b"], clock) == {"b": 2, "a": 3}
        standings.enlist(connection, "c", clock)
        numbers = standings.enlist_all(connection, [PEER.node_id, "d", "b"], clock)
        assert numbers == {PEER.node_id: 1, "b": 2, "d": 5}
        assert standings.enlist_all(connection, ["c"], clock) == {"c": 4}
    assert len(node.rows("replicator_peers")) == 5


@pytest.mark.usefixtures("database")
def test_a_peer_begins_as_catching_up(database: Database, node: NodeDatabase) -> None:
    """Before its first pull a peer has a state, a time, and no totals."""
    assert stands(database) == NEVER_PULLED
    row = status(node)
    assert {row[name] for name in ("pages", "admitted", "rejected", "commit_number")} == {0}
    assert stands(database, "unknown") == Standing()


def test_who_works_on_peers_can_be_named(three: Database, node: NodeDatabase) -> None:
    """Taking peers notes the process on each and on no other, and tells what it has to know."""
    node.run("UPDATE replicator_peers SET commit_number = 7, failures = 3 WHERE node_id = 'b'")
    with writing(three) as connection:
        assert standings.holder(connection, "b") is None
        taken = standings.take(connection, ["b", "a", "unknown"], HOLDER)
        assert standings.holder(connection, "b") == HOLDER
        assert standings.holder(connection, "unknown") is None
    assert taken == {
        "b": Standing(since_ms=NOW_MS, failures=3),
        "a": Standing(since_ms=NOW_MS),
    }
    assert status(node, "b")["commit_number"] == 7
    assert holders(node) == {PEER.node_id: None, "b": 4711, "a": 4711}
    assert str(HOLDER) == "process 4711 on host-1 (pull)"


def test_letting_go_removes_the_name(three: Database, node: NodeDatabase, clock: FakeClock) -> None:
    """Peers are let go of together, and how they stand does not change by it."""
    with writing(three) as connection:
        standings.take(connection, ALL, DAEMON)
        standings.let_go(connection, ["b", PEER.node_id], {}, clock)
    assert holders(node) == {PEER.node_id: None, "b": None, "a": 12}
    assert stands(three) == NEVER_PULLED
    assert told(three) == []


# handing over


def test_a_peer_that_is_wanted_is_so_until_somebody_has_it(
    three: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The name of whoever asks stands there until a process takes the peer, be it another one."""
    with writing(three) as connection:
        standings.take(connection, ALL, DAEMON)
        standings.want(connection, "b", HOLDER, clock)
    assert (status(node, "b")["wanted_by"], status(node, "b")["wanted_at_ms"]) == (
        str(HOLDER),
        NOW_MS,
    )
    with writing(three) as connection:
        standings.let_go(connection, ["b"], {"b": str(HOLDER)}, clock)
    assert status(node, "b")["wanted_by"] == str(HOLDER)
    node.run("UPDATE replicator_peers SET vanished_at_ms = 1")
    with writing(three) as connection:
        standings.take(connection, ["b"], DAEMON)
    found = status(node, "b")
    assert (found["wanted_by"], found["wanted_at_ms"], found["vanished_at_ms"]) == (None,) * 3
    assert status(node, "a")["vanished_at_ms"] == 1


def test_a_peer_that_is_handed_over_is_elsewhere(
    three: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """State, reason and an event name who has it; what was let go of with it is not touched."""
    write(three, clock, THROTTLED)
    clock.advance(1)
    with writing(three) as connection:
        standings.take(connection, ALL, DAEMON)
        standings.let_go(connection, ALL, {PEER.node_id: str(HOLDER)}, clock)
    after = stands(three)
    assert (after.state, after.reason, after.hint) == (PeerState.ELSEWHERE, "peer_held", None)
    assert after.detail == "process 4711 on host-1 (pull) works on it"
    assert (after.since_ms, after.next_attempt_ms) == (NOW_MS + 1000, None)
    assert (after.not_before_ms, after.failures) == (NOW_MS + 60_000, 2)
    assert told(three)[-1] == (
        "state_changed",
        events.REPLICATOR,
        {"state": "elsewhere", "reason": "peer_held", "detail": after.detail},
    )
    assert holders(node) == dict.fromkeys(ALL)
    assert stands(three, "b") == NEVER_PULLED
    assert told(three, "b") == []


def test_nobody_has_a_peer_that_whoever_had_it_let_go(three: Database, clock: FakeClock) -> None:
    """Also when that process ended early and said nothing of how the peer stands."""
    write(three, clock, TIMEOUT, Note("b", IDLE))
    with writing(three) as connection:
        standings.let_go(connection, ALL, {PEER.node_id: "process 1", "a": "process 1"}, clock)
        standings.take(connection, ALL, HOLDER)
        clock.advance(1)
        standings.let_go(connection, ALL, {"a": "process 2"}, clock)
    after = stands(three)
    assert after == Standing(since_ms=NOW_MS + 1000, failures=1, next_attempt_ms=NOW_MS + 1000)
    assert stands(three, "b") == IDLE
    assert stands(three, "a").detail == "process 2 works on it"
    assert [detail["state"] for _, _, detail in told(three, "a")] == ["elsewhere"]


def test_what_is_left_to_say_is_written_before_a_peer_is_left(
    three: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Last notes, the names and the hand-over are one transaction, in that order."""
    notes = [Note(PEER.node_id, THROTTLED, attempted_ms=7), Note("b", IDLE)]
    with writing(three) as connection:
        standings.take(connection, ALL, DAEMON)
        standings.write(connection, notes, clock)
        standings.let_go(connection, ALL[:2], {PEER.node_id: str(HOLDER)}, clock)
    assert holders(node) == {PEER.node_id: None, "b": None, "a": 12}
    assert (status(node)["last_attempt_ms"], status(node)["state"]) == (7, "elsewhere")
    assert stands(three, "b") == IDLE
    assert [detail["state"] for _, _, detail in told(three)] == ["throttled", "elsewhere"]


# what is written


def test_a_pull_that_caught_up_leaves_an_idle_peer(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Its times are noted and its failures forgotten."""
    write(database, clock, THROTTLED)
    idle = states.caught_up(stands(database), NOW_MS + 9, 30.0)
    write(database, clock, Note(PEER.node_id, idle, NOW_MS + 1, NOW_MS + 2))
    assert stands(database) == Standing(
        PeerState.IDLE, since_ms=NOW_MS + 9, next_attempt_ms=NOW_MS + 30_009
    )
    row = status(node)
    assert row["last_attempt_ms"] == NOW_MS + 1
    assert (row["caught_up_ms"], row["last_success_ms"]) == (NOW_MS + 2, NOW_MS + 2)


def test_times_that_are_not_known_stay_as_stored(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A failure says nothing about when the peer was caught up, or what its last turn brought."""
    write(database, clock, Note(PEER.node_id, IDLE, 1, 2, turn=Turn(500, 40)))
    write(database, clock, Note(PEER.node_id, THROTTLED, 3))
    row = status(node)
    assert (row["last_attempt_ms"], row["caught_up_ms"], row["last_success_ms"]) == (3, 2, 2)
    assert (row["turn_admitted"], row["turn_ms"]) == (500, 40)
    assert stands(database) == THROTTLED


def test_notes_of_many_peers_are_written_together(
    three: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Each peer gets its own, whatever of it is known of the others."""
    notes = (
        Note(PEER.node_id, IDLE, 1, 2),
        Note("b", THROTTLED, 3),
        Note("a", IDLE, 4, 5, Observed(6)),
        Note("vanished", IDLE, 7),
        Note("b", TIMEOUT, caught_up_ms=8),
    )
    write(three, clock, *notes)
    names = ("state", "last_attempt_ms", "caught_up_ms", "certificate_not_after_ms")
    assert {node_id: tuple(status(node, node_id)[name] for name in names) for node_id in ALL} == {
        PEER.node_id: ("idle", 1, 2, None),
        "b": ("backing_off", 3, 8, None),
        "a": ("idle", 4, 5, 6),
    }
    assert [detail["state"] for _, _, detail in told(three, "b")] == ["throttled", "backing_off"]
    assert told(three, "vanished") == []


def test_nothing_to_write_is_written(database: Database, node: NodeDatabase) -> None:
    before = node.dump()
    write(database, FakeClock())
    assert node.dump() == before


def test_only_changes_of_state_are_events(database: Database, clock: FakeClock) -> None:
    """The same again is no news and keeps its time, another reason is news."""
    for after in (
        IDLE,
        IDLE,
        TIMEOUT,
        Standing(PeerState.BACKING_OFF, "timeout", "slow again", since_ms=NOW_MS + 5, failures=2),
    ):
        write(database, clock, after)
    assert (stands(database).detail, stands(database).since_ms) == ("slow again", NOW_MS)
    write(database, clock, Standing(PeerState.BACKING_OFF, "unreachable", since_ms=NOW_MS + 6))
    assert stands(database).since_ms == NOW_MS + 6
    assert [(event, detail["state"], detail["reason"]) for event, _, detail in told(database)] == [
        ("state_changed", "idle", None),
        ("state_changed", "backing_off", "timeout"),
        ("state_changed", "backing_off", "unreachable"),
    ]


def test_a_text_of_a_peer_fits_every_database(database: Database, clock: FakeClock) -> None:
    """A NUL or half a character in what a peer sent must not keep its state from being written."""
    write(database, clock, Standing(PeerState.BLOCKED, "forbidden", "a\x00b\ud800", "c\nd", NOW_MS))
    after = stands(database)
    assert (after.detail, after.hint) == ("a b ", "c d")
    with writing(database) as connection:
        pauses.pause(connection, PEER.node_id, "e\x00\udcff", None, "alice", clock)
    assert stands(database).detail == "e  "


def observed(node: NodeDatabase) -> tuple[int | None, int | None, int | None]:
    row = status(node)
    return row["certificate_not_after_ms"], row["upstream_lag_ms"], row["upstream_lag_at_ms"]


def test_what_a_peer_told_of_itself_is_kept_until_it_tells_otherwise(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Nothing told leaves what is stored; a lag that is named no more is none."""
    for said, stored in (
        (Observed(), (None, None, None)),
        (Observed(certificate_not_after_ms=7), (7, None, None)),
        (Observed(None, 60_001, 5), (7, 60_001, 5)),
        (Observed(), (7, 60_001, 5)),
        (Observed(8, None, 6), (8, None, 6)),
        (Observed(None, 0, 9), (8, 0, 9)),
    ):
        write(database, clock, Note(PEER.node_id, IDLE, observed=said))
        assert observed(node) == stored
    assert len(told(database)) == 1


def test_a_lag_that_no_column_holds(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A peer may name any number: it is stored as near as it can be, and hinders nothing."""
    for lag_ms, stored in ((10**30, 2**63 - 1), (-(10**30), 0)):
        said = Observed(None, lag_ms, NOW_MS)
        write(database, clock, Note(PEER.node_id, THROTTLED, observed=said))
        assert observed(node) == (None, stored, NOW_MS)


# events


def test_twenty_events_of_a_peer_are_kept_and_all_of_operators(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """What the replicator notes itself is bounded for each peer; operators' actions never go."""
    with writing(database) as connection:
        events.note(connection, "other", "kept", events.REPLICATOR, {}, clock)
        for number in range(50):
            events.note(connection, PEER.node_id, "e", events.REPLICATOR, {"n": number}, clock)
            if number % 10 == 0:
                events.note(connection, PEER.node_id, "e", "alice", {"n": number}, clock)
    found = told(database)
    assert [detail["n"] for _, actor, detail in found if actor == "alice"] == [0, 10, 20, 30, 40]
    ours = [detail["n"] for _, actor, detail in found if actor == events.REPLICATOR]
    assert ours == list(range(30, 50))
    assert len(node.rows("replicator_events")) == 26
