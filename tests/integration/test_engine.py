"""Opening the node's database: what is refused, and what a connection then does."""

from __future__ import annotations

import random
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.store import reads
from stigmem_replicator.store.engine import open_database, reading, writing
from tests.integration.world import add_peer, insert, run

SHORT_S = 0.05


def refused(path: Path) -> LocalError:
    with pytest.raises(LocalError) as caught:
        open_database(path, timeout_s=SHORT_S).close()
    error = caught.value
    assert error.exit_code is ExitCode.CONFIGURATION
    assert str(path) in error.message
    return error


def test_a_nodes_database_opens(node_path: Path) -> None:
    """A database that the node has migrated is read as it is."""
    add_peer(node_path)
    database = open_database(node_path, timeout_s=SHORT_S)
    with reading(database) as connection:
        assert [peer.id for peer in reads.peers(connection)] == ["peer-1"]
    database.close()


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?.db", "a#b.db", "é☕.db", "a&b=c.db"])
def test_any_file_name_opens_that_file(node_path: Path, name: str) -> None:
    """Characters that mean something in a URI mean nothing in a path."""
    moved = node_path.rename(node_path.with_name(name))
    before = sorted(item.name for item in moved.parent.iterdir())
    database = open_database(moved, timeout_s=SHORT_S)
    with writing(database) as connection:
        connection.execute(text("INSERT INTO node_meta VALUES ('k', 'v')"))
    database.close()
    assert sorted(item.name for item in moved.parent.iterdir()) == before
    with closing(sqlite3.connect(moved)) as connection:
        assert connection.execute("SELECT value FROM node_meta").fetchall() == [("v",)]


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    """A wrong path is told and leaves no empty database behind."""
    error = refused(tmp_path / "node.db")
    assert error.reason is Reason.DATABASE_MISSING
    assert "--db" in error.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    """What cannot be read as a file is a failure of the database."""
    assert refused(tmp_path).reason is Reason.DATABASE_FAILED


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 2\x00", b"just some text", bytes(range(256)) * 32]
)
def test_a_file_that_is_no_sqlite_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty, a foreign and an encrypted file are told apart from a node's by their start."""
    path = tmp_path / "node.db"
    path.write_bytes(content)
    assert refused(path).reason is Reason.DATABASE_NOT_A_NODE
    assert path.read_bytes() == content


def test_a_damaged_database_is_refused(node_path: Path) -> None:
    """A file that only starts like a database is damaged or encrypted."""
    content = node_path.read_bytes()
    node_path.write_bytes(content[:16] + random.Random(1).randbytes(8192))
    assert refused(node_path).reason is Reason.DATABASE_NOT_A_NODE


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """A SQLite database without the node's tables is not a node's."""
    path = tmp_path / "other.db"
    run(path, "CREATE TABLE peers (id TEXT)")
    error = refused(path)
    assert error.reason is Reason.DATABASE_NOT_A_NODE
    assert "Stigmem" in error.message


def altered(path: Path, *statements: str) -> LocalError:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(";".join(statements))
    return refused(path)


def test_a_schema_of_wire_version_1_is_refused(node_path: Path) -> None:
    """Without the origin's signatures the node speaks the older wire, and is to be upgraded."""
    error = altered(node_path, "ALTER TABLE facts DROP COLUMN origin_sig")
    assert error.reason is Reason.SCHEMA_UNSUPPORTED
    assert "wire version 1" in error.message
    assert "058_federation_audit_first_trust_confirm_rejected" in error.message


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("ALTER TABLE peers DROP COLUMN entity_uri", "peers.entity_uri"),
        ("ALTER TABLE facts DROP COLUMN origin_tenant", "facts.origin_tenant"),
        ("DROP TABLE quarantine_rules", "quarantine_rules.org_uri"),
        ("DROP TABLE replication_cursors", "replication_cursors.cursor"),
        ("DROP TABLE federation_audit", "federation_audit.event_type"),
    ],
)
def test_a_schema_that_lacks_what_we_need_is_refused(
    node_path: Path, statement: str, named: str
) -> None:
    """A missing table or column is named, with the newest migration."""
    error = altered(node_path, statement)
    assert error.reason is Reason.SCHEMA_UNSUPPORTED
    assert named in error.message
    assert "058_" in error.message


