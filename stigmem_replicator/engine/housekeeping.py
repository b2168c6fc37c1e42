"""What is looked after once in a while: the node's own loop, dead letters, peers that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import LocalError
from stigmem_replicator.observe.log import logger
from stigmem_replicator.store import letters, node_loop, pruning
from stigmem_replicator.store.engine import reading

EVERY_SECONDS: Final = 60.0
TOLD_AGAIN_SECONDS: Final = 3600.0
PRUNED_EVERY_SECONDS: Final = 3600.0


class House:
    """What was found when it was last looked after.

    ``node_loop`` are the peers that the node's own loop still pulls too; ``dead_letters`` counts
    the open ones by peer, None before they were counted.
    """

    def __init__(self, around: Surroundings, gate: Gate) -> None:
        self._around = around
        self._gate = gate
        self._told_at: dict[str, float] = {}
        self._pruned_at: float | None = None
        self.node_loop: frozenset[str] = frozenset()
        self.dead_letters: Mapping[str, int] | None = None

    async def keep(self) -> None:
        """Look after it until cancelled."""
        while True:
            await self._gate.passed()
            try:
                await self._around.threads.look_up(self._look)
                self._tell_of_loop()
                await self._prune()
            except LocalError as error:
                self._gate.close(error)
            await self._around.sleep(EVERY_SECONDS)

    def _look(self) -> None:
        with reading(self._around.database) as connection:
            self.node_loop = node_loop.seen(connection, self._around.clock.now_ms())
            self.dead_letters = letters.open_counts(connection)

    def _tell_of_loop(self) -> None:
        now = self._around.clock.monotonic()
        for node_id in self.node_loop:
            if now - self._told_at.get(node_id, -TOLD_AGAIN_SECONDS) >= TOLD_AGAIN_SECONDS:
                self._told_at[node_id] = now
                logger(peer=node_id).warning("federation.peer.node_loop", detail=node_loop.ADVICE)

    async def _prune(self) -> None:
        now, now_ms = self._around.clock.monotonic(), self._around.clock.now_ms()
        if self._pruned_at is not None and now - self._pruned_at < PRUNED_EVERY_SECONDS:
            return
        self._pruned_at = now
        if await self._around.threads.look_up(self._is_due, now_ms):
            await self._around.writer.run(pruning.prune, now_ms)

    def _is_due(self, now_ms: int) -> bool:
        with reading(self._around.database) as connection:
            return pruning.is_due(connection, now_ms)
