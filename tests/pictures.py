"""Pictures of a daemon as tests need them, and as a real one may publish them.

Run as a script, it writes the page of the realistic one: ``python -m tests.pictures FILE``.
"""

from __future__ import annotations

import math
import sys
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stigmem_replicator.observe.board import Board, PeerPicture, Picture, StreamPicture, Trouble
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service.page import page

NOW_MS = 1_790_000_000_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000


def peer(name: str = "a", state: PeerState = PeerState.IDLE, **more: object) -> PeerPicture:
    """An active peer that this daemon works on."""
    known = PeerPicture(
        node_id=f"stigmem:node:{uuid.uuid5(uuid.NAMESPACE_DNS, name)}",
        url=f"https://{name}.example:8765",
        status="active",
        state=state,
        held=True,
        since_ms=NOW_MS - 5 * MINUTE_MS,
        caught_up_ms=NOW_MS - 3_000,
        lag_ms=0,
    )
    return replace(known, **more)  # type: ignore[arg-type] # a test gives what fits


def picture(*peers: PeerPicture, **more: object) -> Picture:
    """A daemon that is ready and has these peers."""
    known = Picture(
        version="0.7.0",
        pid=4242,
        started_ms=NOW_MS - 3 * DAY_MS,
        at_ms=NOW_MS,
        database="/var/lib/stigmem/stigmem.db",
        wire_version=2,
        newest_migration="052_example",
        ready=True,
        peers={each.node_id: each for each in peers},
    )
    return replace(known, **more)  # type: ignore[arg-type] # as above


def board(shown: Picture, *, looked_at: float | None = 0.0) -> Board:
    """A board on which a picture hangs."""
    made = Board(shown)
    made.looked_at = looked_at
    return made


def trouble(cause: str = "disk_low") -> Trouble:
    """The disk is full."""
    return Trouble(
        cause,
        "only 211 MiB are free on the disk of /var/lib/stigmem/stigmem.db, 512 MiB must be",
        "make room there, or lower free_space_min_mb",
        NOW_MS - 7 * MINUTE_MS,
    )


def _falling(from_minutes: float) -> tuple[int | None, ...]:
    return tuple(round(from_minutes * MINUTE_MS * (1 - i / 64)) for i in range(60))


def _rising(silent: int, at_first: float = 0.0) -> tuple[int | None, ...]:
    """Nothing for so many samples, then ever more, from a number of minutes on."""
    begun = round(at_first * MINUTE_MS)
    return tuple(0 if i < silent else begun + (i - silent) * 30_000 for i in range(60))


def _quiet() -> tuple[int | None, ...]:
    return (0,) * 60


def _wavy() -> tuple[int | None, ...]:
    return tuple(round(20_000 * (1 + math.sin(i / 5))) for i in range(60))


def realistic() -> Picture:
    """What an operator may find at three in the morning."""
    peers: Iterable[PeerPicture] = (
        peer("munich", lag_history=_quiet(), next_attempt_ms=NOW_MS + 12_000),
        peer(
            "lisbon",
            PeerState.CATCHING_UP,
            lag_ms=4 * MINUTE_MS,
            lag_history=_falling(58),
            rate_per_s=2_310.0,
            next_attempt_ms=NOW_MS,
            caught_up_ms=NOW_MS - 64 * MINUTE_MS,
            dead_letters=3,
        ),
        peer(
            "oslo",
            PeerState.BLOCKED,
            reason="key_changed",
            detail="the signatures of 500 entries fit neither the peer's key nor its previous one",
            hint="ask the peer's operator whether its key was changed; then approve the peer anew",
            failures=9,
            lag_ms=22 * MINUTE_MS,
            lag_history=_rising(16),
            caught_up_ms=NOW_MS - 22 * MINUTE_MS,
            since_ms=NOW_MS - 22 * MINUTE_MS,
            next_attempt_ms=NOW_MS + 3 * MINUTE_MS,
        ),
        peer(
            "warsaw",
            PeerState.THROTTLED,
            reason="throttled",
            detail="https://warsaw.example:8765 asked us to wait (429)",
            failures=1,
            lag_ms=45_000,
            lag_history=_wavy(),
            caught_up_ms=NOW_MS - 45_000,
            since_ms=NOW_MS - 8_000,
            not_before_ms=NOW_MS + 22_000,
            next_attempt_ms=NOW_MS + 22_000,
        ),
        peer(
            "porto",
            PeerState.BACKING_OFF,
            reason="timeout",
            detail="https://porto.example:8765 did not answer within 30 s",
            hint="see whether the peer's node runs and whether a firewall lies between",
            failures=4,
            lag_ms=6 * MINUTE_MS,
            lag_history=(*_quiet()[:45], None, None, None, *_rising(0, 0.5)[:12]),
            caught_up_ms=NOW_MS - 6 * MINUTE_MS,
            since_ms=NOW_MS - 6 * MINUTE_MS,
            next_attempt_ms=NOW_MS + 11_000,
        ),
        peer(
            "vienna",
            lag_history=_quiet(),
            next_attempt_ms=NOW_MS + 27_000,
            certificate_not_after_ms=NOW_MS + 6 * DAY_MS,
            tombstones=StreamPicture(
                PeerState.BLOCKED,
                reason="capability_required",
                detail="the peer gives its tombstones only for a capability token: it answered 401",
                hint="the peer's operator runs: stigmem capability issue "
                "--issuer https://vienna.example --subject https://vienna.example "
                "--verb tombstone:read --object stigmem://tombstones --ttl-seconds 7776000 "
                "--node-url https://vienna.example:8765 --api-key KEY --json; put what that prints "
                "into the file; name it as capability_token_file under "
                '[peer."stigmem:node:92689075-3144-5d82-a30c-de34ccd71507"]',
                since_ms=NOW_MS - 3 * DAY_MS,
                failures=40,
                next_attempt_ms=NOW_MS + 9 * MINUTE_MS,
            ),
        ),
        peer(
            "zurich",
            PeerState.PAUSED,
            detail="moving to another data centre",
            lag_ms=41 * MINUTE_MS,
            lag_history=_rising(0, 11.5),
            caught_up_ms=NOW_MS - 41 * MINUTE_MS,
            since_ms=NOW_MS - 40 * MINUTE_MS,
            next_attempt_ms=NOW_MS + 140 * MINUTE_MS,
            held=False,
        ),
        peer(
            "turin",
            PeerState.ELSEWHERE,
            reason="peer_held",
            detail="process 5150 on node-1 (pull) works on it",
            since_ms=NOW_MS - 20_000,
            lag_history=_quiet(),
            held=False,
        ),
        replace(peer("ghent"), status="revoked", held=False, lag_ms=None),
    )
    return picture(*sorted(peers, key=lambda each: each.node_id))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(realistic(), NOW_MS + 1_000), "utf-8")
