"""Opening the node's database: connections, pragmas, and whether its schema fits.

A database is opened twice: for reading, and with one connection for writing whose transactions
take the write lock from their first statement on.  Nothing here creates a database file or
changes the node's schema.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store.node_models import (
    Conflict,
    Fact,
    FactAudit,
    FederationAudit,
    NodeBase,
    ReplicationCursor,
)

_LIBRARY: Final = (3, 35, 0)
_HEADER: Final = b"SQLite format 3\x00"
_WRITTEN: Final = (Fact, Conflict, FactAudit, FederationAudit, ReplicationCursor)
_LOCK_WORDS: Final = ("database is locked", "database table is locked", "database schema is locked")


@dataclass(frozen=True, slots=True)
class Database:
    """One opened database of a node.

    ``read`` serves snapshots; ``write`` has a single connection whose transactions hold the
    write lock.
    """

    path: Path
    read: Engine
    write: Engine

    def close(self) -> None:
        """Close all connections."""
        self.read.dispose()
        self.write.dispose()


def open_database(path: Path, *, timeout_s: float) -> Database:
    """Open a node's SQLite database and check that it can be shared.

    ``timeout_s`` is how long a statement waits for a lock.  Raises :class:`LocalError` when the
    file is missing, is not a node's database, or has a schema that does not fit.
    """
    _check_library()
    _check_file(path)
    database = Database(
        path=path,
        read=_engine(path, timeout_s, begin="BEGIN", connections=8),
        write=_engine(path, timeout_s, begin="BEGIN IMMEDIATE", connections=1),
    )
    try:
        with reading(database) as connection:
            _check_schema(connection, path)
    except BaseException:
        database.close()
        raise
    return database


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
    if start != _HEADER:
        raise LocalError(
            Reason.DATABASE_NOT_A_NODE,
            f"{path} is not a SQLite database",
            hint="an encrypted database cannot be shared; else name another file with --db",
        )


def _engine(path: Path, timeout_s: float, *, begin: str, connections: int) -> Engine:
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=timeout_s, check_same_thread=False)

    engine = create_engine(
        "sqlite+pysqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=timeout_s + 30.0,
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:  # noqa: ANN401 - the driver's own
        # The driver would begin a deferred transaction of its own; ours are begun below.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")
        # Our commits need not reach the disk at once: the log is kept in order, so a power cut
        # can take back our newest pages with their cursor, but nothing that came before them,
        # and what the node commits after a page brings the page to the disk with it.
        connection.execute("PRAGMA synchronous=NORMAL")
        # Moving the log into the database takes longer than a batch and needs no write lock:
        # the writer does it between its transactions.
        connection.execute("PRAGMA wal_autocheckpoint=0")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def reading(database: Database) -> Iterator[Connection]:
    """Yield a connection that sees one snapshot; database trouble becomes :class:`LocalError`."""
    with local_errors(database.path), database.read.connect() as connection:
        yield connection


@contextmanager
def writing(database: Database) -> Iterator[Connection]:
    """Yield a connection in a transaction that holds the write lock, committed at the end."""
    with local_errors(database.path), database.write.begin() as connection:
        yield connection


def checkpoint_log(database: Database) -> None:
    """Move the write-ahead log into the database as far as readers allow; takes no write lock.

    What was committed is safe without it, so a failure is left for the next transaction to meet.
    """
    with local_errors(database.path):
        connection = database.write.raw_connection()
        try:
            with suppress(sqlite3.Error):
                connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            connection.close()


@contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn a driver's error into :class:`LocalError` with a reason."""
    try:
        yield
    except PoolTimeoutError as error:
        raise LocalError(
            Reason.DATABASE_LOCKED, f"no connection to {path} came free in time"
        ) from error
    except OperationalError as error:
        raise _local_error(path, error) from error
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.DatabaseError):
            raise _local_error(path, error) from error
        raise


def _local_error(path: Path, error: DBAPIError) -> LocalError:
    words = str(error.orig)
    if any(part in words for part in _LOCK_WORDS):
        return LocalError(
            Reason.DATABASE_LOCKED,
            f"the database {path} stayed locked by another process",
            hint="find the process that holds a transaction open, or raise database_timeout_s",
        )
    if "not a database" in words or "malformed" in words:
        return LocalError(Reason.DATABASE_NOT_A_NODE, f"{path} is damaged or encrypted: {words}")
    return LocalError(
        Reason.DATABASE_FAILED,
        f"the database {path} failed: {words}",
        hint="nothing of the page in flight was written; run the command again when it is mended",
    )


def _check_schema(connection: Connection, path: Path) -> None:
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    if not {"peers", "facts", "node_meta", "schema_migrations"} <= tables:
        raise LocalError(
            Reason.DATABASE_NOT_A_NODE,
            f"{path} is a SQLite database, but not one of a Stigmem node",
            hint="start the node once so that it creates its tables, or name another with --db",
        )
    newest = connection.execute(text("SELECT max(version) FROM schema_migrations")).scalar()
    columns = {
        table: {column["name"]: column for column in inspector.get_columns(table)}
        for table in NodeBase.metadata.tables
        if table in tables
    }
    if "origin_sig" not in columns["facts"]:
        raise LocalError(
            Reason.SCHEMA_UNSUPPORTED,
            f"the node's schema in {path} ends at migration {newest}: it speaks wire version 1",
            hint="upgrade the node to 0.9.0a12; wire version 1 is not supported yet",
        )
    for name, table in NodeBase.metadata.tables.items():
        missing = set(table.columns.keys()) - set(columns.get(name, {}))
        if missing:
            raise LocalError(
                Reason.SCHEMA_UNSUPPORTED,
                f"the node's schema in {path} (newest migration {newest}) lacks "
                f"{', '.join(f'{name}.{column}' for column in sorted(missing))}",
                hint="this version of stigmem-replicate knows the schema of stigmem-node 0.9.0a12",
            )
    for model in _WRITTEN:
        for name, column in columns[model.__tablename__].items():
            demanded = not column["nullable"] and column["default"] is None
            if demanded and name not in model.__table__.columns:
                raise LocalError(
                    Reason.SCHEMA_UNSUPPORTED,
                    f"the node's schema in {path} (newest migration {newest}) demands "
                    f"{model.__tablename__}.{name}, which this version does not know",
                    hint="install a stigmem-replicate that knows this version of the node",
                )
