"""Who works on a peer, on PostgreSQL: locks of a session, lost with it and with its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from stigmem_replicator.errors import LocalError, PeerHeldError
from stigmem_replicator.store import apply
from stigmem_replicator.store.engine import Database, open_database, writing
from stigmem_replicator.store.locks import PeerLocks, make_locks
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
    lost = bare.write.raw_connection()
    try:
        # Detached and forgotten: the server still sees an open connection.
        lost.detach()
        with writing(bare):
            pass
        assert locks.holds(1)
    finally:
        lost.close()
    with another_session(node) as other:
        assert not other.take(1)
