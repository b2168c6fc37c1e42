"""The facts that stand under one key, and so contradict a new one there."""

from __future__ import annotations

import json
from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, TableValuedAlias, and_, func, select

from stigmem_replicator.replication.plan import ConflictKey, Siblings
from stigmem_replicator.store.node_models import Fact

_KEY = (Fact.tenant_id, Fact.entity, Fact.relation, Fact.scope)


def siblings(
    connection: Connection, keys: Collection[ConflictKey], newest: int
) -> dict[ConflictKey, Siblings]:
    """Return the facts under each key: the ``newest`` ids by HLC (0: all) and their number."""
    if not keys:
        return {}
    wanted = _wanted(keys)
    # Walls have 13 digits until the year 2286, so that among equal walls the longer text has
    # the greater counter: this is the order of the integers without parsing text in SQL.
    order = (func.substr(Fact.hlc, 1, 13).desc(), func.length(Fact.hlc).desc(), Fact.hlc.desc())
    ranked = (
        select(
            *_KEY,
            Fact.id,
            func.row_number().over(partition_by=_KEY, order_by=order).label("rank"),
            func.count().over(partition_by=_KEY).label("total"),
        )
        .join(wanted, _under(wanted))
        .where(Fact.confidence > 0.0)
        .subquery()
    )
    query = select(ranked).order_by(ranked.c.rank)
    if newest:
        query = query.where(ranked.c.rank <= newest)
    found: dict[ConflictKey, tuple[list[str], int]] = {}
    for row in connection.execute(query):
        found.setdefault(ConflictKey(*row[:4]), ([], row.total))[0].append(row.id)
    return {key: Siblings(tuple(ids), total) for key, (ids, total) in found.items()}


def sibling_counts(connection: Connection, keys: Collection[ConflictKey]) -> dict[ConflictKey, int]:
    """Return how many facts stand under each key; keys without any are left out."""
    if not keys:
        return {}
    wanted = _wanted(keys)
    rows = connection.execute(
        select(*_KEY, func.count())
        .join(wanted, _under(wanted))
        .where(Fact.confidence > 0.0)
        .group_by(*_KEY)
    )
    return {ConflictKey(*row[:4]): row[4] for row in rows}


def _wanted(keys: Collection[ConflictKey]) -> TableValuedAlias:
    # One parameter, so that the statement is compiled once, and a table of its own, so that the
    # facts are searched by their index; a list of row values would make SQLite read them all.
    rows = [(key.tenant, key.entity, key.relation, key.scope) for key in keys]
    return func.json_each(json.dumps(rows)).table_valued("value", name="wanted")


def _under(wanted: TableValuedAlias) -> ColumnElement[bool]:
    return and_(
        *(
            column == func.json_extract(wanted.c.value, f"$[{index}]")
            for index, column in enumerate(_KEY)
        )
    )
