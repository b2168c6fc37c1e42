"""The look once a second: which peers there are, and what was asked of whoever works on them.

It only reads, and only when something was committed since the last look.  What follows from it
is decided in the engine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from sqlalchemy import Connection, select
from sqlalchemy.pool import PoolProxiedConnection

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store import reads, schema, standings, streams
from stigmem_replicator.store.engine import Database, local_errors, reading
from stigmem_replicator.store.node_models import ReplicationCursor
from stigmem_replicator.store.own_models import TOMBSTONES, PeerStatus
from stigmem_replicator.store.reads import INBOUND, CursorRow, PeerRow
from stigmem_replicator.store.streams import StreamView


@dataclass(frozen=True, slots=True)
class Sight:
    """One peer as the tables have it; times are milliseconds since 1970.

    ``number`` is that of its lock, None before it has one; ``wanted_by`` names a process that
    asks for it.  ``standing`` and what follows is what was written of it last.
    """

    peer: PeerRow
    cursor: CursorRow | None
    number: int | None = None
    paused_at_ms: int | None = None
    paused_until_ms: int | None = None
    resumed_at_ms: int | None = None
    wanted_by: str | None = None
    wanted_at_ms: int | None = None
    standing: Standing = field(default_factory=Standing)
    caught_up_ms: int | None = None
    last_success_ms: int | None = None
    certificate_not_after_ms: int | None = None
    upstream_lag_ms: int | None = None
    tombstones: StreamView | None = None

    @property
    def workable(self) -> bool:
        """Whether the peer is to be worked on at all."""
        return self.peer.status == "active" and self.paused_at_ms is None


_OTHERS: Final = frozenset({"peer", "cursor", "standing", "tombstones"})
_OWN: Final = tuple(item.name for item in fields(Sight) if item.name not in _OTHERS)
"""What of a sight stands in our own table, under the same names."""


class Registry:
    """Looks at the peers of one database; used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = database.guard
        self._watch: PoolProxiedConnection | None = None
        self._version: int | None = None

    def look(self) -> Mapping[str, Sight] | None:
        """Return all peers by node id, or None when nothing was committed since the last look.

        Raises :class:`LocalError` when the database cannot be read, was replaced, or was
        migrated by its node since it was opened.
        """
        with local_errors(self._database):
            version = self._data_version()
            if version is not None and version == self._version:
                return None
            with reading(self._database) as connection:
                schema.require_unchanged(connection, self._database.schema, self._database.name)
                found = _sights(connection)
        self._version = version
        return found

    def check(self) -> None:
        """Check that the database is still the one that was opened.  Raises :class:`LocalError`."""
        if self._guard is not None:
            self._guard.check_identity()
        with reading(self._database) as connection:
            schema.require_unchanged(connection, self._database.schema, self._database.name)

    def close(self) -> None:
        """Give the connection back."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _data_version(self) -> int | None:
        """Return what changes with each commit of another connection; None where nothing does."""
        if self._guard is None:
            return None
        self._guard.check_identity()
        if self._watch is None:
            self._watch = self._database.read.raw_connection()
        # Outside of any transaction: in one, it would not change.
        try:
            cursor = self._watch.cursor()
            cursor.execute("PRAGMA data_version")
            row = cursor.fetchone()
        except sqlite3.Error as error:
            raise LocalError(
                Reason.DATABASE_FAILED, f"the database {self._database.name} failed: {error}"
            ) from error
        return None if row is None else int(row[0])


def _sights(connection: Connection) -> dict[str, Sight]:
    cursors = {
        row.peer_id: CursorRow(row.cursor, row.updated_at)
        for row in connection.execute(
            select(
                ReplicationCursor.peer_id, ReplicationCursor.cursor, ReplicationCursor.updated_at
            ).where(ReplicationCursor.direction == INBOUND)
        )
    }
    columns = [getattr(PeerStatus, name) for name in _OWN]
    rows = connection.execute(select(PeerStatus.node_id, *columns, *standings.STANDING))
    ours = {
        row.node_id: {
            **{name: getattr(row, name) for name in _OWN},
            "standing": standings.standing_of(row),
        }
        for row in rows
    }
    beside = streams.views(connection, TOMBSTONES)
    return {
        peer.node_id: Sight(
            peer,
            cursors.get(peer.id),
            **ours.get(peer.node_id, {}),
            tombstones=beside.get(peer.node_id),
        )
        for peer in reads.peers(connection)
    }
