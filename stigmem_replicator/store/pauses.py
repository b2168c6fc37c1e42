"""Pauses: an operator has a peer left alone, and has it worked on again.

What that makes of the peer is decided in ``replication.states``; who sees to it is the engine.
"""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from stigmem_replicator.clock import Clock
from stigmem_replicator.replication import states
from stigmem_replicator.store import events, standings
from stigmem_replicator.store.own_models import PeerStatus


def pause(
    connection: Connection,
    node_id: str,
    why: str | None,
    until_ms: int | None,
    actor: str,
    clock: Clock,
) -> None:
    """Have nobody but a pull by hand work on a peer, until a time where one is given."""
    standings.enlist(connection, node_id, clock)
    now_ms = clock.now_ms()
    why = standings.storable(why)
    after = states.paused(standings.standing(connection, node_id), now_ms, why, until_ms)
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id == node_id)
        .values(
            **standings.columns(after),
            paused_at_ms=now_ms,
            paused_until_ms=until_ms,
            paused_by=actor,
            pause_reason=why,
        )
    )
    detail = {"reason": why, "until_ms": until_ms}
    events.note(connection, node_id, events.PAUSED, actor, detail, clock)


def resume(connection: Connection, node_id: str, actor: str, clock: Clock) -> None:
    """End a pause, and forget what failed: the peer is asked as soon as it allows.

    The replicator itself ends only a pause whose time has come: meanwhile an operator may have
    made it longer.
    """
    standings.enlist(connection, node_id, clock)
    now_ms = clock.now_ms()
    if actor == events.REPLICATOR:
        until_ms = connection.scalar(
            select(PeerStatus.paused_until_ms).where(PeerStatus.node_id == node_id)
        )
        if until_ms is None or until_ms > now_ms:
            return
    after = states.resumed(standings.standing(connection, node_id), now_ms)
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id == node_id)
        .values(
            **standings.columns(after),
            paused_at_ms=None,
            paused_until_ms=None,
            paused_by=None,
            pause_reason=None,
            resumed_at_ms=now_ms,
        )
    )
    detail = {"state": after.state}
    events.note(connection, node_id, events.RESUMED, actor, detail, clock)
