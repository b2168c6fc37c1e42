"""What connections do, on either database: one writer, snapshots, failures that leave nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.store import reads
from stigmem_replicator.store.engine import Database, open_database, reading, writing
from tests.integration.world import REFUSED_BY_SCHEMA, add_peer
from tests.nodes.database import NodeDatabase

SHORT_S = 0.05

COUNT = text("SELECT count(*) FROM node_meta")
INSERT = text("INSERT INTO node_meta (key, value) VALUES ('k', 'v')")


@pytest.fixture
def opened(node: NodeDatabase) -> Iterator[Database]:
    """The database opened, by a process that waits for locks only shortly."""
    with closing(open_database(node.location, timeout_s=SHORT_S)) as database:
        yield database


def test_a_nodes_database_opens(opened: Database, node: NodeDatabase) -> None:
    """A database that the node has migrated is read as it is."""
    add_peer(node)
    with reading(opened) as connection:
        assert [peer.id for peer in reads.peers(connection)] == ["peer-1"]


def test_one_process_writes_at_a_time(opened: Database, node: NodeDatabase) -> None:
    """A write transaction holds the lock from its first moment on, and lets readers in.

    That it stayed locked is told apart from a failure: waiting longer may help.
    """
    with closing(open_database(node.location, timeout_s=SHORT_S)) as other:
        with writing(other):
            with reading(opened) as connection:
                assert connection.scalar(COUNT) == 0
            with pytest.raises(LocalError) as caught, writing(opened):
                pass
        assert caught.value.reason is Reason.DATABASE_LOCKED
        assert caught.value.exit_code is ExitCode.CONFIGURATION
        assert opened.name in caught.value.message
        with writing(opened) as connection:
            connection.execute(INSERT)
    assert node.query("SELECT value FROM node_meta") == [("v",)]


def test_reading_sees_one_snapshot(opened: Database, node: NodeDatabase) -> None:
    """What is committed meanwhile is not seen by a read that has begun."""
    with reading(opened) as connection:
        before = connection.scalar(COUNT)
        node.insert("node_meta", key="k", value="v")
        assert connection.scalar(COUNT) == before
    with reading(opened) as connection:
        assert connection.scalar(COUNT) == 1


def test_a_failed_write_leaves_nothing_and_the_next_one_works(opened: Database) -> None:
    """A transaction that fails is rolled back whole, and its connection is good again."""
    with pytest.raises(REFUSED_BY_SCHEMA), writing(opened) as connection:  # noqa: PT012
        connection.execute(INSERT)
        connection.execute(INSERT)
    with writing(opened) as connection:
        assert connection.scalar(COUNT) == 0


def test_foreign_keys_are_enforced(opened: Database) -> None:
    """A row that points nowhere is refused, as on the node's own connections."""
    row = "INSERT INTO replication_cursors VALUES ('nobody', 'inbound', NULL, '')"
    with pytest.raises(REFUSED_BY_SCHEMA), writing(opened) as connection:
        connection.execute(text(row))


def test_readers_in_many_threads_do_not_wait_for_each_other(opened: Database) -> None:
    """Lookups run in worker threads, several at once, also while a write is going on."""
    barrier = threading.Barrier(5, timeout=10)
    done: list[int] = []

    def look() -> None:
        with reading(opened) as connection:
            barrier.wait()
            done.append(len(reads.peers(connection)))

    threads = [threading.Thread(target=look) for _ in range(5)]
    with opened.write.begin():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert done == [0] * 5


@pytest.mark.parametrize("node", ["postgres"], indirect=True)
def test_a_reader_cannot_write(opened: Database, node: NodeDatabase) -> None:
    """On PostgreSQL the server itself keeps a transaction that reads from writing."""
    with pytest.raises((LocalError, DBAPIError)), reading(opened) as connection:  # noqa: PT012
        connection.execute(INSERT)
        connection.commit()
    assert node.query("SELECT * FROM node_meta") == []
