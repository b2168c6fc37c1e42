"""Verdicts on tombstones and revocations, and batches of them, for tests of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.protocol.tombstone import (
    Artifact,
    Revocation,
    RevocationEntry,
    Tombstone,
    TombstoneEntry,
)
from stigmem_replicator.replication.plan import Batch, Judged, PageContext, plan_batch
from stigmem_replicator.replication.positions import Position, Progress
from stigmem_replicator.store.apply import BatchWrite
from stigmem_replicator.store.reads import OwnCursor, StreamRow
from stigmem_replicator.store.tombstones import STREAM_OF
from stigmem_replicator.trust.tombstones import AdmitRecord
from stigmem_replicator.trust.verdicts import Reject
from tests.integration.world import PEER, new_id
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

ISSUER: Final = "https://issuer.example"
OLD, NEW, NEWER = (f"2026-01-01T0{hour}:00:00+00:00" for hour in (1, 2, 3))
TOUCHED: Final = (
    *("tombstones", "tombstone_revocations", "fact_audit_log", "federation_audit"),
    *("replicator_cursors", "replicator_dead_letters", "replicator_peers"),
)
TABLES: Final = {Artifact.TOMBSTONE: "tombstones", Artifact.REVOCATION: "tombstone_revocations"}


def tombstone(record_id: str, *, tenant: str = "default", **fields: object) -> Judged:
    """An admitted tombstone."""
    values = {
        "id": record_id,
        "entity_uri": f"gone:{record_id}",
        "scope": "*",
        "reason": None,
        "signed_by": ISSUER,
        "key_id": "0123456789abcdef",
        "signature": f"signature of {record_id}",
        "created_at": NEW,
        "legal_hold": False,
        **fields,
    }
    record = Tombstone(**values)  # type: ignore[arg-type]
    return Judged(record_id, AdmitRecord(TombstoneEntry(record), tenant))


def revocation(record_id: str, tombstone_id: str) -> Judged:
    """An admitted revocation."""
    record = Revocation(
        id=record_id,
        tombstone_id=tombstone_id,
        reason="reinstated",
        signed_by=ISSUER,
        key_id="0123456789abcdef",
        signature=f"signature of {record_id}",
        created_at=NEWER,
    )
    return Judged(record_id, AdmitRecord(RevocationEntry(record), "default"))


def refused(record_id: str, reason: Reason = Reason.ISSUER_SIG_INVALID) -> Judged:
    """A refused record of either kind."""
    payload = document.payload({"id": record_id})
    shown: dict[str, object] = {
        "signed_by": ISSUER,
        "target_entity_uri": f"gone:{record_id}",
        "key_id": "0123456789abcdef",
    }
    verdict = Reject(reason, "why", shown)
    return Judged(record_id, verdict, payload, document.payload_hash(payload))


def planned(
    judged: Sequence[Judged],
    artifact: Artifact = Artifact.TOMBSTONE,
    *,
    open_letters: Sequence[str] = (),
) -> Batch:
    context = PageContext(
        peer_id=PEER.id,
        sender_node_id=PEER.node_id,
        stream=STREAM_OF[artifact],
        generation="g1",
        now_iso=datetime.fromtimestamp(NOW_MS / 1000, UTC).isoformat(),
        now_ms=NOW_MS,
        max_conflicts=100,
        new_id=new_id,
        artifact=artifact,
    )
    return plan_batch(judged, {}, open_letters, context, 10**9)


def record_write(
    judged: Sequence[Judged],
    artifact: Artifact = Artifact.TOMBSTONE,
    *,
    row: StreamRow = OwnCursor(),  # noqa: B008 - a value
    newest: str | None = None,
    settled: str | None = None,
    open_letters: Sequence[str] = (),
    still_held: Callable[[], bool] = lambda: True,
) -> BatchWrite:
    """A batch to be written; with `newest` it is a page's last and moves the position."""
    moves: Progress | None = None
    if newest is not None:
        assert isinstance(row, OwnCursor)
        before = Position(row.frontier, row.cursor)
        after = Position(newest, settled)
        moves = Progress(row.cursor, before, after, None, has_more=False)
    batch = planned(judged, artifact, open_letters=open_letters)
    stream = STREAM_OF[artifact]
    return BatchWrite(PEER, stream, row, batch, moves, still_held=still_held)


def add_tombstone(node: NodeDatabase, record_id: str, **changes: object) -> None:
    """Put a tombstone into the database as somebody else would."""
    values: dict[str, object] = {
        "id": record_id,
        "entity_uri": f"gone:{record_id}",
        "scope": "*",
        "signed_by": ISSUER,
        "signature": "theirs",
        "created_at": NEW,
        "legal_hold": 0,
        "tenant_id": "default",
        **changes,
    }
    node.insert("tombstones", **values)


def add_revocation(node: NodeDatabase, record_id: str, tombstone_id: str) -> None:
    """Put a revocation into the database as somebody else would."""
    node.insert(
        "tombstone_revocations",
        id=record_id,
        tombstone_id=tombstone_id,
        reason="theirs",
        signed_by=ISSUER,
        key_id="",
        signature="theirs",
        created_at=NEW,
    )


def add_manifest(node: NodeDatabase, organisation: str, *, updated_at: str = OLD) -> None:
    """Put a manifest into the database; what it says is of no consequence here."""
    node.insert(
        "federation_manifests",
        id=f"manifest of {organisation}",
        entity_uri=organisation,
        manifest_json=f'{{"of":"{organisation}"}}',
        signature="s",
        key_id="k",
        issued_at=OLD,
        expires_at=NEWER,
        created_at=OLD,
        updated_at=updated_at,
    )


def held(node: NodeDatabase) -> dict[str, list[dict[str, Any]]]:
    """Every table that a batch of records could write to."""
    return {table: node.rows(table) for table in TOUCHED}


def ids(node: NodeDatabase, artifact: Artifact = Artifact.TOMBSTONE) -> list[str]:
    """The records of a kind that are here."""
    return [row["id"] for row in node.rows(TABLES[artifact])]
