"""Who works on a peer, and that a daemon runs: locks that die with their holder.

There is no lease and nothing to renew.  Who holds a lock is written in the table for people to
read and decides nothing.  Whether a daemon runs is asked in ``presence``, without a lock.

On SQLite, whose users share a host, it is a byte-range lock of the operating system on a file
beside the database; the byte is the peer's number.  The kernel frees it when the process ends,
however it ends.  On PostgreSQL it is an advisory lock of the session that writes: when that
session is lost, its locks and its open transaction are lost together.
"""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from stigmem_replicator.errors import LocalError, PeerHeldError, Reason
from stigmem_replicator.store.engine import Database, local_errors
from stigmem_replicator.store.postgres import APPLICATION, NO_WRITE, PostgresSchema

SUFFIX: Final = ".replicator-lock"

DAEMON: Final = 2**31 - 1
"""The number that every running daemon holds, shared with the others; no peer has it."""

_RETAKE_ATTEMPTS: Final = 50
_RETAKE_SECONDS: Final = 0.1
_THIS_SESSION: Final = (
    "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)
_END_SESSION: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = %s AND backend_start = %s AND application_name = %s
"""
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(%s, %s)"
_TRY_SHARED: Final = "SELECT pg_try_advisory_lock_shared(%s, %s)"


class PeerLocks(ABC):
    """The peers that this process works on, and whether it is a daemon; make one per process.

    As a context manager it frees them all at the end.
    """

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

    @abstractmethod
    def take(self, number: int) -> bool:
        """Try to lock a peer, without waiting; False when another process holds it.

        Raises :class:`LocalError` when locking is not possible.
        """

    @abstractmethod
    def free(self, number: int) -> None:
        """Free a peer that this process holds."""

    @abstractmethod
    def holds(self, number: int) -> bool:
        """Say whether the peer is still ours."""

    @abstractmethod
    def announce(self) -> None:
        """Let it be seen, until the locks are closed, that a daemon runs; others may run too.

        Raises :class:`LocalError` when locking is not possible, and :class:`PeerHeldError` while
        another process changes our tables.
        """

    @abstractmethod
    def close(self) -> None:
        """Free every peer, and take back what was announced."""


def lock_file(database: Path) -> Path:
    """Return where the lock file of a SQLite database is: beside the file itself, not a link."""
    return database.resolve().with_name(database.resolve().name + SUFFIX)


def make_locks(database: Database) -> PeerLocks:
    """Return the locks of a database's peers, of the kind that it takes."""
    if isinstance(database.backend, PostgresSchema):
        return SessionLocks(database, database.backend)
    assert database.path is not None  # noqa: S101 - there are two kinds
    return FileLocks(database.path)


class FileLocks(PeerLocks):
    """Locks on a file beside a SQLite database.

    Locks of this kind belong to the process and fall when any descriptor of the file is closed,
    so the file is opened once, with the first lock, and closed last.
    """

    def __init__(self, database: Path) -> None:
        self._path = lock_file(database)
        self._file: int | None = None
        self._held: set[int] = set()

    def take(self, number: int) -> bool:
        """Try to lock a peer, without waiting; False when another process holds it.

        Raises :class:`LocalError` when the lock file cannot be opened.
        """
        if number in self._held or not self._locked(number, fcntl.LOCK_EX):
            return False
        self._held.add(number)
        return True

    def free(self, number: int) -> None:
        """Free a peer that this process holds."""
        if self._file is not None and number in self._held:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
            self._held.discard(number)

    def holds(self, number: int) -> bool:
        """Say whether the peer is still ours: what was locked is ours until it is freed."""
        return number in self._held

    def announce(self) -> None:
        """Let it be seen, until the file is closed, that a daemon runs; others may run too.

        Raises :class:`LocalError` when the lock file cannot be opened, and
        :class:`PeerHeldError` while another process changes our tables.
        """
        if not self._locked(DAEMON, fcntl.LOCK_SH):
            raise _changing()

    def close(self) -> None:
        """Free every peer and close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._held.clear()

    def _locked(self, number: int, kind: int) -> bool:
        if self._file is None:
            self._file = self._opened()
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise LocalError(
                Reason.DATABASE_FAILED,
                f"the lock file {self._path} cannot be locked: {error.strerror}",
                hint="keep the database on a local disk",
            ) from error
        return True

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalError(
                Reason.DATABASE_FAILED,
                f"the lock file {self._path} cannot be opened: {error.strerror}",
                hint="run as the user that runs the node",
            ) from error


class SessionLocks(PeerLocks):
    """Advisory locks of the one session that writes to a PostgreSQL database.

    When that session is lost, the next one ends it at the server and takes its locks again
    before it is used for anything.  A peer that another process took first is no longer held.
    """

    def __init__(self, database: Database, backend: PostgresSchema) -> None:
        self._database = database
        self._space = backend.lock_space
        self._held: set[int] = set()
        self._announced = False
        self._session: tuple[int, datetime] | None = None
        event.listen(database.write, "connect", self._on_connect)

    def take(self, number: int) -> bool:
        """Try to lock a peer, without waiting; False when another process holds it.

        Raises :class:`LocalError` when the database cannot be reached.
        """
        if number in self._held or not self._call("pg_try_advisory_lock", number):
            return False
        self._held.add(number)
        return True

    def free(self, number: int) -> None:
        """Free a peer that this process holds."""
        if number in self._held:
            self._held.discard(number)
            self._call("pg_advisory_unlock", number)

    def holds(self, number: int) -> bool:
        """Say whether the peer is still ours: not when another process took it meanwhile."""
        return number in self._held

    def announce(self) -> None:
        """Let it be seen, until the locks are closed, that a daemon runs; others may run too.

        Raises :class:`LocalError` when the database cannot be reached, and
        :class:`PeerHeldError` while another process changes our tables.
        """
        if not self._announced and not self._call("pg_try_advisory_lock_shared", DAEMON):
            raise _changing()
        self._announced = True

    def close(self) -> None:
        """Free every peer, and take back what was announced."""
        event.remove(self._database.write, "connect", self._on_connect)
        for number in tuple(self._held):
            with suppress(LocalError, DBAPIError):
                self.free(number)
        if self._announced:
            self._announced = False
            with suppress(LocalError, DBAPIError):
                self._call("pg_advisory_unlock_shared", DAEMON)

    def _call(self, function: str, number: int) -> bool:
        with (
            local_errors(self._database),
            self._database.write.connect().execution_options(**{NO_WRITE: True}) as connection,
        ):
            statement = text(f"SELECT {function}(:space, :number)")
            peer = {"space": self._space, "number": number}
            granted: bool = connection.execute(statement, peer).scalar_one()
            return granted

    def _on_connect(self, connection: Any, _record: Any) -> None:  # noqa: ANN401 - the driver's own
        """Take the locks of the session before, once the server has ended it."""
        before, self._session = self._session, connection.execute(_THIS_SESSION).fetchone()
        if (self._held or self._announced) and before is not None:
            connection.execute(_END_SESSION, (*before, APPLICATION))
        for number in tuple(self._held):
            if not self._retaken(connection, _TRY_LOCK, number):
                self._held.discard(number)
        # Who changes our tables keeps it from us; the next connection announces it again.
        if self._announced:
            self._retaken(connection, _TRY_SHARED, DAEMON)
        connection.commit()

    def _retaken(
        self,
        connection: Any,  # noqa: ANN401 - the driver's own
        try_lock: str,
        number: int,
    ) -> bool:
        for _attempt in range(_RETAKE_ATTEMPTS):
            (granted,) = connection.execute(try_lock, (self._space, number)).fetchone()
            if granted:
                return True
            connection.execute("SELECT pg_sleep(%s)", (_RETAKE_SECONDS,))
        return False


def _changing() -> PeerHeldError:
    return PeerHeldError(
        Reason.PEER_HELD,
        "another process changes the replicator's tables",
        hint="start again once it is done",
    )
