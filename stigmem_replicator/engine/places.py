"""How many peers are worked on at a time, and that no kind of them takes all the places.

A place is held for a turn: some pages, then whoever waited longest is next.  Peers that failed or
are slow have places of their own, fewer, so that those which hang never keep out the others.  One
that turns out to be slow in its turn goes over to them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
from anyio import CapacityLimiter

from stigmem_replicator.clock import Clock

DOUBTFUL_SHARE: Final = 2
"""Doubtful peers have one place for so many of the others."""

PROMPT_SECONDS: Final = 5.0
"""A peer that lets us wait for longer than this is doubtful."""


AskingSince: TypeAlias = Callable[[], float | None]
"""Says since when, in seconds, a peer is waited for; None while nothing was asked of it."""


@dataclass(slots=True, eq=False)
class _Place:
    """A place that is held."""

    limiter: CapacityLimiter
    asking_since: AskingSince


class Places:
    """Places for so many peers at once, and for doubtful ones besides; make one per process."""

    def __init__(self, at_once: int, clock: Clock) -> None:
        self._prompt = CapacityLimiter(at_once)
        self._doubtful = CapacityLimiter(max(1, at_once // DOUBTFUL_SHARE))
        self._clock = clock
        self._held: list[_Place] = []

    @asynccontextmanager
    async def place(self, asking_since: AskingSince, *, doubtful: bool) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        place = _Place(self._doubtful if doubtful else self._prompt, asking_since)
        await place.limiter.acquire_on_behalf_of(place)
        self._held.append(place)
        try:
            yield
        finally:
            self._held.remove(place)
            place.limiter.release_on_behalf_of(place)

    def sort_out(self) -> None:
        """Have peers that let us wait go over to the places of doubtful ones."""
        late = self._clock.monotonic() - PROMPT_SECONDS
        for place in self._held:
            since = place.asking_since()
            if place.limiter is self._prompt and since is not None and since < late:
                try:
                    self._doubtful.acquire_on_behalf_of_nowait(place)
                except anyio.WouldBlock:
                    return
                self._prompt.release_on_behalf_of(place)
                place.limiter = self._doubtful
