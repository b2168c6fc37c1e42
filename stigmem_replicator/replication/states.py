"""How replication from a peer stands, and what each happening makes of it.  No I/O, no clock.

Rule 1: the state moves by TRANSITIONS alone.  The word is the same in the table, the log and the
command line.

Rule 2: one count of failures a peer; the class of the last reason chooses how long is waited.  A
good page halves the count; being caught up, a change of the peer's row or a resume forgets it.

Rule 3: what a peer asked for with Retry-After is a floor that nothing shortens.

Who may work on a peer and when it is looked at again is for the engine; how a standing is kept
is for the store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from stigmem_replicator.errors import (
    PeerBlockedError,
    PeerRefusedError,
    Reason,
    ReplicatorError,
    TransientPeerError,
)
from stigmem_replicator.replication.pacing import WAIT_MIN_S, Backoff

__all__ = [
    "HAPPENING_DOCS",
    "STATE_DOCS",
    "TRANSITIONS",
    "Happening",
    "Paces",
    "PeerState",
    "Standing",
    "caught_up",
    "failed",
    "handed_over",
    "is_peers_doing",
    "lag_ms",
    "more",
    "paused",
    "resumed",
    "row_changed",
    "taken",
]


class PeerState(StrEnum):
    """How replication from a peer stands: one word in the table, the CLI and the JSON."""

    CATCHING_UP = "catching_up"
    IDLE = "idle"
    THROTTLED = "throttled"
    BACKING_OFF = "backing_off"
    BLOCKED = "blocked"
    PAUSED = "paused"
    ELSEWHERE = "elsewhere"


class Happening(StrEnum):
    """What moves a peer from state to state."""

    MORE = "more"
    CAUGHT_UP = "caught_up"
    ASKED_TO_WAIT = "asked_to_wait"
    FAILED = "failed"
    REFUSED = "refused"
    ROW_CHANGED = "row_changed"
    HANDED_OVER = "handed_over"
    TAKEN = "taken"
    PAUSED = "paused"
    RESUMED = "resumed"


STATE_DOCS: Final[dict[PeerState, str]] = {
    PeerState.CATCHING_UP: "nothing was pulled yet, or the last page said that there is more",
    PeerState.IDLE: "caught up, waiting for the next poll",
    PeerState.THROTTLED: "the peer asked us to wait",
    PeerState.BACKING_OFF: "a failure that may pass: it is tried again after a growing wait",
    PeerState.BLOCKED: "an operator must decide; it is tried again at long intervals",
    PeerState.PAUSED: "an operator paused it",
    PeerState.ELSEWHERE: "another process works on the peer",
}

HAPPENING_DOCS: Final[dict[Happening, str]] = {
    Happening.MORE: "a page was committed that says that there is more",
    Happening.CAUGHT_UP: "an answer said that there is no more, and all is committed",
    Happening.ASKED_TO_WAIT: "the peer asked us to wait (429, 503)",
    Happening.FAILED: "no usable answer: network, 5xx, a malformed page, a stalled cursor",
    Happening.REFUSED: "the peer refused us, is not who it should be, or cannot be believed",
    Happening.ROW_CHANGED: "the peer's row in the node's registry changed",
    Happening.HANDED_OVER: "the peer was let go for another process",
    Happening.TAKEN: "this process took the peer's lock",
    Happening.PAUSED: "`peers pause`",
    Happening.RESUMED: "`peers resume`, or the time of a pause has come",
}

_WORK: Final[dict[Happening, PeerState]] = {
    Happening.MORE: PeerState.CATCHING_UP,
    Happening.CAUGHT_UP: PeerState.IDLE,
    Happening.ASKED_TO_WAIT: PeerState.THROTTLED,
    Happening.FAILED: PeerState.BACKING_OFF,
    Happening.REFUSED: PeerState.BLOCKED,
}


def _at_work(state: PeerState, *, cleared: PeerState) -> dict[Happening, PeerState]:
    """Return the moves of a peer that is pulled; ``cleared`` is where a clean slate leads."""
    return {
        **_WORK,
        Happening.ROW_CHANGED: cleared,
        Happening.HANDED_OVER: PeerState.ELSEWHERE,
        Happening.TAKEN: state,
        Happening.PAUSED: PeerState.PAUSED,
        Happening.RESUMED: cleared,
    }


TRANSITIONS: Final[dict[PeerState, dict[Happening, PeerState]]] = {
    PeerState.CATCHING_UP: _at_work(PeerState.CATCHING_UP, cleared=PeerState.CATCHING_UP),
    PeerState.IDLE: _at_work(PeerState.IDLE, cleared=PeerState.IDLE),
    # What a peer asked for stands, whatever is changed here.
    PeerState.THROTTLED: _at_work(PeerState.THROTTLED, cleared=PeerState.THROTTLED),
    PeerState.BACKING_OFF: _at_work(PeerState.BACKING_OFF, cleared=PeerState.CATCHING_UP),
    PeerState.BLOCKED: _at_work(PeerState.BLOCKED, cleared=PeerState.CATCHING_UP),
    # A pull by hand works on a paused peer and leaves it paused.
    PeerState.PAUSED: {
        **dict.fromkeys(Happening, PeerState.PAUSED),
        Happening.RESUMED: PeerState.CATCHING_UP,
    },
    # The other process says how its work ended; then its lock comes free.
    PeerState.ELSEWHERE: {
        **_WORK,
        Happening.ROW_CHANGED: PeerState.ELSEWHERE,
        Happening.HANDED_OVER: PeerState.ELSEWHERE,
        Happening.TAKEN: PeerState.CATCHING_UP,
        Happening.PAUSED: PeerState.PAUSED,
        Happening.RESUMED: PeerState.ELSEWHERE,
    },
}

_PROTOCOL: Final = frozenset({Reason.MALFORMED_PAGE, Reason.CURSOR_STALLED, Reason.PAGE_TOO_LARGE})
"""Failures of what a peer sends, not of the way to it."""


@dataclass(frozen=True, slots=True)
class Paces:
    """How long is waited after failures, by their class.

    ``blocked_s`` is the wait in seconds before a blocked peer is tried again, ``longest_s`` the
    longest that any peer is left alone, also if it asks for more.
    """

    transient: Backoff = field(default_factory=Backoff)
    throttled: Backoff = field(default_factory=Backoff)
    protocol: Backoff = field(default_factory=Backoff)
    blocked_s: float = 300.0
    longest_s: float = 3600.0

    def wait_s(self, happening: Happening, reason: Reason, failures: int, chance: float) -> float:
        """Return the seconds to wait; ``chance`` between 0 and 1 is the jitter.

        A blocked peer waits between half and the whole of ``blocked_s``: only an operator can
        mend it, and its tries must not come close together.
        """
        if happening is Happening.REFUSED:
            return max(WAIT_MIN_S, self.blocked_s * (0.5 + chance / 2))
        if happening is Happening.ASKED_TO_WAIT:
            return self.throttled.wait_s(failures, chance)
        backoff = self.protocol if reason in _PROTOCOL else self.transient
        return backoff.wait_s(failures, chance)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a peer stands.  Times are milliseconds since 1970.

    ``reason`` is a reason code, ``detail`` what happened in a sentence, ``hint`` what to do.
    ``since_ms`` is when state or reason last changed, ``next_attempt_ms`` when the peer is asked
    next, ``not_before_ms`` the moment before which it asked not to be asked.  While a process
    pulls a paused peer, ``next_attempt_ms`` is that process's; the store keeps the pause's end.
    """

    state: PeerState = PeerState.CATCHING_UP
    reason: str | None = None
    detail: str | None = None
    hint: str | None = None
    since_ms: int | None = None
    failures: int = 0
    next_attempt_ms: int | None = None
    not_before_ms: int | None = None


