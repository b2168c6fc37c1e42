"""One peer's tombstones and revocations, read pass by pass; what a pass learns is kept.

Both lists come in one answer; of each page the tombstones are written first, then the
revocations, each list with its position.  When a pass is due, and what its end makes of the
stream, is for whoever reads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from stigmem_replicator.engine.capability import Credential
from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.fetching import FetchedRecords, TombstoneSource
from stigmem_replicator.engine.pages import DryRun, PageWriter, Written
from stigmem_replicator.engine.record_judging import RecordJudge
from stigmem_replicator.engine.refusals import Inspected
from stigmem_replicator.engine.report import TombstoneReport
from stigmem_replicator.engine.stream import Watcher
from stigmem_replicator.engine.worker import Yielded
from stigmem_replicator.errors import (
    LocalError,
    PeerBlockedError,
    Reason,
    ReplicatorError,
    TransientPeerError,
)
from stigmem_replicator.protocol import tombstone
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import Counts, Judged, RefusedBefore
from stigmem_replicator.replication.positions import Position, Progress
from stigmem_replicator.replication.session import CaughtUp, Stopped
from stigmem_replicator.replication.tombstones import Fetch, Pass
from stigmem_replicator.store import reads, tombstones
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.reads import StreamRow
from stigmem_replicator.trust.verdicts import Reject

WAITING_AT_ONCE: Final = 200
"""How many dead letters are judged again in one go."""


class TombstoneStream:
    """The tombstones and revocations of one peer, which nobody else reads at the time.

    ``report`` grows as pages are committed, so that it is true however reading ends.  Over a
    ``read_only`` connection nothing is written.  ``still_held`` says whether the peer's lock is
    ours.
    """

    def __init__(
        self,
        connection: PeerConnection,
        report: TombstoneReport,
        watcher: Watcher,
        *,
        still_held: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._peer = connection.peer
        self._around = connection.around
        self._report = report
        self._watcher = watcher
        self._still_held = still_held
        self.credential = Credential(connection)
        self._source = TombstoneSource(connection, self.credential.mint)
        self._judge = RecordJudge(connection)
        # Kept while it is not done, so that a long one goes on where it was.
        self._pass: Pass | None = None
        self._brought_before = 0
        self._gap_told = False
        self._dry_run: dict[Artifact, DryRun] = {}
        self._full_at: float | None = None
        self._awaited: tuple[object, ...] | None = None

    @property
    def waited_s(self) -> float:
        """How long the peer was waited for altogether, in seconds."""
        return self._source.waited_s

    def asking_since(self) -> float | None:
        """Return since when the peer is waited for, None while nothing was asked of it."""
        return self._source.asking_since

    async def read(
        self, *, max_pages: int | None = None, quantum: int | None = None
    ) -> CaughtUp | Stopped | Yielded:
        """Make a pass, or go on with one; at most ``quantum`` pages of it, or ``max_pages``.

        The first pass of a process is in full, unless it may have only so many pages.  What waits
        in the dead letters is judged again first and last, when what it waits for may have come.
        Raises the failure that ended the turn.
        """
        await self._retry_waiting()
        await self._around.threads.look_up(self.credential.load)
        if self._pass is None:
            self._pass = await self._begin(whole=max_pages is None)
        end = await self._pages(self._pass, max_pages, quantum)
        await self._retry_waiting()
        return end

    async def close(self) -> None:
        """Note in the node's audit that a pass which nobody goes on with left something."""
        reading_, self._pass = self._pass, None
        if reading_ is not None:
            await self._tell_gap(reading_)

    async def _begin(self, *, whole: bool) -> Pass:
        now, settings = self._around.clock.monotonic(), self._around.settings
        due = self._full_at is None or now - self._full_at >= settings.tombstone_full_read_s
        positions = await self._around.threads.look_up(self._positions)
        self._brought_before = self._report.of[Artifact.TOMBSTONE].admitted
        self._dry_run = {
            artifact: DryRun(partial(self._tally, artifact, served=True)) for artifact in Artifact
        }
        return Pass(positions, full=due and whole)

    async def _pages(
        self, reading_: Pass, max_pages: int | None, quantum: int | None
    ) -> CaughtUp | Stopped | Yielded:
        began = reading_.pages
        while (fetch := reading_.next_fetch()) is not None:
            done = reading_.pages - began
            if max_pages is not None and done >= max_pages:
                return Stopped()
            if quantum is not None and done >= quantum:
                return Yielded()
            fetched = await self._fetch(reading_, fetch)
            if fetched is None:
                continue
            # Until its page is written the pass is ahead of what is committed.
            self._pass = None
            try:
                taken = await self._take(reading_, fetch, fetched)
            except ReplicatorError as error:
                if not isinstance(error, LocalError):
                    await self._tell_gap(reading_)
                raise
            if taken:
                self._pass = reading_
            else:
                # Somebody set a position elsewhere: all begins there.
                reading_ = self._pass = await self._begin(whole=max_pages is None)
                began = reading_.pages
        if reading_.full:
            self._full_at = self._around.clock.monotonic()
        self._pass, self._gap_told = None, False
        return CaughtUp()

    async def _fetch(self, reading_: Pass, fetch: Fetch) -> FetchedRecords | None:
        """Ask for a page; None when it is to be asked for in a smaller size."""
        try:
            return await self._source.page(fetch)
        except ReplicatorError as error:
            if error.reason is Reason.UNAUTHORIZED:
                raise self.credential.refused(error) from error
            meaning = reading_.on_failure(error.reason)
            if meaning is None:
                self._watcher.tell(f"{error.message}; asking for fewer tombstones at a time")
                return None
            if meaning is Reason.ENTRY_TOO_LARGE:
                raise PeerBlockedError(
                    meaning,
                    f"the records after {_named(fetch.since)} are too large together: "
                    f"{error.message}",
                    hint="raise page_bytes_max to read past them",
                ) from error
            raise

    async def _take(self, reading_: Pass, fetch: Fetch, fetched: FetchedRecords) -> bool:
        """Judge and write one page; False when somebody else changed a position meanwhile."""
        before = {artifact: reading_.position(artifact) for artifact in Artifact}
        astray = reading_.on_page(fetch, fetched.answer)
        if astray is not None:
            raise self._astray(astray, fetch)
        for artifact in Artifact:
            progress = Progress(
                start=fetch.since,
                before=before[artifact],
                after=reading_.position(artifact),
                new_checkpoint=None,
                has_more=reading_.next_fetch() is not None,
            )
            entries = fetched.page.entries(artifact)
            written = await self._write(artifact, entries, progress)
            if written.cursor_moved:
                self._report.moved_elsewhere += 1
                return False
        self._report.pages += 1
        self._report.cursor = reading_.position(Artifact.TOMBSTONE).settled
        self._report.more = reading_.next_fetch() is not None
        if not self._report.more:
            self._report.caught_up_ms = fetched.answer.sent_at_ms
        self._watcher.on_page(self._report)
        return True

    def _astray(self, reason: Reason, fetch: Fetch) -> TransientPeerError:
        node_id = self._peer.node_id
        message = f"peer {node_id} sent no usable page: its tombstones are not in their order"
        if reason is Reason.CURSOR_STALLED:
            since = _named(fetch.since)
            message = f"peer {node_id} says that more follows {since}, but does not lead there"
        hint = "they are asked for again; if this lasts, tell the peer's operator"
        return TransientPeerError(reason, message, hint=hint)

    async def _write(
        self,
        artifact: Artifact,
        entries: tuple[object, ...],
        progress: Progress,
        *,
        served: bool = True,
    ) -> Written:
        inspected = await self._judge.page(artifact, entries)
        if not served:
            inspected = _unless_key_changed(inspected)
        tally = partial(self._tally, artifact, served=served)
        if self._connection.read_only:
            return await self._dry_run[artifact].write(entries, inspected, progress)
        writer = PageWriter(
            self._peer,
            tombstones.STREAM_OF[artifact],
            self._around,
            partial(self._judge.again, artifact),
            tally=tally,
            row=_row(progress.before),
            still_held=self._still_held,
            artifact=artifact,
        )
        return await writer.write(entries, inspected, progress)

    def _tally(self, artifact: Artifact, counts: Counts, *, served: bool) -> None:
        """Take note of what is committed; what waits on was not served for that."""
        if not served:
            counts = replace(counts, refused_before={})
        self._report.tally_of(artifact, counts)
        self._around.counting.records_committed(self._peer.node_id, artifact, counts)

    async def _retry_waiting(self) -> None:
        """Judge again what waits for a key or a tombstone, when one may have come."""
        if self._connection.read_only:
            return
        awaited = await self._around.threads.look_up(self._what_is_awaited)
        if awaited is None or awaited == self._awaited:
            return
        positions = await self._around.threads.look_up(self._positions)
        for artifact in Artifact:
            after = ""
            while True:
                waiting = await self._around.threads.look_up(self._waiting, artifact, after)
                if not waiting:
                    break
                unmoved = Progress(
                    start=None,
                    before=positions[artifact],
                    after=positions[artifact],
                    new_checkpoint=None,
                    has_more=True,
                )
                entries = tuple(
                    raw
                    for letter_id, raw in waiting
                    if self._reads_as_before(artifact, letter_id, raw)
                )
                written = await self._write(artifact, entries, unmoved, served=False)
                if written.cursor_moved:
                    return
                after = waiting[-1][0]
        self._awaited = awaited

    def _reads_as_before(self, artifact: Artifact, letter_id: str, raw: object) -> bool:
        """Say whether a dead letter has its id still: one of another wire version has none."""
        return tombstone.entry_id(raw, artifact, self._around.envelope.dialect) == letter_id

    def _what_is_awaited(self) -> tuple[object, ...] | None:
        with reading(self._around.database) as connection:
            return tombstones.what_is_awaited(connection, self._peer.node_id)

    def _waiting(self, artifact: Artifact, after: str) -> list[tuple[str, object]]:
        stream, node_id = tombstones.STREAM_OF[artifact], self._peer.node_id
        with reading(self._around.database) as connection:
            return tombstones.waiting(connection, node_id, stream, after, WAITING_AT_ONCE)

    def _positions(self) -> dict[Artifact, Position]:
        with reading(self._around.database) as connection:
            return tombstones.stored_positions(connection, self._peer)

    async def _tell_gap(self, reading_: Pass) -> None:
        """Note in the node's audit that a pass is over although the peer is known to have more.

        Once until one comes to its end: a stream that stays blocked is tried again and again.
        """
        if not reading_.undrained or self._gap_told or self._connection.read_only:
            return
        # What ended the pass is what is to be told, not that it could not be noted.
        with suppress(LocalError):
            await self._around.writer.run(
                tombstones.audit_sync_gap,
                self._peer,
                self._report.of[Artifact.TOMBSTONE].admitted - self._brought_before,
                reading_.position(Artifact.TOMBSTONE).settled,
                self._around.new_id,
                self._around.clock,
            )
            self._gap_told = True


def _unless_key_changed(inspected: Inspected) -> Inspected:
    """Return verdicts on what waits, with that left waiting which no key of its sender fits now.

    Served again, it is signed anew.
    """
    judged = tuple(
        Judged(item.entry_id, RefusedBefore(item.verdict.reason, touch=False))
        if isinstance(item.verdict, Reject) and item.verdict.reason is Reason.ORIGIN_SIG_INVALID
        else item
        for item in inspected.judged
    )
    return replace(inspected, judged=judged)


def _named(since: str | None) -> str:
    return since or "the beginning"


def _row(position: Position) -> StreamRow:
    return reads.OwnCursor(position.frontier, position.settled)
