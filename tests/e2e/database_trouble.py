"""Trouble with a node's SQLite file, made on purpose: a lock, no right, no room, another file.

What a command should do about it is for the tests to say.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

MIB: Final = 2**20
DISK_MIB: Final = 24
SIDES: Final = ("", "-wal", "-shm")
"""What SQLite's files of one database end in."""


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the database's write lock."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.rollback()


def bound_by_permissions() -> tuple[str, ...]:
    """A command under which file permissions bind the superuser too."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("permissions do not bind the superuser, and there is no setpriv")
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, of 24 MiB; only the superuser can make one."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "stigmem-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Write a file that leaves so many bytes free."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave)
    return filler


def move_away(database: Path, aside: Path) -> None:
    """Rename a database with everything that SQLite keeps beside it."""
    for side in SIDES:
        source = Path(f"{database}{side}")
        if source.exists():
            source.rename(f"{aside}{side}")
