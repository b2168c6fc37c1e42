"""A node's database in PostgreSQL: its connections, the lock of its writers, and errors.

The driver, psycopg, comes with an extra of the package and is imported only here.  The database
and its schema are the node's and never created.  Which process works on which peer is in
``locks``, whether the tables fit in ``schema``.

Locks are PostgreSQL's advisory locks, two numbers each: the first is made of the schema's name,
so that two nodes in one database do not meet; the second is 0 for the one writer at a time and
the peer's number for who works on a peer.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store.fallen import Fallen, Refusal
from stigmem_replicator.store.guard import Files

if TYPE_CHECKING:
    import psycopg

WRITER: Final = 0
"""The second number of the lock of whoever writes."""

NO_WRITE: Final = "no_write"
"""Execution option of a connection that is the writer's and takes no lock to write."""

APPLICATION: Final = "stigmem-replicate"
"""How the server's list of sessions names ours."""

_READERS: Final = 8
# A row of the same key, a serialization failure, a deadlock: somebody wrote beside us.
_CAME_BETWEEN: Final = frozenset({"23505", "40001", "40P01"})
# Values out of range, rows too large for an index: it is the entry that does not fit.
_VALUE_CLASSES: Final = ("22", "54")
_NO_SUCH_TABLE: Final = frozenset({"42P01", "42703"})
_LOCK_NOT_AVAILABLE: Final = "55P03"
# A host that vanishes keeps its peers until the server misses it: after 10 + 3 * 10 seconds.
_KEEPALIVE: Final = {"idle": 10, "interval": 10, "count": 3}
_TCP_TIMEOUT_MS: Final = 40_000


@dataclass(frozen=True, slots=True)
class PostgresSchema:
    """One schema of a PostgreSQL database.

    ``dsn`` is whatever libpq takes: a URL or ``key=value`` pairs; ``timeout_s`` is how long a
    statement waits for a lock, and a connection for the server.
    """

    dsn: str
    schema: str
    timeout_s: float

    stores_nul: ClassVar[bool] = False
    """Whether a text may hold a NUL."""

    @property
    def name(self) -> str:
        """The database as messages name it: without password or options."""
        return f"{_shown(self.dsn)} (schema {self.schema})"

    def check(self, _before: Files | None) -> None:
        """Check that the driver is there.  Raises :class:`LocalError`."""
        try:
            import psycopg  # noqa: F401, PLC0415 - an extra of the package
        except ImportError as error:
            raise LocalError(
                Reason.DATABASE_UNSUPPORTED,
                f"the node keeps its data in PostgreSQL and its driver is not here: {error}",
                hint='install it with: pip install "stigmem-replicate[postgres]"',
            ) from error

    def reader(self) -> Engine:
        """Return an engine whose transactions see one snapshot and cannot write."""
        # A server that was started again must not fail the first to look something up.
        return self._engine(_READERS, pool_pre_ping=True).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    def writer(self) -> Engine:
        """Return an engine with one connection, whose transactions hold the writers' lock."""
        # Each statement must see what was committed before it, also after a wait for the lock.
        engine = self._engine(1, isolation_level="READ COMMITTED")

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            if connection.get_execution_options().get(NO_WRITE):
                return
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:space, :writer)"),
                {"space": self.lock_space, "writer": WRITER},
            )

        return engine

    @property
    def lock_space(self) -> int:
        """The first number of every advisory lock of ours: a signed integer of 32 bits."""
        number = zlib.crc32(f"stigmem-replicate:{self.schema}".encode())
        return number - 2**32 if number >= 2**31 else number

    def version(self, _connection: Connection) -> int:
        """Return a number that never changes: other writers do not wait for ours."""
        return 0

    def check_room(self, _wanted_mib: int) -> None:
        """Do nothing: the disk is the server's."""

    def tidy(self, _writer: Engine) -> None:
        """Do nothing: the server keeps its log itself."""

    def refusal(self, error: DBAPIError) -> Refusal | None:
        """Return what of a batch the server did not take, None when it is out of order."""
        state = _sqlstate(error)
        if state in _CAME_BETWEEN:
            return Refusal(Fallen.FACTS)
        if state is not None and state.startswith(_VALUE_CLASSES):
            return Refusal(Fallen.ENTRY, _words(error))
        return None

    def failure(self, error: DBAPIError) -> LocalError | None:
        """Return what a driver's error means, without the values of its statement."""
        state, words = _sqlstate(error), _words(error)
        if state == _LOCK_NOT_AVAILABLE:
            return LocalError(
                Reason.DATABASE_LOCKED,
                f"another process held a lock in {self.name} for longer than {self.timeout_s:g} s",
                hint="find the transaction that stays open, or raise database_timeout_s",
            )
        if state in _NO_SUCH_TABLE:
            return LocalError(
                Reason.SCHEMA_UNSUPPORTED,
                f"the tables in {self.name} were changed while they were in use: {words}",
                hint="run the command again",
            )
        return LocalError(
            Reason.DATABASE_FAILED,
            f"the database {self.name} failed: {words}",
            hint="the cursor never passes what was not written; run the command again when the "
            "database answers",
        )

    def _engine(self, connections: int, **options: Any) -> Engine:  # noqa: ANN401 - the engine's
        return create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            hide_parameters=True,  # they are facts, and errors are shown
            **options,
            pool_timeout=self.timeout_s + 30.0,
        )

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg  # noqa: PLC0415 - an extra of the package

        options: dict[str, Any] = {
            "application_name": APPLICATION,
            "connect_timeout": max(math.ceil(self.timeout_s), 2),
            "keepalives": 1,
            **{f"keepalives_{name}": value for name, value in _KEEPALIVE.items()},
            "tcp_user_timeout": _TCP_TIMEOUT_MS,
            # A prepared statement keeps the plan that was right when the table was empty, and a
            # session in which the node's migrations change a table must not hold on to its shape.
            "prepare_threshold": None,
        }
        connection = psycopg.connect(self.dsn, **options)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        from psycopg import sql  # noqa: PLC0415 - an extra of the package

        # On the server's side too: it is the server that must notice that we are gone.
        server = {f"tcp_keepalives_{name}": value for name, value in _KEEPALIVE.items()}
        milliseconds = round(self.timeout_s * 1000)
        for name, value in {**server, "lock_timeout": milliseconds}.items():
            connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), value))
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema)))
        connection.commit()


def _sqlstate(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


def _words(error: DBAPIError) -> str:
    """Return the server's own sentence; its details show values of rows."""
    diagnosis = getattr(error.orig, "diag", None)
    return " ".join(str(getattr(diagnosis, "message_primary", None) or error.orig).split())


def _shown(dsn: str) -> str:
    try:
        url = make_url(dsn)
    except (ArgumentError, ValueError):
        return "PostgreSQL"  # key=value pairs, among which may be a password, or several hosts
    host = url.host or str(url.query.get("host") or "localhost")
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{host}{port}/{url.database or ''}"
