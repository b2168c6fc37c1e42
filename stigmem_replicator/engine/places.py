"""How many peers are worked on at a time, and that no kind of them takes all the places.

A place is held for a turn: some pages, then whoever waited longest is next.  Peers that failed or
are slow have places of their own, fewer, so that those which hang never keep out the others.  One
that turns out to be slow in its turn goes over to them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio import CapacityLimiter

from stigmem_replicator.clock import Clock

DOUBTFUL_SHARE: Final = 2
"""Doubtful peers have one place for so many of the others."""

PROMPT_SECONDS: Final = 5.0
"""A turn that brings no page for longer than this is one of a doubtful peer."""


class Place:
    """A place that is held; ``since`` is when it was taken, or when the last page came."""

    def __init__(self, limiter: CapacityLimiter, clock: Clock) -> None:
        self.limiter = limiter
        self._clock = clock
        self.since = clock.monotonic()

    def progressed(self) -> None:
        """Take note of a page."""
        self.since = self._clock.monotonic()


class Places:
    """Places for so many peers at once, and for doubtful ones besides; make one per process."""

    def __init__(self, at_once: int, clock: Clock) -> None:
        self._prompt = CapacityLimiter(at_once)
        self._doubtful = CapacityLimiter(max(1, at_once // DOUBTFUL_SHARE))
        self._clock = clock
        self._held: list[Place] = []

    @asynccontextmanager
    async def place(self, *, doubtful: bool) -> AsyncIterator[Place]:
        """Wait for a place and hold it."""
        place = Place(self._doubtful if doubtful else self._prompt, self._clock)
        await place.limiter.acquire_on_behalf_of(place)
        place.progressed()
        self._held.append(place)
        try:
            yield place
        finally:
            self._held.remove(place)
            place.limiter.release_on_behalf_of(place)

    def sort_out(self) -> None:
        """Have turns that bring nothing go over to the places of doubtful peers."""
        late = self._clock.monotonic() - PROMPT_SECONDS
        for place in self._held:
            if place.limiter is self._prompt and place.since < late:
                try:
                    self._doubtful.acquire_on_behalf_of_nowait(place)
                except anyio.WouldBlock:
                    return
                self._prompt.release_on_behalf_of(place)
                place.limiter = self._doubtful
