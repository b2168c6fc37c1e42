"""A SQLite file that is replaced while we have it open, and the room on its disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store.engine import Database, open_database, reading, writing
from stigmem_replicator.store.guard import check_free_space
from tests.nodes.database import SqliteDatabase

INSERT = "INSERT INTO node_meta (key, value) VALUES ('guarded', '1')"
COUNT = "SELECT count(*) FROM node_meta WHERE key = 'guarded'"


@pytest.fixture
def opened(node_path: Path) -> Database:
    return open_database(node_path, timeout_s=1.0)


def put_another(path: Path) -> Path:
    """Put a copy in the place of a file, and return where the file is now."""
    old = path.with_name("old.db")
    copy = path.with_name("copy.db")
    shutil.copyfile(path, copy)
    for side in ("", "-wal", "-shm"):
        beside = path.with_name(f"{path.name}{side}")
        if beside.exists():
            beside.rename(old.with_name(f"{old.name}{side}"))
    copy.rename(path)
    return old


def remove(path: Path) -> Path:
    return path.rename(path.with_name("old.db"))


@pytest.mark.parametrize("change", [put_another, remove])
def test_a_transaction_is_not_begun_on_another_file(
    opened: Database, node_path: Path, change: Callable[[Path], Path]
) -> None:
    """The connection of the old file is still open, and is not written through any more."""
    with writing(opened) as connection:
        connection.execute(text("SELECT 1"))
    old = change(node_path)
    with pytest.raises(LocalError) as caught, writing(opened):
        pytest.fail("a transaction was begun")
    assert caught.value.reason is Reason.DATABASE_REPLACED
    assert str(node_path) in caught.value.message
    opened.close()
    assert SqliteDatabase(old).query(COUNT) == [(0,)]


def write_twice(database: Database) -> None:
    for _ in range(2):
        with writing(database) as connection:
            connection.execute(text("UPDATE node_meta SET value = value"))


def test_nothing_is_written_into_a_log_that_was_removed(opened: Database, node_path: Path) -> None:
    """Others would not see it, and the next checkpoint would write it over what they did."""
    write_twice(opened)
    log = node_path.with_name(f"{node_path.name}-wal")
    log.unlink()
    with pytest.raises(LocalError) as caught, writing(opened):
        pytest.fail("a transaction was begun")
    assert caught.value.reason is Reason.DATABASE_REPLACED
    assert str(log) in caught.value.message
    opened.close()


def test_a_file_beside_the_log_of_the_one_before_is_not_opened(
    opened: Database, node_path: Path
) -> None:
    """SQLite would read that log into it; the file itself, put back, goes on with its log."""
    write_twice(opened)
    assert opened.guard is not None
    before = opened.guard.files
    aside, copy = node_path.with_name("old.db"), node_path.with_name("copy.db")
    shutil.copyfile(node_path, copy)
    node_path.rename(aside)
    copy.rename(node_path)
    with pytest.raises(LocalError) as caught:
        open_database(node_path, timeout_s=1.0, before=before)
    assert caught.value.reason is Reason.DATABASE_REPLACED
    assert f"{node_path}-wal" in caught.value.hint
    aside.rename(node_path)
    open_database(node_path, timeout_s=1.0, before=before).close()
    opened.close()


def test_opened_anew_it_is_still_locked_against_the_last_one_out(node_path: Path) -> None:
    """Closing a descriptor of a file drops this process's locks on it; then others remove the log.

    https://www.sqlite.org/howtocorrupt.html, 2.2: it is what a reload does while a thread reads.
    """
    first = open_database(node_path, timeout_s=1.0)
    assert first.guard is not None
    with reading(first) as connection:
        connection.execute(text(COUNT))
        with writing(first) as writer:
            writer.execute(text(INSERT))
        second = open_database(node_path, timeout_s=1.0, before=first.guard.files)
        come_and_go(node_path)
        write_twice(first)
        write_twice(second)
    first.close()
    second.close()
    assert SqliteDatabase(node_path).query(COUNT) == [(1,)]


def come_and_go(path: Path) -> None:
    """Have another process open a database, read it and close it."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.close()"
    )
    subprocess.run(
        [sys.executable, "-c", f"{code}; c.close()", path, COUNT], check=True, timeout=60
    )


def test_what_reads_while_it_is_closed_leaves_nothing_open(
    opened: Database, node_path: Path
) -> None:
    """Nor does what reads later: it is closed when it is done."""

    def descriptors() -> list[str]:
        found = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return [name for each in found if (name := str(each.readlink())).startswith(str(node_path))]

    with reading(opened) as connection:
        connection.execute(text(COUNT))
        opened.close()
        connection.execute(text(COUNT))
        assert descriptors()
    assert not descriptors()
    with reading(opened) as connection:
        connection.execute(text(COUNT))
    assert not descriptors()


def test_a_transaction_is_not_committed_when_the_file_was_replaced_in_it(
    opened: Database, node_path: Path
) -> None:
    """What was inserted before is rolled back in the old file, and never comes into the new."""

    def replaced_within() -> None:
        with writing(opened) as connection:
            connection.execute(text(INSERT))
            put_another(node_path)

    with pytest.raises(LocalError) as caught:
        replaced_within()
    assert caught.value.reason is Reason.DATABASE_REPLACED
    opened.close()
    for path in (node_path.with_name("old.db"), node_path):
        assert SqliteDatabase(path).query(COUNT) == [(0,)]


def test_a_new_connection_does_not_touch_another_file(opened: Database, node_path: Path) -> None:
    """Reading would already mend a log that lies beside a file into it."""
    opened.read.dispose()
    put_another(node_path)
    with pytest.raises(LocalError) as caught, reading(opened):
        pytest.fail("the other file was opened")
    assert caught.value.reason is Reason.DATABASE_REPLACED
    opened.close()


def test_the_same_file_under_the_same_name_again_is_fine(opened: Database, node_path: Path) -> None:
    """A file that was away for a while, and came back, is written as before."""
    old = remove(node_path)
    with pytest.raises(LocalError), writing(opened):
        pytest.fail("a transaction was begun")
    old.rename(node_path)
    with writing(opened) as connection:
        connection.execute(text(INSERT))
    opened.close()
    assert SqliteDatabase(node_path).query(COUNT) == [(1,)]


def test_free_space(tmp_path: Path) -> None:
    """Less than is wanted is a failure that names the folder and both numbers; 0 wants nothing."""
    check_free_space(tmp_path, 0)
    check_free_space(tmp_path, 1)
    with pytest.raises(LocalError) as caught:
        check_free_space(tmp_path, 10**9)
    assert caught.value.reason is Reason.DISK_LOW
    assert caught.value.message.startswith(f"the disk of {tmp_path} has ")
    assert "less than the 1000000000 MiB of free_space_min_mb" in caught.value.message
    # What is done in a folder that is gone says so itself.
    check_free_space(tmp_path / "gone", 10**9)
