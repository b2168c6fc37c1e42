"""How a peer stands: the table of states, what failures make of it, and how far behind it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.errors import (
    LocalError,
    PeerBlockedError,
    PeerHeldError,
    PeerRefusedError,
    Reason,
    ReplicatorError,
    TransientPeerError,
)
from stigmem_replicator.replication import states
from stigmem_replicator.replication.pacing import WAIT_MIN_S
from stigmem_replicator.replication.states import (
    HAPPENING_DOCS,
    STATE_DOCS,
    TRANSITIONS,
    Happening,
    PeerState,
    Standing,
)
from tests.unit.failures import NOW, PACES, chances, wishes

MINUTE: Final = 60_000
UNREACHABLE: Final = TransientPeerError(Reason.UNREACHABLE, "nobody answers", hint="look there")
THROTTLED: Final = TransientPeerError(Reason.THROTTLED, "asked us to wait", retry_after_s=60.0)
CROWDED: Final = TransientPeerError(Reason.THROTTLED, "asked us to wait")
FORBIDDEN: Final = PeerRefusedError(Reason.FORBIDDEN, "refused us")


def failed(standing: Standing, error: ReplicatorError, chance: float = 1.0) -> Standing:
    return states.failed(standing, error, NOW, PACES, chance)


# the table


def test_every_state_and_happening_is_told_in_words() -> None:
    assert set(STATE_DOCS) == set(PeerState)
    assert set(HAPPENING_DOCS) == set(Happening)
    assert all([*STATE_DOCS.values(), *HAPPENING_DOCS.values()])


def test_whatever_happens_leads_somewhere() -> None:
    """In each state each happening has one target, so that nothing is left undecided."""
    assert set(TRANSITIONS) == set(PeerState)
    assert all(set(targets) == set(Happening) for targets in TRANSITIONS.values())


def test_every_state_is_reached_from_the_first_and_left_again() -> None:
    def reached(start: PeerState) -> set[PeerState]:
        found, todo = set[PeerState](), [start]
        while todo:
            new = set(TRANSITIONS[todo.pop()].values()) - found
            found |= new
            todo += new
        return found

    assert Standing().state is PeerState.CATCHING_UP
    for state in PeerState:
        assert reached(state) == set(PeerState), state


def test_a_paused_peer_is_left_paused_by_all_but_a_resume() -> None:
    """Whoever works on it by hand, whatever comes of it and whatever the node's registry says."""
    for happening, target in TRANSITIONS[PeerState.PAUSED].items():
        assert (target is PeerState.PAUSED) == (happening is not Happening.RESUMED)


# waits


@pytest.mark.parametrize(
    ("error", "state", "first_s", "cap_s"),
    [
        (UNREACHABLE, PeerState.BACKING_OFF, 1.0, 300.0),
        (TransientPeerError(Reason.TIMEOUT, "."), PeerState.BACKING_OFF, 1.0, 300.0),
        (TransientPeerError(Reason.SERVER_ERROR, "."), PeerState.BACKING_OFF, 1.0, 300.0),
        (CROWDED, PeerState.THROTTLED, 2.0, 400.0),
        (TransientPeerError(Reason.MALFORMED_PAGE, "."), PeerState.BACKING_OFF, 3.0, 500.0),
        (TransientPeerError(Reason.CURSOR_STALLED, "."), PeerState.BACKING_OFF, 3.0, 500.0),
        (TransientPeerError(Reason.PAGE_TOO_LARGE, "."), PeerState.BACKING_OFF, 3.0, 500.0),
        (FORBIDDEN, PeerState.BLOCKED, 600.0, 600.0),
        (PeerBlockedError(Reason.KEY_CHANGED, "."), PeerState.BLOCKED, 600.0, 600.0),
        (ReplicatorError(Reason.UNEXPECTED, "a mistake"), PeerState.BACKING_OFF, 1.0, 300.0),
    ],
)
def test_the_class_of_the_last_reason_chooses_the_wait(
    error: ReplicatorError, state: PeerState, first_s: float, cap_s: float
) -> None:
    """Failures of any class are counted together; base and cap are those of the last one."""
    first = failed(Standing(), error)
    assert (first.state, first.reason) == (state, error.reason)
    assert (first.detail, first.hint) == (error.message, error.hint or None)
    assert first.next_attempt_ms == NOW + first_s * 1000
    last = failed(Standing(failures=50), error)
    assert last.next_attempt_ms == NOW + cap_s * 1000


