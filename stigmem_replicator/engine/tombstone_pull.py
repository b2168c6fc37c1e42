"""One peer's tombstones pulled by hand, beside its facts or alone; its end is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.pacing import paces_of
from stigmem_replicator.engine.report import TombstoneReport
from stigmem_replicator.engine.stream import Watcher
from stigmem_replicator.engine.tombstone_stream import TombstoneStream
from stigmem_replicator.engine.worker import Yielded
from stigmem_replicator.errors import Reason, ReplicatorError, TransientPeerError
from stigmem_replicator.replication import states
from stigmem_replicator.replication.session import CaughtUp, Stopped
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store import streams
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.streams import StreamNote

RETRIES: Final = 2
"""Attempts after a transient failure before a pull by hand gives up."""


_OF_THE_WAY: Final = frozenset({Reason.UNREACHABLE, Reason.TIMEOUT})
"""Failures of the way to the peer, not of what it has."""


class TombstonePull:
    """Passes over one peer's tombstones; ``failure`` is what ended the last one, if anything.

    ``patience_s`` bounds the wait between two attempts; ``goes_on`` says that facts are asked for
    next, which show as well whether the peer can be reached.
    """

    def __init__(
        self,
        connection: PeerConnection,
        report: TombstoneReport,
        tell: Callable[[str], None],
        still_held: Callable[[], bool],
        patience_s: float,
        *,
        goes_on: bool,
    ) -> None:
        self._connection = connection
        self._around = connection.around
        self._report = report
        self._tell = tell
        self._patience_s = patience_s
        self._goes_on = goes_on
        self._stream = TombstoneStream(
            connection, report, Watcher(tell=tell), still_held=still_held
        )
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
            end = await self._read(max_pages)
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

    async def close(self) -> None:
        """Note what a pass left that nobody goes on with."""
        await self._stream.close()

    async def _read(self, max_pages: int | None) -> CaughtUp | Stopped | Yielded:
        """Make a pass; after a transient failure, another, as patience allows."""
        around, failures = self._around, 0
        paces = paces_of(around.settings)
        while True:
            before = self._report.counts.admitted
            try:
                return await self._stream.read(max_pages=max_pages)
            except TransientPeerError as error:
                failures = 1 if self._report.counts.admitted > before else failures + 1
                wait = paces.transient.wait_s(failures, around.random.uniform(0.0, 1.0))
                wait = max(error.retry_after_s, wait)
                lasting = self._goes_on and error.reason in _OF_THE_WAY
                if failures > RETRIES or wait > self._patience_s or lasting:
                    raise
                self._tell(f"{error.message}; trying again in {wait:.1f} s")
            await around.sleep(wait)

    @property
    def is_blocked(self) -> bool:
        """Whether only an operator can have them read."""
        return self.failure is not None and not isinstance(self.failure, TransientPeerError)

    def _stored(self) -> Standing:
        node_id = self._connection.peer.node_id
        with reading(self._around.database) as connection:
            return streams.standing(connection, node_id, TOMBSTONES)
