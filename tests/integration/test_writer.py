"""The writer under both async backends: turns, pauses, the size of transactions, cancellation."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy import Connection, event, text

from stigmem_replicator.engine import writer as writer_module
from stigmem_replicator.engine.writer import Writer
from stigmem_replicator.replication import pacing
from stigmem_replicator.replication.plan import Batch
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import BatchWrite, Committed, NotWritten, Point
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.own_models import FACTS
from tests.integration.world import (
    PEER,
    REFUSED_BY_SCHEMA,
    SQLITE_ONLY,
    FakeClock,
    FakeSleep,
    Middle,
    add_fact,
    admitted,
    commits,
    planned,
    rejected,
)
from tests.nodes.database import NodeDatabase, SqliteDatabase

pytestmark = pytest.mark.anyio

BUSY, IDLE = 0.5, 0.85


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def sleep(clock: FakeClock) -> FakeSleep:
    return FakeSleep(clock)


@pytest.fixture
def writer(database: Database, clock: FakeClock, sleep: FakeSleep) -> Writer:
    return Writer(database, Settings(), clock, sleep, Middle())


Hold = Callable[[float], None]


@pytest.fixture
def hold(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Make each transaction from now on hold the lock for so many seconds."""

    def arm(seconds: float) -> None:
        def reached(point: Point) -> None:
            if point is Point.BEFORE_COMMIT:
                clock.advance(seconds)

        monkeypatch.setattr(apply, "reached", reached)

    return arm


def write(number: int, batch: Batch | None = None) -> BatchWrite:
    """Return a write of its own for each number."""
    batch = batch or planned([rejected(f"f-{number}")])
    return BatchWrite(PEER, FACTS, None, batch, None)


async def commit(writer: Writer, number: int, batch: Batch | None = None) -> Committed:
    outcome = await writer.commit(write(number, batch))
    assert isinstance(outcome, Committed), outcome
    return outcome


# pauses


async def test_the_first_transaction_does_not_wait(writer: Writer, sleep: FakeSleep) -> None:
    """Nothing was held yet, so there is nothing to make up for."""
    await commit(writer, 0)
    assert sleep.waits == []


async def test_the_writer_stays_away_in_proportion_to_what_it_held(
    writer: Writer, sleep: FakeSleep, hold: Hold
) -> None:
    """Alone at the database the writer holds the lock for its idle share of the time."""
    hold(0.03)
    for number in range(3):
        await commit(writer, number)
    pause = 0.03 * (1 / IDLE - 1)
    assert sleep.waits == pytest.approx([pause, pause])


async def test_time_that_passed_meanwhile_counts(
    writer: Writer, sleep: FakeSleep, hold: Hold, clock: FakeClock
) -> None:
    """Verifying a page is time that the lock was free."""
    hold(0.03)
    await commit(writer, 0)
    clock.advance(0.002)
    await commit(writer, 1)
    clock.advance(1.0)
    await commit(writer, 2)
    assert sleep.waits == pytest.approx([0.03 * (1 / IDLE - 1) - 0.002])


@SQLITE_ONLY
async def test_another_writer_gets_more_of_the_time(
    writer: Writer,
    sleep: FakeSleep,
    hold: Hold,
    node: NodeDatabase,
    clock: FakeClock,
) -> None:
    """A commit that is not ours shows that the node writes; ten seconds later it is forgotten.

    On PostgreSQL the node's writes do not wait for ours, and only a wait of ours tells.
    """
    hold(0.03)
    await commit(writer, 0)
    add_fact(node, "x")
    await commit(writer, 1)
    await commit(writer, 2)
    clock.advance(writer_module.OTHERS_SECONDS)
    await commit(writer, 3)
    await commit(writer, 4)
    idle, busy = (0.03 * (1 / share - 1) for share in (IDLE, BUSY))
    assert sleep.waits == pytest.approx([idle, busy, idle])


async def test_a_wait_for_the_lock_shows_another_writer(
    writer: Writer, sleep: FakeSleep, hold: Hold, database: Database, clock: FakeClock
) -> None:
    """Who had to wait to begin is not alone, whatever was committed."""

    def on_begin(_connection: Connection) -> None:
        clock.advance(2 * writer_module.WAIT_NOTICED_SECONDS)

    event.listen(database.write, "begin", on_begin)
    hold(0.03)
    await commit(writer, 0)
    await commit(writer, 1)
    assert sleep.waits == pytest.approx([0.03 * (1 / BUSY - 1)])


async def test_small_transactions_wait_their_turn_too(
    writer: Writer, sleep: FakeSleep, hold: Hold, node: NodeDatabase
) -> None:
    """Everything that takes the write lock keeps the pause."""
    hold(0.03)
    await commit(writer, 0)
    count = await writer.run(_answer, 7)
    assert count == 7
    assert sleep.waits == pytest.approx([0.03 * (1 / IDLE - 1)])
    assert node.query("SELECT value FROM node_meta") == [("7",)]


def _answer(connection: Connection, number: int) -> int:
    connection.execute(text(f"INSERT INTO node_meta VALUES ('n', '{number}')"))  # noqa: S608 - a number
    return number


async def test_a_small_transaction_that_fails_writes_nothing(
    writer: Writer, node: NodeDatabase
) -> None:
    """The failure is the caller's, and the writer goes on."""

    def work(connection: Connection) -> None:
        _answer(connection, 7)
        _answer(connection, 8)

    with pytest.raises(REFUSED_BY_SCHEMA):
        await writer.run(work)
    assert node.query("SELECT value FROM node_meta") == []
    await commit(writer, 0)


# the size of transactions


