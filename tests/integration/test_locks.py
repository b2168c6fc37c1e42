"""Who works on a peer: locks between processes that die with their holder."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store.locks import DAEMON, SUFFIX, FileLocks
from tests.nodes.environment import REPOSITORY

HOLD = """
import sys
from pathlib import Path
from stigmem_replicator.store.locks import FileLocks
locks = FileLocks(Path(sys.argv[1]))
print(*(locks.take(int(number)) for number in sys.argv[2:]), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(database: Path, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds peers until its standard input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database), *(str(number) for number in numbers)],
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


@pytest.fixture
def locks(tmp_path: Path) -> Iterator[FileLocks]:
    with FileLocks(tmp_path / "node.db") as made:
        yield made


def test_a_peer_is_held_by_one_process(tmp_path: Path, locks: FileLocks) -> None:
    """While another process holds a peer it cannot be taken, and other peers can."""
    with another_process(tmp_path / "node.db", 1, 7):
        assert not locks.take(1)
        assert not locks.take(7)
        assert locks.take(2)
        assert locks.take(8)


def test_a_killed_process_frees_its_peers(tmp_path: Path, locks: FileLocks) -> None:
    """The kernel frees the lock at once, without a lease that would have to run out."""
    with another_process(tmp_path / "node.db", 1) as process:
        assert not locks.take(1)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        assert locks.take(1)


def test_a_stopped_process_keeps_its_peers(tmp_path: Path, locks: FileLocks) -> None:
    """A process that only stands still is still the holder."""
    with another_process(tmp_path / "node.db", 1) as process:
        process.send_signal(signal.SIGSTOP)
        assert not locks.take(1)
        process.send_signal(signal.SIGCONT)


def test_a_freed_peer_can_be_taken_by_another_process(tmp_path: Path, locks: FileLocks) -> None:
    """Freeing one peer keeps the others."""
    assert locks.take(1)
    assert locks.take(2)
    locks.free(1)
    with another_process(tmp_path / "node.db", 1):
        assert not locks.take(1)
    assert not locks.take(2)


def test_a_closed_file_frees_every_peer(tmp_path: Path) -> None:
    """A command that ends leaves nothing held."""
    with FileLocks(tmp_path / "node.db") as first:
        assert first.take(1)
    with another_process(tmp_path / "node.db", 1):
        pass


def test_the_same_process_cannot_take_a_peer_twice(locks: FileLocks) -> None:
    """The kernel would allow it, so the process itself remembers what it holds."""
    assert locks.take(1)
    assert not locks.take(1)
    locks.free(1)
    assert locks.take(1)


def test_peers_are_taken_and_freed_together(tmp_path: Path, locks: FileLocks) -> None:
    """Those that another process holds are left out, and those that we hold already."""
    with another_process(tmp_path / "node.db", 1, 7):
        assert locks.take(2)
        assert locks.take_all(range(1, 9)) == {3, 4, 5, 6, 8}
        locks.confirm()
        locks.free_all([1, 2, 3])
        assert [number for number in range(1, 9) if locks.holds(number)] == [4, 5, 6, 8]
    with another_process(tmp_path / "node.db", 2, 3):
        pass


def test_where_one_cannot_be_locked_none_is(tmp_path: Path, locks: FileLocks) -> None:
    """Nobody would work on the others, and nobody else could; what was held before is kept."""
    assert locks.take(4)
    with pytest.raises(LocalError, match="cannot be locked"):
        locks.take_all([1, 2, -1, 3])
    assert [number for number in range(1, 5) if locks.holds(number)] == [4]
    with another_process(tmp_path / "node.db", 1, 2, 3):
        pass


def test_announcing_a_daemon_keeps_the_peers(tmp_path: Path, locks: FileLocks) -> None:
    """It locks a number that no peer has, as often as it is said, and frees none."""
    assert locks.take(1)
    locks.announce()
    locks.announce()
    assert not locks.holds(DAEMON)
    locks.free(1)
    with another_process(tmp_path / "node.db", 1):
        assert not locks.take(1)


def test_without_a_lock_no_file_is_made(tmp_path: Path) -> None:
    """A command that locks nothing leaves nothing beside the database."""
    with FileLocks(tmp_path / "node.db") as locks:
        locks.free(1)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_lies_beside_the_database_itself(tmp_path: Path) -> None:
    """Two names of one database share their locks, and only the owner may open the file."""
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "node.db"
    real.touch()
    link = tmp_path / "link.db"
    link.symlink_to(real)
    with FileLocks(link) as locks:
        assert locks.take(1)
        file = real.with_name("node.db" + SUFFIX)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with another_process(real, 3):
            assert not locks.take(3)


def test_a_lock_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Without the lock nothing is pulled."""
    locks = FileLocks(tmp_path / "missing" / "node.db")
    for lock in (lambda: locks.take(1), locks.announce):
        with pytest.raises(LocalError) as caught:
            lock()
        assert caught.value.reason is Reason.DATABASE_FAILED
