"""One stream's pull from one peer, as values and tables.  No I/O, no clock.

Rule 1: everything that decides which page is asked for next lives here; what a page makes of
the stored positions lives in ``positions``.  Fetching, verifying and committing live elsewhere.

Rule 2: only positions that the peer gave us are sent back to it.  A position is a text: a
page's cursor or an entry's HLC.  The peer compares them as text and answers with what is
strictly greater, so they are compared as text here too; None, the beginning, is lowest.

Theory of operation.  The origin assigns an HLC before it commits, and orders HLCs as text.  So
an entry can appear behind a position that was already passed.  Two positions are kept:

- the frontier, the newest cursor committed;
- the settled position, never above it: everything at or before it was read when the origin's
  clock stood more than ``overlap_ms`` past it, so nothing can appear there any more.

A pass reads from the settled position, page by page, to the answer that says that there is no
more.  A session is one pass.  After any interruption a new session begins at the settled
position that was committed.  Two machines work together: the paging state, which moves by
TRANSITIONS, and the queue of pages that were answered and wait for their commit.  They meet in
``Session.next_action`` only: a full queue holds back a fetch, and a pass ends with it empty.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.replication.positions import (
    Answer,
    Checkpoint,
    PagingLimits,
    Position,
    Progress,
    judge,
    lowest,
    next_start,
)

__all__ = [
    "EVENT_DOCS",
    "STATE_DOCS",
    "TRANSITIONS",
    "Action",
    "Answer",
    "AwaitCommit",
    "CaughtUp",
    "Checkpoint",
    "Event",
    "Failed",
    "Fetch",
    "PagingLimits",
    "Position",
    "Progress",
    "ProtocolMisuse",
    "Session",
    "State",
    "Stopped",
]

GOOD_PAGES: Final = 4
"""Good pages in a row after which a page size that was halved is doubled again."""

TIMEOUTS: Final = 2
"""Answers too late in a row that are met with a smaller page."""

_HALVES: Final = frozenset({Reason.PAGE_TOO_LARGE, Reason.TIMEOUT})


class ProtocolMisuse(RuntimeError):  # noqa: N818 - names a caller's mistake, not a failure
    """The session was told of something that cannot happen in its state."""


class State(StrEnum):
    """States of the paging."""

    READY = "ready"
    FETCHING = "fetching"
    COMPLETE = "complete"
    LIMITED = "limited"
    FAILED = "failed"


class Event(StrEnum):
    """What moves the paging from state to state."""

    FETCH = "fetch"
    PAGE_WITH_MORE = "page_with_more"
    LAST_PAGE = "last_page"
    LAST_ALLOWED_PAGE = "last_allowed_page"
    ASK_SMALLER = "ask_smaller"
    FAIL = "fail"
    CURSOR_MOVED = "cursor_moved"


STATE_DOCS: Final[dict[State, str]] = {
    State.READY: "the next page may be asked for",
    State.FETCHING: "a page was asked for and its answer is awaited",
    State.COMPLETE: "the answer that says that there is no more was read",
    State.LIMITED: "as many pages as were allowed were read, and there is more",
    State.FAILED: "the session is over; a new one begins at the settled position",
}

EVENT_DOCS: Final[dict[Event, str]] = {
    Event.FETCH: "the next page is asked for",
    Event.PAGE_WITH_MORE: "a page was answered that says that there is more",
    Event.LAST_PAGE: "a page was answered that says that there is no more",
    Event.LAST_ALLOWED_PAGE: "a page with more was answered, the last that was allowed",
    Event.ASK_SMALLER: "the answer was too large or too late; half as many entries are asked for",
    Event.FAIL: "the request, the page or the commit failed in a way that paging cannot mend",
    Event.CURSOR_MOVED: "somebody else changed the cursor row; the pass begins again",
}

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.READY: {
        Event.FETCH: State.FETCHING,
        Event.FAIL: State.FAILED,
        Event.CURSOR_MOVED: State.READY,
    },
    State.FETCHING: {
        Event.PAGE_WITH_MORE: State.READY,
        Event.LAST_PAGE: State.COMPLETE,
        Event.LAST_ALLOWED_PAGE: State.LIMITED,
        Event.ASK_SMALLER: State.READY,
        Event.FAIL: State.FAILED,
        Event.CURSOR_MOVED: State.READY,
    },
    State.COMPLETE: {Event.FAIL: State.FAILED, Event.CURSOR_MOVED: State.READY},
    State.LIMITED: {Event.FAIL: State.FAILED, Event.CURSOR_MOVED: State.READY},
    # A commit may fail, or find the row changed, after the fetch of a later page has failed.
    State.FAILED: {Event.FAIL: State.FAILED, Event.CURSOR_MOVED: State.FAILED},
}


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for ``limit`` entries after ``cursor`` (None: from the beginning)."""

    cursor: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class AwaitCommit:
    """Nothing may be asked for before the oldest answered page is committed."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The pass is done: the peer has no more, and everything is committed."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """As many pages as were allowed are committed; more remains at the peer."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The pass is over; the next one begins at the settled position that was committed."""

    reason: Reason


