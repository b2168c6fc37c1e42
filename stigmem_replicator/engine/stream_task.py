"""One stream of a peer, while this process holds the peer's lock: a turn when it is due, a wait.

The facts of a peer and its tombstones each have a task of their own, so that no backlog of the
one keeps the other waiting; what differs between them is in ``fact_task`` and
``tombstone_task``.  What a turn's end makes of a stream is decided in ``replication.states``.
Trouble with our own database is no end of a turn: it is waited out at the gate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.notes import AnyNote, Notes
from stigmem_replicator.engine.pacing import paces_of
from stigmem_replicator.engine.places import Places
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.telling import Teller
from stigmem_replicator.engine.waiting import rest
from stigmem_replicator.engine.worker import Yielded
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
from stigmem_replicator.replication.session import CaughtUp, Stopped
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.transport.connections import KEEP_ALIVE_S

SLOW_PAGE_SECONDS: Final = 5.0
"""A peer whose pages take longer than this shares the places of those that failed."""

_ALL_PEERS: Final = frozenset({Reason.DATABASE_LOCKED, Reason.DISK_LOW, Reason.DATABASE_REPLACED})
"""Trouble with the database that cannot be one peer's alone."""

LOCAL_FAILURES: Final = 3
"""Failures of our database in a row, of one peer alone, after which they count against it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all tasks of a process share beside the surroundings.

    Tombstones have places of their own: a crowd of backlogs must not keep them waiting.
    """

    gate: Gate
    notes: Notes
    places: Places
    tombstone_places: Places


class Floor:
    """The moment before which a peer asked not to be asked, which all its streams keep to."""

    def __init__(self) -> None:
        self.until: float | None = None
        """Seconds by the clock that never steps; None while it asked for nothing."""

    def raise_to(self, moment: float) -> None:
        """Keep to what the peer asks for now, unless it asked for longer before."""
        self.until = moment if self.until is None else max(self.until, moment)

    def wait_s(self, now: float) -> float:
        """Return how long that still is, in seconds."""
        return 0.0 if self.until is None else max(0.0, self.until - now)


class Readable(Protocol):
    """A stream that is read in turns."""

    @property
    def waited_s(self) -> float:
        """How long the peer was waited for altogether, in seconds."""

    def asking_since(self) -> float | None:
        """Return since when the peer is waited for, None while nothing was asked of it."""

    async def read(
        self, *, max_pages: int | None = None, quantum: int | None = None
    ) -> CaughtUp | Stopped | Yielded:
        """Read for a turn; raises the failure that ended it."""


