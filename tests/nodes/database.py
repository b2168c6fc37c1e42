"""A node's database seen from outside: what tests read in it and put into it, on either backend.

It is for tests that look at rows as another process would; the same statements, with `?` for a
parameter, work on a SQLite file and on PostgreSQL.  It is not for opening a database the way the
replicator does, and it knows nothing of what the tables mean.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Columns: TypeAlias = list[str]
Values: TypeAlias = list[tuple[Any, ...]]

_TIMEOUT_S = 5.0
_INDEX_TABLES: Final = "facts_fts"


class NodeDatabase(ABC):
    """One database of a node; every call is a transaction of its own."""

    backend: str
    """`sqlite` or `postgres`."""
    location: Path | str
    """What the replicator is told to open: a path or a URL."""
    insertion_order: str
    """What orders rows as they were inserted, as long as none was changed."""

    @abstractmethod
    def _select(self, sql: str, parameters: Sequence[object]) -> tuple[Columns, Values]:
        """Return the names of the columns, and the rows."""

    @abstractmethod
    def run(self, sql: str, *parameters: object) -> None:
        """Run a statement and commit it."""

    @abstractmethod
    def tables(self) -> set[str]:
        """Return the names of the tables."""

    @abstractmethod
    def schema(self) -> Values:
        """Return every table, column, index, constraint and trigger, in a fixed order.

        The second value of each is its name, the third that of its table.
        """

    @property
    def settings(self) -> dict[str, str]:
        """The node's settings for this database, `STIGMEM_` prefix included."""
        return {"STIGMEM_DB_PATH": str(self.location)}

    def query(self, sql: str, *parameters: object) -> Values:
        """Return the rows of a statement."""
        return self._select(sql, parameters)[1]

    def records(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Return the rows of a statement by the names of their columns."""
        names, values = self._select(sql, parameters)
        return [dict(zip(names, row, strict=True)) for row in values]

    def rows(self, table: str, order: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of a table, without an order as they were inserted."""
        return self.records(f"SELECT * FROM {table} ORDER BY {order or self.insertion_order}")  # noqa: S608

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns."""
        return self._select(f"SELECT * FROM {table} LIMIT 0", ())[0]  # noqa: S608

    def insert(self, table: str, **values: object) -> None:
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        self.run(f"INSERT INTO {table} ({names}) VALUES ({marks})", *values.values())  # noqa: S608

    def dump(self) -> dict[str, list[str]]:
        """Return every row of every table, in an order of its own."""
        return {
            table: sorted(repr(row) for row in self.query(f"SELECT * FROM {table}"))  # noqa: S608
            for table in sorted(self.tables())
            if not table.startswith(_INDEX_TABLES)
        }


class SqliteDatabase(NodeDatabase):
    """A SQLite file."""

    backend = "sqlite"
    insertion_order = "rowid"

    def __init__(self, path: Path) -> None:
        self.location: Path = path

    def run(self, sql: str, *parameters: object) -> None:
        with closing(sqlite3.connect(self.location, timeout=_TIMEOUT_S)) as connection, connection:
            connection.execute(sql, parameters)

    def copy(self, target: Path) -> Path:
        """Copy the database, whether it is in use or not, readable by its owner only."""
        target.touch(mode=0o600)
        uri = f"file:{self.location}?mode=ro"
        with (
            closing(sqlite3.connect(uri, uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
        return target

    def tables(self) -> set[str]:
        return {name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type='table'")}

    def schema(self) -> Values:
        return self.query("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")

    def _select(self, sql: str, parameters: Sequence[object]) -> tuple[Columns, Values]:
        uri = f"file:{self.location}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S)) as connection:
            cursor = connection.execute(sql, parameters)
            return [column[0] for column in cursor.description], cursor.fetchall()


class PostgresDatabase(NodeDatabase):
    """The tables of one schema of a PostgreSQL database."""

    backend = "postgres"
    insertion_order = "ctid"

    def __init__(self, url: str, schema: str = "public") -> None:
        self.location: str = url
        self.schema_name = schema

    @property
    def settings(self) -> dict[str, str]:
        return {
            "STIGMEM_STORAGE_BACKEND": "postgres",
            "STIGMEM_PG_DSN": self.location,
            "STIGMEM_PG_SCHEMA": self.schema_name,
        }

    def run(self, sql: str, *parameters: object) -> None:
        self._execute(sql, parameters)

    def tables(self) -> set[str]:
        found = self.query(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ?",
            self.schema_name,
        )
        return {name for (name,) in found}

    def schema(self) -> Values:
        return self.query(
            """
            SELECT 'table', table_name, table_name, table_type::text
              FROM information_schema.tables WHERE table_schema = ?
            UNION ALL SELECT 'column', table_name || '.' || column_name, table_name,
                   concat_ws(' ', data_type, is_nullable, column_default, collation_name)
              FROM information_schema.columns WHERE table_schema = ?
            UNION ALL SELECT 'index', indexname, tablename, indexdef
              FROM pg_indexes WHERE schemaname = ?
            UNION ALL SELECT 'constraint', conname, conrelid::regclass::text,
                   pg_get_constraintdef(oid)
              FROM pg_constraint WHERE connamespace = ?::regnamespace AND conrelid <> 0
            UNION ALL SELECT 'trigger', tgname, tgrelid::regclass::text, pg_get_triggerdef(oid)
              FROM pg_trigger WHERE NOT tgisinternal
            ORDER BY 1, 2, 3, 4
            """,
            *[self.schema_name] * 4,
        )

    def _select(self, sql: str, parameters: Sequence[object]) -> tuple[Columns, Values]:
        return self._execute(sql, parameters)

    def _execute(self, sql: str, parameters: Sequence[object]) -> tuple[Columns, Values]:
        with self.connection() as connection:
            statement = sql.replace("%", "%%").replace("?", "%s")
            cursor = connection.execute(statement.encode(), parameters)
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """Yield a connection that looks at the schema, in a transaction."""
        options = f"-c search_path={self.schema_name}"
        timeout_s = round(_TIMEOUT_S)
        with psycopg.connect(
            self.location, options=options, connect_timeout=timeout_s
        ) as connection:
            yield connection
