"""The gate in front of our own database: closed while that cannot be used.

Trouble here is no peer's doing.  Whoever meets it closes the gate and waits; the supervisor
tries the database and opens it again.  What the trouble is called is decided in ``store``.
"""

from __future__ import annotations

from typing import Final

import anyio

from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import LocalError, Reason, ReplicatorError
from stigmem_replicator.observe.log import logger

STEADY_SECONDS: Final = 10.0
"""A gate that is closed again sooner than this after it was opened was opened too soon."""

TRY_AGAIN_CAP_SECONDS: Final = 60.0
"""The longest wait before a gate is tried that keeps being closed again."""

TOLD_AGAIN_SECONDS: Final = 60.0
"""The same cause, gone and come again within this time, is counted and not told again."""


class Gate:
    """Open until somebody meets trouble with our own database; make one per process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._opened = anyio.Event()
        self._opened.set()
        self._cause: LocalError | None = None
        self._closed_at = 0.0
        self._opened_at: float | None = None
        self._flaps = 0
        self._owed: Reason | None = None
        """The cause of which the log still has to say that it is over."""
        self._told = False
        self._told_at: dict[Reason, float] = {}
        self._untold = 0

    @property
    def cause(self) -> LocalError | None:
        """Why the gate is closed; None while it is open."""
        return self._cause

    @property
    def is_due(self) -> bool:
        """Whether it is time to try whether it may be opened.

        At once, unless trying succeeded just before and others met trouble again: then after a
        wait that doubles each time.
        """
        if not self._flaps:
            return True
        wait = min(2.0**self._flaps, TRY_AGAIN_CAP_SECONDS)
        return self._clock.monotonic() - self._closed_at >= wait

    @property
    def closed_at(self) -> float:
        """When the gate was last closed, in seconds by the clock that never steps."""
        return self._closed_at

    async def passed(self) -> None:
        """Wait until the gate is open."""
        await self._opened.wait()

    def close(self, error: LocalError) -> None:
        """Close the gate; the first cause stands until another one takes its place."""
        before, self._cause = self._cause, error
        now = self._clock.monotonic()
        if before is None:
            self._opened = anyio.Event()
            opened = self._opened_at
            soon = opened is not None and now - opened < STEADY_SECONDS
            self._flaps = self._flaps + 1 if soon else 0
            self._closed_at, self._told = now, False
        if before is not None and before.reason is error.reason:
            return
        told_at = self._told_at.get(error.reason)
        if told_at is not None and now - told_at < TOLD_AGAIN_SECONDS:
            self._untold += 1
            return
        self._told, self._told_at[error.reason] = True, now
        tell_closed(error, **({"untold": self._untold} if self._untold else {}))
        self._untold = 0

    def open(self) -> None:
        """Let everybody go on."""
        if self._cause is None:
            return
        cause, self._cause = self._cause, None
        self._opened_at = self._clock.monotonic()
        self._opened.set()
        if self._told:
            self._owed = cause.reason
        if not self._flaps:
            self._tell_open()

    def settle(self) -> None:
        """Take note that the gate is still open: what kept closing it again may be over now."""
        opened = self._opened_at
        steady = opened is not None and self._clock.monotonic() - opened >= STEADY_SECONDS
        if self._cause is None and self._flaps and steady:
            self._flaps = 0
            self._tell_open()

    def _tell_open(self) -> None:
        if self._owed is None:
            return
        opened = self._opened_at or self._closed_at
        tell_open(self._owed, opened - self._closed_at)
        self._owed = None


def tell_closed(error: ReplicatorError, **more: object) -> None:
    """Say in the log that the database cannot be used, and why."""
    logger().error(
        "replicator.local_db",
        gate="closed",
        reason=Reason.LOCAL_DB,
        cause=error.reason,
        detail=error.message,
        hint=error.hint,
        **more,
    )


def tell_open(cause: Reason, seconds: float, **more: object) -> None:
    """Say in the log that the database can be used again, after so many seconds."""
    logger().info(
        "replicator.local_db",
        gate="open",
        reason=Reason.LOCAL_DB,
        cause=cause,
        seconds=round(seconds, 1),
        **more,
    )
