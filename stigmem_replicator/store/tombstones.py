"""What the streams of tombstones and revocations look up and leave behind beside their pages.

Their pages are written by ``apply`` like those of facts.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, func, insert, select, update

from stigmem_replicator.clock import Clock, NewId
from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.session import Position
from stigmem_replicator.store import reads
from stigmem_replicator.store.node_models import (
    FactAudit,
    FederationManifest,
    Tombstone,
    TombstoneRevocation,
)
from stigmem_replicator.store.own_models import (
    REVOCATIONS,
    TOMBSTONES,
    DeadLetter,
    StreamCursor,
)
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.sql import place_in_table
from stigmem_replicator.trust.tombstones import KnownRecord

STREAM_OF: Final = {Artifact.TOMBSTONE: TOMBSTONES, Artifact.REVOCATION: REVOCATIONS}
"""In which stream each kind of record comes."""

WAITING: Final = (Reason.WAITING_FOR_KEY, Reason.WAITING_FOR_TOMBSTONE)
"""Why a record waits in the dead letters for something that comes by itself."""

_MODELS: Final[dict[str, type[Tombstone | TombstoneRevocation]]] = {
    TOMBSTONES: Tombstone,
    REVOCATIONS: TombstoneRevocation,
}


def known_records(
    connection: Connection, stream: str, ids: Collection[str]
) -> dict[str, KnownRecord]:
    """Return what stands under those of ``ids`` that exist in one of the two tables."""
    if not ids:
        return {}
    model = _MODELS[stream]
    rows = connection.execute(
        select(model.id, model.signed_by, model.signature).where(model.id.in_(list(ids)))
    )
    return {row.id: KnownRecord(row.signed_by, row.signature) for row in rows}


def manifests(connection: Connection, organisations: Collection[str]) -> dict[str, str]:
    """Return the stored manifests of these organisations, as JSON."""
    if not organisations:
        return {}
    rows = connection.execute(
        select(FederationManifest.entity_uri, FederationManifest.manifest_json).where(
            FederationManifest.entity_uri.in_(list(organisations))
        )
    )
    return {row.entity_uri: row.manifest_json for row in rows}


def stored_positions(connection: Connection, peer: PeerRow) -> dict[Artifact, Position]:
    """Return where both streams of a peer stand.  Works before our own tables exist."""
    rows = (
        connection.execute(
            select(StreamCursor.stream, StreamCursor.frontier, StreamCursor.settled).where(
                StreamCursor.node_id == peer.node_id, StreamCursor.stream.in_(_MODELS)
            )
        ).all()
        if reads.has_own_tables(connection)
        else []
    )
    found = {row.stream: Position(row.frontier, row.settled) for row in rows}
    nowhere = Position(frontier=None, settled=None)
    return {artifact: found.get(stream, nowhere) for artifact, stream in STREAM_OF.items()}


def what_is_awaited(connection: Connection) -> tuple[object, ...]:
    """Return something that changes when a waiting record may have what it waits for.

    Tombstones are never removed, and a manifest that is replaced gets a new time.
    """
    keys = connection.execute(
        select(func.count(), func.max(FederationManifest.updated_at)).select_from(
            FederationManifest
        )
    ).one()
    tombstones = connection.scalar(select(func.count()).select_from(Tombstone))
    return (*keys, tombstones)


def waiting(
    connection: Connection, node_id: str, stream: str, after: str, limit: int
) -> list[tuple[str, Any]]:
    """Return records of a peer that wait in the dead letters, by id from ``after`` on.

    Each with its id, as it was served; one whose content was dropped is left out.
    """
    rows = connection.execute(
        select(DeadLetter.entry_id, DeadLetter.payload)
        .where(
            DeadLetter.node_id == node_id,
            DeadLetter.stream == stream,
            DeadLetter.status == "open",
            DeadLetter.reason.in_([reason.value for reason in WAITING]),
            DeadLetter.payload.is_not(None),
            DeadLetter.entry_id > after,
        )
        .order_by(DeadLetter.entry_id)
        .limit(limit)
    )
    return [(row.entry_id, json.loads(row.payload or "null")) for row in rows]


def audit_sync_gap(
    connection: Connection,
    peer: PeerRow,
    tombstones: int,
    cursor: str | None,
    new_id: NewId,
    clock: Clock,
) -> None:
    """Note in the node's audit that a pass ended although the peer has more.

    ``tombstones`` is how many it brought, ``cursor`` where it stood.
    """
    row_id = new_id()
    connection.execute(
        insert(FactAudit).values(
            id=row_id,
            event_type="tombstone_sync_gap",
            entity_uri=peer.node_id,
            source=f"federation_pull:{peer.node_id}",
            ts=clock.now_iso(),
            tenant_id="default",
            detail=json.dumps(
                {
                    "peer_node_id": peer.node_id,
                    "tombstones_in_batch": tombstones,
                    "cursor": cursor,
                }
            ),
        )
    )
    connection.execute(
        update(FactAudit)
        .where(FactAudit.id == row_id)
        .values(seq=place_in_table(connection, FactAudit.seq))
    )
