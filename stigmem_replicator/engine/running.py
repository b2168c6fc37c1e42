"""Peers that run here: a task each, begun with how its streams stand, and the means to end it.

Which peers these are is for the supervisor.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from sqlalchemy import Connection

from stigmem_replicator.engine.peer_task import PeerTask
from stigmem_replicator.errors import PeerHeldError
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store import standings, streams
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.standings import Holder


@dataclass(slots=True)
class Running:
    """A task and the means to end it."""

    task: PeerTask
    resumed_at_ms: int | None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def run(self) -> None:
        """Run the task to its end, however that comes."""
        try:
            # Whose lock was lost is seen, and told, by whoever looks.
            with suppress(PeerHeldError), self.scope:
                await self.task.run()
        finally:
            self.ended.set()


@dataclass(frozen=True, slots=True)
class Stands:
    """How the streams of a peer stand."""

    facts: Standing
    tombstones: Standing


def take(connection: Connection, node_ids: list[str], process: Holder) -> dict[str, Stands]:
    """Note that this process works on these peers now, and return how each of them stands."""
    taken = standings.take(connection, node_ids, process)
    beside = streams.views(connection, TOMBSTONES, node_ids)
    return {
        node_id: Stands(standing, beside[node_id].standing if node_id in beside else Standing())
        for node_id, standing in taken.items()
    }


async def end_all(ending: Iterable[Running]) -> None:
    """End tasks: a fetch is cancelled, a batch in commit is finished."""
    running = list(ending)
    for item in running:
        item.scope.cancel()
    for item in running:
        await item.ended.wait()
