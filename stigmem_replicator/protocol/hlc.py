"""Hybrid logical clocks as text: ``"<wall ms>.<counter>"``.

Two orders must not be mixed up.  Causes are ordered by the two numbers; positions in a stream
are ordered as text, because that is how a node compares them (``.10`` comes before ``.9``).
This module reads and steps clocks as numbers.  It asks no system for the time: "now" is passed
in, in milliseconds since 1970.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

# 18 digits always fit a signed 64-bit column, and no clock needs more.
_HLC: Final = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?")
# A peer's counter is shorter than ours may be: whatever follows one still reads back.
_WIRE_COUNTER_DIGITS: Final = 12

Skew = Literal["future", "past"]


@dataclass(frozen=True, slots=True, order=True)
class HlcState:
    """The last HLC that a clock gave: wall part in milliseconds since 1970, and counter."""

    wall_ms: int = 0
    counter: int = 0

    @property
    def text(self) -> str:
        """The form on the wire and in the database: decimal, no zero padding."""
        return f"{self.wall_ms}.{self.counter}"


def parse(text: str) -> tuple[int, int]:
    """Read an HLC as (wall part in ms, counter); a missing counter is 0.

    Raises ValueError on anything but ASCII digits with at most one point between them.
    """
    match = _HLC.fullmatch(text)
    if match is None:
        raise ValueError(f"not an HLC: {text[:40]!r}")
    return int(match[1]), int(match[2] or 0)


def fits_wire(text: str) -> bool:
    """Say whether the text is an HLC whose counter a peer may send: at most 12 digits."""
    match = _HLC.fullmatch(text)
    return match is not None and len(match[2] or "") <= _WIRE_COUNTER_DIGITS


def wall_ms(text: str) -> int | None:
    """Return the wall part in milliseconds since 1970, or None when the text is no HLC."""
    match = _HLC.fullmatch(text)
    return None if match is None else int(match[1])


def tick(state: HlcState, now_ms: int) -> HlcState:
    """Step the clock for an event of our own."""
    if now_ms > state.wall_ms:
        return HlcState(now_ms, 0)
    return HlcState(state.wall_ms, state.counter + 1)


def receive(state: HlcState, remote: HlcState, now_ms: int) -> HlcState:
    """Step the clock past an event of a peer; its skew is judged before, by ``skew``."""
    wall = max(now_ms, state.wall_ms, remote.wall_ms)
    if wall == state.wall_ms == remote.wall_ms:
        return HlcState(wall, max(state.counter, remote.counter) + 1)
    if wall == state.wall_ms:
        return HlcState(wall, state.counter + 1)
    if wall == remote.wall_ms:
        return HlcState(wall, remote.counter + 1)
    return HlcState(wall, 0)


def skew(remote_wall_ms: int, now_ms: int, max_future_ms: int, max_past_ms: int) -> Skew | None:
    """Say on which side a wall part lies outside its bound; a bound of 0 admits everything."""
    if max_future_ms and remote_wall_ms - now_ms > max_future_ms:
        return "future"
    if max_past_ms and now_ms - remote_wall_ms > max_past_ms:
        return "past"
    return None
