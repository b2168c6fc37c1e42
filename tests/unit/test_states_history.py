"""How a peer stands after any history: what holds whatever happened to it, in whatever order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.errors import (
    PeerBlockedError,
    Reason,
    ReplicatorError,
    TransientPeerError,
)
from stigmem_replicator.replication import states
from stigmem_replicator.replication.states import TRANSITIONS, Happening, PeerState, Standing
from tests.unit.failures import NOW, PACES, chances, wishes

POLL_S: Final = 30.0
WITHOUT_REASON: Final = {PeerState.IDLE, PeerState.CATCHING_UP, PeerState.PAUSED}
GOOD: Final = {Happening.MORE, Happening.CAUGHT_UP}


@dataclass(frozen=True, slots=True)
class Step:
    """One happening, some time after the one before it."""

    happening: Happening
    after_ms: int
    asked_s: float
    reason: Reason
    chance: float
    until_ms: int | None

    def on(self, standing: Standing, now_ms: int) -> Standing:
        match self.happening:
            case Happening.MORE:
                return states.more(standing, now_ms)
            case Happening.CAUGHT_UP:
                return states.caught_up(standing, now_ms, POLL_S)
            case Happening.ASKED_TO_WAIT | Happening.FAILED | Happening.REFUSED:
                return states.failed(standing, self.error, now_ms, PACES, self.chance)
            case Happening.ROW_CHANGED:
                return states.row_changed(standing, now_ms)
            case Happening.HANDED_OVER:
                return states.handed_over(standing, "process 7 on host-1 (pull)", now_ms)
            case Happening.TAKEN:
                return states.taken(standing, now_ms)
            case Happening.PAUSED:
                until_ms = None if self.until_ms is None else now_ms + self.until_ms
                return states.paused(standing, now_ms, "cleaning", until_ms)
            case Happening.RESUMED:
                return states.resumed(standing, now_ms)

    @property
    def error(self) -> ReplicatorError:
        if self.happening is Happening.REFUSED:
            return PeerBlockedError(self.reason, "cannot be believed")
        reason = Reason.THROTTLED if self.happening is Happening.ASKED_TO_WAIT else self.reason
        return TransientPeerError(reason, "no usable answer", retry_after_s=self.asked_s)


steps = st.builds(
    Step,
    st.sampled_from(Happening),
    st.integers(0, 2 * 3_600_000),
    wishes,
    st.sampled_from([Reason.TIMEOUT, Reason.MALFORMED_PAGE, Reason.KEY_CHANGED]),
    chances,
    st.none() | st.integers(0, 2 * 3_600_000),
)


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a history: what it was, when, and how the peer stood before and after."""

    step: Step
    now_ms: int
    before: Standing
    after: Standing


def moves(history: list[Step]) -> list[Move]:
    """Return what the steps make of a peer that was never pulled."""
    standing, now_ms, found = Standing(since_ms=NOW), NOW, []
    for step in history:
        now_ms += step.after_ms
        after = step.on(standing, now_ms)
        found.append(Move(step, now_ms, standing, after))
        standing = after
    return found


@given(st.lists(steps, max_size=12))
def test_the_state_moves_by_the_table_alone(history: list[Step]) -> None:
    for move in moves(history):
        assert move.after.state is TRANSITIONS[move.before.state][move.step.happening]


@given(st.lists(steps, max_size=12))
def test_a_peer_is_not_asked_before_it_may_be(history: list[Step]) -> None:
    """The next attempt is never before the moment that the peer named, nor before now."""
    for move in moves(history):
        if move.after.next_attempt_ms is not None:
            assert move.after.next_attempt_ms >= (move.after.not_before_ms or 0)
            stays = move.after.next_attempt_ms == move.before.next_attempt_ms
            assert stays or move.after.next_attempt_ms >= move.now_ms


@given(st.lists(steps, max_size=12))
def test_nothing_but_an_answer_shortens_what_a_peer_asked_for(history: list[Step]) -> None:
    """Its wish outlasts other failures, changes of its row, resumes, and whoever takes it."""
    wish_ms = 0
    for move in moves(history):
        if move.step.happening in GOOD:
            wish_ms = 0
        elif move.step.happening in (Happening.ASKED_TO_WAIT, Happening.FAILED):
            wish_ms = max(wish_ms, move.now_ms + round(move.step.asked_s * 1000))
        if wish_ms > move.now_ms:
            assert (move.after.not_before_ms or 0) >= wish_ms
            assert move.after.next_attempt_ms is None or move.after.next_attempt_ms >= wish_ms


@given(st.lists(steps, max_size=12))
def test_what_needs_a_reason_has_one(history: list[Step]) -> None:
    """All states but those of a healthy peer and of a pause say why, and those say nothing."""
    for move in moves(history):
        assert (move.after.reason is None) == (move.after.state in WITHOUT_REASON)
        assert move.after.reason is None or move.after.detail


@given(st.lists(steps, max_size=12))
def test_since_is_when_state_or_reason_changed(history: list[Step]) -> None:
    for move in moves(history):
        before, after = move.before, move.after
        changed = (before.state, before.reason) != (after.state, after.reason)
        assert after.since_ms == (move.now_ms if changed else before.since_ms)


@given(st.lists(steps, max_size=12))
def test_one_count_of_failures(history: list[Step]) -> None:
    """One more with each failure, half after a good page, none once there is a clean slate."""
    for move in moves(history):
        before, after = move.before.failures, move.after.failures
        match move.step.happening:
            case Happening.ASKED_TO_WAIT | Happening.FAILED | Happening.REFUSED:
                assert after == before + 1
            case Happening.MORE:
                assert after == before // 2
            case Happening.CAUGHT_UP | Happening.ROW_CHANGED | Happening.RESUMED:
                assert after == 0
            case _:
                assert after == before
