"""One peer, while this process holds its lock: a turn when it is due, then a wait.

What a turn's end makes of the peer is decided in ``replication.states``, who may run here by the
supervisor.  Trouble with our own database is no end of a turn: it is waited out at the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import anyio

from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.notes import Notes
from stigmem_replicator.engine.pacing import paces_of
from stigmem_replicator.engine.places import Places
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.stream import FactStream, Watcher
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.telling import Teller
from stigmem_replicator.engine.waiting import rest
from stigmem_replicator.errors import (
    LocalError,
    PeerHeldError,
    Reason,
    ReplicatorError,
    TransientPeerError,
    UnknownPeerError,
)
from stigmem_replicator.observe.log import logger
from stigmem_replicator.replication import pacing, states
from stigmem_replicator.replication.session import CaughtUp
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import records
from stigmem_replicator.store.reads import CursorRow, PeerRow
from stigmem_replicator.store.standings import Note, Observed, Turn
from stigmem_replicator.transport.connections import KEEP_ALIVE_S

SLOW_PAGE_SECONDS: Final = 5.0
"""A peer whose pages take longer than this shares the places of those that failed."""

_ALL_PEERS: Final = frozenset({Reason.DATABASE_LOCKED, Reason.DISK_LOW, Reason.DATABASE_REPLACED})
"""Trouble with the database that cannot be one peer's alone."""

LOCAL_FAILURES: Final = 3
"""Failures of our database in a row, of one peer alone, after which they count against it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all peer tasks of a process share beside the surroundings."""

    gate: Gate
    notes: Notes
    places: Places


