"""Who works on a peer: a lock that dies with its holder.

On SQLite, whose users share a host, it is a byte-range lock of the operating system on a file
beside the database; the byte is the peer's number.  There is no lease and nothing to renew: the
kernel frees the lock when the process ends, however it ends.  Who holds a lock is written in the
table for people to read and decides nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from stigmem_replicator.errors import LocalError, Reason

SUFFIX = ".replicator-lock"


class PeerLocks:
    """The peers that this process works on; make one per process.

    Locks of this kind belong to the process and fall when any descriptor of the file is closed,
    so the file is opened once, with the first lock, and closed last.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.resolve().with_name(database.resolve().name + SUFFIX)
        self._file: int | None = None
        self._held: set[int] = set()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Free every peer."""
        self.close()

    def take(self, number: int) -> bool:
        """Try to lock a peer, without waiting; False when another process holds it.

        Raises :class:`LocalError` when the lock file cannot be opened.
        """
        if number in self._held:
            return False
        if self._file is None:
            self._file = self._opened()
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise LocalError(
                Reason.DATABASE_FAILED,
                f"the lock file {self._path} cannot be locked: {error.strerror}",
                hint="keep the database on a local disk",
            ) from error
        self._held.add(number)
        return True

    def free(self, number: int) -> None:
        """Free a peer that this process holds."""
        if self._file is not None and number in self._held:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
            self._held.discard(number)

    def close(self) -> None:
        """Free every peer and close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._held.clear()

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalError(
                Reason.DATABASE_FAILED,
                f"the lock file {self._path} cannot be opened: {error.strerror}",
                hint="run as the user that runs the node",
            ) from error
