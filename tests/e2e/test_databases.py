"""Databases that cannot be used: whatever is wrong, one line says what, and the exit code is 3.

"Used" is opened, read and written; what goes wrong under a running pull is in
test_bad_database.py, our own tables in test_own_tables.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.e2e.here import Here
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


def test_no_database(here: Here, tmp_path: Path) -> None:
    """A missing file is exit 3 and is not created."""
    path = tmp_path / "absent.db"
    for words in (["pull", "--all"], ["peers", "list"], ["db", "upgrade"]):
        assert str(path) in here(*words, db=path).failed("database_missing", 3)
        assert not path.exists()
    assert "--db" in here("peers", "list").failed("database_missing", 3)


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 2\x00"])
def test_a_file_that_is_no_database(here: Here, tmp_path: Path, content: bytes) -> None:
    """A file that is not SQLite is exit 3 and stays as it was."""
    path = tmp_path / "other.db"
    path.write_bytes(content)
    here("pull", "--all", db=path).failed("database_not_a_node", 3)
    assert path.read_bytes() == content


def test_a_folder_is_no_database(here: Here, tmp_path: Path) -> None:
    """A folder where the file should be is exit 3."""
    here("pull", "--all", db=tmp_path).failed("database_failed", 3)


def test_a_database_of_something_else(here: Here, tmp_path: Path) -> None:
    """A SQLite database without a node's tables is exit 3 and stays empty."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE facts (id TEXT)")
    assert "start the node" in here("db", "upgrade", db=path).failed("database_not_a_node", 3)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("facts",)]


def test_a_damaged_database(here: Here, bare_receiver: Receiver) -> None:
    """A database whose pages do not read is exit 3, in words."""
    data = bytearray(bare_receiver.database.read_bytes())
    data[100:8192] = b"\x55" * 8092
    bare_receiver.database.write_bytes(data)
    assert "damaged" in here("peers", "list", db=bare_receiver.database).failed(
        "database_not_a_node", 3
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE conflicts RENAME COLUMN detected_at TO found_at", "conflicts.detected_at"),
        ("ALTER TABLE peers RENAME COLUMN relay_trusted TO trusted", "peers.relay_trusted"),
        ("DROP TABLE peer_tenant_map", "peer_tenant_map."),
        ("ALTER TABLE facts RENAME COLUMN origin_sig TO signature", "of neither wire version"),
    ],
)
def test_a_schema_that_lacks_something(
    here: Here, bare_receiver: Receiver, change: str, named: str
) -> None:
    """A column or table that is not there is exit 3 and is named."""
    bare_receiver.execute(change)
    before = bare_receiver.dump()
    line = here("pull", "--all", db=bare_receiver.database).failed("schema_unsupported", 3)
    assert named in line
    assert bare_receiver.dump() == before


def test_a_schema_that_demands_more(here: Here, bare_receiver: Receiver) -> None:
    """A column that would have to be filled and is not known is exit 3 and is named."""
    bare_receiver.execute("DROP TABLE replication_cursors")
    bare_receiver.execute(
        "CREATE TABLE replication_cursors (peer_id TEXT, direction TEXT, cursor TEXT,"
        " updated_at TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (peer_id, direction))"
    )
    line = here("pull", "--all", db=bare_receiver.database).failed("schema_unsupported", 3)
    assert "demands replication_cursors.epoch" in line


