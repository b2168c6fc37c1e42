"""Opening a SQLite file: what is refused, and that no other file is made or touched.

Whether the node's tables fit is for test_schema.py.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.store.engine import open_database, writing
from tests.nodes.database import SqliteDatabase

SHORT_S = 0.05


def refused(path: Path) -> LocalError:
    with pytest.raises(LocalError) as caught:
        open_database(path, timeout_s=SHORT_S).close()
    error = caught.value
    assert error.exit_code is ExitCode.CONFIGURATION
    assert str(path) in error.message
    return error


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
    """An empty and a foreign file are told apart from a node's by their start."""
    path = tmp_path / "node.db"
    path.write_bytes(content)
    assert refused(path).reason is Reason.DATABASE_NOT_A_NODE
    assert path.read_bytes() == content


def test_an_encrypted_database_is_refused(tmp_path: Path) -> None:
    """Whole pages that begin with random bytes are what SQLCipher writes."""
    path = tmp_path / "node.db"
    path.write_bytes(random.Random(1).randbytes(8192))
    error = refused(path)
    assert error.reason is Reason.DATABASE_UNSUPPORTED
    assert "encrypted" in error.message


def test_a_damaged_database_is_refused(node_path: Path) -> None:
    """A file that only starts like a database is damaged or encrypted."""
    content = node_path.read_bytes()
    node_path.write_bytes(content[:16] + random.Random(1).randbytes(8192))
    assert refused(node_path).reason is Reason.DATABASE_NOT_A_NODE


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """A SQLite database without the node's tables is not a node's."""
    path = tmp_path / "other.db"
    SqliteDatabase(path).run("CREATE TABLE peers (id TEXT)")
    error = refused(path)
    assert error.reason is Reason.DATABASE_NOT_A_NODE
    assert "Stigmem" in error.message
