"""What is looked after once in a while: the node's own loop, and peers that are gone for good."""

from __future__ import annotations

from typing import Final

from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import LocalError
from stigmem_replicator.observe.log import logger
from stigmem_replicator.store import node_loop, pruning
from stigmem_replicator.store.engine import Database, reading

EVERY_SECONDS: Final = 60.0
TOLD_AGAIN_SECONDS: Final = 3600.0
PRUNED_EVERY_SECONDS: Final = 3600.0


async def keep_house(around: Surroundings, gate: Gate) -> None:
    """Look after it until cancelled."""
    clock = around.clock
    told_at: dict[str, float] = {}
    pruned_at: float | None = None
    while True:
        await gate.passed()
        try:
            now = clock.monotonic()
            for node_id in await around.threads.look_up(_pulled_twice, around):
                if now - told_at.get(node_id, -TOLD_AGAIN_SECONDS) >= TOLD_AGAIN_SECONDS:
                    told_at[node_id] = now
                    logger(peer=node_id).warning(
                        "federation.peer.node_loop", detail=node_loop.ADVICE
                    )
            if pruned_at is None or now - pruned_at >= PRUNED_EVERY_SECONDS:
                pruned_at = now
                if await around.threads.look_up(_is_due, around.database, clock.now_ms()):
                    await around.writer.run(pruning.prune, clock.now_ms())
        except LocalError as error:
            gate.close(error)
        await around.sleep(EVERY_SECONDS)


def _pulled_twice(around: Surroundings) -> frozenset[str]:
    with reading(around.database) as connection:
        return node_loop.seen(connection, around.clock.now_ms())


def _is_due(database: Database, now_ms: int) -> bool:
    with reading(database) as connection:
        return pruning.is_due(connection, now_ms)