@given(st.integers(0, 10**6), wishes, chances, st.sampled_from([Reason.THROTTLED, Reason.TIMEOUT]))
def test_a_wait_is_bounded_by_its_class_or_the_peers_wish(
    failures: int, asked_s: float, chance: float, reason: Reason
) -> None:
    """Never under 100 ms, never over the cap unless the peer asked for more."""
    error = TransientPeerError(reason, "no usable answer", retry_after_s=asked_s)
    after = failed(Standing(failures=failures), error, chance)
    cap_s = 400.0 if reason is Reason.THROTTLED else 300.0
    assert after.next_attempt_ms is not None
    wait_ms = after.next_attempt_ms - NOW
    assert WAIT_MIN_S * 1000 <= wait_ms <= max(cap_s, asked_s) * 1000 + 1


@given(st.integers(0, 10**6), chances, st.floats(min_value=0.1, max_value=86_400.0))
def test_a_blocked_peer_waits_between_half_and_the_whole(
    failures: int, chance: float, blocked_s: float
) -> None:
    """Its tries never come close together, however few or many there were."""
    paces = replace(PACES, blocked_s=blocked_s)
    after = states.failed(Standing(failures=failures), FORBIDDEN, NOW, paces, chance)
    assert after.next_attempt_ms is not None
    wait_ms = after.next_attempt_ms - NOW
    assert max(blocked_s * 500, 100) - 1 <= wait_ms <= max(blocked_s * 1000, 100) + 1


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_a_wish_is_a_floor_and_no_more(chance: float) -> None:
    """The longer of the peer's wish and our own backoff counts."""
    few, many = Standing(), Standing(failures=50)
    assert failed(few, THROTTLED, chance).next_attempt_ms == NOW + MINUTE
    assert failed(many, THROTTLED, 1.0).next_attempt_ms == NOW + 400_000
    assert failed(many, THROTTLED, chance).not_before_ms == NOW + MINUTE
    assert failed(many, CROWDED, chance).not_before_ms is None


# single moves


@pytest.mark.parametrize("clear", [states.row_changed, states.resumed])
def test_a_throttled_peer_keeps_its_word(
    clear: Callable[[Standing, int], Standing],
) -> None:
    """What it asked for stands; only what we added ourselves is dropped."""
    throttled = failed(Standing(failures=50), THROTTLED)
    assert clear(throttled, NOW + 1) == replace(throttled, failures=0, next_attempt_ms=NOW + MINUTE)
    for standing in (failed(Standing(failures=50), CROWDED), throttled):
        cleared = clear(standing, NOW + MINUTE)
        assert cleared.state is PeerState.THROTTLED
        assert cleared.reason == Reason.THROTTLED
        assert (cleared.next_attempt_ms, cleared.not_before_ms) == (NOW + MINUTE, None)


@pytest.mark.parametrize("error", [UNREACHABLE, FORBIDDEN])
def test_a_clean_slate_has_a_peer_asked_at_once(error: ReplicatorError) -> None:
    """What failed or was refused before may work now, and nothing is left of it."""
    for clear in (states.row_changed, states.resumed):
        after = clear(failed(Standing(), error), NOW + 5)
        assert after == Standing(since_ms=NOW + 5, next_attempt_ms=NOW + 5)


def test_a_mistake_of_ours_does_not_forget_the_peers_wish() -> None:
    throttled = failed(Standing(), THROTTLED)
    mistake = ReplicatorError(Reason.UNEXPECTED, "a mistake")
    after = states.failed(throttled, mistake, NOW + 1, PACES, 0.0)
    assert (after.not_before_ms, after.next_attempt_ms) == (NOW + MINUTE, NOW + MINUTE)


def test_an_answer_that_says_there_is_no_more() -> None:
    """All that failed is forgotten, and the next poll comes after the wait that is given."""
    after = states.caught_up(failed(Standing(), UNREACHABLE), NOW + 9, 30.5)
    assert after == Standing(PeerState.IDLE, since_ms=NOW + 9, next_attempt_ms=NOW + 9 + 30_500)


def test_a_good_page_halves_the_count() -> None:
    """A peer that works every other time is not asked as one that always works."""
    after = states.more(Standing(PeerState.BACKING_OFF, "timeout", failures=7), NOW)
    assert after == Standing(failures=3, since_ms=NOW, next_attempt_ms=NOW)


def test_who_has_a_peer_that_was_handed_over_is_named() -> None:
    """Also when it is handed over again before anything else was noted of it."""
    first = states.handed_over(Standing(), "process 1", NOW)
    assert (first.state, first.reason) == (PeerState.ELSEWHERE, Reason.PEER_HELD)
    assert (first.detail, first.next_attempt_ms) == ("process 1 works on it", None)
    second = states.handed_over(first, "process 2", NOW + 1)
    assert second == replace(first, detail="process 2 works on it")


