"""What the integration tests share: a clock, a peer, rows of the node's and a page's verdicts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy.exc import IntegrityError

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.replication.plan import (
    Batch,
    ConflictKey,
    Judged,
    PageContext,
    Siblings,
    plan_batch,
)
from stigmem_replicator.replication.session import Checkpoint, Position, Progress
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import BatchWrite, Committed
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import PeerRow, StreamRow
from stigmem_replicator.trust.facts import Admit
from stigmem_replicator.trust.verdicts import Reject
from tests.nodes.database import NodeDatabase
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
SQLITE_ONLY: Final = pytest.mark.parametrize("node", ["sqlite"], indirect=True)
POSTGRES_ONLY: Final = pytest.mark.parametrize("node", ["postgres"], indirect=True)
REFUSED_BY_SCHEMA: Final = (LocalError, IntegrityError)
"""What a row that breaks a constraint raises: on PostgreSQL a driver's error is told apart."""
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


class FakeSleep:
    """Notes each wait and lets the clock stand at its end."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waits: list[float] = []

    async def __call__(self, seconds: float, /) -> None:
        self.waits.append(seconds)
        self.clock.advance(seconds)
        await checkpoint()


class Middle:
    """Chance that always says the middle."""

    def uniform(self, low: float, high: float, /) -> float:
        return (low + high) / 2


_NUMBERS = itertools.count(1)


def new_id() -> str:
    return f"made-{next(_NUMBERS)}"


def add_peer(node: NodeDatabase, **changes: object) -> None:
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
    node.insert("peers", **values)


def add_fact(node: NodeDatabase, fact_id: str, hlc: str | None = None, **changes: object) -> None:
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
    node.insert("facts", **values)


def unstamp(node: NodeDatabase, fact_id: str) -> None:
    """Take the clock away from a fact, as from one that was there before facts had clocks."""
    if node.backend == "sqlite":
        node.run("DROP TRIGGER IF EXISTS facts_no_update")
    node.run("UPDATE facts SET hlc = NULL WHERE id = ?", fact_id)


# verdicts and batches


def admitted(fact_id: str, **fact: object) -> Judged:
    entry = decoded(raw_entry(fact_id, fact=fact))
    return Judged(fact_id, Admit(entry, "CEO", "default", 0.5))


def rejected(entry_id: str, reason: Reason = Reason.CID_MISMATCH, *, size: int = 0) -> Judged:
    payload = document.payload({"fact": {"id": entry_id, "pad": "x" * size}})
    return Judged(entry_id, Reject(reason, "why"), payload, document.payload_hash(payload))


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


# batches being written


def batch_write(
    batch: Batch,
    *,
    row: StreamRow = None,
    moves: Progress | None = None,
    letter_bytes: int | None = None,
    stream: str = FACTS,
) -> BatchWrite:
    return BatchWrite(PEER, stream, row, batch, moves, letter_bytes)


def committed(database: Database, write: BatchWrite, clock: FakeClock) -> Committed:
    outcome = apply.apply(database, write, clock)
    assert isinstance(outcome, Committed), outcome
    return outcome


def status(node: NodeDatabase) -> dict[str, Any]:
    (row,) = node.rows("replicator_peers")
    return row


def commits(node: NodeDatabase) -> int:
    """Return the number of the peer's commits."""
    number: int = status(node)["commit_number"]
    return number


def full_write(node: NodeDatabase) -> BatchWrite:
    """Return a write that would touch every table."""
    add_fact(node, "s-1")
    batch = planned([admitted("f-1"), rejected("f-2")], {KEY: Siblings(("s-1",), 1)})
    return batch_write(batch, moves=progress("5.0"))
