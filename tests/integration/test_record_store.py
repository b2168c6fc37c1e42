"""What the streams of tombstones and revocations look up, and the gap that they note."""

from __future__ import annotations

import json

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.positions import Position
from stigmem_replicator.store import positions, reads, tombstones
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS, REVOCATIONS, TOMBSTONES
from stigmem_replicator.trust.tombstones import KnownRecord
from tests.integration.record_batches import (
    ISSUER,
    NEW,
    NEWER,
    OLD,
    add_manifest,
    add_revocation,
    add_tombstone,
)
from tests.integration.world import PEER, SQLITE_ONLY, FakeClock, new_id
from tests.nodes.database import NodeDatabase

KEY, TARGET = Reason.WAITING_FOR_KEY, Reason.WAITING_FOR_TOMBSTONE


def add_letter(
    node: NodeDatabase, entry_id: str, reason: Reason = KEY, **changes: str | None
) -> None:
    values: dict[str, object] = {
        "node_id": PEER.node_id,
        "stream": TOMBSTONES,
        "entry_id": entry_id,
        "reason": reason.value,
        "detail": "",
        "payload": json.dumps({"id": entry_id}),
        "payload_hash": "",
        "generation": "",
        "first_seen_at_ms": 1,
        "last_seen_at_ms": 1,
        "times_seen": 1,
        "status": "open",
        **changes,
    }
    node.insert("replicator_dead_letters", **values)


def test_more_ids_than_a_statement_takes(database: Database, node: NodeDatabase) -> None:
    """A page may hold tens of thousands of ids, and a statement not so many parameters."""
    add_tombstone(node, "t-39999")
    add_letter(node, "t-7")
    ids = {f"t-{number}" for number in range(40_000)}
    with reading(database) as connection:
        assert set(tombstones.known_records(connection, TOMBSTONES, ids)) == {"t-39999"}
        assert set(reads.known_letters(connection, PEER.node_id, TOMBSTONES, ids)) == {"t-7"}
        assert tombstones.manifests(connection, ids) == {}


def waiting(
    database: Database, stream: str = TOMBSTONES, after: str = "", limit: int = 9
) -> list[str]:
    with reading(database) as connection:
        found = tombstones.waiting(connection, PEER.node_id, stream, after, limit)
    assert all(payload == {"id": entry_id} for entry_id, payload in found)
    return [entry_id for entry_id, _ in found]


def test_what_waits_comes_in_portions(database: Database, node: NodeDatabase) -> None:
    """By id, from where the last portion ended, each with what was served."""
    for number in (3, 1, 2):
        add_letter(node, f"t-{number}", KEY if number % 2 else TARGET)
    assert waiting(database, limit=2) == ["t-1", "t-2"]
    assert waiting(database, after="t-2", limit=2) == ["t-3"]
    assert waiting(database, after="t-3", limit=2) == []


@SQLITE_ONLY
def test_what_is_settled_or_hopeless_does_not_wait(database: Database, node: NodeDatabase) -> None:
    """Nor what is another's, or of another stream, or whose content was dropped for space."""
    add_letter(node, "forged", Reason.ISSUER_SIG_INVALID)
    add_letter(node, "resolved", status="resolved")
    add_letter(node, "discarded", status="discarded")
    add_letter(node, "another's", node_id="stigmem:node:another")
    add_letter(node, "dropped", payload=None)
    add_letter(node, "revocation", TARGET, stream=REVOCATIONS)
    assert waiting(database) == []
    assert waiting(database, REVOCATIONS) == ["revocation"]


def test_what_is_awaited_changes_with_manifests_and_tombstones(
    database: Database, node: NodeDatabase
) -> None:
    """A new manifest, one that is replaced, a new tombstone; nothing waits for a revocation.

    Where nothing of the peer waits, nothing is awaited.
    """

    def awaited() -> tuple[object, ...] | None:
        with reading(database) as connection:
            return tombstones.what_is_awaited(connection, PEER.node_id)

    add_letter(node, "another's", node_id="stigmem:node:another")
    add_letter(node, "forged", Reason.ISSUER_SIG_INVALID)
    assert awaited() is None
    add_letter(node, "waits")
    seen = [awaited()]
    assert seen != [None]
    assert awaited() == seen[0]
    add_manifest(node, ISSUER)
    seen.append(awaited())
    node.run("UPDATE federation_manifests SET updated_at = ?", NEW)
    seen.append(awaited())
    add_tombstone(node, "t-1")
    seen.append(awaited())
    assert len(set(seen)) == len(seen)
    add_revocation(node, "r-1", "t-1")
    assert awaited() == seen[-1]


def test_records_and_manifests_are_found_by_name(database: Database, node: NodeDatabase) -> None:
    """Each kind in its own table; what is not there is left out."""
    add_tombstone(node, "x", signature="first")
    add_revocation(node, "y", "x")
    add_manifest(node, ISSUER)
    with reading(database) as connection:
        asked = ["x", "y", "z"]
        assert tombstones.known_records(connection, TOMBSTONES, asked) == {
            "x": KnownRecord(ISSUER, "first")
        }
        assert tombstones.known_records(connection, REVOCATIONS, asked) == {
            "y": KnownRecord(ISSUER, "theirs")
        }
        assert tombstones.known_records(connection, TOMBSTONES, []) == {}
        found = tombstones.manifests(connection, [ISSUER, "https://another.example"])
        assert tombstones.manifests(connection, []) == {}
    assert found == {ISSUER: f'{{"of":"{ISSUER}"}}'}


def test_positions_begin_nowhere(bare: Database) -> None:
    """Also before our own tables exist."""
    nowhere = Position(frontier=None, settled=None)
    with reading(bare) as connection:
        assert tombstones.stored_positions(connection, PEER) == {
            Artifact.TOMBSTONE: nowhere,
            Artifact.REVOCATION: nowhere,
        }


@SQLITE_ONLY
def test_positions_are_each_streams_own(database: Database) -> None:
    with writing(database) as connection:
        positions.write_position(connection, PEER, FACTS, Position("5.0", "4.0"))
        positions.write_position(connection, PEER, REVOCATIONS, Position(NEWER, OLD))
    with reading(database) as connection:
        found = tombstones.stored_positions(connection, PEER)
    assert found[Artifact.REVOCATION] == Position(NEWER, OLD)
    assert found[Artifact.TOMBSTONE] == Position(None, None)


def test_a_gap_is_noted_as_the_node_notes_it(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Numbered by its place in the table, where rows have one."""
    node.insert("fact_audit_log", id="older", ts="then")
    with writing(database) as connection:
        tombstones.audit_sync_gap(connection, PEER, 7, NEW, new_id, clock)
    (row,) = [row for row in node.rows("fact_audit_log") if row["id"] != "older"]
    assert row["seq"] == (None if node.backend == "postgres" else 2)
    assert {name: row[name] for name in ("event_type", "entity_uri", "source", "tenant_id")} == {
        "event_type": "tombstone_sync_gap",
        "entity_uri": PEER.node_id,
        "source": f"federation_pull:{PEER.node_id}",
        "tenant_id": "default",
    }
    assert (row["fact_id"], row["ts"]) == (None, clock.now_iso())
    assert json.loads(row["detail"]) == {
        "peer_node_id": PEER.node_id,
        "tombstones_in_batch": 7,
        "cursor": NEW,
    }
