"""Waiting, so that requests and bytes stay under their rates; first come, first served.

One :class:`Rates` is shared by all peers and each peer has one of its own; a client calls
:class:`BothRates`.  The arithmetic is in ``replication/rates.py``; what a peer asks of us
(Retry-After) is not handled here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio

from stigmem_replicator.clock import Clock, Sleep
from stigmem_replicator.replication import rates


class RateLimits(Protocol):
    """What a client asks before it sends and after it read.

    Both calls return the seconds that they waited.  The deadline of ``limit`` stands still
    meanwhile: the wait is ours, and the peer must not pay for it.
    """

    async def request(self, limit: anyio.CancelScope | None = None) -> float:
        """Wait until one more request may be sent."""

    async def received(self, count: int, limit: anyio.CancelScope | None = None) -> float:
        """Wait until more may be read, after ``count`` bytes were."""


class Rates:
    """Requests and bytes a second, for all the tasks that share it; 0 is no limit.

    Waits in the order in which they were asked for.  Belongs to one event loop.
    """

    def __init__(
        self, requests_per_s: float, bytes_per_s: float, clock: Clock, sleep: Sleep
    ) -> None:
        now_s = clock.monotonic()
        self._requests = rates.full(requests_per_s, now_s)
        self._bytes = rates.full(bytes_per_s, now_s)
        self._clock = clock
        self._sleep = sleep
        self._queue = anyio.Lock(fast_acquire=True)

    async def request(self, limit: anyio.CancelScope | None = None) -> float:
        """Wait until one more request may be sent; one that is cancelled meanwhile is not counted.

        Return the seconds waited, during which the deadline of ``limit`` stood still.
        """
        if not self._requests.rate:
            return 0.0
        began_s = self._clock.monotonic()
        with standing_still(limit):
            async with self._queue:
                _, wait_s = rates.spend(self._requests, 1.0, self._clock.monotonic())
                if wait_s:
                    await self._sleep(wait_s)
                # Waking a little early leaves a little debt, which the next one waits for.
                now_s = self._clock.monotonic()
                self._requests, _ = rates.spend(self._requests, 1.0, now_s)
        return now_s - began_s

    async def received(self, count: int, limit: anyio.CancelScope | None = None) -> float:
        """Count ``count`` bytes that were read, and wait until they are paid for.

        Return the seconds waited, during which the deadline of ``limit`` stood still.
        Cancelled or not, the bytes are counted.
        """
        return await self.wait(self.owed_s(count), limit)

    def owed_s(self, count: int) -> float:
        """Count ``count`` bytes that were read; return the seconds to wait for them."""
        if not self._bytes.rate:
            return 0.0
        self._bytes, wait_s = rates.spend(self._bytes, count, self._clock.monotonic())
        return wait_s

    async def wait(self, seconds: float, limit: anyio.CancelScope | None = None) -> float:
        """Wait, outside of ``limit``; return the seconds that it took."""
        if not seconds:
            return 0.0
        began_s = self._clock.monotonic()
        with standing_still(limit):
            await self._sleep(seconds)
        return self._clock.monotonic() - began_s


class BothRates:
    """A peer's own rates and those of all peers together."""

    def __init__(self, own: Rates, shared: Rates) -> None:
        self._own = own
        self._shared = shared

    async def request(self, limit: anyio.CancelScope | None = None) -> float:
        """Wait until one more request may be sent to this peer, and to any."""
        # Its own first: a peer that must wait anyway does not stand in the others' way.
        waited_s = await self._own.request(limit)
        return waited_s + await self._shared.request(limit)

    async def received(self, count: int, limit: anyio.CancelScope | None = None) -> float:
        """Count bytes that were read on both sides, and wait for the slower one."""
        # Counted at once on both: during its own wait the others would not know of these bytes.
        wait_s = max(self._own.owed_s(count), self._shared.owed_s(count))
        return await self._own.wait(wait_s, limit)


@contextmanager
def standing_still(limit: anyio.CancelScope | None) -> Iterator[None]:
    """Give ``limit`` as much time after the block as it had before it."""
    if limit is None:
        yield
        return
    left_s = limit.deadline - anyio.current_time()
    limit.deadline = math.inf
    try:
        yield
    finally:
        limit.deadline = anyio.current_time() + left_s
