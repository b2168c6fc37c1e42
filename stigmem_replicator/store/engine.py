"""Opening the node's database, of either kind, and speaking to it.

A database is opened twice: for reading, and with one connection for writing whose transactions
hold the write lock from their first statement on.  What SQLite and PostgreSQL do differently
stands in ``sqlite`` and ``postgres``.  Nothing here creates a database or changes the node's
schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import schema as node_schema
from stigmem_replicator.store.fallen import Refusal
from stigmem_replicator.store.guard import FileGuard, Files
from stigmem_replicator.store.postgres import PostgresSchema
from stigmem_replicator.store.schema import NodeSchema
from stigmem_replicator.store.sqlite import SqliteFile


class Backend(Protocol):
    """What a kind of database does in its own way; see ``sqlite`` and ``postgres``."""

    @property
    def name(self) -> str:
        """The database as messages name it, without secrets."""

    @property
    def stores_nul(self) -> bool:
        """Whether a text may hold a NUL."""

    def check(self, before: Files | None) -> None:
        """Check what can be checked before a connection is made.

        ``before`` are the files that this process had open under the same name.
        """

    def reader(self) -> Engine:
        """Return an engine whose transactions see one snapshot."""

    def writer(self) -> Engine:
        """Return an engine with one connection, whose transactions hold the write lock."""

    def version(self, connection: Connection) -> int:
        """Return a number that changes when somebody else's commit delayed us."""

    def check_room(self, wanted_mib: int) -> None:
        """Check that so many MiB are free for writing.  Raises :class:`LocalError`."""

    def tidy(self, writer: Engine) -> None:
        """Do what is better done between transactions than in them."""

    def refusal(self, error: DBAPIError) -> Refusal | None:
        """Return what of a batch the database did not take, None when it is out of order."""

    def failure(self, error: DBAPIError) -> LocalError | None:
        """Return what a driver's error means, None when it is no trouble of the database."""


@dataclass(frozen=True, slots=True)
class Database:
    """One opened database of a node.

    ``read`` serves snapshots; ``write`` has a single connection whose transactions hold the
    write lock.  ``schema`` is what was found of the node's schema.
    """

    backend: Backend
    read: Engine
    write: Engine
    schema: NodeSchema

    @property
    def name(self) -> str:
        """The database as messages name it, without secrets."""
        return self.backend.name

    @property
    def path(self) -> Path | None:
        """The SQLite file; None when the database is none."""
        return self.backend.path if isinstance(self.backend, SqliteFile) else None

    @property
    def guard(self) -> FileGuard | None:
        """What sees that the SQLite file stays the same; None when the database is none."""
        return self.backend.guard if isinstance(self.backend, SqliteFile) else None

    def close(self) -> None:
        """Close all connections; what a thread still uses is closed when it is done."""
        for engine in (self.read, self.write):
            event.listen(engine.pool, "checkin", _close)
            engine.dispose()


def open_database(
    location: Path | str,
    *,
    timeout_s: float,
    schema: str = "public",
    before: Files | None = None,
) -> Database:
    """Open a node's database and check that it can be shared.

    ``location`` is a path of a SQLite file, or as text what libpq takes to find a PostgreSQL
    database (a URL or ``key=value`` pairs), in which the node's tables stand in ``schema``;
    ``timeout_s`` is how long a statement waits for a lock.  ``before`` are the files that this
    process had open under the same name.  Raises
    :class:`LocalError` when there is no such database, it is not a node's, or its schema does
    not fit.
    """
    backend: Backend
    if isinstance(location, Path):
        backend = SqliteFile(location, timeout_s, FileGuard(location))
    else:
        backend = PostgresSchema(location, schema, timeout_s)
    backend.check(before)
    read, write = backend.reader(), backend.writer()
    try:
        with _errors_of(backend), read.connect() as connection:
            found = node_schema.check(connection, backend.name)
    except BaseException:
        read.dispose()
        write.dispose()
        raise
    return Database(backend, read, write, found)


@contextmanager
def reading(database: Database) -> Iterator[Connection]:
    """Yield a connection that sees one snapshot; database trouble becomes :class:`LocalError`."""
    with local_errors(database), database.read.connect() as connection:
        yield connection


@contextmanager
def writing(database: Database) -> Iterator[Connection]:
    """Yield a connection in a transaction that holds the write lock, committed at the end."""
    with local_errors(database), database.write.begin() as connection:
        yield connection


def tidy(database: Database) -> None:
    """Do what the database wants done between transactions; takes no write lock."""
    with local_errors(database):
        database.backend.tidy(database.write)


def _close(_connection: object, entry: ConnectionPoolEntry) -> None:
    entry.close()


def local_errors(database: Database) -> AbstractContextManager[None]:
    """Turn a driver's error into :class:`LocalError` with a reason."""
    return _errors_of(database.backend)


@contextmanager
def _errors_of(backend: Backend) -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise LocalError(
            Reason.DATABASE_LOCKED, f"no connection to {backend.name} came free in time"
        ) from error
    except DBAPIError as error:
        failure = backend.failure(error)
        if failure is None:
            raise
        raise failure from error