Action = Fetch | AwaitCommit | CaughtUp | Stopped | Failed


class Session:
    """One pass over one stream.

    The caller does what ``next_action`` says and reports back: ``on_response`` or
    ``on_failure`` once for each Fetch, ``on_committed`` once for each Progress in order, also
    for one that was not worth a write.  ``limit`` is the page size to begin with where an
    earlier pass had to halve it.
    """

    def __init__(
        self, position: Position, limits: PagingLimits, *, limit: int | None = None
    ) -> None:
        # A cursor row that was set back while nobody looked is below the settled position.
        settled = lowest(position.settled, position.frontier)
        self._committed = replace(position, settled=settled)
        self._answered = self._committed
        self._limits = limits
        self._limit = min(max(limit or limits.page_size, 1), limits.page_size)
        self._good_pages = 0
        self._pages = 0
        self._timeouts = 0
        self._state = State.READY
        self._start = settled
        self._waiting: deque[Progress] = deque()
        self._reason = Reason.CURSOR_STALLED

    @property
    def position(self) -> Position:
        """The position as committed."""
        return self._committed

    @property
    def pages(self) -> int:
        """How many pages were answered so far."""
        return self._pages

    @property
    def limit(self) -> int:
        """How many entries the next page is asked for."""
        return self._limit

    @property
    def state(self) -> State:
        """The state of the paging."""
        return self._state

    def next_action(self) -> Action:
        """Say what is to be done now; a Fetch that is returned counts as asked for."""
        match self._state:
            case State.READY:
                if len(self._waiting) >= self._limits.pages_ahead:
                    return AwaitCommit()
                self._turn(Event.FETCH)
                return Fetch(self._start, self._limit)
            case State.COMPLETE:
                return AwaitCommit() if self._waiting else CaughtUp()
            case State.LIMITED:
                return AwaitCommit() if self._waiting else Stopped()
            case State.FAILED:
                return Failed(self._reason)
            case State.FETCHING:
                raise ProtocolMisuse("a page was asked for and is not answered yet")

    def on_response(self, answer: Answer) -> Progress | Failed:
        """Judge the paging of a page that was answered.

        A page that says that there is more must lead on: without a cursor after its start the
        same page would come again for good.
        """
        if self._state is not State.FETCHING:
            raise ProtocolMisuse(f"no page was asked for in state {self._state}")
        start = self._start
        following = next_start(start, answer)
        if answer.has_more and following is None:
            return self._fail(Reason.CURSOR_STALLED)
        pages = self._pages + 1
        if not answer.has_more:
            self._turn(Event.LAST_PAGE)
        elif pages == self._limits.max_pages:
            self._turn(Event.LAST_ALLOWED_PAGE)
        else:
            self._turn(Event.PAGE_WITH_MORE)
        progress = judge(self._answered, start, answer, self._limits)
        self._answered = progress.after
        self._waiting.append(progress)
        self._start = following
        self._pages = pages
        self._good_pages += 1
        self._timeouts = 0
        if self._good_pages >= GOOD_PAGES:
            self._set_limit(self._limit * 2)
        return progress

    def on_committed(self, progress: Progress) -> None:
        """Take note that a page's progress is committed; pages are committed in order."""
        if not self._waiting or self._waiting[0] is not progress:
            raise ProtocolMisuse("not the oldest page that waits for its commit")
        self._waiting.popleft()
        self._committed = progress.after

    def on_failure(self, reason: Reason) -> Action:
        """Say what follows a failure: the same page in a smaller size, or the end.

        A page too large or too late is asked for again with half as many entries, down to one;
        after a few that were too late in a row the peer is taken not to answer at all.
        """
        self._timeouts = self._timeouts + 1 if reason is Reason.TIMEOUT else 0
        if reason in _HALVES and self._limit > 1 and self._timeouts <= TIMEOUTS:
            self._turn(Event.ASK_SMALLER)
            self._set_limit(self._limit // 2)
            return self.next_action()
        return self._fail(Reason.ENTRY_TOO_LARGE if reason is Reason.PAGE_TOO_LARGE else reason)

    def on_cursor_moved(self, row_cursor: str | None) -> None:
        """Begin the pass again after somebody else changed the cursor row.

        Pages that wait for their commit are forgotten, and an answer still under way must not
        be reported.
        """
        self._turn(Event.CURSOR_MOVED)
        self._waiting.clear()
        self._committed = self._committed.moved_to(row_cursor)
        self._answered = self._committed
        self._start = self._committed.settled

    def _turn(self, event: Event) -> None:
        state = TRANSITIONS[self._state].get(event)
        if state is None:
            raise ProtocolMisuse(f"{event} cannot happen in state {self._state}")
        self._state = state

    def _fail(self, reason: Reason) -> Failed:
        if self._state is not State.FAILED:
            self._reason = reason
        self._turn(Event.FAIL)
        return Failed(self._reason)

    def _set_limit(self, limit: int) -> None:
        self._limit = min(limit, self._limits.page_size)
        self._good_pages = 0