def test_a_schema_with_harmless_additions(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """Columns that may stay empty, or have a default, and tables more are no hindrance."""
    for change in (
        "ALTER TABLE facts ADD COLUMN shade TEXT",
        "ALTER TABLE conflicts ADD COLUMN weight INTEGER NOT NULL DEFAULT 1",
        "CREATE TABLE novelties (id TEXT NOT NULL)",
        "INSERT INTO schema_migrations (version, applied_at) VALUES ('099_novelties', 'now')",
    ):
        bare_receiver.execute(change)
    bare_receiver.adopt(server)
    server.origin.add_many(2, entity="pages:same")
    assert here("pull", "--all", db=bare_receiver.database).code == 0
    assert len(bare_receiver.assert_clean(server).admitted) == 2


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the database's write lock."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.rollback()


def test_a_database_that_stays_locked(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A write lock held longer than database_timeout_s is exit 3; reading goes on beside it."""
    server.origin.add()
    env = {"STIGMEM_REPLICATOR_DATABASE_TIMEOUT_S": "0.3"}
    with locked(adopted.database):
        words = ("pull", "--peer", server.node_id)
        result = cli(*words, db=adopted.database, env=env, check=False)
        (line,) = result.stderr.splitlines()
        assert "(database_locked)" in line
        assert result.returncode == 3
        assert server.requests == []
        # A dry run has no use for the write lock.
        cli(*words, "--dry-run", db=adopted.database, env=env)


def test_a_database_locked_while_a_page_is_in_flight(
    start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A page that cannot be written for the lock is exit 3; it is not the peer's failure."""
    server.origin.add_many(3)
    held = server.hold()
    env = {"STIGMEM_REPLICATOR_DATABASE_TIMEOUT_S": "0.3"}
    running = start("pull", "--peer", server.node_id, db=adopted.database, env=env)
    held.wait()
    with locked(adopted.database):
        held.let_go()
        _stdout, stderr, code = running.end()
    assert code == 3
    assert stderr.count("(database_locked)") == 1
    assert "Traceback" not in stderr
    assert adopted.count("facts") == 0
    assert adopted.cursor(server) is None
    assert adopted.state(server) == ("catching_up", None)


def test_a_database_that_may_only_be_read(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A database that SQLite opens for reading only is exit 3, in words, and can be looked at.

    Its header asks for a newer way of writing, which binds every user; permissions do not bind
    the superuser.
    """
    data = bytearray(adopted.database.read_bytes())
    data[18] = 3
    adopted.database.write_bytes(data)
    line = here("pull", "--all", db=adopted.database).failed_among("database_failed", 3)
    assert "readonly" in line
    assert server.requests == []
    assert server.node_id in here("peers", "list", db=adopted.database).stdout


@pytest.mark.parametrize("key", ["node_id", "federation_privkey"])
def test_a_node_that_was_never_started(here: Here, bare_receiver: Receiver, key: str) -> None:
    """A database without the node's identity is exit 3 and says which part is missing."""
    bare_receiver.execute("DELETE FROM node_meta WHERE key = ?", [key])
    line = here("pull", "--all", db=bare_receiver.database).failed("node_not_initialised", 3)
    assert key in line


def test_a_key_that_does_not_read(here: Here, bare_receiver: Receiver) -> None:
    """A private key of the wrong length is exit 3 and is not shown."""
    bare_receiver.execute(
        "UPDATE node_meta SET value = 'c2VjcmV0LXNlZWQ' WHERE key = 'federation_privkey'"
    )
    line = here("pull", "--all", db=bare_receiver.database).failed("node_not_initialised", 3)
    assert "c2VjcmV0" not in line


@pytest.mark.parametrize(
    "env",
    [
        {"STIGMEM_STORAGE_BACKEND": "libsql", "STIGMEM_LIBSQL_URL": "libsql://x?token=hunter2"},
        {"STIGMEM_AT_REST_ENCRYPTION": "on"},
        {"STIGMEM_DB_PATH": "libsql://me:hunter2@db.example/node"},
    ],
)
def test_a_store_that_is_not_supported(
    here: Here, bare_receiver: Receiver, env: dict[str, str]
) -> None:
    """A node that keeps its data elsewhere, or encrypted, is exit 3 in plain words."""
    db = None if "STIGMEM_DB_PATH" in env else bare_receiver.database
    line = here("pull", "--all", db=db, env=env).failed("database_unsupported", 3)
    assert "hunter2" not in line


def test_strict_trust_is_not_supported(here: Here, bare_receiver: Receiver) -> None:
    """With trust_mode strict nothing is pulled: exit 3, and what to do instead."""
    env = {"STIGMEM_TRUST_MODE": "strict"}
    line = here("pull", "--all", db=bare_receiver.database, env=env).failed(
        "trust_mode_unsupported", 3
    )
    assert "relaxed" in line