def with_column(column: str) -> tuple[str, str]:
    columns = "id TEXT PRIMARY KEY, peer_id TEXT NOT NULL, event_type TEXT, detail TEXT, ts TEXT"
    return "DROP TABLE federation_audit", f"CREATE TABLE federation_audit ({columns}, {column})"


def test_a_schema_that_demands_more_than_we_know_is_refused(node_path: Path) -> None:
    """A new column that must be filled would make every insert fail."""
    error = altered(node_path, *with_column("region TEXT NOT NULL"))
    assert error.reason is Reason.SCHEMA_UNSUPPORTED
    assert "federation_audit.region" in error.message


@pytest.mark.parametrize("column", ["region TEXT", "region TEXT NOT NULL DEFAULT 'eu'"])
def test_a_new_column_that_fills_itself_is_borne(node_path: Path, column: str) -> None:
    """A newer node may have columns that we do not know."""
    with closing(sqlite3.connect(node_path)) as connection:
        connection.executescript(";".join(with_column(column)))
    open_database(node_path, timeout_s=SHORT_S).close()


def test_a_demanded_column_of_a_table_that_we_only_read_is_borne(node_path: Path) -> None:
    """What the node must fill in tables that we do not write does not concern us."""
    with closing(sqlite3.connect(node_path)) as connection:
        connection.executescript(
            "DROP TABLE agent_keys; CREATE TABLE agent_keys "
            "(id TEXT PRIMARY KEY, entity_uri TEXT, status TEXT, more TEXT NOT NULL)"
        )
    open_database(node_path, timeout_s=SHORT_S).close()


# what connections do


def test_writing_takes_the_write_lock_at_once(node_path: Path) -> None:
    """From its first moment a write transaction keeps other writers out, and lets readers in."""
    database = open_database(node_path, timeout_s=SHORT_S)
    with writing(database), closing(sqlite3.connect(node_path, timeout=0)) as other:
        assert other.execute("SELECT count(*) FROM facts").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    database.close()


def test_reading_sees_one_snapshot(node_path: Path) -> None:
    """What is committed meanwhile is not seen by a read that has begun."""
    database = open_database(node_path, timeout_s=SHORT_S)
    count = text("SELECT count(*) FROM node_meta")
    with reading(database) as connection:
        before = connection.scalar(count)
        insert(node_path, "node_meta", key="k", value="v")
        assert connection.scalar(count) == before
    with reading(database) as connection:
        assert connection.scalar(count) == 1
    database.close()


def test_a_lock_of_another_process_is_named(node_path: Path) -> None:
    """A database that stays locked is not a failed one: waiting longer may help."""
    database = open_database(node_path, timeout_s=SHORT_S)
    with closing(sqlite3.connect(node_path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LocalError) as caught, writing(database):
            pass
    assert caught.value.reason is Reason.DATABASE_LOCKED
    with writing(database):
        pass
    database.close()


def test_a_failed_write_leaves_nothing_and_the_next_one_works(node_path: Path) -> None:
    """A transaction that fails is rolled back whole, and its connection is good again."""
    database = open_database(node_path, timeout_s=SHORT_S)
    twice = text("INSERT INTO node_meta VALUES ('k', 'v')")
    with pytest.raises(LocalError) as caught, writing(database) as connection:  # noqa: PT012
        connection.execute(twice)
        connection.execute(twice)
    assert caught.value.reason is Reason.DATABASE_FAILED
    with writing(database) as connection:
        assert connection.scalar(text("SELECT count(*) FROM node_meta")) == 0
    database.close()


def test_foreign_keys_are_enforced(node_path: Path) -> None:
    """A row that points nowhere is refused, as on the node's own connections."""
    database = open_database(node_path, timeout_s=SHORT_S)
    with pytest.raises(LocalError), writing(database) as connection:
        connection.execute(
            text("INSERT INTO replication_cursors VALUES ('nobody', 'inbound', NULL, '')")
        )
    database.close()


def test_readers_in_many_threads_do_not_wait_for_each_other(node_path: Path) -> None:
    """Lookups run in worker threads, several at once, also while a write is going on."""
    database = open_database(node_path, timeout_s=SHORT_S)
    barrier = threading.Barrier(5, timeout=10)
    done: list[int] = []

    def look() -> None:
        with reading(database) as connection:
            barrier.wait()
            done.append(len(reads.peers(connection)))

    threads = [threading.Thread(target=look) for _ in range(5)]
    with database.write.begin():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert done == [0] * 5
    database.close()
