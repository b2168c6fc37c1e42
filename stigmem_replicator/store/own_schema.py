"""Whether our own tables fit this code: refused before anything is done by halves.

It only looks; making and removing the tables is for migrations.py.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store.own_models import HEAD_REVISION, VERSION_TABLE, OwnBase

_UPGRADE: Final = "run: stigmem-replicate db upgrade"


def check(connection: Connection, *, required: bool = False, older: bool = False) -> None:
    """Check that our tables are not there at all, or are as this code needs them.

    With ``required`` they must be there; with ``older`` an earlier revision passes, since it is
    about to be upgraded.  Raises :class:`LocalError`.
    """
    found = present(connection)
    revision = _revision(connection) if VERSION_TABLE in found else None
    if not found:
        if required:
            raise _outdated("none")
        return
    if revision is None:
        raise _half_there([VERSION_TABLE])
    if revision > HEAD_REVISION:
        raise _newer(revision)
    if revision < HEAD_REVISION:
        if older:
            return
        raise _outdated(revision)
    missing = _missing(connection, found)
    if missing:
        raise _half_there(missing)


def refuse_newer(connection: Connection) -> None:
    """Check that no newer version than this one made our tables.  Raises :class:`LocalError`."""
    if VERSION_TABLE in present(connection):
        revision = _revision(connection)
        if revision is not None and revision > HEAD_REVISION:
            raise _newer(revision)


def present(connection: Connection) -> set[str]:
    """Return which of our tables exist, that of the version among them."""
    ours = {*OwnBase.metadata.tables, VERSION_TABLE}
    return ours & set(inspect(connection).get_table_names())


def _revision(connection: Connection) -> str | None:
    revision: str | None = connection.scalar(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
    )
    return revision


def _missing(connection: Connection, found: set[str]) -> list[str]:
    missing = sorted(set(OwnBase.metadata.tables) - found)
    columns = inspect(connection).get_multi_columns(filter_names=sorted(found))
    for (_schema, name), there in columns.items():
        if name in OwnBase.metadata.tables:
            wanted = set(OwnBase.metadata.tables[name].columns.keys())
            lacking = wanted - {column["name"] for column in there}
            missing += [f"{name}.{column}" for column in sorted(lacking)]
    return missing


def _newer(revision: str) -> LocalError:
    return LocalError(
        Reason.OWN_SCHEMA_OUTDATED,
        f"the replicator's tables are at revision {revision}, made by a newer version; "
        f"this one needs {HEAD_REVISION}",
        hint="install the version of stigmem-replicate that made them, or a newer one",
    )


def _outdated(revision: str) -> LocalError:
    return LocalError(
        Reason.OWN_SCHEMA_OUTDATED,
        f"the replicator's tables are at revision {revision}, this version needs {HEAD_REVISION}",
        hint=_UPGRADE,
    )


def _half_there(missing: list[str]) -> LocalError:
    return LocalError(
        Reason.OWN_SCHEMA_OUTDATED,
        f"the replicator's tables are only half there: {', '.join(missing)} missing",
        hint="put back a backup, or make them anew (dead letters are lost): "
        "stigmem-replicate db drop, then db upgrade",
    )
