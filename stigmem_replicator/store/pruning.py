"""Peers that the node's registry no longer has: remembered for a while, then forgotten.

Dead letters and what operators did are kept for good.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from stigmem_replicator.store.events import REPLICATOR
from stigmem_replicator.store.node_models import Peer
from stigmem_replicator.store.own_models import (
    Event,
    PeerStatus,
    StreamCheckpoint,
    StreamCursor,
    StreamStatus,
)

KEPT_MS: Final = 30 * 24 * 3_600_000
"""How long a peer that is gone is remembered, in milliseconds."""

_REGISTERED: Final = PeerStatus.node_id.in_(select(Peer.node_id))
_GONE: Final = and_(~_REGISTERED, PeerStatus.vanished_at_ms.is_(None))
_BACK: Final = and_(_REGISTERED, PeerStatus.vanished_at_ms.is_not(None))


def is_due(connection: Connection, now_ms: int) -> bool:
    """Say whether :func:`prune` would change anything."""
    anything = or_(_GONE, _BACK, _expired(now_ms))
    return (
        connection.execute(select(PeerStatus.number).where(anything).limit(1)).first() is not None
    )


def prune(connection: Connection, now_ms: int) -> None:
    """Note which peers are gone since when, and forget those that are gone for long."""
    expired = select(PeerStatus.node_id).where(_expired(now_ms))
    for model in (StreamCheckpoint, StreamCursor, StreamStatus):
        connection.execute(delete(model).where(model.node_id.in_(expired)))
    connection.execute(delete(Event).where(Event.node_id.in_(expired), Event.actor == REPLICATOR))
    connection.execute(delete(PeerStatus).where(_expired(now_ms)))
    connection.execute(update(PeerStatus).where(_BACK).values(vanished_at_ms=None))
    connection.execute(update(PeerStatus).where(_GONE).values(vanished_at_ms=now_ms))


def _expired(now_ms: int) -> ColumnElement[bool]:
    return and_(~_REGISTERED, PeerStatus.vanished_at_ms < now_ms - KEPT_MS)
