"""The facts that stand under one key, and so contradict a new one there."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, FromClause, and_, func, select

from stigmem_replicator.replication.plan import ConflictKey, Siblings
from stigmem_replicator.store.node_models import Fact
from stigmem_replicator.store.sql import bytewise, rows_of_texts

_KEY = (Fact.tenant_id, Fact.entity, Fact.relation, Fact.scope)


def siblings(
    connection: Connection, keys: Collection[ConflictKey], newest: int
) -> dict[ConflictKey, Siblings]:
    """Return the facts under each key: the ``newest`` ids by HLC (0: all) and their number."""
    if not keys:
        return {}
    wanted, under = _wanted(connection, keys)
    # Walls have 13 digits until the year 2286, so that among equal walls the longer text has
    # the greater counter: this is the order of the integers without parsing text in SQL.
    order = (
        bytewise(func.substr(Fact.hlc, 1, 13)).desc().nulls_last(),
        func.length(Fact.hlc).desc(),
        bytewise(Fact.hlc).desc(),
    )
    ranked = (
        select(
            *_KEY,
            Fact.id,
            func.row_number().over(partition_by=_KEY, order_by=order).label("rank"),
            func.count().over(partition_by=_KEY).label("total"),
        )
        .join(wanted, under)
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
    wanted, under = _wanted(connection, keys)
    rows = connection.execute(
        select(*_KEY, func.count()).join(wanted, under).where(Fact.confidence > 0.0).group_by(*_KEY)
    )
    return {ConflictKey(*row[:4]): row[4] for row in rows}


def _wanted(
    connection: Connection, keys: Collection[ConflictKey]
) -> tuple[FromClause, ColumnElement[bool]]:
    rows = [(key.tenant, key.entity, key.relation, key.scope) for key in keys]
    table, columns = rows_of_texts(connection, rows, "wanted")
    return table, and_(*(ours == theirs for ours, theirs in zip(_KEY, columns, strict=True)))
