"""A model of an origin node, and of a puller that drives a session against it.

Everything is plain memory and model time in milliseconds; nothing here reads a real clock.  The
origin does what makes paging hard: it assigns an HLC before it commits, compares HLCs as text,
gives one HLC twice, restarts with a lower one, has its clock set, and drops rows from pages.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.hlc import HlcState, tick
from stigmem_replicator.replication.session import (
    Answer,
    AwaitCommit,
    CaughtUp,
    Failed,
    Fetch,
    PagingLimits,
    Position,
    Progress,
    Session,
    Stopped,
)

START_MS = 1_790_000_000_000
YEAR_2200 = "7258118400000.0"


@dataclass(frozen=True, slots=True)
class Row:
    """One fact of the origin; a hidden one is read by the route but never sent."""

    hlc: str
    number: int
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What the origin answers."""

    rows: tuple[Row, ...]
    cursor: str | None
    has_more: bool


@dataclass(slots=True)
class ModelOrigin:
    """The origin: two processes over one table.  ``real_ms`` is true time."""

    real_ms: int = START_MS
    offset_ms: int = 0
    processes: list[HlcState] = field(default_factory=lambda: [HlcState(), HlcState()])
    rows: list[Row] = field(default_factory=list)
    uncommitted: list[tuple[int, Row]] = field(default_factory=list)
    facts: int = 0
    last_stamp: tuple[int, str] = (0, "")
    equals: int = 0

    @property
    def clock_ms(self) -> int:
        """What the origin's own clock shows."""
        return self.real_ms + self.offset_ms

    def assign(self, process: int, commit_after_ms: int, *, hidden: bool = False) -> int:
        """Stamp a fact now and commit it later; return its number."""
        self.processes[process] = tick(self.processes[process], self.clock_ms)
        stamp = self.processes[process].text
        taken = any(row.hlc == stamp for row in self.rows)
        taken = taken or any(row.hlc == stamp for _, row in self.uncommitted)
        if taken:  # how many equal stamps there are is for assign_equal to say
            return self.assign(process, commit_after_ms, hidden=hidden)
        self.last_stamp = (self.real_ms, stamp)
        self.equals = 1
        return self._begin(stamp, commit_after_ms, hidden=hidden)

    def assign_equal(self, commit_after_ms: int) -> int | None:
        """Stamp another fact with the HLC just given: two processes, one millisecond."""
        at_ms, stamp = self.last_stamp
        if at_ms != self.real_ms or self.equals >= 3:
            return None
        self.equals += 1
        return self._begin(stamp, commit_after_ms)

    def stamp_year_2200(self) -> int:
        """Commit a fact whose stamp lies far ahead."""
        return self._begin(YEAR_2200, 0)

    def learn(self, process: int, ahead_ms: int) -> None:
        """Receive a fact stamped ahead of our clock: the process stamps on from there."""
        wall = self.clock_ms + ahead_ms
        if wall > self.processes[process].wall_ms:
            self.processes[process] = HlcState(wall, 0)

    def restart(self, process: int) -> None:
        """Forget the last HLC given, so that the next one may be lower."""
        self.processes[process] = HlcState()

    def set_clock(self, by_ms: int) -> None:
        """Step the origin's clock."""
        self.offset_ms += by_ms

    def wait(self, duration_ms: int) -> None:
        """Let time pass; commits that are due happen in their order."""
        self.real_ms += duration_ms
        due = [entry for entry in self.uncommitted if entry[0] <= self.real_ms]
        self.uncommitted = [entry for entry in self.uncommitted if entry[0] > self.real_ms]
        self.rows.extend(row for _, row in due)

    def page(self, cursor: str | None, limit: int) -> Page:
        """Answer with what is strictly greater as text, as the node does."""
        following = sorted(
            (row for row in self.rows if cursor is None or row.hlc > cursor),
            key=lambda row: (row.hlc, row.number),
        )
        read = following[:limit]
        return Page(
            rows=tuple(row for row in read if not row.hidden),
            cursor=read[-1].hlc if read else cursor,
            has_more=len(following) > limit,
        )

    def _begin(self, stamp: str, commit_after_ms: int, *, hidden: bool = False) -> int:
        self.facts += 1
        row = Row(stamp, self.facts, hidden)
        if commit_after_ms:
            self.uncommitted.append((self.real_ms + commit_after_ms, row))
        else:
            self.rows.append(row)
        return row.number


