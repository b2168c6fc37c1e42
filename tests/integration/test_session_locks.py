"""Who works on a peer, on PostgreSQL: locks of a session, lost with it and with its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from stigmem_replicator.errors import LocalError, PeerHeldError
from stigmem_replicator.store import apply
from stigmem_replicator.store import locks as locks_of_peers
from stigmem_replicator.store.engine import Database, open_database, writing
from stigmem_replicator.store.locks import DAEMON, PeerLocks, make_locks
from stigmem_replicator.store.presence import daemon_runs
from tests.integration.world import POSTGRES_ONLY, FakeClock, committed, full_write
from tests.nodes.database import NodeDatabase
from tests.nodes.environment import REPOSITORY

pytestmark = POSTGRES_ONLY

HOLD = """
import sys
from stigmem_replicator.store.engine import open_database
from stigmem_replicator.store.locks import make_locks
locks = make_locks(open_database(sys.argv[1], timeout_s=5.0))
print(*(locks.take(int(number)) for number in sys.argv[2:]), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(node: NodeDatabase, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds peers until its standard input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(node.location), *(str(number) for number in numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["True"] * len(numbers)
            yield process
        finally:
            process.kill()


@contextmanager
def another_session(node: NodeDatabase) -> Iterator[PeerLocks]:
    with closing(open_database(node.location, timeout_s=1.0)) as other, make_locks(other) as locks:
        yield locks


@pytest.fixture
def locks(bare: Database) -> Iterator[PeerLocks]:
    with make_locks(bare) as made:
        yield made


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that this process sends from now on."""
    sent: list[str] = []
    execute = psycopg.Cursor.execute

    def noted(cursor: Any, query: Any, *values: Any, **options: Any) -> Any:  # noqa: ANN401 - the driver's
        sent.append(str(query))
        return execute(cursor, query, *values, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    return sent


@contextmanager
def left_behind(database: Database) -> Iterator[None]:
    """Forget the writer's connection, whose session stays open at the server."""
    lost = database.write.raw_connection()
    try:
        lost.detach()
        yield
    finally:
        lost.close()


def end_sessions(node: NodeDatabase) -> None:
    """Have the server end every session of the replicator, as when a connection is lost."""
    node.run(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'stigmem-replicate' AND datname = current_database()"
    )


def wait_until_nobody_holds(node: NodeDatabase) -> None:
    """Wait until the server has noticed that a process is gone: it holds no lock any more."""
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    for _ in range(1000):
        if node.query(held) == [(0,)]:
            return
        node.query("SELECT pg_sleep(0.01)")
    raise AssertionError("the server still holds the lock of a dead process")


def test_a_peer_is_held_by_one_process(node: NodeDatabase, locks: PeerLocks) -> None:
    """While another process holds a peer it cannot be taken, and other peers can."""
    with another_process(node, 1, 7):
        assert not locks.take(1)
        assert not locks.take(7)
        assert locks.take(2)


def test_a_killed_process_frees_its_peers(node: NodeDatabase, locks: PeerLocks) -> None:
    """The server frees the lock when the connection ends, without a lease to run out."""
    with another_process(node, 1) as process:
        process.kill()
        process.wait(timeout=10)
        wait_until_nobody_holds(node)
        assert locks.take(1)


def test_a_freed_peer_can_be_taken_by_another(node: NodeDatabase, locks: PeerLocks) -> None:
    """Freeing one peer keeps the others."""
    assert locks.take(1)
    assert locks.take(2)
    locks.free(1)
    with another_session(node) as other:
        assert other.take(1)
        assert not other.take(2)
    assert not locks.take(2)


def test_the_same_process_cannot_take_a_peer_twice(locks: PeerLocks) -> None:
    """The server would allow it, so the process itself remembers what it holds."""
    assert locks.take(1)
    assert not locks.take(1)
    locks.free(1)
    assert locks.take(1)


def test_writing_keeps_the_peers(node: NodeDatabase, bare: Database, locks: PeerLocks) -> None:
    """The locks are the session's, not a transaction's: the end of one frees no peer."""
    assert locks.take(1)
    with writing(bare):
        pass
    with another_session(node) as other:
        assert not other.take(1)


def test_a_lost_session_takes_its_peers_again(
    node: NodeDatabase, bare: Database, locks: PeerLocks
) -> None:
    """After a lost connection the next one holds the same peers before anything is written."""
    assert locks.take(1)
    end_sessions(node)
    with pytest.raises(LocalError), writing(bare):
        pass
    with writing(bare):
        pass
    with another_session(node) as other:
        assert not other.take(1)
        assert other.take(2)


def test_a_lost_session_whose_peer_was_taken_writes_nothing(
    node: NodeDatabase, database: Database, locks: PeerLocks, clock: FakeClock
) -> None:
    """Who was faster has the peer: no page of it is written here, and other peers go on."""
    assert locks.take(1)
    assert locks.take(2)
    write = replace(full_write(node), still_held=lambda: locks.holds(1))
    before = node.dump()
    end_sessions(node)
    with another_session(node) as other:
        assert other.take(1)
        with pytest.raises(LocalError), writing(database):
            pass
        with pytest.raises(PeerHeldError):
            apply.apply(database, write, clock)
        assert node.dump() == before
        assert locks.holds(2)
        assert not other.take(2)
    committed(database, replace(write, still_held=lambda: locks.holds(2)), clock)


def test_a_session_that_only_we_lost_is_ended_at_the_server(
    node: NodeDatabase, bare: Database, locks: PeerLocks
) -> None:
    """A cut connection may leave its session behind, which would keep our own peer from us."""
    assert locks.take(1)
    with left_behind(bare):
        locks.confirm()
        assert locks.holds(1)
    with another_session(node) as other:
        assert not other.take(1)


def test_a_session_older_than_its_locks_is_ended_too(bare: Database) -> None:
    """The connection that changed the tables is the one that then takes locks."""
    with writing(bare):
        pass
    with make_locks(bare) as locks:
        assert locks.take(1)
        with left_behind(bare):
            locks.confirm()
            assert locks.holds(1)


def test_an_idle_process_notices_that_its_session_was_lost(
    node: NodeDatabase, locks: PeerLocks
) -> None:
    """Asking is enough: no write fails first, and what another process took is given up."""
    assert locks.take_all([1, 2]) == {1, 2}
    locks.confirm()
    assert locks.holds(1)
    end_sessions(node)
    with another_session(node) as other:
        assert other.take(1)
        locks.confirm()
        assert not locks.holds(1)
        assert locks.holds(2)
        assert not other.take(2)
        assert not locks.take(1)
    assert locks.take(1)


def test_a_server_that_is_away_is_told(locks: PeerLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the peers are still ours is not known then."""
    locks.confirm()  # nothing is held, so nothing is asked
    assert locks.take(1)

    def lost(cursor: Any, *_values: Any, **_options: Any) -> None:  # noqa: ANN401 - the driver's
        cursor.connection.close()
        raise psycopg.OperationalError("the server is away")

    with monkeypatch.context() as away:
        away.setattr(psycopg.Cursor, "execute", lost)
        with pytest.raises(LocalError, match="the server is away"):
            locks.confirm()
    locks.confirm()
    assert locks.holds(1)


def test_many_lost_peers_cost_as_much_as_one(
    node: NodeDatabase, locks: PeerLocks, statements: list[str]
) -> None:
    """They are tried together, once; others having half of them holds nobody up."""
    numbers = set(range(1, 101))
    theirs = set(range(1, 101, 2))
    assert locks.take_all(numbers) == numbers
    locks.announce()
    end_sessions(node)
    with another_session(node) as other:
        assert other.take_all(theirs) == theirs
        statements.clear()
        locks.confirm()
        assert {number for number in numbers if locks.holds(number)} == numbers - theirs
        assert sum("advisory" in statement for statement in statements) == 2
        assert not any("pg_sleep" in statement for statement in statements)
        assert len(statements) < 20


def test_a_session_that_does_not_end_is_waited_for_once(
    bare: Database, locks: PeerLocks, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many peers it holds; they are given up, and taken when it is gone."""
    numbers = set(range(1, 101))
    assert locks.take_all(numbers) == numbers
    assert locks_of_peers._ENDED_LOOKS * locks_of_peers._ENDED_SECONDS <= 5.0  # noqa: SLF001
    monkeypatch.setattr(locks_of_peers, "_ENDED_SECONDS", 0.001)
    ending = locks_of_peers._END_SESSION.replace("pg_terminate_backend(pid)", "pid")  # noqa: SLF001
    monkeypatch.setattr(locks_of_peers, "_END_SESSION", ending)
    with left_behind(bare):
        statements.clear()
        locks.confirm()
        assert not any(locks.holds(number) for number in numbers)
        waits = sum("pg_sleep" in statement for statement in statements)
        assert waits == locks_of_peers._ENDED_LOOKS  # noqa: SLF001


def test_peers_are_taken_and_freed_in_one_statement(
    node: NodeDatabase, bare: Database, statements: list[str]
) -> None:
    """Those that another process holds are left out, and those that we hold already."""
    numbers = set(range(1, 101))
    with another_session(node) as other:
        assert other.take_all([7, 8]) == {7, 8}
        with make_locks(bare) as locks:
            assert locks.take(9)
            statements.clear()
            assert locks.take_all(numbers) == numbers - {7, 8, 9}
            assert sum("advisory" in statement for statement in statements) == 1
            assert locks.take_all([]) == set()
            assert locks.take_all([9]) == set()
            statements.clear()
            locks.free_all([*range(1, 51), 200])
            assert sum("advisory" in statement for statement in statements) == 1
            assert [number for number in numbers if locks.holds(number)] == [*range(51, 101)]
            assert other.take_all([1, 50, 51]) == {1, 50}
            statements.clear()
        assert sum("advisory" in statement for statement in statements) == 1
        assert other.take_all([51, 100]) == {51, 100}


def test_what_a_failed_statement_took_is_free(
    node: NodeDatabase, locks: PeerLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server keeps locks of a statement that fails: nobody would work on those peers."""
    assert locks.take(9)
    with monkeypatch.context() as failing:
        statement = locks_of_peers._TRY_LOCKS + " WHERE 1 / (number - 3) < 2"  # noqa: SLF001
        failing.setattr(locks_of_peers, "_TRY_LOCKS", statement)
        with pytest.raises(LocalError, match="division by zero"):
            locks.take_all([1, 2, 3])
    locks.confirm()
    with another_session(node) as other:
        assert other.take_all([1, 2, 3, 9]) == {1, 2, 3}


def test_peers_freed_while_the_server_is_away_are_free(
    node: NodeDatabase, locks: PeerLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their locks fall with the session, and the next one does not take them again."""
    assert locks.take_all([1, 2, 3]) == {1, 2, 3}

    def lost(*_values: Any, **_options: Any) -> None:  # noqa: ANN401 - the driver's
        raise psycopg.OperationalError("the server is away")

    with monkeypatch.context() as away:
        away.setattr(psycopg.Cursor, "execute", lost)
        locks.free_all([1, 2])
    locks.confirm()
    assert locks.holds(3)
    with another_session(node) as other:
        assert other.take_all([1, 2, 3]) == {1, 2}


def test_a_daemon_is_announced_again_when_it_can_be(
    node: NodeDatabase, bare: Database, locks: PeerLocks
) -> None:
    """Who changed our tables while the session was lost kept it from being announced."""
    locks.announce()
    end_sessions(node)
    with another_session(node) as other:
        assert other.take(DAEMON)
        locks.confirm()
        assert not daemon_runs(bare)
    locks.confirm()
    assert daemon_runs(bare)
