"""Whether a daemon runs, asked by a process that only looks: on both backends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from stigmem_replicator.errors import LocalError, PeerHeldError, Reason
from stigmem_replicator.store import migrations
from stigmem_replicator.store.engine import Database, writing
from stigmem_replicator.store.locks import DAEMON, SUFFIX, make_locks
from stigmem_replicator.store.postgres import PostgresSchema
from stigmem_replicator.store.presence import daemon_runs
from tests.integration.world import POSTGRES_ONLY, SQLITE_ONLY
from tests.nodes.database import NodeDatabase, PostgresDatabase
from tests.nodes.environment import REPOSITORY

HOLD = """
import sys
from pathlib import Path
from stigmem_replicator.store.engine import open_database
from stigmem_replicator.store.locks import make_locks
where = sys.argv[1]
database = open_database(where if "://" in where else Path(where), timeout_s=5.0)
locks = make_locks(database)
if sys.argv[2] == "announce":
    locks.announce()
else:
    assert locks.take(int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
locks.close()
"""
NOTICED_S = 10.0


@contextmanager
def another_process(node: NodeDatabase, held: object) -> Iterator[subprocess.Popen[str]]:
    """Run a process that announces a daemon or holds a number, until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(node.location), str(held)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def wait_until_gone(database: Database) -> None:
    """Wait until the death of a process was noticed, which a server needs a moment for."""
    until = time.monotonic() + NOTICED_S
    while daemon_runs(database):
        assert time.monotonic() < until, "a dead daemon still runs"
        time.sleep(0.01)


def test_a_daemon_is_seen_while_it_lives(node: NodeDatabase, bare: Database) -> None:
    """Before its start none runs; once it was killed none runs any more."""
    assert not daemon_runs(bare)
    with another_process(node, "announce"):
        assert daemon_runs(bare)
    wait_until_gone(bare)


def test_several_daemons_run_at_once(node: NodeDatabase, bare: Database) -> None:
    """They share the lock; as long as one is left, a daemon runs."""
    with another_process(node, "announce"):
        with another_process(node, "announce") as second:
            second.communicate("")  # ends in good order
            assert second.returncode == 0
        assert daemon_runs(bare)


def test_whoever_works_on_a_peer_is_no_daemon(node: NodeDatabase, bare: Database) -> None:
    """A pull holds its peer's number alone."""
    with another_process(node, 1):
        assert not daemon_runs(bare)


def test_whoever_changes_our_tables_is_no_daemon(node: NodeDatabase, bare: Database) -> None:
    """It holds the number for itself; no daemon begins meanwhile, and none runs."""
    with another_process(node, DAEMON):
        assert not daemon_runs(bare)
        with make_locks(bare) as locks, pytest.raises(PeerHeldError):
            locks.announce()


def test_our_own_tables_are_not_changed_under_a_daemon(node: NodeDatabase, bare: Database) -> None:
    """Also where it works on no peer at the moment."""
    before = node.schema()
    with another_process(node, "announce"):
        with pytest.raises(PeerHeldError, match="a daemon runs"):
            migrations.upgrade(bare)
        assert node.schema() == before
    wait_until_gone(bare)
    assert migrations.upgrade(bare)
    with another_process(node, "announce"), pytest.raises(PeerHeldError, match="a daemon runs"):
        migrations.drop(bare)


@SQLITE_ONLY
def test_asking_leaves_nothing_behind(bare: Database) -> None:
    """Where nobody ever locked anything, a look makes no lock file."""
    assert bare.path is not None
    assert not daemon_runs(bare)
    assert not bare.path.with_name(bare.path.name + SUFFIX).exists()


@SQLITE_ONLY
def test_a_lock_file_that_cannot_be_read_is_told(bare: Database) -> None:
    """Whether a daemon runs is then not known, and nobody says that it does not."""
    assert bare.path is not None
    file = bare.path.with_name(bare.path.name + SUFFIX)
    file.symlink_to(Path(file.name))
    with pytest.raises(LocalError, match="not known") as caught:
        daemon_runs(bare)
    assert caught.value.reason is Reason.DATABASE_FAILED


@POSTGRES_ONLY
def test_a_daemon_of_another_node_is_not_ours(node: NodeDatabase, bare: Database) -> None:
    """Two nodes in one database have locks of their own."""
    assert isinstance(node, PostgresDatabase)
    assert isinstance(bare.backend, PostgresSchema)
    space = bare.backend.lock_space
    with psycopg.connect(node.location) as other:
        other.execute("SELECT pg_advisory_lock_shared(%s, %s)", (space ^ 1, DAEMON))
        assert not daemon_runs(bare)
        other.execute("SELECT pg_advisory_lock_shared(%s, %s)", (space, DAEMON))
        assert daemon_runs(bare)


@POSTGRES_ONLY
def test_a_daemon_that_lost_its_session_is_seen_again(node: NodeDatabase, bare: Database) -> None:
    """The next session announces it before anything is written; at its end nothing is left."""
    with make_locks(bare) as locks:
        locks.announce()
        node.run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'stigmem-replicate' AND pid IN"
            " (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
        )
        assert not daemon_runs(bare)
        with pytest.raises(LocalError), writing(bare):
            pass
        with writing(bare):
            pass
        assert daemon_runs(bare)
        assert locks.take(1)
    assert not daemon_runs(bare)
