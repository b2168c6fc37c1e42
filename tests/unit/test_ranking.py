"""In which order peers are shown where tombstones need an operator."""

from __future__ import annotations

import pytest

from stigmem_replicator.observe.board import StreamPicture
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service.ranking import needs_operator, rank, tombstones_need_operator
from tests.pictures import peer

BLOCKED = StreamPicture(PeerState.BLOCKED, reason="capability_required")


def test_blocked_tombstones_come_after_blocked_facts_and_before_the_rest() -> None:
    """Whom an operator must help goes first, facts before tombstones."""
    peers = {
        "inactive": peer("a", status="revoked", tombstones=BLOCKED),
        "healthy": peer("b", tombstones=StreamPicture(PeerState.IDLE)),
        "failing": peer("c", PeerState.BACKING_OFF),
        "tombstones": peer("d", tombstones=BLOCKED),
        "facts": peer("e", PeerState.BLOCKED),
    }
    order = sorted(peers, key=lambda name: rank(peers[name]))
    assert order == ["facts", "tombstones", "failing", "healthy", "inactive"]


@pytest.mark.parametrize("state", [PeerState.BACKING_OFF, PeerState.THROTTLED, PeerState.IDLE])
def test_what_comes_back_by_itself_needs_nobody(state: PeerState) -> None:
    assert not tombstones_need_operator(peer(tombstones=StreamPicture(state)))


def test_blocked_tombstones_are_no_failure_of_the_facts() -> None:
    """The peer itself counts as well; one that is paused, or not active, needs nobody."""
    assert tombstones_need_operator(peer(tombstones=BLOCKED))
    assert not needs_operator(peer(tombstones=BLOCKED))
    assert not tombstones_need_operator(peer("a", PeerState.PAUSED, tombstones=BLOCKED))
    assert not tombstones_need_operator(peer(status="revoked", tombstones=BLOCKED))
    assert not tombstones_need_operator(peer())
