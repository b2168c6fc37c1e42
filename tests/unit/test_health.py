"""When the engine counts as stuck, and when facts cannot arrive."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service.health import (
    PICTURE_OLD_MS,
    Patience,
    engine_problems,
    readiness_problems,
)
from tests.pictures import MINUTE_MS, NOW_MS, board, peer, picture, trouble

PATIENCE = Patience(look_s=30.0, write_s=60.0)


def stuck(looked_at: float | None, now: float, writing_since: float | None = None) -> str:
    """What is wrong with an engine that was started at second 0."""
    shown = board(picture(), looked_at=looked_at)
    shown.writing_since = writing_since
    return "; ".join(engine_problems(shown, now, 0.0, PATIENCE))


@pytest.mark.parametrize(
    ("looked_at", "now", "writing_since"),
    [
        (100.0, 100.0, None),
        (100.0, 130.0, None),
        (None, 30.0, None),  # it is starting
        (100.0, 101.0, 41.0),
    ],
)
def test_progress_is_healthy(
    looked_at: float | None, now: float, writing_since: float | None
) -> None:
    assert not stuck(looked_at, now, writing_since)


def test_a_supervisor_that_does_not_look_is_stuck() -> None:
    assert stuck(100.0, 131.0) == "the supervisor has not looked at the tables for 31 s"


def test_so_is_one_that_never_looked() -> None:
    assert stuck(None, 31.0) == "the supervisor has not looked at the tables for 31 s"


def test_a_writer_busy_for_too_long_is_stuck() -> None:
    said = stuck(100.0, 101.0, writing_since=40.0)
    assert said == "the writer is busy with one piece of work for 61 s"


def test_broken_peers_and_a_closed_gate_are_no_reason_to_restart() -> None:
    blocked = peer("a", PeerState.BLOCKED, reason="key_changed", lag_ms=10**9)
    shown = board(picture(blocked, trouble=trouble(), ready=False), looked_at=10.0)
    assert engine_problems(shown, 11.0, 0.0, PATIENCE) == ()


def test_a_database_that_keeps_us_waiting_is_given_time() -> None:
    """A look may wait for the lock several times before anything is wrong with us."""
    patience = Patience.with_database_timeout(60.0)
    assert patience.look_s >= 6 * 60.0
    assert patience.write_s > patience.look_s


def test_a_database_that_serves_is_ready() -> None:
    assert readiness_problems(picture(peer()), NOW_MS) == ()


def test_a_closed_gate_is_not_ready_and_is_named() -> None:
    (said,) = readiness_problems(picture(peer(), trouble=trouble()), NOW_MS)
    assert "disk_low" in said
    assert "211 MiB" in said


def test_starting_is_not_ready() -> None:
    assert readiness_problems(picture(ready=False), NOW_MS) == ("the daemon is starting",)


def test_an_old_picture_is_not_ready() -> None:
    assert readiness_problems(picture(), NOW_MS + PICTURE_OLD_MS) == ()
    assert readiness_problems(picture(), NOW_MS + PICTURE_OLD_MS + 1)


@pytest.mark.parametrize(
    ("shown", "behind"),
    [
        (peer(lag_ms=5 * MINUTE_MS), False),
        (peer(lag_ms=5 * MINUTE_MS + 1), True),
        (peer(lag_ms=None), True),
        (peer(state=PeerState.ELSEWHERE, lag_ms=10 * MINUTE_MS), True),
        (peer(state=PeerState.PAUSED, lag_ms=10 * MINUTE_MS), False),
        (replace(peer(lag_ms=None), status="revoked"), False),
    ],
)
def test_lag_counts_where_it_is_asked_for(shown: object, behind: bool) -> None:  # noqa: FBT001
    """Of peers that are to be pulled; a lag that cannot be told is no small one."""
    assert not readiness_problems(picture(shown), NOW_MS)  # type: ignore[arg-type]
    problems = readiness_problems(picture(shown), NOW_MS, 5 * MINUTE_MS)  # type: ignore[arg-type]
    assert bool(problems) is behind


def test_of_many_that_lag_a_few_are_named() -> None:
    many = picture(*(peer(f"p{i}", lag_ms=MINUTE_MS) for i in range(1000)))
    problems = readiness_problems(many, NOW_MS, 1)
    assert len(problems) == 6
    assert problems[-1] == "and 995 more peers"
