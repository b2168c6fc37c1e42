"""One peer's pages, pumped: session to transport to store, and back.

Three tasks in a row, so that the next page is fetched and verified while the one before is
written.  What to fetch, what a page means and what it writes is decided in the pure modules;
the worker holds no policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from stigmem_replicator.engine.fetching import FactSource, Fetched
from stigmem_replicator.engine.judging import Judge
from stigmem_replicator.engine.pages import DryRun, PageWriter
from stigmem_replicator.engine.refusals import Inspected
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.errors import (
    PeerBlockedError,
    Reason,
    ReplicatorError,
    TransientPeerError,
    first_of,
)
from stigmem_replicator.replication.session import (
    Action,
    AwaitCommit,
    CaughtUp,
    Failed,
    Fetch,
    Progress,
    Session,
    State,
    Stopped,
)


@dataclass(frozen=True, slots=True)
class Yielded:
    """As many pages as a turn may have are committed; the pass goes on in the next turn."""


@dataclass(frozen=True, slots=True)
class _Answered:
    fetched: Fetched
    progress: Progress
    epoch: int


@dataclass(frozen=True, slots=True)
class _Judged:
    answered: _Answered
    inspected: Inspected


class Worker:
    """One turn of a pass over one peer's facts: all of it, or until ``turn_is_over``.

    ``on_page`` is called after each committed page, ``tell`` with a plain sentence when a page
    is asked for in a smaller size.  The report grows as pages are committed,
    so that it is true however the pass ends.
    """

    def __init__(
        self,
        session: Session,
        source: FactSource,
        judge: Judge,
        writer: PageWriter | DryRun,
        report: PullReport,
        on_page: Callable[[PullReport], None],
        tell: Callable[[str], None],
        *,
        turn_is_over: Callable[[int], bool],
    ) -> None:
        self._session = session
        self._source = source
        self._judge = judge
        self._writer = writer
        self._report = report
        self._on_page = on_page
        self._tell = tell
        self._turn_is_over = turn_is_over
        self._answers = 0
        self._committed = anyio.Event()
        # Raised when the cursor row was changed by somebody else: pages before it are dropped.
        self._epoch = 0
        self._failure: ReplicatorError | None = None
        # Cancelled when a page cannot be judged: then what came before it is still written.
        self._fetching = anyio.CancelScope()

    async def run(self) -> CaughtUp | Stopped | Yielded:
        """Read to the end, to the last page allowed, or for a turn; raises the first failure."""
        answered_in, answered_out = anyio.create_memory_object_stream[_Answered](1)
        judged_in, judged_out = anyio.create_memory_object_stream[_Judged](1)
        end: CaughtUp | Stopped | Yielded | None = None
        # Raised after the group is done with: what is raised inside `except*` is grouped again.
        failure: ReplicatorError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._judge_pages, answered_out, judged_in)
                tasks.start_soon(self._write_pages, judged_out)
                with self._fetching:
                    end = await self._fetch_pages(answered_in)
        except* ReplicatorError as group:
            failure = first_of(group)
        failure = failure or self._failure
        if failure is not None:
            raise failure
        assert end is not None  # noqa: S101 - no end without a failure
        return end

    async def _fetch_pages(
        self, answered: MemoryObjectSendStream[_Answered]
    ) -> CaughtUp | Stopped | Yielded | None:
        async with answered:
            action: Action | None = None
            while True:
                if action is None:
                    # Only between two pages: a pass that is complete has an end of its own.
                    if self._session.state is State.READY and self._turn_is_over(self._answers):
                        return Yielded()
                    action = self._session.next_action()
                match action:
                    case Fetch():
                        action = await self._fetch(action, answered)
                    case AwaitCommit():
                        await self._committed.wait()
                        action = None
                    case CaughtUp() | Stopped():
                        return action
                    case Failed():
                        # What was answered before is still judged and written.
                        return None

    async def _fetch(
        self, fetch: Fetch, answered: MemoryObjectSendStream[_Answered]
    ) -> Action | None:
        """Ask for a page and hand it on; returns what follows, None where the session says it."""
        epoch = self._epoch
        try:
            fetched = await self._source.page(fetch)
        except ReplicatorError as error:
            return None if epoch != self._epoch else self._after_failure(error, fetch)
        if epoch != self._epoch:
            return None
        progress = self._session.on_response(fetched.answer)
        if isinstance(progress, Failed):
            self._failure = TransientPeerError(
                progress.reason,
                f"the peer says that more follows cursor {fetch.cursor}, but does not lead there",
                hint="the page is asked for again; if this lasts, tell the peer's operator",
            )
            return progress
        self._answers += 1
        try:
            await answered.send(_Answered(fetched, progress, epoch))
        except anyio.BrokenResourceError:
            # Nobody judges any more: the pass has failed further on.
            return self._session.on_failure(Reason.MALFORMED_PAGE)
        return None

    def _after_failure(self, error: ReplicatorError, fetch: Fetch) -> Action:
        action = self._session.on_failure(error.reason)
        if isinstance(action, Fetch):
            self._tell(f"{error.message}; asking for {action.limit} entries at a time")
        if isinstance(action, Failed):
            self._failure = error
            if action.reason is Reason.ENTRY_TOO_LARGE:
                self._failure = PeerBlockedError(
                    action.reason,
                    f"the entry after cursor {fetch.cursor} is too large: {error.message}",
                    hint="raise page_bytes_max to read past it",
                )
        return action

    async def _judge_pages(
        self,
        answered: MemoryObjectReceiveStream[_Answered],
        judged: MemoryObjectSendStream[_Judged],
    ) -> None:
        async with answered, judged:
            async for item in answered:
                if item.epoch != self._epoch:
                    continue
                try:
                    inspected = await self._judge.page(
                        item.fetched.page.entries, first=item.progress.start is None
                    )
                except ReplicatorError as error:
                    self._failure = error
                    self._fetching.cancel()
                    return
                try:
                    await judged.send(_Judged(item, inspected))
                except anyio.BrokenResourceError:
                    # Nobody writes any more: that failure is the one to tell.
                    return

    async def _write_pages(self, judged: MemoryObjectReceiveStream[_Judged]) -> None:
        async with judged:
            async for item in judged:
                if item.answered.epoch == self._epoch:
                    await self._write(item)

    async def _write(self, item: _Judged) -> None:
        progress = item.answered.progress
        written = await self._writer.write(
            item.answered.fetched.page.entries, item.inspected, progress
        )
        if written.cursor_moved:
            self._epoch += 1
            self._report.moved_elsewhere += 1
            self._session.on_cursor_moved(written.cursor)
        else:
            self._session.on_committed(progress)
            self._report.pages += 1
            self._report.cursor = progress.after.frontier
            self._report.more = progress.has_more
            if not progress.has_more:
                self._report.caught_up_ms = item.answered.fetched.answer.sent_at_ms
        # Whoever waits for a commit looks at the session again, whatever became of the page.
        self._committed.set()
        self._committed = anyio.Event()
        self._on_page(self._report)
