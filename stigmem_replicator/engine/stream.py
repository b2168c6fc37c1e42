"""One peer's facts, read pass by pass; what a pass learns is kept for the next.

It knows where reading stands, in the tables and in this process, and puts together what a pass
needs.  When a pass is due, and what its end makes of the peer, is for whoever reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.fetching import FactSource
from stigmem_replicator.engine.judging import Judge
from stigmem_replicator.engine.pages import DryRun, PageWriter
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.worker import Worker, Yielded
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.replication.session import (
    CaughtUp,
    PagingLimits,
    Position,
    Session,
    Stopped,
)
from stigmem_replicator.store import events, reads
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import CursorRow, StoredPosition, StreamRow

FUTURE_CURSOR_MS: Final = 300_000

TURN_SECONDS: Final = 30.0
"""How long a turn may take, whatever its pages: a peer that drips must not keep its place."""


def _nobody(_words: object) -> None:
    """Take no note."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who watches a stream being read.

    ``on_page`` is called after each committed page, ``tell`` with one plain sentence when
    something is noteworthy.
    """

    on_page: Callable[[PullReport], None] = _nobody
    tell: Callable[[str], None] = _nobody


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass that is under way, or that the next turn goes on with."""

    session: Session
    judge: Judge


class FactStream:
    """The facts of one peer, which nobody else reads at the time.

    ``report`` grows as pages are committed, so that it is true however reading ends.  Over a
    ``read_only`` connection nothing is written.  ``still_held`` says whether the peer's lock is
    ours.
    """

    def __init__(
        self,
        connection: PeerConnection,
        report: PullReport,
        watcher: Watcher,
        *,
        still_held: Callable[[], bool],
        backfill: bool = False,
    ) -> None:
        self._connection = connection
        self._peer = connection.peer
        self._around = connection.around
        self._report = report
        self._watcher = watcher
        self._still_held = still_held
        self._backfill = backfill
        self._pass: _Pass | None = None
        # What this process knows of where reading stands, and the row that it goes with.
        self._position: Position | None = None
        self._row: StreamRow = None
        self._writing: PageWriter | None = None
        self._source: FactSource | None = None
        self.waited_s = 0.0
        """How long the peer was waited for altogether, in seconds."""
        # What the peer could bear last; None before the first page.
        self._page_size: int | None = None

    def asking_since(self) -> float | None:
        """Return since when the peer is waited for, None while nothing was asked of it."""
        return None if self._source is None else self._source.asking_since

    @property
    def row(self) -> CursorRow | None:
        """The node's cursor row of the peer as it was last read or written here."""
        row = self._row if self._writing is None else self._writing.row
        return row if isinstance(row, CursorRow) else None

    async def read(
        self, *, max_pages: int | None = None, quantum: int | None = None
    ) -> CaughtUp | Stopped | Yielded:
        """Make a pass, or go on with one that yielded; at most ``quantum`` pages of it.

        ``max_pages`` ends a pass that begins now.  Raises the failure that ended the pass; the
        next one begins at the settled position that was committed.
        """
        stored = await self._around.threads.look_up(self._stored)
        moved = self._position is None or stored.row != self._row
        if self._pass is None or moved:
            await self._begin(stored, moved=moved, max_pages=max_pages)
        assert self._pass is not None  # noqa: S101 - begun above
        session, judge = self._pass.session, self._pass.judge
        writer = self._writer(judge, stored.row)
        self._source = source = FactSource(self._connection)
        watcher = self._watcher
        worker = Worker(
            session,
            source,
            judge,
            writer,
            self._report,
            watcher.on_page,
            watcher.tell,
            turn_is_over=self._turn(quantum),
        )
        end: CaughtUp | Stopped | Yielded | None = None
        self._writing = writer if isinstance(writer, PageWriter) else None
        try:
            end = await worker.run()
        finally:
            if not isinstance(end, Yielded):
                self._pass = None
            self._page_size = session.limit
            self.waited_s += source.waited_s
            self._report.upstream_lag_ms = self._connection.seen.upstream_lag_ms
            if self._writing is not None:
                self._position, self._row = session.position, self._writing.row
                self._writing = None
        return end

    def _turn(self, quantum: int | None) -> Callable[[int], bool]:
        """Return what says, after so many answers, whether a turn is over: by pages or by time."""
        clock = self._around.clock
        until = clock.monotonic() + TURN_SECONDS

        def is_over(answers: int) -> bool:
            if quantum is None:
                return False
            return answers >= quantum or (answers > 0 and clock.monotonic() >= until)

        return is_over

    def _stored(self) -> StoredPosition:
        with reading(self._around.database) as connection:
            return reads.stored_position(connection, self._peer, FACTS)

    async def _begin(self, stored: StoredPosition, *, moved: bool, max_pages: int | None) -> None:
        if moved:
            await self._note_changes(stored)
        if not self._report.pages:
            self._report.cursor_before = self._report.cursor = stored.position.frontier
        # The position in this process also knows what of the peer's clock is not written.
        position = stored.position if moved or self._position is None else self._position
        session = Session(position, self._paging(max_pages), limit=self._page_size)
        keys = self._connection.keys
        judge = Judge(self._peer, FACTS, self._around, keys, backfill=self._backfill)
        self._pass = _Pass(session, judge)

    def _writer(self, judge: Judge, row: CursorRow | None) -> PageWriter | DryRun:
        if self._connection.read_only:
            return DryRun(self._report.tally)
        return PageWriter(
            self._peer,
            FACTS,
            self._around,
            judge.again,
            tally=self._tally,
            row=row,
            still_held=self._still_held,
        )

    def _tally(self, counts: Counts) -> None:
        """Take note of what is committed."""
        self._report.tally(counts)
        self._around.counting.entries_committed(self._peer.node_id, counts)

    def _paging(self, max_pages: int | None) -> PagingLimits:
        settings = self._around.settings
        skew_ms = settings.hlc_max_future_skew_s * 1000
        return PagingLimits(
            page_size=settings.page_size,
            overlap_ms=round(settings.overlap_s * 1000),
            future_bound_ms=min(skew_ms or FUTURE_CURSOR_MS, FUTURE_CURSOR_MS),
            max_pages=max_pages,
        )

    async def _note_changes(self, stored: StoredPosition) -> None:
        """Say what happened to the cursor while this replicator did not look."""
        frontier = stored.position.frontier
        if stored.first_contact and frontier is not None:
            event = events.FIRST_CONTACT
            self._watcher.tell(
                f"going on from the node's own cursor {frontier}; what was committed late before "
                "it is only found by `cursor reset`, which reads everything once more"
            )
        elif not stored.first_contact and stored.own_frontier != frontier:
            event = events.CURSOR_MOVED
            self._watcher.tell(
                f"the cursor was changed by somebody else, to {frontier or 'the beginning'}"
            )
        else:
            return
        if not self._connection.read_only:
            detail = {"before": stored.own_frontier, "after": frontier}
            await self._around.writer.run(
                events.note,
                self._peer.node_id,
                event,
                events.REPLICATOR,
                detail,
                self._around.clock,
            )
