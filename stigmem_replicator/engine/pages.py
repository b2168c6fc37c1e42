"""Writing one peer's pages: planned, committed, and planned again when an assumption fell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from stigmem_replicator.engine.refusals import Inspected, refused_by_database
from stigmem_replicator.engine.repeats import Repeats
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import LocalError, PeerBlockedError, Reason
from stigmem_replicator.protocol.tombstone import MALFORMED, Artifact
from stigmem_replicator.replication.plan import (
    Batch,
    ConflictKey,
    Counts,
    Judged,
    PageContext,
    RefusedBefore,
    Siblings,
    conflict_key,
    plan_batch,
)
from stigmem_replicator.replication.session import Progress
from stigmem_replicator.store import events, reads
from stigmem_replicator.store.apply import BatchWrite, Committed, NotWritten
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.fallen import Fallen
from stigmem_replicator.store.reads import LetterUsage, PeerRow, StreamRow
from stigmem_replicator.store.siblings import siblings
from stigmem_replicator.trust.facts import Admit
from stigmem_replicator.trust.tombstones import AdmitRecord
from stigmem_replicator.trust.verdicts import Duplicate, Reject

PLANS_MAX: Final = 100
"""How often one page may be planned again before something is wrong."""

KEPT_SHARE: Final = 0.9
"""To what share of their bound the payloads of dead letters are trimmed, so that it is rare."""


JudgeAgain: TypeAlias = Callable[[Sequence[object]], Awaitable[Inspected]]
"""Judges entries against what the database holds now."""


@dataclass(frozen=True, slots=True)
class Written:
    """How the writing of a page ended.

    ``cursor_moved`` says that somebody else changed the cursor row, to ``cursor``; otherwise the
    page is committed whole.  ``transactions`` is how many that took: none for a page that brought
    nothing and moved nothing.
    """

    transactions: int = 0
    cursor_moved: bool = False
    cursor: str | None = None


class PageWriter:
    """Writes the pages of one stream of a peer in order, each whole or as batches in order.

    ``artifact`` is what the stream has in place of facts, None where it has facts.

    ``tally`` is told what each batch brought once it is committed, so that the counts are true
    also when a page is given up between two batches.
    """

    def __init__(
        self,
        peer: PeerRow,
        stream: str,
        around: Surroundings,
        judge_again: JudgeAgain,
        *,
        tally: Callable[[Counts], None],
        row: StreamRow,
        still_held: Callable[[], bool],
        artifact: Artifact | None = None,
    ) -> None:
        self._peer = peer
        self._stream = stream
        self._around = around
        self._judge_again = judge_again
        self._tally = tally
        self._row = row
        self._artifact = artifact
        self._still_held = still_held
        self._trim = False
        self._repeats = Repeats()

    @property
    def row(self) -> StreamRow:
        """The stream's row as this writer last read or wrote it."""
        return self._row

    async def write(
        self, entries: Sequence[object], inspected: Inspected, progress: Progress
    ) -> Written:
        """Write one page.

        Raises :class:`PeerBlockedError` with ``dead_letters_full``, ``LocalError`` when the
        database fails, and ``UnknownPeerError`` when the peer is no longer active.
        """
        clock, counting = self._around.clock, self._around.counting
        began = clock.monotonic()
        written = await self._write(entries, inspected, progress)
        if written.transactions and not written.cursor_moved:
            counting.page_written(clock.monotonic() - began)
            # A page of tombstones is written as two, and is no page of facts.
            if self._artifact is None:
                counting.page_committed(self._peer.node_id)
        return written

    async def _write(
        self, entries: Sequence[object], inspected: Inspected, progress: Progress
    ) -> Written:
        inspected = self._repeats.set_aside(inspected)
        self._trim = await self._check_letters(inspected)
        written: list[Judged] = []
        done, fallen, alone_until, transactions = 0, 0, 0, 0
        standing: dict[ConflictKey, Siblings] | None = None
        while fallen < PLANS_MAX:
            if standing is None:
                standing = await self._around.threads.look_up(self._siblings, inspected, done)
            batch = self._plan(inspected, done, standing, alone=done < alone_until)
            last = done + batch.entries == len(inspected.judged)
            if last and not batch.rows() and not progress.moved:
                self._tally(batch.counts)
                return Written(transactions)
            outcome = await self._commit(batch, progress if last else None)
            if isinstance(outcome, Committed):
                self._row = outcome.row
                transactions += 1
                written += inspected.judged[done : done + batch.entries]
                done, standing = done + batch.entries, batch.standing
                self._tally(batch.counts)
                if last:
                    self._repeats.remember(written)
                    return Written(transactions)
                continue
            standing = None
            if outcome.fallen is Fallen.ENTRY:
                # Which one it is shows when each is written by itself.
                alone_until = max(alone_until, done + batch.entries)
                if batch.entries == 1:
                    inspected = self._refused(inspected, done, entries, outcome.why)
                continue
            fallen += 1
            if outcome.fallen is Fallen.CURSOR:
                return await self._cursor_moved(outcome.row)
            if outcome.fallen is Fallen.FACTS:
                entries, alone_until, done = entries[done:], max(alone_until - done, 0), 0
                inspected = await self._judge_again(entries)
        raise LocalError(
            Reason.DATABASE_FAILED,
            f"a page of peer {self._peer.node_id} was planned {PLANS_MAX} times and never fitted",
            hint="another process writes without end; run the command again when it has stopped",
        )

    def _plan(
        self,
        inspected: Inspected,
        done: int,
        standing: dict[ConflictKey, Siblings],
        *,
        alone: bool,
    ) -> Batch:
        return plan_batch(
            inspected.judged[done:],
            standing,
            inspected.open_letters,
            self._context(inspected.generation),
            self._around.writer.row_budget,
            alone=alone,
        )

    def _refused(
        self, inspected: Inspected, place: int, entries: Sequence[object], why: str
    ) -> Inspected:
        """Make a dead letter of the one entry that the database does not take."""
        if not isinstance(inspected.judged[place].verdict, Admit | AdmitRecord):
            raise LocalError(
                Reason.DATABASE_FAILED,
                f"the database takes neither an entry of peer {self._peer.node_id} nor its dead "
                f"letter: {why}",
                hint="please report it; the cursor is kept",
            )
        reason = Reason.MALFORMED_FACT if self._artifact is None else MALFORMED[self._artifact]
        return refused_by_database(inspected, place, entries, reason, why)

    async def _commit(self, batch: Batch, progress: Progress | None) -> Committed | NotWritten:
        most = self._around.settings.dead_letter_bytes_max
        return await self._around.writer.commit(
            BatchWrite(
                peer=self._peer,
                stream=self._stream,
                row=self._row,
                batch=batch,
                progress=progress,
                letter_bytes=round(KEPT_SHARE * most) if self._trim else None,
                still_held=self._still_held,
            )
        )

    async def _cursor_moved(self, row: StreamRow) -> Written:
        before, self._row = self._row, row
        cursor = row.cursor if row is not None else None
        detail = {
            "stream": self._stream,
            "before": before.cursor if before else None,
            "after": cursor,
        }
        await self._around.writer.run(
            events.note,
            self._peer.node_id,
            events.CURSOR_MOVED,
            events.REPLICATOR,
            detail,
            self._around.clock,
        )
        return Written(cursor_moved=True, cursor=cursor)

    async def _check_letters(self, inspected: Inspected) -> bool:
        """Check that the page's dead letters fit; say whether older payloads must make room."""
        refused = [item for item in inspected.judged if isinstance(item.verdict, Reject)]
        if not refused:
            return False
        ids = {item.entry_id for item in refused}
        usage = await self._around.threads.look_up(self._letter_usage, ids)
        if usage.rows + len(ids) - usage.known > self._around.settings.dead_letter_rows_max:
            raise PeerBlockedError(
                Reason.DEAD_LETTERS_FULL,
                f"peer {self._peer.node_id} has {usage.rows} dead letters of {self._stream}, as "
                "many as are kept",
                hint="look at them with `dead-letters list`, then raise dead_letter_rows_max",
            )
        size = usage.payload_bytes + sum(len(item.payload) for item in refused)
        return size > self._around.settings.dead_letter_bytes_max

    def _letter_usage(self, ids: Collection[str]) -> LetterUsage:
        with reading(self._around.database) as connection:
            return reads.letter_usage(connection, self._peer.node_id, self._stream, ids)

    def _siblings(self, inspected: Inspected, done: int) -> dict[ConflictKey, Siblings]:
        keys = {
            key
            for item in inspected.judged[done:]
            if isinstance(item.verdict, Admit) and (key := conflict_key(item.verdict)) is not None
        }
        with reading(self._around.database) as connection:
            return siblings(connection, keys, self._around.settings.max_conflicts_per_fact)

    def _context(self, generation: str) -> PageContext:
        return PageContext(
            peer_id=self._peer.id,
            sender_node_id=self._peer.node_id,
            stream=self._stream,
            generation=generation,
            now_iso=self._around.clock.now_iso(),
            now_ms=self._around.clock.now_ms(),
            max_conflicts=self._around.settings.max_conflicts_per_fact,
            new_id=self._around.new_id,
            lacking=self._around.database.schema.lacking("facts"),
            artifact=self._artifact,
        )


class DryRun:
    """Takes the place of a :class:`PageWriter` and writes nothing."""

    def __init__(self, tally: Callable[[Counts], None]) -> None:
        self._tally = tally
        self._repeats = Repeats()

    async def write(
        self, _entries: Sequence[object], inspected: Inspected, _progress: Progress
    ) -> Written:
        """Count what a page would bring."""
        counts = Counts()
        for item in self._repeats.set_aside(inspected).judged:
            match item.verdict:
                case Admit() | AdmitRecord():
                    counts += Counts(admitted=1)
                case Duplicate():
                    counts += Counts(duplicates=1)
                case Reject(reason=reason):
                    counts += Counts(rejected={reason: 1})
                case RefusedBefore(reason=reason):
                    counts += Counts(refused_before={reason: 1})
        self._repeats.remember(inspected.judged)
        self._tally(counts)
        return Written()
