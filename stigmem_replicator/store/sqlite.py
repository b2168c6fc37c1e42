"""A node's database in a SQLite file: its connections, pragmas and errors.

The file is opened as the node opens it and never created.  Who may work on which peer is in
``locks``, whether the schema fits in ``schema``.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store.fallen import Refusal
from stigmem_replicator.store.guard import FileGuard, Files, check_free_space, disk_full

_LIBRARY: Final = (3, 35, 0)
_HEADER: Final = b"SQLite format 3\x00"
_PAGE_SIZE: Final = 512  # of SQLite, the smallest; every other is a multiple
_LOCK_WORDS: Final = ("database is locked", "database table is locked", "database schema is locked")
_READING: Final = "BEGIN"
_WRITING: Final = "BEGIN IMMEDIATE"
_READERS: Final = 8


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """One SQLite file; ``timeout_s`` is how long a statement waits for a lock.

    ``guard`` sees that it stays the same file.
    """

    path: Path
    timeout_s: float
    guard: FileGuard

    stores_nul: ClassVar[bool] = True
    """Whether a text may hold a NUL."""

    @property
    def name(self) -> str:
        """The file as messages name it."""
        return str(self.path)

    def check(self, before: Files | None) -> None:
        """Check library and file before anything is opened.  Raises :class:`LocalError`.

        The file that was open before is not read: a thread may still have it open, and closing
        a descriptor of it would drop the locks that SQLite holds on it.
        """
        _check_library()
        if before is None or self.guard.files.database != before.database:
            _check_file(self.path)
        if before is not None:
            self.guard.refuse_log_of(before)

    def reader(self) -> Engine:
        """Return an engine whose transactions see one snapshot."""
        return self._engine(_READING, _READERS)

    def writer(self) -> Engine:
        """Return an engine with one connection, whose transactions hold the write lock."""
        return self._engine(_WRITING, 1)

    def version(self, connection: Connection) -> int:
        """Return a number that changes when somebody else commits."""
        version: int = connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        return version

    def check_room(self, wanted_mib: int) -> None:
        """Check that so many MiB are free where the file is; 0 asks for nothing."""
        check_free_space(self.path.parent, wanted_mib)

    def tidy(self, writer: Engine) -> None:
        """Move the write-ahead log into the database as far as readers allow; takes no write lock.

        What was committed is safe without it, so a failure is left for the next transaction to
        meet.
        """
        connection = writer.raw_connection()
        try:
            with suppress(sqlite3.Error):
                connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            connection.close()

    def refusal(self, _error: DBAPIError) -> Refusal | None:
        """Return None: nobody writes beside us, and what is checked before fits."""
        return None

    def failure(self, error: DBAPIError) -> LocalError | None:
        """Return what a driver's error means, None when it is no trouble of the database."""
        if not isinstance(error.orig, sqlite3.DatabaseError):
            return None
        words = str(error.orig)
        if any(part in words for part in _LOCK_WORDS):
            return LocalError(
                Reason.DATABASE_LOCKED,
                f"the database {self.path} stayed locked by another process",
                hint="find the process that holds a transaction open, or raise database_timeout_s",
            )
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return disk_full(self.path.parent)
        if "no such table" in words or "no such column" in words:
            return LocalError(
                Reason.SCHEMA_UNSUPPORTED,
                f"the database {self.path} lacks what it had when it was opened: {words}",
                hint="if a backup was put back, run the command again",
            )
        if "not a database" in words or "malformed" in words:
            return LocalError(
                Reason.DATABASE_NOT_A_NODE, f"{self.path} is damaged or encrypted: {words}"
            )
        return LocalError(
            Reason.DATABASE_FAILED,
            f"the database {self.path} failed: {words}",
            hint="nothing of the page in flight was written; run the command again when it is "
            "mended",
        )

    def _engine(self, begin: str, connections: int) -> Engine:
        uri = f"file:{quote(os.fsencode(self.path.absolute()))}?mode=rw"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(uri, uri=True, timeout=self.timeout_s, check_same_thread=False)

        engine = create_engine(
            "sqlite+pysqlite://",
            creator=connect,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=self.timeout_s + 30.0,
        )

        @event.listens_for(engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:  # noqa: ANN401 - the driver's own
            # The driver would begin a deferred transaction of its own; ours are begun below.
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys=ON")
            # Our commits need not reach the disk at once: the log is kept in order, so a power
            # cut can take back our newest pages with their cursor, but nothing that came before
            # them, and what the node commits after a page brings the page to the disk with it.
            connection.execute("PRAGMA synchronous=NORMAL")
            # Moving the log into the database takes longer than a batch and needs no write lock:
            # the writer does it between its transactions.
            connection.execute("PRAGMA wal_autocheckpoint=0")

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        self.guard.watch(engine, writes=begin == _WRITING)
        return engine


def _check_library() -> None:
    options = sqlite3.connect(":memory:").execute("PRAGMA compile_options")
    fts5 = ("ENABLE_FTS5",) in options
    if sqlite3.sqlite_version_info < _LIBRARY or not fts5:
        wanted = ".".join(str(part) for part in _LIBRARY)
        raise LocalError(
            Reason.DATABASE_UNSUPPORTED,
            f"this Python's SQLite library is {sqlite3.sqlite_version} "
            f"{'with' if fts5 else 'without'} FTS5; needed is {wanted} with FTS5",
            hint="use the Python that runs the node",
        )


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_HEADER))
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError as error:
        raise LocalError(
            Reason.DATABASE_MISSING,
            f"there is no database file at {path}",
            hint="name the node's database with --db or STIGMEM_DB_PATH",
        ) from error
    except OSError as error:
        raise LocalError(
            Reason.DATABASE_FAILED,
            f"the database {path} cannot be read: {error.strerror}",
            hint="run as the user that runs the node; the node keeps its database at mode 0600",
        ) from error
    # An encrypted database is pages like another, but begins with random bytes.
    if not start.isascii() and size and size % _PAGE_SIZE == 0:
        raise LocalError(
            Reason.DATABASE_UNSUPPORTED,
            f"the database {path} is encrypted, or damaged: it cannot be shared",
            hint="leave the pulling to the node's own loop, or name another file with --db",
        )
    if start != _HEADER:
        raise LocalError(
            Reason.DATABASE_NOT_A_NODE,
            f"{path} is not a SQLite database",
            hint="name the node's database with --db or STIGMEM_DB_PATH",
        )
