"""The small transactions: the node's audit, cursor resets, manifests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stigmem_replicator.replication.session import Checkpoint
from stigmem_replicator.store import migrations, positions, reads, records
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import CursorRow
from stigmem_replicator.trust.keys import parse_manifest
from tests.integration.peer_rows import told
from tests.integration.world import (
    PEER,
    FakeClock,
    new_id,
    progress,
    status,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import KEYS, NOW, NOW_MS, manifest_document, rotation

# the node's audit


def test_a_certificate_of_somebody_else_is_audited_as_the_node_does(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """One row under the peer's node id, in the closed list of events of the node's table."""
    with writing(database) as connection:
        records.audit_san_mismatch(connection, PEER, lambda: "audit-1", clock)
    assert node.rows("federation_audit") == [
        {
            "id": "audit-1",
            "peer_id": PEER.node_id,
            "event_type": "san_mismatch",
            "detail": f'{{"peer_node_id": "{PEER.node_id}", "direction": "pull"}}',
            "ts": NOW.isoformat(),
        }
    ]


# resets


def reset(database: Database, clock: FakeClock, cursor: str | None) -> CursorRow:
    with writing(database) as connection:
        return records.reset_cursor(connection, PEER, FACTS, cursor, "alice", clock)


@pytest.mark.parametrize(
    ("cursor", "kept"),
    [(None, []), ("2.5", ["1.0", "2.0"]), ("0.5", []), ("4.0", ["1.0", "2.0", "3.0"])],
)
def test_a_reset_sets_every_position_back(
    database: Database, clock: FakeClock, cursor: str | None, kept: list[str]
) -> None:
    """The node's row, frontier and settled position are one, and later checkpoints are gone."""
    checkpoints = tuple(Checkpoint(f"{n}.0", n) for n in (1, 2, 3))
    with writing(database) as connection:
        done = progress("5.0", settled="3.0", checkpoints=checkpoints)
        positions.save(connection, PEER, FACTS, None, done, clock)
    clock.advance(1)
    row = reset(database, clock, cursor)
    assert row == CursorRow(cursor, clock.now_iso())
    with reading(database) as connection:
        got = reads.stored_position(connection, PEER, FACTS)
    assert got.row == row
    assert (got.position.frontier, got.position.settled) == (cursor, cursor)
    assert [checkpoint.position for checkpoint in got.position.checkpoints] == kept
    assert got.position.origin_time_ms == NOW_MS - 50
    assert told(database) == [
        ("cursor_reset", "alice", {"stream": FACTS, "before": "5.0", "after": cursor})
    ]


def test_a_peer_that_was_never_pulled_can_be_reset(
    bare: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A cursor may be set before the first pull; the peer gets its row."""
    migrations.upgrade(bare)
    assert reset(bare, clock, "7.0").cursor == "7.0"
    assert status(node)["number"] == 1
    assert told(bare)[0][2]["before"] is None


# manifests


def stored_manifest(
    database: Database, node: NodeDatabase, document: dict[str, Any]
) -> reads.StoredManifest:
    node.insert(
        "federation_manifests",
        id="m-1",
        entity_uri=document["entity_uri"],
        manifest_json=json.dumps(document),
        signature=document["signature"],
        key_id=document["key_id"],
        issued_at=document["issued_at"],
        expires_at=document["expires_at"],
        log_entry_json="{}",
        created_at="then",
        updated_at="then",
    )
    with reading(database) as connection:
        stored = reads.manifest(connection, document["entity_uri"])
    assert stored is not None
    return stored


def store(
    database: Database,
    node: NodeDatabase,
    clock: FakeClock,
    document: dict[str, Any],
    stored: reads.StoredManifest,
) -> dict[str, Any]:
    with writing(database) as connection:
        records.store_manifest(connection, PEER, parse_manifest(document), stored, clock, new_id)
    (row,) = node.rows("federation_manifests")
    return row


def test_a_newer_manifest_replaces_the_stored_one(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Every column follows, the proof of the old one goes, and the node's audit says so."""
    stored = stored_manifest(database, node, manifest_document(KEYS[0]))
    newer = manifest_document(KEYS[1], rotations=[rotation(KEYS[0], KEYS[1])])
    row = store(database, node, clock, newer, stored)
    assert json.loads(row["manifest_json"]) == newer
    assert (row["id"], row["created_at"], row["updated_at"]) == ("m-1", "then", NOW.isoformat())
    assert (row["key_id"], row["signature"]) == (KEYS[1].id, newer["signature"])
    assert (row["issued_at"], row["expires_at"]) == (newer["issued_at"], newer["expires_at"])
    assert row["log_entry_json"] is None
    (audit,) = node.rows("federation_audit")
    assert (audit["event_type"], audit["peer_id"]) == ("manifest_stored", PEER.id)
    assert json.loads(audit["detail"])["key_id"] == KEYS[1].id


def test_the_same_manifest_only_gets_a_new_time(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Nothing changed, so its proof stays and nothing is audited."""
    document = manifest_document(KEYS[0])
    stored = stored_manifest(database, node, document)
    before = node.rows("federation_manifests")[0]
    row = store(database, node, clock, document, stored)
    assert row == {**before, "updated_at": NOW.isoformat()}
    assert node.rows("federation_audit") == []
