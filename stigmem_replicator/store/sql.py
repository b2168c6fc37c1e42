"""The few pieces of SQL that SQLite and PostgreSQL write differently."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Insert,
    Integer,
    Text,
    cast,
    column,
    func,
    insert,
    literal_column,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

POSTGRES: Final = "postgresql"


def insert_or(
    connection: Connection, model: type[DeclarativeBase]
) -> sqlite.Insert | postgresql.Insert:
    """Return an insert that can say ``ON CONFLICT``."""
    if connection.dialect.name == POSTGRES:
        return postgresql.insert(model)
    return sqlite.insert(model)


def insert_many(connection: Connection, model: type[DeclarativeBase]) -> Insert:
    """Return the insert that is fastest for many rows."""
    if connection.dialect.name == POSTGRES:
        return insert(model)  # which the driver sends in a pipeline
    # What returns something is sent many rows to a statement, which takes half the time: the
    # driver lets go of the interpreter, and has to get it back, once a statement.
    return insert(model).returning(literal_column("1"))


class bytewise(FunctionElement[str]):  # noqa: N801 - named as the functions of SQL are
    """A text compared byte by byte, as every HLC is.

    SQLite does so by itself; PostgreSQL by the database's collation, unless told otherwise.
    """

    type = Text()
    inherit_cache = True


@compiles(bytewise)
def _plain(element: bytewise, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    return compiler.process(element.clauses, **options)


@compiles(bytewise, POSTGRES)
def _collated(element: bytewise, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401
    return f'({compiler.process(element.clauses, **options)}) COLLATE "C"'


def rows_of_texts(
    connection: Connection, rows: Sequence[Sequence[str]], name: str
) -> tuple[FromClause, list[ColumnElement[str]]]:
    """Return a table with these rows, and its columns.

    They are parameters, so that the statement is compiled once, and a table, so that what is
    joined with it is searched by an index; a list of row values would make SQLite read
    everything.
    """
    places = range(len(rows[0]))
    if connection.dialect.name == POSTGRES:
        lists = [cast([row[place] for row in rows], postgresql.ARRAY(Text)) for place in places]
        names = [column(f"text_{place}", Text) for place in places]
        unnested = func.unnest(*lists).table_valued(*names, name=name).render_derived()
        return unnested, list(unnested.c)
    table = func.json_each(json.dumps(rows)).table_valued("value", name=name)
    return table, [func.json_extract(table.c.value, f"$[{place}]") for place in places]


def place_in_table(
    connection: Connection, otherwise: InstrumentedAttribute[int | None]
) -> ColumnElement[int | None]:
    """Return the number of a row in its table; ``otherwise`` where rows have none."""
    if connection.dialect.name == POSTGRES:
        return otherwise.expression
    return literal_column("rowid", Integer)
