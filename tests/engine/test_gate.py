"""Trouble with our own database: one gate for all, told once, and no peer's history touched."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from stigmem_replicator.engine.gate import STEADY_SECONDS, Gate
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import apply
from tests.engine.daemon_room import Daemon, backlog, daemon_of
from tests.engine.engine_room import Points, assert_consistent
from tests.integration.world import FakeClock
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POLL_S = 5.0
EVENT = "replicator.local_db"
LOCKED = LocalError(Reason.DATABASE_LOCKED, "it is locked", hint="wait")
FAILED = LocalError(Reason.DATABASE_FAILED, "it failed")
LOW = LocalError(Reason.DISK_LOW, "the disk is full")


# --- the gate itself


def words(told: list[Any]) -> list[tuple[str, str]]:
    return [(line["gate"], line["cause"]) for line in told if line["event"] == EVENT]


async def test_whoever_passes_waits_while_it_is_closed() -> None:
    """All go on when it opens, and nobody waits where it is open."""
    gate, passed = Gate(FakeClock()), list[int]()

    async def go(number: int) -> None:
        await gate.passed()
        passed.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go, 0)
        await anyio.wait_all_tasks_blocked()
        assert passed == [0]
        gate.close(LOCKED)
        for number in range(1, 4):
            tasks.start_soon(go, number)
        await anyio.wait_all_tasks_blocked()
        gate.close(FAILED)
        await anyio.wait_all_tasks_blocked()
        assert passed == [0]
        assert gate.cause is FAILED
        gate.open()
    assert sorted(passed) == [0, 1, 2, 3]
    assert gate.cause is None


def test_a_cause_is_told_once() -> None:
    """Many that meet the same trouble, again and again, are one line, with what to do."""
    gate = Gate(FakeClock())
    with capture_logs() as told:
        for _ in range(5):
            gate.close(LOCKED)
    (line,) = told
    assert (line["reason"], line["cause"]) == ("local_db", "database_locked")
    assert (line["detail"], line["hint"]) == ("it is locked", "wait")


def test_a_cause_that_comes_and_goes_is_told_once_a_minute() -> None:
    """What was not told is counted in the next line, and the end of what was told is told too."""
    clock = FakeClock()
    gate = Gate(clock)
    with capture_logs() as told:
        for _ in range(4):
            gate.close(LOCKED)
            clock.advance(5)
            gate.open()
            clock.advance(5)
        clock.advance(60)
        gate.close(LOCKED)
        gate.open()
    assert words(told) == [
        *(("closed", "database_locked"), ("open", "database_locked")),
        *(("closed", "database_locked"), ("open", "database_locked")),
    ]
    assert [line.get("untold") for line in told] == [None, None, 3, None]
    assert told[1]["seconds"] == 5.0


def test_another_cause_is_told_at_once() -> None:
    """It may need something else to be done."""
    gate = Gate(FakeClock())
    with capture_logs() as told:
        for cause in (LOCKED, LOW, LOCKED, LOW, FAILED):
            gate.close(cause)
    assert words(told) == [
        *(("closed", "database_locked"), ("closed", "disk_low")),
        ("closed", "database_failed"),
    ]


def test_a_closing_that_was_told_has_an_end_that_is_told() -> None:
    """Also where its cause became one that had been told a moment ago."""
    clock = FakeClock()
    gate = Gate(clock)
    with capture_logs() as told:
        gate.close(LOCKED)
        gate.open()
        clock.advance(STEADY_SECONDS + 1)
        gate.close(LOW)
        gate.close(LOCKED)
        clock.advance(1)
        gate.open()
    assert [gate for gate, _ in words(told)] == ["closed", "open", "closed", "open"]


def test_an_open_gate_is_not_opened() -> None:
    """Nothing is told where nothing was wrong."""
    with capture_logs() as told:
        Gate(FakeClock()).open()
    assert told == []


# --- in the daemon


Trouble = Callable[[Daemon], AbstractContextManager[None]]


@contextmanager
def locked(daemon: Daemon) -> Iterator[None]:
    """Another process keeps a transaction open."""
    with closing(sqlite3.connect(daemon.receiver.database)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def failing(what: str) -> OperationalError:
    return OperationalError(what, None, sqlite3.OperationalError("disk I/O error"))


@contextmanager
def writes_fail(daemon: Daemon) -> Iterator[None]:
    """No transaction can be committed."""

    def fail(_connection: Connection) -> None:
        raise failing("COMMIT")

    event.listen(daemon.around.database.write, "commit", fail)
    yield
    event.remove(daemon.around.database.write, "commit", fail)


@contextmanager
def lookups_fail(daemon: Daemon) -> Iterator[None]:
    """Nothing can be read."""

    def fail(_connection: Connection) -> None:
        raise failing("BEGIN")

    event.listen(daemon.around.database.read, "begin", fail)
    yield
    event.remove(daemon.around.database.read, "begin", fail)


@contextmanager
def disk_low(daemon: Daemon) -> Iterator[None]:
    """There is less room than the settings want."""
    writer = daemon.around.writer

    def check() -> None:
        raise LOW

    checked, writer._check_room = writer._check_room, check  # type: ignore[method-assign] # noqa: SLF001
    yield
    writer._check_room = checked  # type: ignore[method-assign] # noqa: SLF001


def arrived(receiver: Receiver, server: PageServer, count: int) -> bool:
    return backlog(receiver, server) == count


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        (locked, "database_locked"),
        (writes_fail, "database_failed"),
        (lookups_fail, "database_failed"),
        (disk_low, "disk_low"),
    ],
)
async def test_trouble_with_the_database_is_no_peers_doing(
    adopted: Receiver,
    server: PageServer,
    second_server: PageServer,
    trouble: Trouble,
    cause: str,
) -> None:
    """It is told once for all peers, none fails or changes its state, and all go on after it."""
    adopted.adopt(second_server)
    for page_server in (server, second_server):
        page_server.origin.add_many(3)
    with capture_logs() as told:
        async with daemon_of(adopted, timeout_s=0.2, poll_interval_s=POLL_S) as daemon:
            for page_server in (server, second_server):
                await daemon.until_state(page_server, "idle")
            before = {row["node_id"]: row for row in daemon.rows()}
            with trouble(daemon):
                for page_server in (server, second_server):
                    page_server.origin.add_many(3)
                await daemon.until(lambda: words(told), "the trouble")
                looks = daemon.around.clock.monotonic()
                await daemon.until(lambda: daemon.around.clock.monotonic() > looks + 20, "probes")
                assert words(told) == [("closed", cause)]
            for page_server in (server, second_server):
                await daemon.until(partial(arrived, adopted, page_server, 6))
            await daemon.until(lambda: len(words(told)) == 2, "the end")
            assert words(told)[1] == ("open", cause)
            for row in daemon.rows():
                for name in ("state", "reason", "since_ms", "failures"):
                    assert row[name] == before[row["node_id"]][name]
    for page_server in (server, second_server):
        assert_consistent(adopted, page_server)
    assert "replicator.unexpected" not in {line["event"] for line in told}
    assert not [line for line in told if line.get("state") not in (None, "idle", "catching_up")]


async def test_a_database_that_fails_for_one_peer_alone(
    adopted: Receiver,
    server: PageServer,
    second_server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three times it is waited out at the gate; then it is that peer's trouble."""
    adopted.adopt(second_server)
    server.origin.add_many(3)
    second_server.origin.add_many(3)
    broken, applied = [server.node_id], apply.apply
    failures: list[int] = []

    def fail_for_one(database: Any, write: Any, clock: Any) -> Any:  # noqa: ANN401 - the original's
        if write.peer.node_id in broken:
            failures.append(daemon.row(server)["failures"])
            raise FAILED
        return applied(database, write, clock)

    monkeypatch.setattr(apply, "apply", fail_for_one)
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "backing_off", "database_failed")
        await daemon.until(lambda: daemon.row(server)["failures"] > 1, "another attempt")
        assert failures[:5] == [0, 0, 0, 0, 1]
        await daemon.until_state(second_server, "idle")
        second_server.origin.add()
        await daemon.until(lambda: backlog(adopted, second_server) == 4)
        assert daemon.row(second_server)["failures"] == 0
        broken.clear()
        await daemon.until_state(server, "idle")
    assert len(adopted.assert_clean(server).admitted) == 3


async def test_a_batch_under_way_is_not_lost_with_the_database(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that fails in the middle of a drain leaves whole pages, and the drain goes on."""
    points = Points()
    monkeypatch.setattr(apply, "reached", points)
    server.origin.add_many(30)

    def fail() -> None:
        raise failing("INSERT")

    for number in (2, 5):
        points.on(apply.Point.AFTER_INSERTS, number, fail)
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        assert daemon.row(server)["failures"] == 0
    assert len(adopted.assert_clean(server).admitted) == 30
    assert_consistent(adopted, server)
