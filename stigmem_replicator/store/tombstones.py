"""What the streams of tombstones and revocations look up and leave behind beside their pages.

Their pages are written by ``apply`` like those of facts.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, func, insert, select, update

from stigmem_replicator.clock import Clock, NewId
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
from stigmem_replicator.trust.tombstones import MENDED_BY_TIME, KnownRecord

STREAM_OF: Final = {Artifact.TOMBSTONE: TOMBSTONES, Artifact.REVOCATION: REVOCATIONS}
"""In which stream each kind of record comes."""

_MODELS: Final[dict[str, type[Tombstone | TombstoneRevocation]]] = {
    TOMBSTONES: Tombstone,
    REVOCATIONS: TombstoneRevocation,
}


def known_records(
    connection: Connection, stream: str, ids: Collection[str]
) -> dict[str, KnownRecord]:
    """Return what stands under those of ``ids`` that exist in one of the two tables."""
    model = _MODELS[stream]
    columns = select(model.id, model.signed_by, model.signature)
    return {
        row.id: KnownRecord(row.signed_by, row.signature)
        for some in reads.chunks(ids)
        for row in connection.execute(columns.where(model.id.in_(some)))
    }


def manifests(connection: Connection, organisations: Collection[str]) -> dict[str, str]:
    """Return the stored manifests of these organisations, as JSON."""
    columns = select(FederationManifest.entity_uri, FederationManifest.manifest_json)
    return {
        row.entity_uri: row.manifest_json
        for some in reads.chunks(organisations)
        for row in connection.execute(columns.where(FederationManifest.entity_uri.in_(some)))
    }


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


_WAITS: Final = (
    DeadLetter.status == "open",
    DeadLetter.reason.in_(sorted(reason.value for reason in MENDED_BY_TIME)),
    DeadLetter.payload.is_not(None),
)


def what_is_awaited(connection: Connection, node_id: str) -> tuple[object, ...] | None:
    """Return something that changes when a waiting record may have what it waits for.

    None where no record of this peer waits.  Tombstones are never removed, and a manifest that is
    replaced gets a new time.
    """
    waits = (
        select(DeadLetter.entry_id)
        .where(DeadLetter.node_id == node_id, DeadLetter.stream.in_(_MODELS), *_WAITS)
        .limit(1)
    )
    if not reads.has_own_tables(connection) or connection.execute(waits).first() is None:
        return None
    keys = connection.execute(select(FederationManifest.entity_uri, FederationManifest.updated_at))
    tombstones = connection.scalar(select(func.count()).select_from(Tombstone))
    return frozenset((row.entity_uri, row.updated_at) for row in keys), tombstones


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
            *_WAITS,
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
