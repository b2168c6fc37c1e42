"""One piece of work at a time, the small ones before the large ones that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Turns:
    """Gives out turns, first come first served within each kind.

    Small work is rare and short, so the large hardly waits for it; the other way round, a dozen
    peers that are drained would keep a hand-over waiting for seconds.
    """

    def __init__(self) -> None:
        self._taken = False
        self._small: deque[anyio.Event] = deque()
        self._large: deque[anyio.Event] = deque()

    @asynccontextmanager
    async def turn(self, *, small: bool) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        if self._taken:
            await self._wait(self._small if small else self._large)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, queue: deque[anyio.Event]) -> None:
        given = anyio.Event()
        queue.append(given)
        try:
            await given.wait()
        except BaseException:
            if given.is_set():
                # It was given to us while we were cancelled.
                self._pass_on()
            else:
                queue.remove(given)
            raise

    def _pass_on(self) -> None:
        for queue in (self._small, self._large):
            if queue:
                # Still taken, by whoever is woken now.
                queue.popleft().set()
                return
        self._taken = False
