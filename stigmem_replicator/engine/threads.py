"""Where blocking work runs: worker threads, so many of each kind at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import anyio.to_thread
from anyio import CapacityLimiter

LOOKUPS: Final = 4

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Threads:
    """Lookups in the database, and checks that keep a core busy; make one per process."""

    def __init__(self) -> None:
        self._lookups = CapacityLimiter(LOOKUPS)
        self._checks = CapacityLimiter(os.cpu_count() or 1)

    async def look_up(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run a lookup, whose waits SQLite bounds."""
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._lookups)

    async def check(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run work for a core: decoding, signatures."""
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._checks)
