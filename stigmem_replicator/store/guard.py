"""What must be true of a SQLite file for it to be written: the same file, writable, with room.

A database that is restored or moved while we have it open leaves us with the old file, whose
log still lies beside the new one under the name that the new one uses.  So the file is looked at
before a connection touches it and inside every transaction that writes.  It is not for a
database that a server keeps: its files are the server's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Engine, event

from stigmem_replicator.errors import LocalError, Reason

MIB: Final = 2**20
_NOTHING_MORE: Final = "nothing of the page in flight was written"


Identity: TypeAlias = tuple[int, int]
"""What tells a file from another one of its name: device and inode."""


@dataclass(frozen=True, slots=True)
class Files:
    """The database file and its write-ahead log as they were in use; None for what was not."""

    database: Identity | None
    log: Identity | None


class FileGuard:
    """The database file as it was when it was opened; make it before opening the database.

    The write-ahead log is known from the first transaction on.  While our connection is open
    nobody removes it in good order.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)
        self._log: Identity | None = None

    @property
    def files(self) -> Files:
        """The files that are guarded."""
        return Files(self._identity, self._log)

    def refuse_log_of(self, before: Files) -> None:
        """Check that a file that took another's place does not stand beside the other's log.

        Opening it would read that log into it.  Raises :class:`LocalError`.
        """
        left = before.log is not None and _identity(self._log_path) == before.log
        if left and self._identity != before.database:
            raise LocalError(
                Reason.DATABASE_REPLACED,
                f"the database {self._path} was replaced by another file, and the log of the "
                f"file before it still lies beside it: {self._log_path}",
                hint=f"remove {self._log_path} and {self._path}-shm, which are no part of the new "
                "file, or put the old file back; stop the node meanwhile",
            )

    def watch(self, engine: Engine, *, writes: bool) -> None:
        """Have ``engine`` open, and where it ``writes`` change, this file only.

        From here on its connections and transactions raise :class:`LocalError` instead.
        """

        def on_connect(_connection: Any, _record: Any) -> None:  # noqa: ANN401 - the driver's own
            self.check_identity()
            if writes:
                self._log = None

        def on_transaction(_connection: Connection) -> None:
            self.check()
            if self._log is None:
                self._log = _identity(self._log_path)

        # First of all: a first statement would already mend the old file's log into the new one.
        event.listen(engine, "connect", on_connect, insert=True)
        if writes:
            event.listen(engine, "begin", on_transaction)
            # A transaction takes a while, in which somebody may put another file there.
            event.listen(engine, "commit", on_transaction)

    def check(self) -> None:
        """Raise :class:`LocalError` unless the same file is there and may be written."""
        self.check_identity()
        if not os.access(self._path, os.W_OK):
            raise LocalError(
                Reason.DATABASE_FAILED,
                f"the database {self._path} may only be read",
                hint=f"{_NOTHING_MORE}; make it writable for this user and run the command again",
            )

    def check_identity(self) -> None:
        """Raise :class:`LocalError` unless the same file is there, with the same log."""
        found = _identity(self._path)
        if found is None:
            raise LocalError(
                Reason.DATABASE_REPLACED,
                f"the database {self._path} was removed while it was in use",
                hint=f"{_NOTHING_MORE}; put it back and run the command again",
            )
        if found != self._identity:
            raise LocalError(
                Reason.DATABASE_REPLACED,
                f"the database {self._path} was replaced by another file while it was in use",
                hint=f"{_NOTHING_MORE}; run the command again",
            )
        if self._log is not None and _identity(self._log_path) != self._log:
            raise LocalError(
                Reason.DATABASE_REPLACED,
                f"the log of the database, {self._log_path}, was removed or replaced while it "
                "was in use",
                hint=f"{_NOTHING_MORE}; run the command again",
            )

    @property
    def _log_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}-wal")


def check_free_space(folder: Path, wanted_mib: int) -> None:
    """Raise :class:`LocalError` when the disk of ``folder`` has less free; 0 asks for nothing."""
    if not wanted_mib:
        return
    try:
        disk = os.statvfs(folder)
    except OSError:
        # A folder that is gone is told of by what is done in it.
        return
    # What is kept for the superuser is not counted: the node may not be one.
    free = disk.f_bavail * disk.f_frsize
    if free < wanted_mib * MIB:
        raise LocalError(
            Reason.DISK_LOW,
            f"the disk of {folder} has {free // MIB} MiB free, "
            f"less than the {wanted_mib} MiB of free_space_min_mb",
            hint=f"{_NOTHING_MORE}; free some space, or lower free_space_min_mb",
        )


def disk_full(folder: Path) -> LocalError:
    """Return what it means that a write found no room at all."""
    return LocalError(
        Reason.DISK_LOW,
        f"the disk of {folder} is full",
        hint=f"{_NOTHING_MORE}; free some space and run the command again",
    )


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
