"""Dead letters, written with their batch: renewed, counted, settled and trimmed."""

from __future__ import annotations

from typing import Any

from stigmem_replicator.errors import Reason
from stigmem_replicator.replication.plan import Judged, RefusedBefore
from stigmem_replicator.store.engine import Database
from tests.integration.world import (
    FakeClock,
    admitted,
    batch_write,
    committed,
    planned,
    rejected,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS


def letter(node: NodeDatabase, entry_id: str = "f-1") -> dict[str, Any]:
    return next(row for row in node.rows("replicator_dead_letters") if row["entry_id"] == entry_id)


def test_a_letter_that_comes_again_is_renewed_and_counted(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The newest reason, payload and policy stand; when it was first seen stays."""
    committed(database, batch_write(planned([rejected("f-1", Reason.CID_LEGACY)])), clock)
    node.run("UPDATE replicator_dead_letters SET status = 'discarded'")
    again = rejected("f-1", Reason.CID_MISMATCH, size=9)
    batch = planned([again], now_ms=NOW_MS + 5, generation="g2")
    committed(database, batch_write(batch), clock)
    got = letter(node)
    assert (got["reason"], got["payload"]) == ("cid_mismatch", again.payload.decode())
    assert (got["payload_hash"], got["generation"]) == (again.payload_hash, "g2")
    assert (got["first_seen_at_ms"], got["last_seen_at_ms"]) == (NOW_MS, NOW_MS + 5)
    assert (got["times_seen"], got["status"]) == (2, "open")


def test_an_entry_refused_before_is_only_counted(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Touching a letter changes when it was last seen and how often, nothing else."""
    committed(database, batch_write(planned([rejected("f-1"), rejected("f-2")])), clock)
    before = letter(node)
    clock.advance(3600)
    seen = Judged("f-1", RefusedBefore(Reason.CID_MISMATCH, touch=True))
    committed(database, batch_write(planned([seen])), clock)
    touched = {"last_seen_at_ms": NOW_MS + 3_600_000, "times_seen": 2}
    assert letter(node) == {**before, **touched}
    assert letter(node, "f-2")["times_seen"] == 1
    assert len(node.rows("federation_audit")) == 2


def test_a_letter_is_settled_when_its_entry_is_admitted(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The letter stays as a record and gives its payload back."""
    committed(database, batch_write(planned([rejected("f-1"), rejected("f-2")])), clock)
    batch = planned([admitted("f-1")], open_letters=["f-1"])
    committed(database, batch_write(batch), clock)
    assert (letter(node)["status"], letter(node)["payload"]) == ("resolved", None)
    assert letter(node, "f-2")["status"] == "open"


def test_the_oldest_payloads_go_first(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Over the bound the payloads seen longest ago are dropped; their rows stay."""
    size = len(rejected("f-1", size=100).payload)
    for number in range(4):
        batch = planned([rejected(f"f-{number}", size=100)], now_ms=NOW_MS + number)
        write = batch_write(batch, letter_bytes=2 * size)
        committed(database, write, clock)
    kept = {row["entry_id"]: row["payload"] is not None for row in letters(node)}
    assert kept == {"f-0": False, "f-1": False, "f-2": True, "f-3": True}
    assert all(row["payload_hash"] for row in letters(node))


def test_without_a_bound_payloads_stay(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Nothing is dropped while the payloads are known to fit."""
    committed(database, batch_write(planned([rejected("f-1", size=10_000)])), clock)
    assert letter(node)["payload"] is not None


def test_other_peers_payloads_are_not_trimmed(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The bound is one peer's."""
    committed(database, batch_write(planned([rejected("f-1", size=100)])), clock)
    node.run("UPDATE replicator_dead_letters SET node_id = 'stigmem:node:other'")
    batch = planned([rejected("f-2", size=100)])
    committed(database, batch_write(batch, letter_bytes=1), clock)
    assert letter(node, "f-1")["payload"] is not None
    assert letter(node, "f-2")["payload"] is None


def letters(node: NodeDatabase) -> list[dict[str, Any]]:
    return node.rows("replicator_dead_letters")