async def test_the_row_budget_follows_how_long_transactions_take(
    writer: Writer, hold: Hold
) -> None:
    """A transaction over the target halves it, one under it lets it grow by a tenth."""
    assert writer.row_budget == pacing.ROWS_START
    writer.row_budget = 400
    hold(0.051)
    await commit(writer, 0)
    assert writer.row_budget == 200
    hold(0.05)
    await commit(writer, 1)
    assert writer.row_budget == 220


async def test_a_batch_that_was_not_written_changes_no_pace(
    writer: Writer, sleep: FakeSleep, hold: Hold, node: NodeDatabase
) -> None:
    """An assumption that fell says nothing about how long writing takes."""
    hold(0.03)
    row = {"peer_id": PEER.id, "direction": "inbound", "updated_at": "now"}
    node.insert("replication_cursors", cursor="9.0", **row)
    assert isinstance(await writer.commit(write(0)), NotWritten)
    assert isinstance(await writer.commit(write(0)), NotWritten)
    assert (writer.row_budget, sleep.waits) == (pacing.ROWS_START, [])


@SQLITE_ONLY
async def test_the_log_is_moved_into_the_database_between_transactions(
    writer: Writer, node_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After so many rows the write-ahead log is emptied, so that it does not grow without end."""
    monkeypatch.setattr(writer_module, "TIDY_ROWS", 5)
    await commit(writer, 0, planned([admitted("f-1")]))
    assert not _holds_fact(node_path, tmp_path / "early.db", "f-1")
    await commit(writer, 1, planned([admitted("f-2", entity="x"), admitted("f-3", entity="y")]))
    assert _holds_fact(node_path, tmp_path / "late.db", "f-1")


@SQLITE_ONLY
async def test_a_log_that_cannot_be_moved_fails_no_batch(
    writer: Writer, database: Database, node: NodeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is durable before its log is moved, so its answer is not lost."""
    asked: list[str] = []

    def authorize(action: int, first: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_PRAGMA and first == "wal_checkpoint":
            asked.append(first)
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    monkeypatch.setattr(writer_module, "TIDY_ROWS", 1)
    raw = database.write.raw_connection()
    driver: Any = raw.dbapi_connection
    driver.set_authorizer(authorize)
    raw.close()
    await commit(writer, 0)
    assert commits(node) == 1
    await commit(writer, 1)
    assert commits(node) == 2
    assert len(asked) == 2


def _holds_fact(path: Path, copy: Path, fact_id: str) -> bool:
    """Say whether the database file by itself, without its log, holds a fact."""
    shutil.copyfile(path, copy)
    return bool(SqliteDatabase(copy).query("SELECT 1 FROM facts WHERE id = ?", fact_id))


# turns


async def test_batches_are_written_in_the_order_in_which_they_came(
    writer: Writer, node: NodeDatabase
) -> None:
    """Many peers at once share one writer, first come first served."""
    done: list[int] = []

    async def work(number: int) -> None:
        await commit(writer, number)
        done.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(work, number)
            await anyio.wait_all_tasks_blocked()
    assert done == list(range(8))
    assert commits(node) == 8


async def test_a_failed_batch_does_not_hold_up_the_next(writer: Writer, node: NodeDatabase) -> None:
    """The turn is given on, whatever became of a batch."""
    bad = planned([rejected("f-0")])
    bad.federation_audit[0]["event_type"] = "unheard_of"
    with pytest.raises(REFUSED_BY_SCHEMA):
        await writer.commit(write(0, bad))
    await commit(writer, 0)
    assert commits(node) == 1


# cancellation


class Gate:
    """Stops a transaction before its commit until it is let through."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.passed = threading.Event()

    def __call__(self, point: Point) -> None:
        if point is Point.BEFORE_COMMIT:
            anyio.from_thread.run_sync(self.reached.set)
            assert self.passed.wait(10)


async def test_a_commit_that_has_begun_is_waited_for(
    writer: Writer, node: NodeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling a pull in the middle of a transaction ends it after the commit, not in it."""
    gate = Gate()
    monkeypatch.setattr(apply, "reached", gate)
    ended = False

    async def work(scope: anyio.CancelScope) -> None:
        nonlocal ended
        with scope:
            await writer.commit(write(0))
        ended = True

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, scope)
        await gate.reached.wait()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        waited = not ended
        gate.passed.set()
    assert waited
    assert commits(node) == 1
    monkeypatch.undo()
    await commit(writer, 1)


async def test_a_commit_that_has_not_begun_is_cancelled(
    database: Database, node: NodeDatabase, clock: FakeClock, hold: Hold
) -> None:
    """A batch that waits for its turn or for the end of a pause is not written any more."""
    sleeping = anyio.Event()

    async def sleep(_seconds: float, /) -> None:
        sleeping.set()
        await anyio.sleep_forever()

    writer = Writer(database, Settings(), clock, sleep, Middle())
    hold(0.03)
    await commit(writer, 0)

    async def work(number: int) -> None:
        await writer.commit(write(number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, 1)
        await sleeping.wait()
        tasks.start_soon(work, 2)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert commits(node) == 1
    clock.advance(1)
    await commit(writer, 1)


async def test_a_task_that_waits_does_not_block_others(
    writer: Writer, node: NodeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a transaction runs in its thread, other tasks go on."""
    ticks = 0
    gate = Gate()
    monkeypatch.setattr(apply, "reached", gate)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commit, writer, 0)
        await gate.reached.wait()
        for _ in range(10):
            await checkpoint()
            ticks += 1
        gate.passed.set()
    assert ticks == 10
    assert commits(node) == 1
