"""Our own tables: created, upgraded and dropped by Alembic, whose scripts travel with us.

The version table is ``replicator_alembic_version``; the node's tables are never looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import own_schema
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.own_models import HEAD_REVISION, VERSION_TABLE, OwnBase
from stigmem_replicator.store.standstill import changing_tables

_PACKAGED: Final = Path(__file__).parent.parent / "_migrations"
_CHECKOUT: Final = Path(__file__).parent.parent.parent / "alembic"


def current(connection: Connection) -> str | None:
    """Return the revision of our own tables, or None when there are none."""
    if not connection.dialect.has_table(connection, VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
    )
    return revision


def upgrade(database: Database) -> bool:
    """Bring our own tables to the revision that this code needs; say whether anything changed.

    One process at a time: the whole upgrade holds the write lock.  Tables that are there already
    are changed only while nobody works on a peer: a running process may be of the version that
    made them.  Call it before this process takes a peer's lock.

    Raises :class:`LocalError` when the tables are of a newer version than this code, or only half
    there, and :class:`PeerHeldError`, without waiting and with nothing changed, when another
    process works on a peer.
    """
    with changing_tables(database) as (connection, take_peers):
        own_schema.check(connection, older=True)
        revision = current(connection)
        if revision == HEAD_REVISION:
            return False
        take_peers()
        _run(connection, revision, "upgrade", HEAD_REVISION)
        # In the same transaction: tables that were only half there are left as they were.
        own_schema.check(connection, required=True)
    return True


def drop(database: Database) -> bool:
    """Remove our own tables and leave the node as it was; say whether there were any.

    Raises :class:`LocalError` when a newer version made them, and :class:`PeerHeldError`, without
    waiting and with nothing removed, when another process works on a peer: numbers begin anew
    after a drop.  Call it before this process takes a peer's lock.
    """
    with changing_tables(database) as (connection, take_peers):
        own_schema.refuse_newer(connection)
        if not own_schema.present(connection):
            return False
        take_peers()
        for table in reversed(OwnBase.metadata.sorted_tables):
            connection.execute(text(f"DROP TABLE IF EXISTS {table.name}"))
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
    return True


def _run(connection: Connection, revision: str | None, command: str, target: str) -> None:
    # Alembic takes a noticeable part of a second to import, and is only needed here.
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util.exc import CommandError  # noqa: PLC0415

    from alembic import command as alembic_command  # noqa: PLC0415

    config = Config()
    scripts = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        getattr(alembic_command, command)(config, target)
    except CommandError as error:
        raise LocalError(
            Reason.OWN_SCHEMA_OUTDATED,
            f"the replicator's tables are at revision {revision}, which this version "
            f"(it needs {HEAD_REVISION}) does not know",
            hint="install the version of stigmem-replicate that made them, or a newer one",
        ) from error
