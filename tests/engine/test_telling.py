"""What the log says of one peer, as it fails, goes on failing, and recovers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.telling import PULLED_SECONDS, STILL_SECONDS, Teller
from stigmem_replicator.errors import PeerBlockedError, Reason, TransientPeerError
from stigmem_replicator.replication import states
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.replication.states import Paces, PeerState, Standing
from tests.integration.world import FakeClock

PACES = Paces()


class Peer:
    """A peer whose standing moves, with what is told of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.standing = Standing()
        self.teller = Teller("stigmem:node:a", self.clock, self.standing)

    def fails(self, reason: Reason = Reason.SERVER_ERROR) -> list[dict[str, Any]]:
        error = TransientPeerError(reason, "it failed")
        after = states.failed(self.standing, error, self.clock.now_ms(), PACES, 0.5)
        return self._stands(after)

    def is_blocked(self) -> list[dict[str, Any]]:
        error = PeerBlockedError(Reason.KEY_CHANGED, "its key changed", hint="ask")
        return self._stands(states.failed(self.standing, error, self.clock.now_ms(), PACES, 0.5))

    def catches_up(self) -> list[dict[str, Any]]:
        return self._stands(states.caught_up(self.standing, self.clock.now_ms(), 30.0))

    def _stands(self, after: Standing) -> list[dict[str, Any]]:
        before, self.standing = self.standing, after
        with capture_logs() as told:
            self.teller.stood(before, after)
        return [dict(line) for line in told]

    def pulls(self, report: PullReport, state: PeerState) -> list[dict[str, Any]]:
        with capture_logs() as told:
            self.teller.pulled(report, state)
        return [dict(line) for line in told]


def test_a_failure_is_told_once_and_then_now_and_then() -> None:
    """The first of a kind at once; after an hour, how often it came meanwhile."""
    peer = Peer()
    (first,) = peer.fails()
    assert (first["event"], first["reason"], first["state"]) == (
        "federation.peer.state",
        "server_error",
        "backing_off",
    )
    for _ in range(9):
        peer.clock.advance(STILL_SECONDS / 10)
        assert peer.fails() == []
    peer.clock.advance(STILL_SECONDS / 10)
    (again,) = peer.fails()
    assert again["repeats"] == 10


def test_another_reason_is_told_at_once() -> None:
    """Each change of reason is news, and the node's own names of events are kept."""
    peer = Peer()
    names = [peer.fails(reason)[0]["event"] for reason in (Reason.UNREACHABLE, Reason.TIMEOUT)]
    assert names == ["federation.pull.peer_unreachable"] * 2
    (blocked,) = peer.is_blocked()
    assert blocked["event"] == "federation.pull.signature_mismatch"
    assert (blocked["state"], blocked["hint"]) == ("blocked", "ask")


def test_a_recovery_says_after_what() -> None:
    """How many failures in how long; what was not told of them is not told any more."""
    peer = Peer()
    peer.fails()
    for _ in range(2):
        peer.clock.advance(10)
        peer.fails()
    peer.clock.advance(5)
    (line,) = peer.catches_up()
    assert line["detail"] == "recovered after 3 failures in 25.0 s"
    assert peer.catches_up() == []
    peer.fails()
    peer.clock.advance(1)
    (line,) = peer.catches_up()
    assert line["detail"] == "recovered after 1 failure in 1.0 s"


def test_a_good_page_among_bad_ones_is_no_recovery() -> None:
    """A peer that goes back and forth is told once, and again when it is caught up."""
    peer = Peer()
    peer.fails()
    for _ in range(20):
        peer.clock.advance(1)
        assert peer._stands(states.more(peer.standing, peer.clock.now_ms())) == []  # noqa: SLF001
        assert peer.fails() == []
    (line,) = peer.catches_up()
    assert line["detail"] == "recovered after 21 failures in 20.0 s"


def test_a_recovery_counts_what_was_before_this_process() -> None:
    """The standing that it begins with says since when, and how often."""
    peer = Peer()
    for _ in range(3):
        peer.fails()
    peer.clock.advance(60)
    peer.teller = Teller("stigmem:node:a", peer.clock, peer.standing)
    assert peer.fails() == []
    (line,) = peer.catches_up()
    assert line["detail"] == "recovered after 4 failures in 60.0 s"


def test_what_came_is_told_when_caught_up() -> None:
    """The numbers since the last such line; a poll that brings nothing says nothing."""
    peer = Peer()
    report = PullReport(pages=3, cursor="5.0", counts=Counts(admitted=20, duplicates=2))
    (line,) = peer.pulls(report, PeerState.IDLE)
    assert line["event"] == "federation.pull.ok"
    assert {name: line[name] for name in ("new", "duplicates", "rejected", "pages", "more")} == {
        "new": 20,
        "duplicates": 2,
        "rejected": 0,
        "pages": 3,
        "more": False,
    }
    report = replace(report, pages=4, counts=Counts(admitted=20, duplicates=9))
    assert peer.pulls(report, PeerState.IDLE) == []
    report = replace(report, pages=5, counts=Counts(20, 9, {Reason.HLC_SKEW: 1}))
    (line,) = peer.pulls(report, PeerState.IDLE)
    assert (line["rejected"], line["pages"], line["duplicates"]) == (1, 2, 7)


@pytest.mark.parametrize(("seconds", "told"), [(PULLED_SECONDS - 1, 0), (PULLED_SECONDS, 1)])
def test_a_long_way_is_told_once_a_minute(seconds: float, told: int) -> None:
    """So that a drain of hours neither is silent nor fills the log."""
    peer = Peer()
    peer.clock.advance(seconds)
    report = PullReport(pages=20, counts=Counts(admitted=10_000))
    assert len(peer.pulls(report, PeerState.CATCHING_UP)) == told