class PeerTask:
    """Works on one peer until cancelled, or until its lock turns out to be somebody else's."""

    def __init__(
        self, peer: PeerRow, number: int, standing: Standing, around: Surroundings, shared: Shared
    ) -> None:
        self.peer = peer
        self.number = number
        self._around = replace(around, settings=around.settings.for_peer(peer.node_id))
        self._shared = shared
        self._standing = standing
        self._paces = paces_of(self._around.settings)
        self._report = PullReport()
        self._teller = Teller(peer.node_id, around.clock, standing)
        self._stream = FactStream(
            peer,
            around,
            self._report,
            Watcher(self._on_page, self._teller.noted),
            still_held=lambda: around.locks.holds(number),
        )
        self._woken = anyio.Event()
        self._woken_for: CursorRow | None = None
        self._at_work = False
        self._again = False
        self._due = around.clock.monotonic()
        self._slow = False
        self._local_failures = 0
        self._attempted_ms: int | None = None
        self._turn_began = 0.0
        self._admitted_before = 0
        self._floor: float | None = None
        self._put_off()

    @property
    def row(self) -> CursorRow | None:
        """The node's cursor row as this task knows it."""
        return self._stream.row

    @property
    def report(self) -> PullReport:
        """What was read of the peer since this task began."""
        return self._report

    @property
    def seen(self) -> Observed:
        """What the peer's answers told of it."""
        return self._stream.seen

    @property
    def rate_per_s(self) -> float | None:
        """How many new facts a second come while the peer is caught up with, None else."""
        if self._standing.state is not PeerState.CATCHING_UP:
            return None
        took = self._around.clock.monotonic() - self._turn_began
        return (self._report.counts.admitted - self._admitted_before) / max(took, 0.001)

    @property
    def standing(self) -> Standing:
        """How the peer stands."""
        return self._standing

    async def run(self) -> None:
        """Take turns; raises :class:`PeerHeldError` when another process has the peer."""
        async with self._stream:
            while True:
                await self._until_due()
                await self._shared.gate.passed()
                doubtful = self._slow or self._standing.failures > 0
                asking_since = self._stream.asking_since
                async with self._shared.places.place(asking_since, doubtful=doubtful):
                    await self._turn()
                if self._due - self._around.clock.monotonic() > KEEP_ALIVE_S:
                    # Nobody keeps them that long; held open they only cost descriptors.
                    await self._stream.hang_up()

    def saw(self, row: CursorRow | None) -> None:
        """Take note of the node's cursor row; when it is not ours, ask as soon as we may.

        Once for a row: what it led to is told by the turn that follows.  While a turn is under
        way its own commits change the row, and it sees for itself what others do to it; what is
        left to see is there at the next look.
        """
        if self._at_work or self._attempted_ms is None:
            return
        if row not in (self._stream.row, self._woken_for):
            self._woken_for = row
            self._wake()

    def resume(self) -> None:
        """Forget what failed, as an operator asked, and have the peer asked as it allows."""
        self._standing = states.resumed(self._standing, self._around.clock.now_ms())
        self._wake()

    def _wake(self) -> None:
        # A turn under way may have looked too early.
        self._again = True
        self._put_off()
        self._woken.set()

    def _put_off(self) -> None:
        """Set when the peer is due by the clock that never steps."""
        clock, standing, settings = self._around.clock, self._standing, self._around.settings
        now, now_ms = clock.monotonic(), clock.now_ms()
        # A wall clock that was set back must not lengthen a wait, nor one that was set forward
        # shorten what the peer asked for.
        longest_s = max(self._paces.longest_s, 2 * settings.poll_interval_s)
        floor_s = ((standing.not_before_ms or now_ms) - now_ms) / 1000
        if self._floor is not None:
            floor_s = self._floor - now
        wait_s = 0.0 if self._again else ((standing.next_attempt_ms or now_ms) - now_ms) / 1000
        self._due = now + max(min(wait_s, longest_s), min(floor_s, longest_s), 0.0)

    async def _until_due(self) -> None:
        while (wait := self._due - self._around.clock.monotonic()) > 0:
            self._woken = anyio.Event()
            await rest(wait, self._woken, self._around.sleep)

    async def _turn(self) -> None:
        self._at_work = True
        try:
            await self._read()
        finally:
            self._at_work = False

    async def _read(self) -> None:
        clock, settings = self._around.clock, self._around.settings
        self._again = False
        self._attempted_ms = clock.now_ms()
        self._turn_began = clock.monotonic()
        pages, waited_s = self._report.pages, self._stream.waited_s
        self._admitted_before = self._report.counts.admitted
        try:
            end = await self._stream.read(quantum=settings.quantum_pages)
        except LocalError as error:
            self._after_local_failure(error)
            return
        except PeerHeldError:
            raise
        except UnknownPeerError:
            # The supervisor sees it too, and ends this task.
            self._due = clock.monotonic() + settings.poll_interval_s
            return
        except ReplicatorError as error:
            await self._after_failure(error)
            return
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not end the peer's task
            await self._after_failure(_unexpected(error, self.peer.node_id))
            return
        self._local_failures, self._floor = 0, None
        asked = max(self._report.pages - pages, 1)
        # Only what the peer let us wait: our own queue is nobody's fault.
        self._slow = (self._stream.waited_s - waited_s) / asked > SLOW_PAGE_SECONDS
        if isinstance(end, CaughtUp):
            wait = pacing.poll_wait_s(
                settings.poll_interval_s, self._around.random.uniform(0.0, 1.0)
            )
            self._stand(states.caught_up(self._standing, clock.now_ms(), wait))
        else:
            self._stand(states.more(self._standing, clock.now_ms()))
        self._teller.pulled(self._report, self._standing.state)

    def _on_page(self, report: PullReport) -> None:
        """Say that there is more as soon as it is known: a turn may be long."""
        if report.more and self._standing.state is not PeerState.CATCHING_UP:
            self._stand(states.more(self._standing, self._around.clock.now_ms()))

    def _after_local_failure(self, error: LocalError) -> None:
        """Wait at the gate; a database that fails for one peer alone is that peer's trouble."""
        self._local_failures += 1
        own = error.reason not in _ALL_PEERS and self._local_failures > LOCAL_FAILURES
        if not own:
            self._shared.gate.close(error)
            return
        self._stand_after(error)

    async def _after_failure(self, error: ReplicatorError) -> None:
        if error.reason is Reason.SAN_MISMATCH:
            try:
                await self._around.writer.run(
                    records.audit_san_mismatch, self.peer, self._around.new_id, self._around.clock
                )
            except LocalError as trouble:
                self._shared.gate.close(trouble)
        self._stand_after(error)

    def _stand_after(self, error: ReplicatorError) -> None:
        self._around.counting.attempt_failed(self.peer.node_id, error.reason)
        chance = self._around.random.uniform(0.0, 1.0)
        now_ms = self._around.clock.now_ms()
        asked_s = error.retry_after_s if isinstance(error, TransientPeerError) else 0.0
        if asked_s:
            self._floor = self._around.clock.monotonic() + asked_s
        self._stand(states.failed(self._standing, error, now_ms, self._paces, chance))

    def _stand(self, after: Standing) -> None:
        """Take on a standing, have it written, and tell a change."""
        before, self._standing = self._standing, after
        self._put_off()
        changed = (before.state, before.reason) != (after.state, after.reason)
        admitted = self._report.counts.admitted - self._admitted_before
        took = self._around.clock.monotonic() - self._turn_began
        note = Note(
            self.peer.node_id,
            after,
            attempted_ms=self._attempted_ms,
            caught_up_ms=self._report.caught_up_ms,
            observed=self._stream.seen,
            turn=Turn(admitted, max(round(took * 1000), 1)) if admitted else None,
        )
        # A peer that is drained writes anyway: how fast it comes is told after each turn.
        drained = note.turn is not None and after.state is PeerState.CATCHING_UP
        self._shared.notes.post(note, urgent=changed or drained or after.failures > 0)
        self._teller.stood(before, after)


def _unexpected(error: Exception, node_id: str) -> ReplicatorError:
    logger(peer=node_id).error("replicator.unexpected", exc_info=error)
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return ReplicatorError(
        Reason.UNEXPECTED,
        f"pulling from {node_id} ended in {type(cause).__name__}: {cause}",
        hint="please report it; the log shows where",
    )
