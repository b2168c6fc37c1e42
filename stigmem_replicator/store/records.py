"""The small transactions beside the pages: our clock's seed, a cursor reset, a newer manifest.

Everything that belongs to a page is in ``apply``, how a peer stands in ``standings``.
"""

from __future__ import annotations

import json

from sqlalchemy import Connection, insert, update

from stigmem_replicator.clock import Clock, NewId
from stigmem_replicator.replication.session import Position
from stigmem_replicator.store import events, positions, reads, standings
from stigmem_replicator.store.node_models import FederationAudit, FederationManifest
from stigmem_replicator.store.reads import CursorRow, PeerRow
from stigmem_replicator.trust.keys import Manifest


def reset_cursor(
    connection: Connection,
    peer: PeerRow,
    stream: str,
    cursor: str | None,
    actor: str,
    clock: Clock,
    *,
    event: str = events.CURSOR_RESET,
    forced: bool = False,
) -> CursorRow:
    """Set a stream to ``cursor`` (None: the beginning), whoever works on the peer.

    A page in flight compares the row and is planned again from here.  ``event`` is the
    operator's act and ``forced`` says that the peer is not known to have given the position.
    """
    standings.enlist(connection, peer.node_id, clock)
    stored = reads.stored_position(connection, peer, stream)
    row = positions.write_cursor_row(connection, peer, cursor, clock)
    kept = tuple(
        checkpoint
        for checkpoint in stored.position.checkpoints
        if cursor is not None and checkpoint.position <= cursor
    )
    position = Position(
        frontier=cursor,
        settled=cursor,
        origin_time_ms=stored.position.origin_time_ms,
        origin_time_at_ms=stored.position.origin_time_at_ms,
        checkpoints=kept,
    )
    positions.write_position(connection, peer, stream, position)
    before = stored.row.cursor if stored.row else None
    detail: dict[str, object] = {"stream": stream, "before": before, "after": cursor}
    if forced:
        detail["forced"] = True
    events.note(connection, peer.node_id, event, actor, detail, clock)
    return row


def reset_beside(
    connection: Connection,
    peer: PeerRow,
    stream: str,
    text: str | None,
    actor: str,
    clock: Clock,
    *,
    event: str = events.CURSOR_RESET,
) -> None:
    """Set a stream that stands beside the facts to ``text`` (None: the beginning).

    A page in flight compares the row, and a new pass begins there.
    """
    standings.enlist(connection, peer.node_id, clock)
    before = reads.stream_row(connection, peer, stream)
    positions.write_position(connection, peer, stream, Position(frontier=text, settled=text))
    detail = {"stream": stream, "before": before.cursor if before else None, "after": text}
    events.note(connection, peer.node_id, event, actor, detail, clock)


def store_manifest(
    connection: Connection,
    peer: PeerRow,
    manifest: Manifest,
    stored: reads.StoredManifest,
    clock: Clock,
    new_id: NewId,
) -> None:
    """Replace a stored manifest by one that follows from it, as the node does.

    A manifest that did not change only gets a new time.  The transparency-log proof belongs to
    the manifest that it was made for and goes with it.
    """
    document = json.dumps(manifest.document(), separators=(",", ":"))
    values = {"updated_at": clock.now_iso()}
    unchanged = json.loads(stored.document) == manifest.document()
    if not unchanged:
        values |= {
            "manifest_json": document,
            "signature": manifest.signature,
            "key_id": manifest.key_id,
            "issued_at": manifest.issued_at,
            "expires_at": manifest.expires_at,
        }
    stood = connection.execute(
        update(FederationManifest)
        .where(
            FederationManifest.entity_uri == manifest.entity_uri,
            # What somebody else stored since it was read stays.
            FederationManifest.updated_at == stored.updated_at,
        )
        .values(**values, **({} if unchanged else {"log_entry_json": None}))
    ).rowcount
    if stood and not unchanged:
        connection.execute(
            insert(FederationAudit).values(
                id=new_id(),
                peer_id=peer.id,
                event_type="manifest_stored",
                detail=json.dumps({"entity_uri": manifest.entity_uri, "key_id": manifest.key_id}),
                ts=clock.now_iso(),
            )
        )


def audit_san_mismatch(connection: Connection, peer: PeerRow, new_id: NewId, clock: Clock) -> None:
    """Note in the node's audit, as the node does, that a peer's certificate is somebody else's.

    In this event the node names the peer by its node id, not by the id of its registry.
    """
    connection.execute(
        insert(FederationAudit).values(
            id=new_id(),
            peer_id=peer.node_id,
            event_type="san_mismatch",
            detail=json.dumps({"peer_node_id": peer.node_id, "direction": "pull"}),
            ts=clock.now_iso(),
        )
    )
