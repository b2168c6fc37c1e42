"""What the service manager hears of a daemon as it starts, works, and stands still."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from stigmem_replicator.clock import SystemClock
from stigmem_replicator.observe.board import Board
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service import notify
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.manager import (
    EXTENDED_SECONDS,
    LOOK_SECONDS,
    Manager,
    status_words,
)
from tests.pictures import board, peer, picture, trouble
from tests.service_manager import ServiceManager

PATIENCE = Patience(look_s=30.0, write_s=60.0)
WATCHDOG_S = 60.0
QUICK_S = 0.3
WAIT = {"EXTEND_TIMEOUT_USEC": str(int(EXTENDED_SECONDS * 1_000_000))}

Heard = list[dict[str, str]]


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify") as manager:
        yield manager


class StoppedClock(SystemClock):
    """Seconds pass only while somebody waits."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


def stands_still() -> None:
    """Nobody makes progress."""


class Watched:
    """A board that a manager is told of, one look after the other."""

    def __init__(self, listening: ServiceManager, shown: Board, watchdog_s: float | None) -> None:
        self.board = shown
        self.clock = StoppedClock()
        self.board.looked_at = self.clock.seconds
        self.waits: list[float] = []
        self._listening = listening
        self._notifier = notify.to_manager(listening.environ())
        self._coming: Iterator[Callable[[], object]] = iter(())
        self._heard: list[Heard] = []
        self._end: Callable[[], object] = stands_still
        self.manager = Manager(self._notifier, shown, PATIENCE, watchdog_s, self.clock, self._sleep)

    async def hear(self, *happenings: Callable[[], object]) -> list[Heard]:
        """What was heard at each look: at the first, and after each of these happenings."""
        self._coming = iter(happenings)
        with anyio.CancelScope() as scope:
            self._end = scope.cancel
            await self.manager.keep_told()
        self._notifier.close()
        return self._heard

    async def _sleep(self, seconds: float, /) -> None:
        self._heard.append(list(self._said()))
        self.waits.append(seconds)
        happening = next(self._coming, self._end)
        happening()
        self.clock.seconds += seconds
        await anyio.lowlevel.checkpoint()

    def _said(self) -> Iterator[dict[str, str]]:
        """Yield what is to be heard by now."""
        with suppress(TimeoutError, BlockingIOError):
            while True:
                yield self._listening.hear(0.0)

    def look(self) -> None:
        """The supervisor looks at the tables."""
        self.board.looked_at = self.clock.seconds

    def show(self, **values: object) -> None:
        self.board.picture = replace(self.board.picture, **values)  # type: ignore[arg-type] # a test gives what fits


pytestmark = pytest.mark.anyio


@pytest.fixture
def starting(listening: ServiceManager) -> Watched:
    return Watched(listening, board(picture(peer(), ready=False)), None)


@pytest.fixture
def watched(listening: ServiceManager) -> Watched:
    return Watched(listening, board(picture(peer())), WATCHDOG_S)


async def test_ready_is_said_once_when_all_is_up(starting: Watched) -> None:
    """Not before the first look, for which the manager is asked to wait, and never again."""
    heard = await starting.hear(
        stands_still, lambda: starting.show(ready=True), stands_still, stands_still
    )
    assert heard == [
        [{"STATUS": "starting"}, WAIT],
        [WAIT],
        [{"READY": "1", "STATUS": "1 active peer, 1 idle"}],
        [],
        [],
    ]
    assert set(starting.waits) == {LOOK_SECONDS}
    assert LOOK_SECONDS < EXTENDED_SECONDS


async def test_a_start_that_makes_no_progress_is_not_waited_for(starting: Watched) -> None:
    """Nobody asks for more time once the engine counts as stuck."""
    starting.board.looked_at = None
    heard = await starting.hear(*[stands_still] * 40)
    assert [WAIT in look for look in heard] == [True] * 31 + [False] * 10


async def test_after_a_reload_ready_is_said_when_all_is_up_again(watched: Watched) -> None:
    """With other settings after the next look; where nothing changed at once."""
    ready = {"READY": "1", "STATUS": "1 active peer, 1 idle"}
    heard = await watched.hear(
        watched.manager.begins_anew,
        stands_still,
        lambda: watched.show(ready=True),
        stands_still,
        watched.manager.goes_on,
        stands_still,
    )
    assert [ready in look for look in heard] == [True, False, False, True, False, True, False]
    assert not watched.board.picture.trouble


