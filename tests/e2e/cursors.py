"""Cursors in a receiver's database and in checkpoint files, for the tests of `cursor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here

HOUR_MS = 3_600_000


def peer_id(receiver: Receiver, node_id: str) -> str:
    (row,) = receiver.query("SELECT id FROM peers WHERE node_id = ?", [node_id])
    return str(row["id"])


def put_cursor(
    receiver: Receiver, node_id: str, cursor: str | None, direction: str = "inbound"
) -> None:
    receiver.execute(
        "INSERT OR REPLACE INTO replication_cursors (peer_id, direction, cursor, updated_at)"
        " SELECT id, ?, ?, '2026-01-01T00:00:00+00:00' FROM peers WHERE node_id = ?",
        [direction, cursor, node_id],
    )


def cursors(receiver: Receiver) -> dict[tuple[str, str], str | None]:
    rows = receiver.query(
        "SELECT node_id, direction, cursor FROM replication_cursors"
        " JOIN peers ON peers.id = peer_id"
    )
    return {(row["node_id"], row["direction"]): row["cursor"] for row in rows}


def entry(receiver: Receiver, node_id: str, cursor: object, **changes: object) -> dict[str, Any]:
    return {
        "peer_id": peer_id(receiver, node_id),
        "peer_node_id": node_id,
        "peer_url": "http://127.0.0.1:1",
        "peer_status": "active",
        "direction": "inbound",
        "cursor": cursor,
        "updated_at": "2026-01-01T00:00:00+00:00",
        **changes,
    }


def checkpoint(path: Path, *entries: object, **keys: object) -> Path:
    content = {"checkpoint_timestamp": "t", "db_path": "p", "cursors": list(entries), **keys}
    path.write_text(json.dumps(content))
    return path


def pulled(here: Here, receiver: Receiver, server: PageServer) -> list[str]:
    """Pull three facts, each a checkpoint; return their positions."""
    for age in (5, 3, 1):
        server.origin.add(hlc=f"{now_ms() - age * HOUR_MS}.0")
    env = {"STIGMEM_REPLICATOR_PAGE_SIZE": "1"}
    assert here("pull", "--all", db=receiver.database, env=env).code == 0
    return [row.hlc for row in server.origin.rows]