class StreamTask(ABC):
    """Works on one stream of a peer until cancelled, or until the lock is somebody else's."""

    def __init__(
        self,
        connection: PeerConnection,
        standing: Standing,
        teller: Teller,
        report: PullReport,
        shared: Shared,
        floor: Floor,
    ) -> None:
        self.peer = connection.peer
        self._connection = connection
        self._around = connection.around
        self._shared = shared
        self._floor = floor
        self._standing = standing
        self._teller = teller
        self._paces = paces_of(self._around.settings)
        self._report = report
        self._woken = anyio.Event()
        self._at_work = False
        self._again = False
        self._due = self._around.clock.monotonic()
        self._slow = False
        self._local_failures = 0
        self._attempted_ms: int | None = None
        self._turn_began = 0.0
        self._admitted_before = 0
        self._put_off()

    @property
    @abstractmethod
    def _stream(self) -> Readable:
        """What is read."""

    @property
    @abstractmethod
    def _interval_s(self) -> float:
        """How many seconds lie between two looks at a peer that has no more."""

    @property
    @abstractmethod
    def _places(self) -> Places:
        """Where a place is had for a turn."""

    @abstractmethod
    def _note(self) -> AnyNote:
        """Return what is to be written of the stream as it stands."""

    @property
    def _is_news(self) -> bool:
        """Whether it says anything that a page has more behind it."""
        return True

    @property
    def report(self) -> PullReport:
        """What was read since this task began."""
        return self._report

    @property
    def standing(self) -> Standing:
        """How the stream stands."""
        return self._standing

    async def run(self) -> None:
        """Take turns; raises :class:`PeerHeldError` when another process has the peer."""
        while True:
            await self._until_due()
            await self._shared.gate.passed()
            doubtful = self._slow or self._standing.failures > 0
            asking_since = self._stream.asking_since
            async with self._places.place(asking_since, doubtful=doubtful):
                await self._turn()
            if self._due - self._around.clock.monotonic() > KEEP_ALIVE_S:
                # Nobody keeps them that long; held open they only cost descriptors.
                await self._connection.hang_up()

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
        """Set when the stream is due by the clock that never steps."""
        clock, standing = self._around.clock, self._standing
        now, now_ms = clock.monotonic(), clock.now_ms()
        # A wall clock that was set back must not lengthen a wait.
        longest_s = max(self._paces.longest_s, 2 * self._interval_s)
        wait_s = 0.0 if self._again else ((standing.next_attempt_ms or now_ms) - now_ms) / 1000
        self._due = now + max(min(wait_s, longest_s), 0.0)

    async def _until_due(self) -> None:
        clock = self._around.clock
        while True:
            now = clock.monotonic()
            wait = max(self._due - now, self._floor.wait_s(now))
            if wait <= 0:
                return
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
            self._due = clock.monotonic() + self._interval_s
            return
        except ReplicatorError as error:
            await self._audit(error)
            self._stand_after(error)
            return
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not end the peer's task
            self._stand_after(_unexpected(error, self.peer.node_id))
            return
        self._local_failures = 0
        asked = max(self._report.pages - pages, 1)
        # Only what the peer let us wait: our own queue is nobody's fault.
        self._slow = (self._stream.waited_s - waited_s) / asked > SLOW_PAGE_SECONDS
        if isinstance(end, CaughtUp):
            chance = self._around.random.uniform(0.0, 1.0)
            wait = pacing.poll_wait_s(self._interval_s, chance)
            self._stand(states.caught_up(self._standing, clock.now_ms(), wait))
        elif self._is_news:
            self._stand(states.more(self._standing, clock.now_ms()))
        else:
            self._due = clock.monotonic()
        self._teller.pulled(self._report, self._standing.state)

    def _on_page(self, report: PullReport) -> None:
        """Say that there is more as soon as it is known: a turn may be long."""
        catching_up = self._standing.state is PeerState.CATCHING_UP
        if report.more and not catching_up and self._is_news:
            self._stand(states.more(self._standing, self._around.clock.now_ms()))

    def _after_local_failure(self, error: LocalError) -> None:
        """Wait at the gate; a database that fails for one peer alone is that peer's trouble."""
        self._local_failures += 1
        own = error.reason not in _ALL_PEERS and self._local_failures > LOCAL_FAILURES
        if not own:
            self._shared.gate.close(error)
            return
        self._stand_after(error)

    @abstractmethod
    async def _audit(self, error: ReplicatorError) -> None:
        """Note a failure in the node's audit, where the node would."""

    def _stand_after(self, error: ReplicatorError) -> None:
        clock = self._around.clock
        self._around.counting.attempt_failed(self.peer.node_id, error.reason)
        chance = self._around.random.uniform(0.0, 1.0)
        asked_s = error.retry_after_s if isinstance(error, TransientPeerError) else 0.0
        if asked_s:
            self._floor.raise_to(clock.monotonic() + min(asked_s, self._paces.longest_s))
        self._stand(states.failed(self._standing, error, clock.now_ms(), self._paces, chance))

    def _stand(self, after: Standing) -> None:
        """Take on a standing, have it written, and tell a change."""
        before, self._standing = self._standing, after
        self._put_off()
        changed = (before.state, before.reason) != (after.state, after.reason)
        note = self._note()
        # What is drained writes anyway: how fast it comes is told after each turn.
        drained = self._new > 0 and after.state is PeerState.CATCHING_UP
        # A stream that stays blocked is tried now and then, and nothing is new about that.
        failed = after.failures > 0 and after.state is not PeerState.BLOCKED
        self._shared.notes.post(note, urgent=changed or drained or failed)
        self._teller.stood(before, after)

    @property
    def _new(self) -> int:
        """How many entries this turn brought so far."""
        return self._report.counts.admitted - self._admitted_before


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
