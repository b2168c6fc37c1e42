"""One peer's facts, read pass by pass; what a pass learns is kept for the next.

It knows where reading stands, in the tables and in this process, and puts together what a pass
needs.  When a pass is due, and what its end makes of the peer, is for whoever reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from stigmem_replicator.engine.fetching import FactSource
from stigmem_replicator.engine.judging import Judge
from stigmem_replicator.engine.manifests import SenderKeys
from stigmem_replicator.engine.pages import DryRun, PageWriter
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.worker import Worker, Yielded
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.replication.session import (
    CaughtUp,
    PagingLimits,
    Position,
    Session,
    Stopped,
)
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import events, reads, standings
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import CursorRow, PeerRow, StoredPosition
from stigmem_replicator.store.standings import Observed
from stigmem_replicator.transport.client import Limits, PeerClient, Seen
from stigmem_replicator.transport.network import Destination

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

    ``report`` grows as pages are committed, so that it is true however reading ends.  A
    ``read_only`` stream writes nothing.  ``still_held`` says whether the peer's lock is ours.
    """

    def __init__(
        self,
        peer: PeerRow,
        around: Surroundings,
        report: PullReport,
        watcher: Watcher,
        *,
        still_held: Callable[[], bool],
        backfill: bool = False,
        read_only: bool = False,
    ) -> None:
        around = replace(around, settings=around.settings.for_peer(peer.node_id))
        self._peer = peer
        self._around = around
        self._report = report
        self._watcher = watcher
        self._still_held = still_held
        self._backfill = backfill
        self._read_only = read_only
        self._keys = (
            SenderKeys(peer, around, read_only=read_only) if around.envelope.signed else None
        )
        self._client: PeerClient | None = None
        self._pass: _Pass | None = None
        # What this process knows of where reading stands, and the row that it goes with.
        self._position: Position | None = None
        self._row: CursorRow | None = None
        self._writing: PageWriter | None = None
        self._source: FactSource | None = None
        self.waited_s = 0.0
        """How long the peer was waited for altogether, in seconds."""
        # What the peer could bear last; None before the first page.
        self._page_size: int | None = None

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections, also when cancelled."""
        if self._client is not None:
            await self._client.__aexit__(kind, error, trace)

    def asking_since(self) -> float | None:
        """Return since when the peer is waited for, None while nothing was asked of it."""
        return None if self._source is None else self._source.asking_since

    async def hang_up(self) -> None:
        """Close the connections until the next pass: it will be a while."""
        if self._client is not None:
            await self._client.hang_up()

    @property
    def seen(self) -> Observed:
        """What the peer's answers told of it so far."""
        seen = Seen() if self._client is None else self._client.seen
        return Observed(seen.certificate_not_after_ms, seen.upstream_lag_ms, seen.lag_at_ms)

    @property
    def row(self) -> CursorRow | None:
        """The node's cursor row of the peer as it was last read or written here."""
        return self._row if self._writing is None else self._writing.row

    async def read(
        self, *, max_pages: int | None = None, quantum: int | None = None
    ) -> CaughtUp | Stopped | Yielded:
        """Make a pass, or go on with one that yielded; at most ``quantum`` pages of it.

        ``max_pages`` ends a pass that begins now.  Raises the failure that ended the pass; the
        next one begins at the settled position that was committed.
        """
        client = self._connected()
        stored, commit_number = await self._around.threads.look_up(self._stored)
        moved = self._position is None or stored.row != self._row
        if self._pass is None or moved:
            await self._begin(stored, moved=moved, max_pages=max_pages)
        assert self._pass is not None  # noqa: S101 - begun above
        session, judge = self._pass.session, self._pass.judge
        writer = self._writer(judge, stored.row, commit_number)
        self._source = source = FactSource(client, self._peer, self._around)
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
            self._report.upstream_lag_ms = client.seen.upstream_lag_ms
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

    def _connected(self) -> PeerClient:
        """Return the connections to the peer; raises what :class:`PeerClient` raises."""
        if self._client is None:
            settings = self._around.settings
            there = Destination(self._peer.node_url, self._peer.node_id, settings.allowed_networks)
            self._client = PeerClient(there, self._around.network, _limits(settings))
        return self._client

    def _stored(self) -> tuple[StoredPosition, int]:
        with reading(self._around.database) as connection:
            stored = reads.stored_position(connection, self._peer, FACTS)
            number = 0
            if not self._read_only:
                number = standings.commit_number(connection, self._peer.node_id)
            return stored, number

    async def _begin(self, stored: StoredPosition, *, moved: bool, max_pages: int | None) -> None:
        if moved:
            await self._note_changes(stored)
        if not self._report.pages:
            self._report.cursor_before = self._report.cursor = stored.position.frontier
        # The position in this process also knows what of the peer's clock is not written.
        position = stored.position if moved or self._position is None else self._position
        session = Session(position, self._paging(max_pages), limit=self._page_size)
        judge = Judge(self._peer, FACTS, self._around, self._keys, backfill=self._backfill)
        self._pass = _Pass(session, judge)

    def _writer(
        self, judge: Judge, row: CursorRow | None, commit_number: int
    ) -> PageWriter | DryRun:
        if self._read_only:
            return DryRun(self._report.tally)
        return PageWriter(
            self._peer,
            FACTS,
            self._around,
            judge,
            tally=self._tally,
            row=row,
            commit_number=commit_number,
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
        if not self._read_only:
            detail = {"before": stored.own_frontier, "after": frontier}
            await self._around.writer.run(
                events.note,
                self._peer.node_id,
                event,
                events.REPLICATOR,
                detail,
                self._around.clock,
            )


def _limits(settings: Settings) -> Limits:
    """Return the bounds of one request for a page."""
    return Limits(
        connect_s=settings.connect_timeout_s,
        read_s=settings.read_timeout_s,
        answer_s=settings.page_timeout_s,
        body_bytes=settings.page_bytes_max,
        retry_after_cap_s=float(settings.retry_after_cap_s),
        requests_per_s=settings.peer_requests_per_s,
        bytes_per_s=float(settings.peer_bytes_per_s),
    )