def _moved(
    standing: Standing,
    happening: Happening,
    now_ms: int,
    *,
    reason: str | None = None,
    detail: str | None = None,
    hint: str | None = None,
) -> Standing:
    state = TRANSITIONS[standing.state][happening]
    if state is standing.state is PeerState.PAUSED:
        return standing
    changed = (state, reason) != (standing.state, standing.reason)
    return replace(
        standing,
        state=state,
        reason=reason,
        detail=detail,
        hint=hint,
        since_ms=now_ms if changed or standing.since_ms is None else standing.since_ms,
    )


def more(standing: Standing, now_ms: int) -> Standing:
    """Take note of a good page that says that there is more."""
    moved = _moved(standing, Happening.MORE, now_ms)
    return replace(
        moved, failures=standing.failures // 2, next_attempt_ms=now_ms, not_before_ms=None
    )


def caught_up(standing: Standing, now_ms: int, wait_s: float) -> Standing:
    """Take note that there is no more; the next poll is in ``wait_s`` seconds."""
    moved = _moved(standing, Happening.CAUGHT_UP, now_ms)
    next_ms = now_ms + round(wait_s * 1000)
    return replace(moved, failures=0, next_attempt_ms=next_ms, not_before_ms=None)


def is_peers_doing(error: ReplicatorError) -> bool:
    """Say whether a failure counts against the peer: not one of this machine or an operator."""
    return _happening_of(error) is not None


def _happening_of(error: ReplicatorError) -> Happening | None:
    if isinstance(error, TransientPeerError):
        throttled = error.reason is Reason.THROTTLED
        return Happening.ASKED_TO_WAIT if throttled else Happening.FAILED
    if isinstance(error, PeerRefusedError | PeerBlockedError):
        return Happening.REFUSED
    return None


