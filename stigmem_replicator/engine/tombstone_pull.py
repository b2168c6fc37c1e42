"""One peer's tombstones pulled by hand, beside its facts or alone; its end is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.pacing import paces_of
from stigmem_replicator.engine.report import TombstoneReport
from stigmem_replicator.engine.stream import Watcher
from stigmem_replicator.engine.tombstone_stream import TombstoneStream
from stigmem_replicator.errors import ReplicatorError
from stigmem_replicator.replication import states
from stigmem_replicator.replication.session import CaughtUp
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store import streams
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.streams import StreamNote


class TombstonePull:
    """Passes over one peer's tombstones; ``failure`` is what ended the last one, if anything."""

    def __init__(
        self,
        connection: PeerConnection,
        report: TombstoneReport,
        watcher: Watcher,
        still_held: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._around = connection.around
        self._report = report
        self._stream = TombstoneStream(connection, report, watcher, still_held=still_held)
        self._standing: Standing | None = None
        self.failure: ReplicatorError | None = None

    async def run(self, *, max_pages: int | None = None) -> None:
        """Make a pass and note how it ended; a failure of the peer's is kept, any other raised."""
        clock = self._around.clock
        attempted_ms = clock.now_ms()
        if self._standing is None:
            self._standing = await self._around.threads.look_up(self._stored)
        before = self._standing
        self.failure = None
        try:
            end = await self._stream.read(max_pages=max_pages)
        except ReplicatorError as error:
            if not states.is_peers_doing(error):
                raise
            self.failure = error
            chance = self._around.random.uniform(0.0, 1.0)
            paces = paces_of(self._around.settings)
            after = states.failed(before, error, clock.now_ms(), paces, chance)
        else:
            if isinstance(end, CaughtUp):
                after = states.caught_up(before, clock.now_ms(), 0.0)
            else:
                after = states.more(before, clock.now_ms())
        self._standing = after
        if self._connection.read_only:
            return
        note = StreamNote(
            self._connection.peer.node_id,
            TOMBSTONES,
            # Nobody comes back by himself: when they are asked for next is not known here.
            replace(after, next_attempt_ms=None),
            attempted_ms=attempted_ms,
            caught_up_ms=self._report.caught_up_ms,
            token_not_after_ms=self._stream.credential.not_after_ms,
        )
        await self._around.writer.run(streams.write, [note], clock)

    async def keep(self) -> None:
        """Make a pass every so often until cancelled, while facts are pulled for long."""
        while True:
            await self._around.sleep(self._around.settings.tombstone_interval_s)
            await self.run()

    def _stored(self) -> Standing:
        node_id = self._connection.peer.node_id
        with reading(self._around.database) as connection:
            found = streams.views(connection, TOMBSTONES, [node_id])
        return found[node_id].standing if node_id in found else Standing()
