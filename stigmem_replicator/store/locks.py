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
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeAlias

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from stigmem_replicator.errors import LocalError, PeerHeldError, Reason
from stigmem_replicator.store.engine import Database, local_errors
from stigmem_replicator.store.postgres import APPLICATION, NO_WRITE, PostgresSchema

SUFFIX: Final = ".replicator-lock"

DAEMON: Final = 2**31 - 1
"""The number that every running daemon holds, shared with the others; no peer has it."""

Rows: TypeAlias = Sequence[Any]

_ENDED_LOOKS: Final = 60
_ENDED_SECONDS: Final = 0.05
_THIS_SESSION: Final = (
    "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)
# A row for as long as the session is there; asking once more to end it changes nothing.
_END_SESSION: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = %s AND backend_start = %s AND application_name = %s
"""
_TRY_LOCKS: Final = (
    "SELECT number, pg_try_advisory_lock(%s, number) FROM unnest(CAST(%s AS int[])) AS number"
)
_UNLOCK: Final = "SELECT pg_advisory_unlock(%s, number) FROM unnest(CAST(%s AS int[])) AS number"
_UNLOCK_ALL: Final = "SELECT pg_advisory_unlock_all()"
_TRY_SHARED: Final = "SELECT pg_try_advisory_lock_shared(%s, %s)"
_ASK_NOTHING: Final = "SELECT 1"


class PeerLocks(ABC):
    """The peers that this process works on, and whether it is a daemon; make one per process.

    As a context manager it frees them all at the end.
    """

    may_be_lost: ClassVar[bool]
    """Whether a lock can be lost while its holder lives, so that :meth:`confirm` is of use."""

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

        Raises :class:`LocalError` when locking is not possible.
        """
        return bool(self.take_all([number]))

    @abstractmethod
    def take_all(self, numbers: Iterable[int]) -> set[int]:
        """Try to lock peers, without waiting, and return those that were locked now.

        Raises :class:`LocalError` when locking is not possible; then none of them is locked.
        """

    def free(self, number: int) -> None:
        """Free a peer, if this process holds it."""
        self.free_all([number])

    @abstractmethod
    def free_all(self, numbers: Iterable[int]) -> None:
        """Free those of these peers that this process holds."""

    @abstractmethod
    def confirm(self) -> None:
        """Find out which peers are still ours, as :meth:`holds` then says.

        Raises :class:`LocalError` when that cannot be told.
        """

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

    may_be_lost = False

    def __init__(self, database: Path) -> None:
        self._path = lock_file(database)
        self._file: int | None = None
        self._held: set[int] = set()

    def take_all(self, numbers: Iterable[int]) -> set[int]:
        """Try to lock peers, without waiting, and return those that were locked now.

        Raises :class:`LocalError` when the lock file cannot be opened or locked; then none of
        them is locked.
        """
        taken: set[int] = set()
        try:
            for number in numbers:
                if number not in self._held and self._locked(number, fcntl.LOCK_EX):
                    self._held.add(number)
                    taken.add(number)
        except LocalError:
            # Nobody would work on them, and nobody else could.
            self.free_all(taken)
            raise
        return taken

    def free_all(self, numbers: Iterable[int]) -> None:
        """Free those of these peers that this process holds."""
        for number in numbers:
            if self._file is not None and number in self._held:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
                self._held.discard(number)

    def confirm(self) -> None:
        """Do nothing: what was locked is ours until it is freed."""

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

    may_be_lost = True

    def __init__(self, database: Database, backend: PostgresSchema) -> None:
        self._database = database
        self._space = backend.lock_space
        self._held: set[int] = set()
        self._announced = False
        self._seen = False
        """Whether what was announced can be seen: not while another process changes our tables."""
        self._session: tuple[int, datetime] | None = None
        event.listen(database.write, "connect", self._on_connect)

    def take_all(self, numbers: Iterable[int]) -> set[int]:
        """Try to lock peers, without waiting, and return those that were locked now.

        Raises :class:`LocalError` when the database cannot be reached; then none of them is
        locked.
        """
        wanted = set(numbers) - self._held
        if not wanted:
            return set()
        with local_errors(self._database):
            taken = _granted(self._asked(_TRY_LOCKS, self._space, sorted(wanted)))
        self._held |= taken
        return taken

    def free_all(self, numbers: Iterable[int]) -> None:
        """Free those of these peers that this process holds."""
        freed = self._held.intersection(numbers)
        if freed:
            # First, so that a session begun anew does not take them again.
            self._held -= freed
            self._unlock(_UNLOCK, self._space, sorted(freed))

    def confirm(self) -> None:
        """Find out which peers are still ours, as :meth:`holds` then says.

        A session that was lost is replaced.  Raises :class:`LocalError` when the database cannot
        be reached.
        """
        if not self._held and not self._announced:
            return
        with local_errors(self._database):
            try:
                self._asked(_ASK_NOTHING)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                self._asked(_ASK_NOTHING)  # in a new session, which begins with its locks
            if self._announced and not self._seen:
                self._seen = self._is_seen()

    def holds(self, number: int) -> bool:
        """Say whether the peer is still ours: not when another process took it meanwhile."""
        return number in self._held

    def announce(self) -> None:
        """Let it be seen, until the locks are closed, that a daemon runs; others may run too.

        Raises :class:`LocalError` when the database cannot be reached, and
        :class:`PeerHeldError` while another process changes our tables.
        """
        if self._announced:
            return
        with local_errors(self._database):
            if not self._is_seen():
                raise _changing()
        self._announced = self._seen = True

    def close(self) -> None:
        """Free every peer, and take back what was announced."""
        event.remove(self._database.write, "connect", self._on_connect)
        if self._held or self._announced:
            self._held.clear()
            self._announced = self._seen = False
            self._unlock(_UNLOCK_ALL)

    def _is_seen(self) -> bool:
        ((granted,),) = self._asked(_TRY_SHARED, self._space, DAEMON)
        return bool(granted)

    def _unlock(self, statement: str, *values: object) -> None:
        # A session that cannot be asked is not used again: its locks fall with it.
        with suppress(LocalError), local_errors(self._database):
            self._asked(statement, *values)

    def _asked(self, statement: str, *values: object) -> Rows:
        """Return the answer to a statement in the session, which keeps what that locks."""
        with self._database.write.connect().execution_options(**{NO_WRITE: True}) as connection:
            try:
                self._know_session(connection)
                return connection.exec_driver_sql(statement, values).all()
            except BaseException:
                # What it locked before it failed is not known: that falls with the session.
                connection.invalidate()
                raise

    def _know_session(self, connection: Connection) -> None:
        """Remember a session that was there before its locks, to be ended when it is lost."""
        if self._session is None:
            pid, began = connection.exec_driver_sql(_THIS_SESSION).one()
            self._session = (pid, began)

    def _on_connect(self, connection: Any, _record: Any) -> None:  # noqa: ANN401 - the driver's own
        """Take the locks of the session before, once the server has ended it."""
        try:
            session = connection.execute(_THIS_SESSION).fetchone()
            if self._session is not None:
                _end(connection, self._session)
            if self._held:
                tried = connection.execute(_TRY_LOCKS, (self._space, sorted(self._held)))
                self._held &= _granted(tried.fetchall())
            if self._announced:
                (self._seen,) = connection.execute(_TRY_SHARED, (self._space, DAEMON)).fetchone()
            connection.commit()
        except BaseException:
            connection.close()
            raise
        self._session = session


def _end(connection: Any, session: tuple[int, datetime]) -> None:  # noqa: ANN401 - the driver's own
    """Have the server end a session, and wait a few seconds at most until it is gone."""
    for _look in range(_ENDED_LOOKS):
        left = connection.execute(_END_SESSION, (*session, APPLICATION)).fetchone()
        # Within a transaction the list of sessions stands still.
        connection.commit()
        if left is None:
            return
        connection.execute("SELECT pg_sleep(%s)", (_ENDED_SECONDS,))


def _granted(rows: Rows) -> set[int]:
    return {number for number, granted in rows if granted}


def _changing() -> PeerHeldError:
    return PeerHeldError(
        Reason.PEER_HELD,
        "another process changes the replicator's tables",
        hint="start again once it is done",
    )
