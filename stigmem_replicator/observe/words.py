"""Times, durations, rates and what to do next, as people read them.

The command line and the status page say them in the same words, so they are made here alone.
Nothing here formats a whole table or page, and what a peer sent is not cleaned here.
"""

from __future__ import annotations

import math
import re
import shlex
from datetime import UTC, datetime
from typing import Final

from stigmem_replicator.replication.states import PeerState

_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_WHOLE_RATE: Final = 10
_SECONDS: Final = {"s": 1, "m": _MINUTE_S, "h": _HOUR_S, "d": _DAY_S}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhd])")


def moment(at_ms: int | None) -> str:
    """Return a time as ISO 8601 in UTC to the second, ``never`` for none."""
    if at_ms is None:
        return "never"
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return "beyond the year 9999"  # a position may hold any wall part


def age(at_ms: int | None, now_ms: int) -> str:
    """Return how long ago a time is, roughly."""
    if at_ms is None:
        return "never"
    return f"{span((now_ms - at_ms) / 1000)} ago"


def until(at_ms: int, now_ms: int) -> str:
    """Return how long it is from now to a time, roughly; ``now`` when it has come."""
    return "now" if at_ms <= now_ms else f"in {span(math.ceil((at_ms - now_ms) / 1000))}"


def ending(at_ms: int, now_ms: int) -> str:
    """Return when something ends, such as a certificate, with how long that is from now."""
    left_s = (at_ms - now_ms) / 1000
    rest = f"{span(left_s)} left" if left_s > 0 else f"expired {span(-left_s)} ago"
    return f"{moment(at_ms)} ({rest})"


def rate(per_s: float) -> str:
    """Return how many facts a second are new."""
    return f"{per_s:.0f}/s" if per_s >= _WHOLE_RATE else f"{per_s:.1f}/s"


def span(seconds: float) -> str:
    """Return a duration, roughly."""
    seconds = max(0.0, seconds)
    for unit, size in (("d", _DAY_S), ("h", _HOUR_S), ("min", _MINUTE_S)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def span_ms(text: str) -> int | None:
    """Return a duration such as 90s, 30m, 1h or 2d in milliseconds, None for anything else."""
    match = _SPAN.fullmatch(text)
    return None if match is None else int(match[1]) * _SECONDS[match[2]] * 1000


def resume_command(node_id: str) -> str:
    """Return the command that ends a pause, and has a peer that failed tried at once.

    A peer chooses its own name, and this is to be copied into a shell.
    """
    return f"stigmem-replicate peers resume {shlex.quote(node_id)}"


def next_step(
    node_id: str, status: str, state: str | None, *, detail: str | None, hint: str | None
) -> str | None:
    """Return what an operator has to do for a peer to be pulled, None when it is nothing.

    ``status`` is the node's registry's word, ``state`` None for a peer that was never pulled.
    """
    if status == "pending_approval":
        return "approve it on the node"
    if status != "active" or state is None:
        return None
    if state == PeerState.PAUSED:
        return f"to go on: {resume_command(node_id)}"
    if state == PeerState.ELSEWHERE:
        return f"none, it comes back by itself: {detail or 'another process works on it'}"
    if state == PeerState.BLOCKED:
        return f"{hint or 'mend what the last error says'}; then: {resume_command(node_id)}"
    return hint
