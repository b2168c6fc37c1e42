"""What commands that look at peers look up: how each stands, and this machine.

How it is said is in ``peer_text``; what is said of the daemon in ``daemon``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from stigmem_replicator.cli import daemon
from stigmem_replicator.cli.peer_text import Machine, Shown
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import node_loop, streams, views
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.reads import PeerRow


def machine_of(database: Database, settings: Settings) -> Machine:
    """Return what is the same for all peers, as it is now."""
    return Machine(
        now_ms=SystemClock().now_ms(),
        daemon=daemon.runs(database),
        hindrance=daemon.hindrance(database, settings),
        insecure=settings.federation_insecure,
    )


def shown(
    connection: Connection, peers: Sequence[PeerRow], settings: Settings, machine: Machine
) -> list[Shown]:
    """Return these peers, and how each stands, as was written last."""
    seen = views.peer_views(connection, machine.now_ms)
    cursors = views.frontiers(connection)
    looped = node_loop.seen(connection, machine.now_ms)
    tombstones = streams.views(connection, TOMBSTONES)
    return [
        Shown(
            peer=peer,
            view=seen.get(peer.node_id),
            cursor=cursors.get(peer.id),
            node_loop=peer.node_id in looped,
            poll_interval_s=of_peer.poll_interval_s,
            tombstones=tombstones.get(peer.node_id),
            tombstone_interval_s=of_peer.tombstone_interval_s,
        )
        for peer in peers
        for of_peer in (settings.for_peer(peer.node_id),)
    ]


def tell(machine: Machine) -> None:
    """Say on standard error that no daemon runs, or what holds it up, where that is so."""
    daemon.tell(machine.daemon)
    if machine.hindrance is not None:
        daemon.tell_hindrance(machine.hindrance)
