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


def rank(peer: PeerPicture) -> tuple[bool, bool, int, int, str]:
    """Order peers: whom an operator must help first, those that are not pulled last."""
    lag = -1 if peer.lag_ms is None else peer.lag_ms
    needs = needs_operator(peer)
    return (not peer.active, not needs, ORDER.index(peer.state), -lag, peer.node_id)
