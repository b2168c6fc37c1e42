"""Waiting for a time or for somebody who says that it has come, whichever is first."""

from __future__ import annotations

import anyio

from stigmem_replicator.clock import Sleep


async def rest(seconds: float, woken: anyio.Event, sleep: Sleep) -> None:
    """Wait until ``woken`` is set, at most so many seconds."""
    async with anyio.create_task_group() as race:

        async def nap() -> None:
            await sleep(seconds)
            race.cancel_scope.cancel()

        race.start_soon(nap)
        await woken.wait()
        race.cancel_scope.cancel()
