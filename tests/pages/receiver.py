"""A receiver's database beside its node: who its peers are, and what has come into it.

It is for a database that no node serves: peers are put into its registry by hand, as they stand
there once an operator has approved them.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.nodes.ledger import Verdict
from tests.pages.origin import Origin, Raw, public_text
from tests.pages.server import PageServer, Reader

SCOPES = ("company", "public")


class Receiver:
    """One receiver's database."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self._transaction: sqlite3.Connection | None = None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        if self._transaction is not None:
            self._transaction.execute(sql, parameters)
            return
        with closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            connection.execute(sql, parameters)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Do everything that is executed inside in one transaction."""
        with closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            self._transaction = connection
            try:
                yield
            finally:
                self._transaction = None

    def dump(self) -> list[str]:
        """Everything in the database, as statements."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return list(connection.iterdump())

    def meta(self, key: str) -> str:
        (row,) = self.query("SELECT value FROM node_meta WHERE key = ?", [key])
        return str(row["value"])

    # --- its peers

    def adopt(
        self,
        server: PageServer,
        *,
        status: str = "active",
        scopes: Sequence[str] = SCOPES,
        url: str | None = None,
        relay_trusted: bool = False,
        origin: Origin | None = None,
    ) -> None:
        """Have a page server as a peer, its organisation bound and its manifest stored.

        `origin` is another one that the server can be, see `PageServer.show`.
        """
        origin = origin or server.origin
        server.know(Reader(self.meta("node_id"), self.meta("federation_pubkey"), frozenset(scopes)))
        self.register(
            origin.node_id,
            url or server.url,
            public_key=public_text(origin.key),
            status=status,
            scopes=scopes,
            entity_uri=origin.entity_uri,
            relay_trusted=relay_trusted,
        )
        self.store_manifest(origin.manifest)

    def register(
        self,
        node_id: str,
        url: str,
        *,
        public_key: str = "A" * 43,
        status: str = "active",
        scopes: Sequence[str] = SCOPES,
        entity_uri: str | None = None,
        relay_trusted: bool = False,
    ) -> None:
        """Put a peer into the registry."""
        now = datetime.now(UTC).isoformat()
        self.execute(
            "INSERT INTO peers (id, node_id, node_url, federation_pubkey, allowed_scopes, status,"
            " established_at, declaration_sig, signed_at, entity_uri, relay_trusted)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            [
                str(uuid.uuid4()),
                node_id,
                url,
                public_key,
                json.dumps(sorted(scopes)),
                status,
                now,
                "signature",
                now,
                entity_uri,
                int(relay_trusted),
            ],
        )

    def store_manifest(self, manifest: Raw, *, updated_at: str | None = None) -> None:
        """Store a manifest as the last accepted of its organisation."""
        now = datetime.now(UTC).isoformat()
        self.execute(
            "INSERT OR REPLACE INTO federation_manifests (id, entity_uri, manifest_json,"
            " signature, key_id, issued_at, expires_at, created_at, updated_at)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            [
                str(uuid.uuid4()),
                manifest["entity_uri"],
                json.dumps(manifest, sort_keys=True, separators=(",", ":")),
                manifest["signature"],
                manifest["key_id"],
                manifest["issued_at"],
                manifest["expires_at"],
                now,
                updated_at or now,
            ],
        )

    def stand_at(self, server: PageServer, cursor: str) -> None:
        """Stand where an earlier pull would have left off, with everything before it settled."""
        self.execute(
            "INSERT INTO replication_cursors (peer_id, direction, cursor, updated_at)"
            " SELECT id, 'inbound', ?, '2026-01-01T00:00:00+00:00' FROM peers WHERE node_id = ?",
            [cursor, server.node_id],
        )
        self.execute(
            "INSERT INTO replicator_cursors (node_id, stream, frontier, settled)"
            " VALUES (?, 'facts', ?, ?)",
            [server.node_id, cursor, cursor],
        )

    def stored_manifest(self, server: PageServer) -> str | None:
        """The manifest of a server's organisation as it is stored: JSON."""
        rows = self.query(
            "SELECT manifest_json FROM federation_manifests WHERE entity_uri = ?",
            [server.origin.entity_uri],
        )
        return rows[0]["manifest_json"] if rows else None

    # --- what has come

    def fact_ids(self, server: PageServer | Origin) -> set[str]:
        """The facts that came from a server."""
        rows = self.query("SELECT id FROM facts WHERE received_from = ?", [server.node_id])
        return {row["id"] for row in rows}

    def count(self, table: str) -> int:
        (row,) = self.query(f"SELECT COUNT(*) AS number FROM {table}")  # noqa: S608 - a test's own
        return int(row["number"])

    def cursor(self, server: PageServer | Origin) -> str | None:
        """The node's own cursor of a server."""
        rows = self.query(
            "SELECT cursor FROM replication_cursors JOIN peers ON peers.id = peer_id"
            " WHERE node_id = ? AND direction = 'inbound'",
            [server.node_id],
        )
        return rows[0]["cursor"] if rows else None

    def tombstone_ids(self) -> set[str]:
        """The tombstones that are here, from wherever."""
        return {row["id"] for row in self.query("SELECT id FROM tombstones")}

    def revocation_ids(self) -> set[str]:
        """The revocations that are here, from wherever."""
        return {row["id"] for row in self.query("SELECT id FROM tombstone_revocations")}

    def settled(self, server: PageServer, stream: str = "facts") -> str | None:
        """The position from which the next pull of a server's stream reads."""
        rows = self.query(
            "SELECT settled FROM replicator_cursors WHERE node_id = ? AND stream = ?",
            [server.node_id, stream],
        )
        return rows[0]["settled"] if rows else None

    def letters(self, server: PageServer) -> dict[str, str]:
        """The open dead letters of a server, of any stream: entry id to reason."""
        rows = self.query(
            "SELECT entry_id, reason FROM replicator_dead_letters"
            " WHERE node_id = ? AND status = 'open'",
            [server.node_id],
        )
        return {row["entry_id"]: row["reason"] for row in rows}

    def state(self, server: PageServer | Origin) -> tuple[str, str | None]:
        """The state word and reason code of a server."""
        (row,) = self.query(
            "SELECT state, reason FROM replicator_peers WHERE node_id = ?", [server.node_id]
        )
        return row["state"], row["reason"]

    def holder(self, server: PageServer) -> int | None:
        """The process that says it works on a server."""
        (row,) = self.query(
            "SELECT holder_pid FROM replicator_peers WHERE node_id = ?", [server.node_id]
        )
        pid: int | None = row["holder_pid"]
        return pid

    def events(self, server: PageServer) -> list[str]:
        """The events of a server, oldest first."""
        rows = self.query(
            "SELECT event FROM replicator_events WHERE node_id = ? ORDER BY id", [server.node_id]
        )
        return [row["event"] for row in rows]

    def assert_clean(self, server: PageServer) -> Verdict:
        """Nothing of what the server has is lost, doubled, unverified or incomplete here."""
        return server.origin.ledger.assert_clean(self.database)
