"""A batch whose transaction fails: interrupted, refused, locked out, its answer lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import (
    Point,
)
from stigmem_replicator.store.engine import Database, open_database, writing
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.reads import CursorRow, OwnCursor
from tests.integration.world import (
    REFUSED_BY_SCHEMA,
    SQLITE_ONLY,
    FakeClock,
    add_fact,
    admitted,
    batch_write,
    commits,
    committed,
    full_write,
    planned,
    rejected,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW

Crash = Callable[[Point], None]


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Point], None]:
    """Make the transaction fail at a point, as a process that ends there would."""

    def arm(point: Point) -> None:
        def reached(at: Point) -> None:
            if at is point:
                raise KeyboardInterrupt

        monkeypatch.setattr(apply, "reached", reached)

    return arm


@pytest.mark.parametrize("point", [Point.BEFORE_BEGIN, Point.AFTER_INSERTS, Point.BEFORE_COMMIT])
def test_before_the_commit_an_interruption_leaves_nothing(
    database: Database,
    node: NodeDatabase,
    clock: FakeClock,
    crash_at: Crash,
    point: Point,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever was inserted goes with the transaction, and the same batch can come again."""
    write = full_write(node)
    before = node.dump()
    with monkeypatch.context():
        crash_at(point)
        with pytest.raises(KeyboardInterrupt):
            apply.apply(database, write, clock)
    monkeypatch.undo()
    assert node.dump() == before
    committed(database, write, clock)


def test_after_the_commit_an_interruption_loses_nothing(
    database: Database, node: NodeDatabase, clock: FakeClock, crash_at: Crash
) -> None:
    """What was committed stays although its answer was never given."""
    write = full_write(node)
    crash_at(Point.AFTER_COMMIT)
    with pytest.raises(KeyboardInterrupt):
        apply.apply(database, write, clock)
    assert commits(node) == 1
    assert node.rows("replication_cursors")[0]["cursor"] == "5.0"


class LostAnswer:
    """Takes the place of the driver's COMMIT: the first one fails, having committed or not.

    ``meanwhile`` happens before anybody can ask what became of it.
    """

    def __init__(
        self, node: NodeDatabase, *, commits: bool, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        self.commits = commits
        self.meanwhile = meanwhile
        self.calls = 0
        driver = sqlite3 if node.backend == "sqlite" else psycopg
        self.error: Exception = driver.OperationalError("disk I/O error")

    def __call__(self, connection: Any) -> None:  # noqa: ANN401 - the driver's own
        self.calls += 1
        if self.calls > 1 or self.commits:
            connection.commit()
        if self.calls == 1:
            if not self.commits:
                connection.rollback()
            self.meanwhile()
            raise self.error


def test_a_lost_answer_of_a_commit_that_happened_is_a_commit(
    database: Database, node: NodeDatabase, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's commit number tells that the batch is durable, so it is not written again."""
    write = full_write(node)
    lost = LostAnswer(node, commits=True)
    with monkeypatch.context() as broken:
        broken.setattr(database.write.dialect, "do_commit", lost)
        outcome = committed(database, write, clock)
    assert lost.calls > 0
    assert commits(node) == 1
    assert outcome.row == CursorRow("5.0", NOW.isoformat())
    following = planned([admitted("f-9", entity="other")])
    committed(database, batch_write(following, row=outcome.row), clock)
    assert commits(node) == 2


def test_a_commit_that_failed_is_a_failure(
    database: Database, node: NodeDatabase, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the new commit number nothing was written, and the same batch can come again."""
    write = full_write(node)
    before = node.dump()
    with monkeypatch.context() as broken:
        broken.setattr(database.write.dialect, "do_commit", LostAnswer(node, commits=False))
        with pytest.raises(LocalError) as caught:
            apply.apply(database, write, clock)
    assert caught.value.reason is Reason.DATABASE_FAILED
    assert node.dump() == before
    committed(database, write, clock)


@pytest.mark.parametrize("commits_it", [True, False])
def test_a_commit_of_another_stream_before_is_not_mistaken_for_a_lost_one(
    database: Database,
    node: NodeDatabase,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    commits_it: bool,
) -> None:
    """The streams of a peer share its commit number, which is looked at inside the transaction."""
    write = full_write(node)
    letter = planned([rejected("t-1", Reason.WAITING_FOR_KEY)])
    committed(database, batch_write(letter, row=OwnCursor(), stream=TOMBSTONES), clock)
    with monkeypatch.context() as broken:
        broken.setattr(database.write.dialect, "do_commit", LostAnswer(node, commits=commits_it))
        if commits_it:
            committed(database, write, clock)
        else:
            with pytest.raises(LocalError):
                apply.apply(database, write, clock)
    assert commits(node) == 1 + commits_it
    assert len(node.rows("replication_cursors")) == commits_it


def test_a_commit_of_whoever_took_the_peer_meanwhile_is_not_mistaken_for_a_lost_one(
    database: Database, node: NodeDatabase, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is raised by one, but not by us: the batch is not there, and nobody says so."""
    write = full_write(node)

    def other_took_it() -> None:
        node.run("UPDATE replicator_peers SET commit_number = 1, holder_pid = 4712")

    lost = LostAnswer(node, commits=False, meanwhile=other_took_it)
    with monkeypatch.context() as broken:
        broken.setattr(database.write.dialect, "do_commit", lost)
        with pytest.raises(LocalError):
            apply.apply(database, write, clock)
    assert (commits(node), node.rows("replication_cursors")) == (1, [])


def test_a_row_that_the_schema_refuses_fails_the_whole_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """One bad row takes its batch with it, and the connection is good for the next."""
    batch = planned([admitted("f-1"), rejected("f-2")])
    batch.federation_audit[0]["event_type"] = "federation_integrity_rejected"
    before = node.dump()
    with pytest.raises(REFUSED_BY_SCHEMA):
        apply.apply(database, batch_write(batch), clock)
    assert node.dump() == before
    committed(database, batch_write(planned([admitted("f-1")])), clock)


def test_a_locked_database_is_told_apart(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """When the write lock cannot be had in time, nothing is written and the reason says so."""
    with (
        closing(open_database(node.location, timeout_s=1.0)) as other,
        writing(other),
        pytest.raises(LocalError) as caught,
    ):
        apply.apply(database, batch_write(planned([admitted("f-1")])), clock)
    assert caught.value.reason is Reason.DATABASE_LOCKED
    committed(database, batch_write(planned([admitted("f-1")])), clock)


@SQLITE_ONLY
def test_other_writers_are_noticed(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The data version changes when somebody else committed, not when we did."""
    first = committed(database, batch_write(planned([rejected("f-1")])), clock)
    second = committed(database, batch_write(planned([rejected("f-2")])), clock)
    assert first.data_version == second.data_version
    add_fact(node, "x")
    third = committed(database, batch_write(planned([rejected("f-3")])), clock)
    assert third.data_version != second.data_version