@dataclass(slots=True)
class ModelPuller:
    """A puller with a table and a memory; only the table survives ``interrupt``."""

    origin: ModelOrigin
    limits: PagingLimits
    our_offset_ms: int = 0
    stored: Position = field(default_factory=lambda: Position(None, None))
    read: set[int] = field(default_factory=set)
    sent: int = 0
    pages: int = 0
    passes: int = 0
    clock_shown: bool = False
    stall_next: bool = False
    step_during_next_ms: int = 0
    _given: set[str | None] = field(default_factory=lambda: {None})
    _waiting: deque[tuple[Progress, tuple[Row, ...], bool]] = field(default_factory=deque)
    session: Session = field(init=False)

    def __post_init__(self) -> None:
        """Begin at the stored position."""
        self.session = Session(self.stored, self.limits)

    def advance(self, before_ms: int = 5, after_ms: int = 5, *, date: bool = True) -> bool:
        """Do what the session says; return True when it has caught up.

        A request takes ``before_ms`` until the origin reads and ``after_ms`` until its answer
        has arrived.
        """
        action = self.session.next_action()
        if isinstance(action, Fetch):
            self._fetch(action, before_ms, after_ms, date=date)
        elif isinstance(action, AwaitCommit):
            self.commit()
        else:
            assert isinstance(action, CaughtUp | Stopped)
            self.passes += 1
            self.session = Session(self.session.position, self.limits)
            return isinstance(action, CaughtUp)
        return False

    def commit(self) -> None:
        """Commit the oldest answered page, if one waits."""
        if not self._waiting:
            return
        progress, rows, showed_clock = self._waiting.popleft()
        self.read.update(row.number for row in rows)
        if progress.moved:
            self._store(progress.after)
        self.session.on_committed(progress)
        self.clock_shown = self.clock_shown or showed_clock

    def interrupt(self) -> None:
        """Die and start again from what the table holds."""
        self._waiting.clear()
        self.session = Session(self.stored, self.limits)

    def time_out(self) -> None:
        """Let the next request time out: the page is asked for again, smaller."""
        if self.session.limit < 8:  # an HLC that was given three times still fits in a page
            return
        action = self.session.next_action()
        if isinstance(action, Fetch):
            self._check_sent(action.cursor)
            self.origin.wait(100)
            again = self.session.on_failure(Reason.TIMEOUT)
            assert isinstance(again, Fetch)
            assert again == Fetch(action.cursor, action.limit // 2)
            self._fetch(again, 5, 5, date=True)

    def pull_until_caught_up(self) -> None:
        """Read to the end in one pass, however many pages it takes."""
        self.commit_all()
        self.stall_next = False
        self.session = Session(self.session.position, replace(self.limits, max_pages=None))
        for _ in range(20_000):
            if self.advance():
                return
        raise AssertionError("the pass does not end")

    def commit_all(self) -> None:
        """Commit every page that waits."""
        while self._waiting:
            self.commit()

    def step_clock(self, by_ms: int, *, during_request: bool = False) -> bool:
        """Set the origin's clock, provided that its last step was shown by an answer."""
        if not self.clock_shown or self.step_during_next_ms:
            return False
        if during_request:
            self.step_during_next_ms = by_ms
        else:
            self.origin.set_clock(by_ms)
            self._step_made()
        return True

    def _step_made(self) -> None:
        # An answer that was asked for before the step does not show it.
        self.clock_shown = False
        self._waiting = deque((progress, rows, False) for progress, rows, _ in self._waiting)

    def _fetch(self, action: Fetch, before_ms: int, after_ms: int, *, date: bool) -> None:
        self._check_sent(action.cursor)
        sent_at = self.origin.real_ms + self.our_offset_ms
        self.origin.wait(before_ms)
        page = self.origin.page(action.cursor, action.limit)
        if self.stall_next:
            self.stall_next = False
            page = Page((), action.cursor, has_more=True)
        if self.step_during_next_ms:
            self.origin.set_clock(self.step_during_next_ms)
            self.step_during_next_ms = 0
            self._step_made()
        date_ms = self.origin.clock_ms // 1000 * 1000 if date else None
        self.origin.wait(after_ms)
        hlcs = tuple(row.hlc for row in page.rows)
        self._given.update((page.cursor, *hlcs))
        self.sent += len(page.rows)
        self.pages += 1
        answer = Answer(page.cursor, page.has_more, hlcs, date_ms, sent_at, before_ms + after_ms)
        progress = self.session.on_response(answer)
        if isinstance(progress, Failed):
            assert progress.reason is Reason.CURSOR_STALLED
            self.interrupt()
            return
        self._waiting.append((progress, page.rows, date))

    def _store(self, after: Position) -> None:
        old = self.stored.frontier
        if old is not None:
            assert after.frontier is not None
            assert after.frontier >= old, "the frontier went back by itself"
        if after.settled is not None:
            assert after.frontier is not None
            assert after.settled <= after.frontier, "settled above the frontier"
        positions = [checkpoint.position for checkpoint in after.checkpoints]
        assert positions == sorted(positions)
        self.stored = replace(after, ahead_ms=None, ahead_since_ms=None, fallen_ms=0)

    def _check_sent(self, cursor: str | None) -> None:
        assert cursor in self._given, "the origin never gave this position"
