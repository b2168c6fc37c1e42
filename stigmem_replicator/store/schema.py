"""Whether the node's schema in a database is one that we can share, and what it speaks.

The columns decide, and the migrations give the refusal a name.  Nothing here changes a schema;
the tables themselves are in ``node_models``, and our own are no matter of this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.engine.reflection import Inspector

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.observe.log import logger
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.store.node_models import LACKING_V1, UNTOUCHED, WRITTEN, NodeBase

NEWER_EVENT: Final = "replicator.schema_newer"
"""The log event of a schema that is newer than known and fits all the same."""

_LACKING: Final[Mapping[Dialect, Mapping[str, frozenset[str]]]] = {
    Dialect.V1: LACKING_V1,
    Dialect.V2: {},
}
# The newest migrations of 0.9.0a10, then of 0.9.0a11 and 0.9.0a12: the same in our tables.
_OLDEST_KNOWN: Final = {
    Dialect.V1: "038_peer_approval_flow",
    Dialect.V2: "050_revocation_v2_origin",
}
_NEWEST_KNOWN: Final = {
    Dialect.V1: "038_peer_approval_flow",
    Dialect.V2: "058_federation_audit_first_trust_confirm_rejected",
}
_MIGRATE: Final = (
    "start the node once, at stigmem-node 0.9.0a10 or later: it migrates its database itself"
)
_UPGRADE: Final = "install a stigmem-replicate that knows this version of the node"

Columns = Mapping[str, Mapping[str, ReflectedColumn]]


@dataclass(frozen=True, slots=True)
class NodeSchema:
    """What is known of the schema of one node's database.

    ``newest`` is the newest migration in it; ``unknown_migrations`` and ``unknown_columns``
    (``table.column``) are those that this version does not know, both empty for a schema that
    it knows.
    """

    dialect: Dialect
    newest: str
    unknown_migrations: tuple[str, ...] = ()
    unknown_columns: tuple[str, ...] = ()

    def lacking(self, table_name: str) -> frozenset[str]:
        """Return the columns of our model of a table that this schema does not have."""
        return _LACKING[self.dialect].get(table_name, frozenset())

    @property
    def warning(self) -> str | None:
        """One sentence for the operator when the schema is newer than known, else None."""
        if self.unknown_columns:
            columns = ", ".join(self.unknown_columns)
            return (
                f"the node's schema (newest migration {self.newest}) has columns that this "
                f"version does not know and leaves at their default: {columns}"
            )
        if self.unknown_migrations:
            return (
                f"the node's schema (newest migration {self.newest}) is newer than this version "
                f"knows ({_NEWEST_KNOWN[self.dialect]}); the tables that it touches fit"
            )
        return None


def check(connection: Connection, place: str) -> NodeSchema:
    """Check that a schema is a node's and fits, and return what is known of it.

    ``place`` names the database in messages.  A schema that is newer and fits is logged as a
    warning.

    Raises :class:`LocalError` with ``database_not_a_node`` or ``schema_unsupported``.
    """
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    if not {"peers", "facts", "node_meta", "schema_migrations"} <= tables:
        raise LocalError(
            Reason.DATABASE_NOT_A_NODE,
            f"{place} is a database, but not one of a Stigmem node",
            hint="start the node once so that it creates its tables, or name another with --db",
        )
    versions = _versions(connection)
    newest = max(versions, default="none")
    columns = _columns(inspector, tables)
    dialect = Dialect.V2 if "origin_sig" in columns["facts"] else Dialect.V1
    said = f"the node's schema in {place} (newest migration {newest})"
    if newest == "none" or newest < _OLDEST_KNOWN[dialect]:
        raise LocalError(
            Reason.SCHEMA_UNSUPPORTED,
            f"{said} is older than {_OLDEST_KNOWN[dialect]}, the oldest that can be shared",
            hint=_MIGRATE,
        )
    _refuse_missing(columns, dialect, said)
    unknown = _unknown_columns(columns, said)
    later = tuple(version for version in versions if version > _NEWEST_KNOWN[dialect])
    found = NodeSchema(dialect, newest, later, unknown)
    if found.warning is not None:
        logger().warning(NEWER_EVENT, database=place, detail=found.warning)
    return found


def require_unchanged(connection: Connection, found: NodeSchema, place: str) -> None:
    """Check that the node was not upgraded since its schema was checked.

    Raises :class:`LocalError`.
    """
    newest = max(_versions(connection), default="none")
    if newest != found.newest:
        raise LocalError(
            Reason.SCHEMA_UNSUPPORTED,
            f"the node's schema in {place} changed while it was in use: it was at migration "
            f"{found.newest} and is at {newest}",
            hint="run the command again; what was committed before is kept",
        )


def _versions(connection: Connection) -> list[str]:
    # In the order of Python's text, whatever order the database would give them.
    migrations = table("schema_migrations", column("version"))
    return sorted(connection.scalars(select(migrations.c.version)))


def _columns(inspector: Inspector, tables: set[str]) -> Columns:
    return {
        name: {item["name"]: item for item in inspector.get_columns(name)}
        for name in NodeBase.metadata.tables
        if name in tables
    }


def _refuse_missing(columns: Columns, dialect: Dialect, said: str) -> None:
    lacking = _LACKING[dialect]
    missing = [
        f"{name}.{item}"
        for name, model in NodeBase.metadata.tables.items()
        for item in model.columns.keys()  # noqa: SIM118 - a collection of columns, not a mapping
        if item not in columns.get(name, {}) and item not in lacking.get(name, ())
    ]
    if missing:
        raise LocalError(
            Reason.SCHEMA_UNSUPPORTED,
            f"{said} lacks {', '.join(missing)}, which wire version {dialect} needs",
            hint=f"{_MIGRATE}; if it has, {_UPGRADE}",
        )
    beside = [
        f"{name}.{item}"
        for name, items in lacking.items()
        for item in sorted(items)
        if item in columns.get(name, {})
    ]
    if beside:
        # Half of a later schema: neither wire version would write what such a node reads.
        raise LocalError(
            Reason.SCHEMA_UNSUPPORTED,
            f"{said} is of neither wire version: it has {', '.join(beside)}, "
            "but not facts.origin_sig",
            hint=_MIGRATE,
        )


def _unknown_columns(columns: Columns, said: str) -> tuple[str, ...]:
    """Return the columns that we do not know; refuse those that we would have to fill."""
    written = {model.__tablename__ for model in WRITTEN}
    unknown, demanded = [], []
    for name, items in columns.items():
        known = set(NodeBase.metadata.tables[name].columns.keys()) | UNTOUCHED.get(name, set())
        for item in items.values():
            if item["name"] not in known:
                unknown.append(f"{name}.{item['name']}")
                if name in written and _must_be_filled(item):
                    demanded.append(unknown[-1])
    if demanded:
        raise LocalError(
            Reason.SCHEMA_UNSUPPORTED,
            f"{said} demands {', '.join(demanded)}, which this version does not know",
            hint=_UPGRADE,
        )
    return tuple(unknown)


def _must_be_filled(item: ReflectedColumn) -> bool:
    fills_itself = item["default"] is not None or "computed" in item or "identity" in item
    return not item["nullable"] and not fills_itself
