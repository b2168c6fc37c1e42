"""The facts of one peer, while this process holds its lock; how they stand is how it stands."""

from __future__ import annotations

from collections.abc import Callable

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.places import Places
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.stream import FactStream, Watcher
from stigmem_replicator.engine.stream_task import Floor, Shared, StreamTask
from stigmem_replicator.engine.telling import Teller
from stigmem_replicator.errors import LocalError, Reason, ReplicatorError
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import records
from stigmem_replicator.store.reads import CursorRow
from stigmem_replicator.store.standings import Note, Turn


class FactTask(StreamTask):
    """Works on the facts of one peer."""

    def __init__(
        self,
        connection: PeerConnection,
        standing: Standing,
        shared: Shared,
        floor: Floor,
        still_held: Callable[[], bool],
    ) -> None:
        teller = Teller(connection.peer.node_id, connection.around.clock, standing)
        super().__init__(connection, standing, teller, PullReport(), shared, floor)
        watcher = Watcher(self._on_page, teller.noted)
        self._facts = FactStream(connection, self._report, watcher, still_held=still_held)
        self._woken_for: CursorRow | None = None

    @property
    def _stream(self) -> FactStream:
        return self._facts

    @property
    def _interval_s(self) -> float:
        return self._around.settings.poll_interval_s

    @property
    def _places(self) -> Places:
        return self._shared.places

    @property
    def row(self) -> CursorRow | None:
        """The node's cursor row as this task knows it."""
        return self._facts.row

    @property
    def rate_per_s(self) -> float | None:
        """How many new facts a second come while the peer is caught up with, None else."""
        if self._standing.state is not PeerState.CATCHING_UP:
            return None
        took = self._around.clock.monotonic() - self._turn_began
        return self._new / max(took, 0.001)

    def saw(self, row: CursorRow | None) -> None:
        """Take note of the node's cursor row; when it is not ours, ask as soon as we may.

        Once for a row: what it led to is told by the turn that follows.  While a turn is under
        way its own commits change the row, and it sees for itself what others do to it; what is
        left to see is there at the next look.
        """
        if self._at_work or self._attempted_ms is None:
            return
        if row not in (self._facts.row, self._woken_for):
            self._woken_for = row
            self._wake()

    async def _audit(self, error: ReplicatorError) -> None:
        """Note in the node's audit that somebody else answers for the peer: once, not by stream."""
        if error.reason is not Reason.SAN_MISMATCH:
            return
        try:
            await self._around.writer.run(
                records.audit_san_mismatch, self.peer, self._around.new_id, self._around.clock
            )
        except LocalError as trouble:
            self._shared.gate.close(trouble)

    def _note(self) -> Note:
        admitted = self._new
        took = self._around.clock.monotonic() - self._turn_began
        return Note(
            self.peer.node_id,
            self._standing,
            attempted_ms=self._attempted_ms,
            caught_up_ms=self._report.caught_up_ms,
            observed=self._connection.seen,
            turn=Turn(admitted, max(round(took * 1000), 1)) if admitted else None,
        )
