"""Whether the engine works and whether it is ready, from what hangs on the board.  Pure.

Healthy means progress: the supervisor looks and the writer ends its work.  A peer in trouble, or
a database that cannot be used now, is no reason to restart a process: that fails readiness, or a
lag that was asked for.  The endpoint and the watchdog judge by the same words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stigmem_replicator.observe import words
from stigmem_replicator.observe.board import Board, PeerPicture, Picture
from stigmem_replicator.replication.states import PeerState

PICTURE_OLD_MS: Final = 10_000
"""From what age on a picture, made each second, is not of now any more."""

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Patience:
    """After how many seconds without progress something counts as stuck.

    ``look_s`` is for the supervisor, which looks each second, but may have to wait for the
    database several times on its way; ``write_s`` is for one piece of work of the writer.
    """

    look_s: float = 60.0
    write_s: float = 120.0

    @classmethod
    def with_database_timeout(cls, timeout_s: float) -> Patience:
        """Return the patience that a database wants whose lock is waited for so many seconds."""
        return cls(look_s=30.0 + 6 * timeout_s, write_s=90.0 + 6 * timeout_s)


def engine_problems(
    board: Board, now_s: float, began_s: float, patience: Patience
) -> tuple[str, ...]:
    """Return why the engine counts as stuck, a sentence each; nothing when it works.

    ``now_s`` is the clock that never steps, ``began_s`` what it said when the engine was started:
    before the first look, the wait is counted from there.
    """
    looked_at, since = board.looked_at, board.writing_since
    problems = []
    silent_s = now_s - (began_s if looked_at is None else looked_at)
    if silent_s > patience.look_s:
        problems.append(f"the supervisor has not looked at the tables for {words.span(silent_s)}")
    if since is not None and now_s - since > patience.write_s:
        problems.append(
            f"the writer is busy with one piece of work for {words.span(now_s - since)}"
        )
    return tuple(problems)


def readiness_problems(
    picture: Picture, now_ms: int, max_lag_ms: int | None = None
) -> tuple[str, ...]:
    """Return why no facts can arrive now, a sentence each; nothing when they can.

    With ``max_lag_ms`` also which active peers that nobody paused are further behind than that,
    or may be: a lag that cannot be told is no small one.
    """
    problems = []
    if not picture.ready:
        problems.append("the daemon is starting")
    if picture.trouble is not None:
        trouble = picture.trouble
        problems.append(f"the database cannot be used: {trouble.detail} ({trouble.cause})")
    if (age_ms := now_ms - picture.at_ms) > PICTURE_OLD_MS:
        problems.append(f"how things stand was last told {words.span(age_ms / 1000)} ago")
    if max_lag_ms is not None:
        problems += laggards(picture.peers.values(), max_lag_ms)
    return tuple(problems)


def laggards(peers: Iterable[PeerPicture], max_lag_ms: int) -> list[str]:
    """Return which active peers that nobody paused are further behind than that, or may be."""
    behind = [
        peer
        for peer in peers
        if peer.active
        and peer.state is not PeerState.PAUSED
        and (peer.lag_ms is None or peer.lag_ms > max_lag_ms)
    ]
    said = [_how_far(peer) for peer in behind[:_NAMED]]
    if len(behind) > _NAMED:
        said.append(f"and {len(behind) - _NAMED} more peers")
    return said


def _how_far(peer: PeerPicture) -> str:
    if peer.lag_ms is None:
        return f"how far we are behind {peer.node_id} is not known"
    return f"we are {words.span(peer.lag_ms / 1000)} behind {peer.node_id}"
