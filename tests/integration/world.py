"""What the integration tests share: a clock, a peer, rows of the node's and a page's verdicts."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import envelope
from stigmem_replicator.replication.plan import (
    Batch,
    ConflictKey,
    Judged,
    PageContext,
    Siblings,
    plan_batch,
)
from stigmem_replicator.replication.session import Checkpoint, Position, Progress
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.trust.facts import Admit, Reject
from tests.unit.signed import NOW_MS, SENDER, decoded, raw_entry

PEER: Final = PeerRow(
    id="peer-1",
    node_id=SENDER,
    node_url="http://127.0.0.1:8765",
    status="active",
    scopes=frozenset({"company", "public"}),
    ingest_tenant=None,
    entity_uri="https://origin.example",
    relay_trusted=False,
)
KEY: Final = ConflictKey("default", "stigmem://acme.example/user/alice", "memory:role", "public")


class FakeClock:
    """A clock that stands until it is told to move."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.wall_ms = now_ms
        self.seconds = 1000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def now_iso(self) -> str:
        return datetime.fromtimestamp(self.wall_ms / 1000, UTC).isoformat()

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall_ms += round(seconds * 1000)


_NUMBERS = itertools.count(1)


def new_id() -> str:
    return f"made-{next(_NUMBERS)}"


def run(path: Path, sql: str, *parameters: object) -> None:
    """Run a statement as another process would, and commit it."""
    with closing(sqlite3.connect(path, timeout=5)) as connection, connection:
        connection.execute(sql, parameters)


def query(path: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, parameters).fetchall()


def rows(path: Path, table: str, order: str = "rowid") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608
        return [dict(row) for row in found]


def insert(path: Path, table: str, **values: object) -> None:
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    run(path, f"INSERT INTO {table} ({names}) VALUES ({marks})", *values.values())  # noqa: S608


def add_peer(path: Path, **changes: object) -> None:
    values: dict[str, object] = {
        "id": PEER.id,
        "node_id": PEER.node_id,
        "node_url": PEER.node_url,
        "federation_pubkey": "",
        "allowed_scopes": '["company", "public"]',
        "status": "active",
        "declaration_sig": "",
        "signed_at": "",
        "entity_uri": PEER.entity_uri,
        **changes,
    }
    insert(path, "peers", **values)


def add_fact(path: Path, fact_id: str, hlc: str | None = None, **changes: object) -> None:
    values: dict[str, object] = {
        "id": fact_id,
        "entity": KEY.entity,
        "relation": KEY.relation,
        "value_type": "string",
        "value_v": "x",
        "source": "agent:x",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "confidence": 1.0,
        "scope": KEY.scope,
        "hlc": hlc or f"{NOW_MS - 60_000}.0",
        "cid": f"sha256:{fact_id}",
        **changes,
    }
    insert(path, "facts", **values)


# verdicts and batches


def admitted(fact_id: str, **fact: object) -> Judged:
    entry = decoded(raw_entry(fact_id, fact=fact))
    return Judged(fact_id, Admit(entry, "CEO", "default", 0.5))


def rejected(entry_id: str, reason: Reason = Reason.CID_MISMATCH, *, size: int = 0) -> Judged:
    payload = envelope.payload({"fact": {"id": entry_id, "pad": "x" * size}})
    return Judged(entry_id, Reject(reason, "why"), payload, envelope.payload_hash(payload))


def planned(
    judged: Sequence[Judged],
    siblings: dict[ConflictKey, Siblings] | None = None,
    *,
    open_letters: Sequence[str] = (),
    now_ms: int = NOW_MS,
    generation: str = "g1",
    make_id: Callable[[], str] = new_id,
) -> Batch:
    context = PageContext(
        peer_id=PEER.id,
        sender_node_id=PEER.node_id,
        stream=FACTS,
        generation=generation,
        now_iso=datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(),
        now_ms=now_ms,
        max_conflicts=100,
        new_id=make_id,
    )
    return plan_batch(judged, siblings or {}, open_letters, context, 10**9)


def progress(
    frontier: str | None,
    *,
    before: Position | None = None,
    settled: str | None = None,
    checkpoints: tuple[Checkpoint, ...] = (),
) -> Progress:
    before = before or Position(None, None)
    after = Position(frontier, settled, NOW_MS - 50, NOW_MS, checkpoints)
    return Progress(None, before, after, None, has_more=False)


def dump(database: Database) -> list[str]:
    """Return everything the database holds, as SQL."""
    with reading(database) as connection:
        raw: Any = connection.connection.dbapi_connection
        return [line for line in raw.iterdump() if "facts_fts" not in line]