def test_a_peer_elsewhere_is_not_ours_to_ask() -> None:
    """A change of its row or a resume names no next attempt; taking it does."""
    elsewhere = states.handed_over(failed(Standing(), UNREACHABLE), "process 1", NOW)
    for clear in (states.row_changed, states.resumed):
        assert clear(elsewhere, NOW + 1) == replace(elsewhere, failures=0)
    taken = states.taken(elsewhere, NOW + 2)
    assert taken == Standing(failures=1, since_ms=NOW + 2, next_attempt_ms=NOW + 2)


@pytest.mark.parametrize("error", [UNREACHABLE, FORBIDDEN, CROWDED])
def test_whoever_takes_a_peer_asks_it_at_once(error: ReplicatorError) -> None:
    """What is known of it stays, but the wait that was ours is over."""
    before = failed(Standing(failures=3), error)
    assert states.taken(before, NOW + 7) == replace(before, next_attempt_ms=NOW + 7)


@pytest.mark.parametrize(
    ("not_before_ms", "next_ms"),
    [
        (None, NOW),
        (NOW - 1, NOW),
        (NOW, NOW),
        (NOW + 1, NOW + 1),
        (NOW + 3_600_000, NOW + 3_600_000),
        (NOW + 3_600_001, NOW + 3_600_000),
        (NOW + 10**12, NOW + 3_600_000),
    ],
)
def test_a_clock_that_was_set_back_lengthens_no_wait(
    not_before_ms: int | None, next_ms: int
) -> None:
    """What a peer asked for is kept by whoever takes it, but no longer than it may ask for."""
    before = Standing(PeerState.THROTTLED, "throttled", not_before_ms=not_before_ms)
    after = states.taken(before, NOW, 3600.0)
    assert after.next_attempt_ms == next_ms
    assert after.not_before_ms == (None if next_ms == NOW else next_ms)


@pytest.mark.parametrize(
    ("until_ms", "next_ms"), [(None, None), (NOW + 1, NOW + MINUTE), (NOW + 10**6, NOW + 10**6)]
)
def test_a_paused_peer_is_asked_when_the_pause_and_its_own_wish_are_over(
    until_ms: int | None, next_ms: int | None
) -> None:
    after = states.paused(failed(Standing(), THROTTLED), NOW, "cleaning", until_ms)
    assert (after.state, after.reason, after.detail) == (PeerState.PAUSED, None, "cleaning")
    assert (after.next_attempt_ms, after.failures, after.hint) == (next_ms, 1, None)


def test_a_pause_may_be_changed_and_began_when_it_began() -> None:
    first = states.paused(Standing(since_ms=1), NOW, "cleaning", NOW + 5)
    second = states.paused(first, NOW + 1, None, None)
    assert second == Standing(PeerState.PAUSED, since_ms=NOW)


def test_a_resume_forgets_what_failed_and_keeps_what_was_asked_for() -> None:
    paused = states.paused(failed(Standing(), THROTTLED), NOW, "cleaning", None)
    after = states.resumed(paused, NOW + 2)
    assert after == Standing(
        since_ms=NOW + 2, next_attempt_ms=NOW + MINUTE, not_before_ms=NOW + MINUTE
    )


@pytest.mark.parametrize(
    ("error", "peers"),
    [
        (UNREACHABLE, True),
        (THROTTLED, True),
        (FORBIDDEN, True),
        (PeerBlockedError(Reason.REJECT_BURST, "."), True),
        (LocalError(Reason.DISK_LOW, "."), False),
        (PeerHeldError(Reason.PEER_HELD, "."), False),
        (ReplicatorError(Reason.UNEXPECTED, "."), False),
    ],
)
def test_what_counts_against_a_peer(error: ReplicatorError, *, peers: bool) -> None:
    """Trouble of this machine and what another process does leave a peer's history alone."""
    assert states.is_peers_doing(error) is peers


# lag


@pytest.mark.parametrize(
    ("caught_up", "frontier", "lag_ms"),
    [
        (None, None, None),
        (None, 50_000, 50_000),
        (60_000, None, 0),
        (60_001, None, 60_001),
        (60_000, 10**9, 0),
        (600_000, 10**9, 600_000),
        (600_000, 90_000, 90_000),
        (0, 10**9, 0),
        (-60_000, 10**9, 0),
        (-60_001, 10**9, 10**9),
        (-60_001, None, None),
        (600_000, -1, 0),
        (None, -(10**9), 0),
    ],
)
def test_lag(caught_up: int | None, frontier: int | None, lag_ms: int | None) -> None:
    """None while the last answer is fresh, else the age of what was read last or of that answer.

    A quiet origin does not lag, a dead one does; an answer far ahead, as after our clock was set
    back, says nothing.  Ages in milliseconds, negative for a time that is ahead.
    """

    def at(age: int | None) -> int | None:
        return None if age is None else NOW - age

    assert states.lag_ms(NOW, at(caught_up), at(frontier), 60_000) == lag_ms
