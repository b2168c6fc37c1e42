"""The picture as JSON for programs, in the words of ``peers list --json`` where both have them.

Pure; every key is described in docs/cli-json.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from stigmem_replicator.observe.board import PeerPicture, Picture, StreamPicture
from stigmem_replicator.settings.values import without_secrets


def document(
    picture: Picture, now_ms: int, stuck: Sequence[str], unready: Sequence[str]
) -> dict[str, object]:
    """Return the whole picture; ``stuck`` and ``unready`` are what ``health`` found."""
    trouble = picture.trouble
    return {
        "version": picture.version,
        "pid": picture.pid,
        "started_ms": picture.started_ms,
        "at_ms": picture.at_ms,
        "now_ms": now_ms,
        "healthy": not stuck,
        "ready": not stuck and not unready,
        "problems": [*stuck, *unready],
        "database": picture.database,
        "wire_version": picture.wire_version,
        "newest_migration": picture.newest_migration,
        "insecure": picture.insecure,
        "own_certificate_not_after_ms": picture.own_certificate_not_after_ms,
        "local_db": None if trouble is None else trouble.cause,
        "trouble": None
        if trouble is None
        else {"detail": trouble.detail, "hint": trouble.hint, "since_ms": trouble.since_ms},
        "peers": [_peer(peer) for peer in picture.peers.values()],
    }


def _peer(peer: PeerPicture) -> dict[str, object]:
    return {
        "peer": peer.node_id,
        "url": without_secrets(peer.url),
        "status": peer.status,
        "held": peer.held,
        "node_loop": peer.node_loop,
        "cursor": peer.cursor,
        "dead_letters": peer.dead_letters,
        "replication": {
            "state": peer.state.value,
            "reason": peer.reason,
            "detail": peer.detail,
            "hint": peer.hint,
            "since_ms": peer.since_ms,
            "last_success_ms": peer.last_success_ms,
            "caught_up_ms": peer.caught_up_ms,
            "not_before_ms": peer.not_before_ms,
            "next_attempt_ms": peer.next_attempt_ms,
            "failures": peer.failures,
            "rate_per_s": peer.rate_per_s,
            "lag_ms": peer.lag_ms,
            "certificate_not_after_ms": peer.certificate_not_after_ms,
            "upstream_lag_ms": peer.upstream_lag_ms,
        },
        "tombstones": None if peer.tombstones is None else _stream(peer.tombstones),
        "lag_history_ms": list(peer.lag_history),
    }


def _stream(stream: StreamPicture) -> dict[str, object]:
    return {
        "state": stream.state.value,
        "reason": stream.reason,
        "detail": stream.detail,
        "hint": stream.hint,
        "since_ms": stream.since_ms,
        "caught_up_ms": stream.caught_up_ms,
        "next_attempt_ms": stream.next_attempt_ms,
        "failures": stream.failures,
        "token_not_after_ms": stream.token_not_after_ms,
        "token_is_expiring": stream.token_is_expiring,
    }
