"""How many peers are worked on at a time, and that no kind of them takes all the places.

A place is held for a turn: some pages, then whoever waited longest is next.  Peers that failed or
answered slowly share a part of the places, so that those which hang never keep out the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from anyio import CapacityLimiter

DOUBTFUL_SHARE: Final = 4
"""One place in so many is as much as doubtful peers may have."""


class Places:
    """Places for so many peers at once; make one per process."""

    def __init__(self, at_once: int) -> None:
        self._all = CapacityLimiter(at_once)
        self._doubtful = CapacityLimiter(max(1, at_once // DOUBTFUL_SHARE))

    @asynccontextmanager
    async def place(self, *, doubtful: bool) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        if not doubtful:
            async with self._all:
                yield
            return
        async with self._doubtful, self._all:
            yield