def failed(
    standing: Standing, error: ReplicatorError, now_ms: int, paces: Paces, chance: float
) -> Standing:
    """Take note of a failure that is the peer's doing; ``chance`` between 0 and 1 is the jitter.

    A failure of another kind, such as a mistake of ours, counts as one that may pass.
    """
    happening = _happening_of(error) or Happening.FAILED
    failures = standing.failures + 1
    wait_s = paces.wait_s(happening, error.reason, failures, chance)
    asked_s = error.retry_after_s if isinstance(error, TransientPeerError) else 0.0
    asked_ms = now_ms + round(asked_s * 1000) if asked_s else None
    floor_ms = max(filter(None, (_floor_ms(standing, now_ms), asked_ms)), default=None)
    if floor_ms is not None:
        # More than that is what a clock that was set back has made of it.
        floor_ms = min(floor_ms, now_ms + round(paces.longest_s * 1000))
    moved = _moved(
        standing,
        happening,
        now_ms,
        reason=error.reason.value,
        detail=error.message,
        hint=error.hint or None,
    )
    return replace(
        moved,
        failures=failures,
        next_attempt_ms=max(now_ms + round(wait_s * 1000), floor_ms or 0),
        not_before_ms=floor_ms,
    )


def row_changed(standing: Standing, now_ms: int) -> Standing:
    """Take note that the peer's row changed: what failed before may work now."""
    return _cleared(standing, Happening.ROW_CHANGED, now_ms)


def resumed(standing: Standing, now_ms: int) -> Standing:
    """Take note that an operator wants the peer pulled."""
    return _cleared(standing, Happening.RESUMED, now_ms)


def _cleared(standing: Standing, happening: Happening, now_ms: int) -> Standing:
    state = TRANSITIONS[standing.state][happening]
    # Where the state stays, what is known of it stays too: a throttled peer keeps its reason.
    moved = standing if state is standing.state else _moved(standing, happening, now_ms)
    if state in (PeerState.PAUSED, PeerState.ELSEWHERE):
        return replace(moved, failures=0)
    floor_ms = _floor_ms(standing, now_ms)
    return replace(
        moved, failures=0, next_attempt_ms=max(now_ms, floor_ms or 0), not_before_ms=floor_ms
    )


def _floor_ms(standing: Standing, now_ms: int) -> int | None:
    """Return the moment before which the peer asked not to be asked, None when it has passed."""
    floor_ms = standing.not_before_ms
    return None if floor_ms is None or floor_ms <= now_ms else floor_ms


def paused(standing: Standing, now_ms: int, why: str | None, until_ms: int | None) -> Standing:
    """Take note that an operator paused the peer, until ``until_ms`` where one is given.

    Pausing a paused peer replaces why and until when.
    """
    moved = _moved(standing, Happening.PAUSED, now_ms)
    next_ms = None if until_ms is None else max(until_ms, standing.not_before_ms or 0)
    return replace(moved, reason=None, detail=why, hint=None, next_attempt_ms=next_ms)


def handed_over(standing: Standing, to: str, now_ms: int) -> Standing:
    """Take note that the peer was let go for another process, which ``to`` names."""
    moved = _moved(
        standing,
        Happening.HANDED_OVER,
        now_ms,
        reason=Reason.PEER_HELD.value,
        detail=f"{to} works on it",
    )
    if moved.state is PeerState.PAUSED:
        return moved
    return replace(moved, next_attempt_ms=None)


def taken(standing: Standing, now_ms: int, longest_s: float = math.inf) -> Standing:
    """Take note that this process works on the peer now; it is asked as soon as it allows.

    A peer asked to be left alone for ``longest_s`` seconds at most: more than that from now is
    what a clock that was set back has made of it.
    """
    if TRANSITIONS[standing.state][Happening.TAKEN] is not standing.state:
        standing = _moved(standing, Happening.TAKEN, now_ms)
    floor_ms = _floor_ms(standing, now_ms)
    if floor_ms is not None and floor_ms - now_ms > longest_s * 1000:
        floor_ms = now_ms + round(longest_s * 1000)
    return replace(standing, next_attempt_ms=max(now_ms, floor_ms or 0), not_before_ms=floor_ms)


def fresh_ms(interval_s: float) -> int:
    """Return how long an answer that said there is no more stays good, in milliseconds.

    Two poll intervals, and the minute after which the time of a quiet look is written: whoever
    reads the table and whoever asks the daemon must say the same.
    """
    return round((2 * interval_s + 60) * 1000)


def lag_ms(
    now_ms: int, caught_up_ms: int | None, frontier_wall_ms: int | None, fresh_ms: int
) -> int | None:
    """Return how far we are behind a peer in milliseconds, None when that cannot be told.

    ``caught_up_ms`` is the sending time of the last answer that said there is no more.  While
    that is no older than ``fresh_ms`` there is no lag; else it is the age of what was read last
    or the time since that answer, whichever is less.  A quiet origin does not lag; a dead one
    does.  A ``caught_up_ms`` that is further ahead than that is of a clock that was set back, and
    says nothing.
    """
    ages = [] if frontier_wall_ms is None else [max(0, now_ms - frontier_wall_ms)]
    if caught_up_ms is not None:
        age = now_ms - caught_up_ms
        if abs(age) <= fresh_ms:
            return 0
        if age > 0:
            ages.append(age)
    return min(ages, default=None)
