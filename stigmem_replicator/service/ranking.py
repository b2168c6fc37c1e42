"""In which order peers are shown: whom an operator must help first.  Pure.

The page and the terminal show them alike.
"""

from __future__ import annotations

from typing import Final

from stigmem_replicator.observe.board import PeerPicture
from stigmem_replicator.replication.states import PeerState

ORDER: Final = (
    PeerState.BLOCKED,
    PeerState.BACKING_OFF,
    PeerState.THROTTLED,
    PeerState.CATCHING_UP,
    PeerState.ELSEWHERE,
    PeerState.PAUSED,
    PeerState.IDLE,
)
"""The states in the order in which their peers are shown."""


def needs_operator(peer: PeerPicture) -> bool:
    """Say whether a peer is not well until somebody does something."""
    return peer.active and (peer.state is PeerState.BLOCKED or peer.node_loop)


def tombstones_need_operator(peer: PeerPicture) -> bool:
    """Say whether a peer's tombstones do not come until somebody does something.

    Its facts may come all the same; of a paused one nothing is expected.
    """
    beside = peer.tombstones
    blocked = beside is not None and beside.state is PeerState.BLOCKED
    return blocked and peer.active and peer.state is not PeerState.PAUSED


def rank(peer: PeerPicture) -> tuple[bool, bool, bool, int, int, str]:
    """Order peers: whom an operator must help first, those that are not pulled last.

    Facts that do not come go before tombstones that do not.
    """
    lag = -1 if peer.lag_ms is None else peer.lag_ms
    needs = needs_operator(peer)
    beside = tombstones_need_operator(peer)
    return (not peer.active, not needs, not beside, ORDER.index(peer.state), -lag, peer.node_id)