async def test_a_reload_that_changed_nothing_is_over_also_while_the_database_is_gone(
    watched: Watched,
) -> None:
    """What holds the daemon up is no reason to wait for."""
    watched.show(trouble=trouble())
    heard = await watched.hear(stands_still, watched.manager.goes_on)
    assert [any("READY" in said for said in look) for look in heard] == [True, False, True]


async def test_the_status_is_said_when_it_changes(starting: Watched) -> None:
    """How many peers are in which state, or what holds all of them up."""
    blocked = peer("a", PeerState.BLOCKED)
    heard = await starting.hear(
        lambda: starting.show(ready=True),
        lambda: starting.show(peers={blocked.node_id: blocked}),
        lambda: starting.show(trouble=trouble()),
        lambda: starting.show(trouble=None),
    )
    said = [message.get("STATUS") for look in heard[2:] for message in look]
    assert said[0] == said[2] == "1 active peer, 1 blocked"
    assert said[1] is not None
    assert said[1].startswith("held up by the database: only 211 MiB are free")
    assert said[1].endswith("(disk_low)")


async def test_a_sign_of_life_comes_well_within_the_manager_s_patience(watched: Watched) -> None:
    """At every look, while the supervisor looks and the writer ends its work."""
    heard = await watched.hear(*[watched.look] * 100)
    assert all({"WATCHDOG": "1"} in look for look in heard)
    assert math.fsum(watched.waits[:3]) <= WATCHDOG_S


async def test_a_manager_of_little_patience_is_told_more_often(listening: ServiceManager) -> None:
    quick = Watched(listening, board(picture(peer())), QUICK_S)
    await quick.hear(quick.look)
    assert quick.waits == [pytest.approx(QUICK_S / 3)] * 2


async def test_without_a_watchdog_there_is_no_sign_of_life(starting: Watched) -> None:
    heard = await starting.hear(lambda: starting.show(ready=True), starting.look)
    assert not any("WATCHDOG" in message for look in heard for message in look)


async def test_a_supervisor_that_hangs_is_not_vouched_for(watched: Watched) -> None:
    """The signs of life end when its patience is over, and come back when it looks again."""
    heard = await watched.hear(*[stands_still] * 40, watched.look, watched.look)
    alive = [{"WATCHDOG": "1"} in look for look in heard]
    assert alive == [True] * 31 + [False] * 10 + [True] * 2


async def test_a_writer_that_hangs_is_not_vouched_for(watched: Watched) -> None:
    """However well the supervisor does."""

    def hangs() -> None:
        watched.look()
        if watched.board.writing_since is None:
            watched.board.writing_since = watched.clock.seconds

    def ends() -> None:
        watched.look()
        watched.board.writing_since = None

    heard = await watched.hear(*[hangs] * 70, ends)
    alive = [{"WATCHDOG": "1"} in look for look in heard]
    assert alive == [True] * 61 + [False] * 10 + [True]


async def test_a_start_that_hangs_is_not_vouched_for(listening: ServiceManager) -> None:
    """Before the first look the wait is counted from the start."""
    hanging = Watched(listening, board(picture(ready=False)), WATCHDOG_S)
    hanging.board.looked_at = None
    heard = await hanging.hear(*[stands_still] * 40)
    assert [{"WATCHDOG": "1"} in look for look in heard] == [True] * 31 + [False] * 10


async def test_a_database_that_cannot_be_used_is_no_reason_to_be_ended(watched: Watched) -> None:
    """The supervisor still looks whether it is back, and that is progress."""

    def gone() -> None:
        watched.look()
        watched.show(trouble=trouble("database_missing"))

    heard = await watched.hear(*[gone] * 200)
    assert all({"WATCHDOG": "1"} in look for look in heard)


def test_the_words_count_active_peers_alone() -> None:
    shown = picture(
        peer("a"),
        peer("b"),
        peer("c", PeerState.CATCHING_UP),
        replace(peer("d"), status="revoked"),
    )
    assert status_words(shown) == "3 active peers, 1 catching_up, 2 idle"
    assert status_words(picture()) == "0 active peers"
    assert status_words(replace(shown, ready=False)) == "starting"
