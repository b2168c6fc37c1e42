"""Time, waiting, chance and new identifiers, as things that are passed in.

Whoever needs one of them takes the protocol as an argument, so that a test decides what the
time is.  The system's own are at the end; no other module asks the system for any of these.
"""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime
from typing import Protocol

import anyio


class Clock(Protocol):
    """What time it is, and how much of it has passed."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 by the wall clock, which may step either way."""

    def now_iso(self) -> str:
        """The wall clock as an ISO 8601 text in UTC, the way the node writes it."""

    def monotonic(self) -> float:
        """Seconds since some moment, never less than before: for durations only."""


class Sleep(Protocol):
    """Waits a number of seconds; cancelling the task ends the wait."""

    async def __call__(self, seconds: float, /) -> None:
        """Wait."""


class Pause(Protocol):
    """Waits a number of seconds where no async backend runs."""

    def __call__(self, seconds: float, /) -> None:
        """Wait."""


class Random(Protocol):
    """Chance, for jitter."""

    def uniform(self, low: float, high: float, /) -> float:
        """Any number between the two, each as likely as the other."""


class NewId(Protocol):
    """Makes identifiers that nobody else makes."""

    def __call__(self) -> str:
        """One UUID of version 4, in lower case with hyphens."""


class SystemClock:
    """The clocks of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 by the wall clock."""
        return time.time_ns() // 1_000_000

    def now_iso(self) -> str:
        """The wall clock as an ISO 8601 text in UTC."""
        return datetime.now(UTC).isoformat()

    def monotonic(self) -> float:
        """Seconds since some moment, never less than before."""
        return time.monotonic()


class SystemRandom:
    """The chance of this machine's operating system, which needs no seed."""

    def __init__(self) -> None:
        self._source = random.SystemRandom()

    def uniform(self, low: float, high: float, /) -> float:
        """Any number between the two."""
        return self._source.uniform(low, high)


async def system_sleep(seconds: float, /) -> None:
    """Wait, on whichever async backend is running."""
    await anyio.sleep(seconds)


def system_pause(seconds: float, /) -> None:
    """Wait, in a program that does nothing else meanwhile."""
    time.sleep(seconds)


def system_new_id() -> str:
    """One UUID of version 4."""
    return str(uuid.uuid4())
