"""One peer, while this process holds its lock: a task for its facts, one for its tombstones.

They share the way to the peer and what it asked for.  Who may run here is for the supervisor.
"""

from __future__ import annotations

import anyio

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.fact_task import FactTask
from stigmem_replicator.engine.stream_task import Floor, Shared
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.tombstone_task import TombstoneTask
from stigmem_replicator.errors import ReplicatorError, first_of
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.standings import Observed


class PeerTask:
    """Works on one peer until cancelled, or until its lock turns out to be somebody else's.

    ``standing`` is how its facts stand, ``tombstones`` how its tombstones do.
    """

    def __init__(
        self,
        peer: PeerRow,
        number: int,
        standing: Standing,
        tombstones: Standing,
        around: Surroundings,
        shared: Shared,
    ) -> None:
        self.peer = peer
        self.number = number
        self._connection = PeerConnection(peer, around)
        floor = Floor()
        now_ms = around.clock.now_ms()
        asked_ms = max(standing.not_before_ms or 0, tombstones.not_before_ms or 0) - now_ms
        if asked_ms > 0:
            longest_s = float(around.settings.retry_after_cap_s)
            floor.raise_to(around.clock.monotonic() + min(asked_ms / 1000, longest_s))

        def held() -> bool:
            return around.locks.holds(number)

        self.facts = FactTask(self._connection, standing, shared, floor, held)
        self.tombstones = TombstoneTask(self._connection, tombstones, shared, floor, held)

    @property
    def seen(self) -> Observed:
        """What the peer's answers told of it."""
        return self._connection.seen

    async def run(self) -> None:
        """Take turns; raises :class:`PeerHeldError` when another process has the peer."""
        # Raised after the group is done with: what is raised inside `except*` is grouped again.
        failure: ReplicatorError | None = None
        async with self._connection:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.facts.run)
                    tasks.start_soon(self.tombstones.run)
            except* ReplicatorError as group:
                failure = first_of(group)
        if failure is not None:
            raise failure

    def resume(self) -> None:
        """Forget what failed, as an operator asked, and have the peer asked as it allows."""
        self.facts.resume()
        self.tombstones.resume()
