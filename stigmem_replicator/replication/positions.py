"""What one answer makes of a stream's stored positions.  Pure functions over frozen values.

A position is a text that the peer gave us: a page's cursor or an entry's HLC.  The origin
compares positions as text, so everything here does; None, the beginning, is lowest.  The wall
part of a position is read to judge it, never to make one up.

The origin's clock.  An answer shows a time T that the origin's clock had certainly reached when
it read the page: its Date less the duration of the request, and no more than our own clock at
sending.  A late answer makes T too low, never too high.  A step of that clock is dangerous in
both directions:

- backward, entries appear from T less our own time since the last answer on (the step may have
  come right after that answer), so the settled position falls before that;
- forward, an entry stamped before the step may still wait for its commit although its stamp
  looks old.  So the origin's time that is relied on follows a T that is ahead of it only once
  all answers of more than ``overlap_ms`` were ahead, and then by the least of them.

This module does not know sessions, requests or tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from stigmem_replicator.protocol import hlc

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS
_KEEP_ALL_MS: Final = 10 * _MINUTE_MS
_KEEP_HOURLY_MS: Final = _DAY_MS
_KEEP_DAILY_MS: Final = 30 * _DAY_MS

# A Date header counts whole seconds and answers take unequal times.  A tenth of the overlap on
# top of it keeps a position from being settled by one answer and unsettled by the next.
_SLACK_SHARE: Final = 10


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A settled position, and when it was kept: milliseconds since 1970 by our clock."""

    position: str
    kept_at_ms: int


@dataclass(frozen=True, slots=True)
class Position:
    """All that is kept about one stream of one peer.  Times are milliseconds since 1970.

    ``frontier`` is the newest cursor committed, ``settled`` the position where a pass begins.
    The origin's clock showed ``origin_time_ms`` at least when ours showed
    ``origin_time_at_ms``, which is when the last answer was asked for.  Every answer since
    ``ahead_since_ms`` (our clock) showed it ``ahead_ms`` or more ahead of that, and
    ``fallen_ms`` says how far that has fallen since it was last written; these three belong to
    the process and are not stored, a process that starts without them only waits again.
    ``checkpoints`` come oldest first.
    """

    frontier: str | None
    settled: str | None
    origin_time_ms: int | None = None
    origin_time_at_ms: int | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    ahead_ms: int | None = None
    ahead_since_ms: int | None = None
    fallen_ms: int = 0

    @classmethod
    def first_contact(cls, row_cursor: str | None) -> Position:
        """Take over a cursor that somebody else wrote: it counts as settled until judged."""
        return cls(frontier=row_cursor, settled=row_cursor)

    def moved_to(self, row_cursor: str | None) -> Position:
        """Follow a cursor row that somebody else changed; the settled position never rises."""
        return replace(self, frontier=row_cursor, settled=lowest(self.settled, row_cursor))


@dataclass(frozen=True, slots=True)
class PagingLimits:
    """How a stream is paged.

    ``page_size`` counts entries, ``overlap_ms`` is the longest commit of the origin that is
    waited for, ``future_bound_ms`` how far ahead of our clock a cursor may lie and still be
    stored, ``pages_ahead`` how many answered pages may wait for their commit, ``max_pages`` how
    many pages a session may read (None: to the end).
    """

    page_size: int = 500
    overlap_ms: int = 10_000
    future_bound_ms: int = 300_000
    pages_ahead: int = 2
    max_pages: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could ever be read."""
        if self.page_size < 1 or self.pages_ahead < 1:
            raise ValueError("page_size and pages_ahead must be at least 1")
        if self.max_pages is not None and self.max_pages < 1:
            raise ValueError("max_pages must be at least 1, or None")
        if self.overlap_ms < 0 or self.future_bound_ms < 0:
            raise ValueError("overlap_ms and future_bound_ms must not be negative")


@dataclass(frozen=True, slots=True)
class Answer:
    """What paging must know of one decoded page.

    ``hlcs`` are those of the entries, in their order.  ``date_ms`` is the Date header, None
    when there was none; ``sent_at_ms`` our clock when the request was sent (both milliseconds
    since 1970); ``duration_ms`` the milliseconds from sending to the response's headers by a
    clock that never steps.
    """

    cursor: str | None
    has_more: bool
    hlcs: tuple[str | None, ...]
    date_ms: int | None
    sent_at_ms: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What one page makes of the position; committed with the page's last entry.

    ``start`` is the position that the page was asked with.  ``after.checkpoints`` is the whole
    list to keep.  ``clock_fell`` says that the origin's time is lower than the one stored by
    more than the usual unevenness of answers.
    """

    start: str | None
    before: Position
    after: Position
    new_checkpoint: Checkpoint | None
    has_more: bool
    clock_fell: bool = False

    @property
    def moved(self) -> bool:
        """Whether this is worth a write even when the page brought nothing new.

        The origin's time alone is not.  The first one is, and one that fell: a process that
        starts with a time that is too high would settle positions too early.
        """
        return (
            self.clock_fell
            or (self.before.origin_time_ms is None and self.after.origin_time_ms is not None)
            or self.before.frontier != self.after.frontier
            or self.before.settled != self.after.settled
            or self.before.checkpoints != self.after.checkpoints
        )


def lowest(one: str | None, other: str | None) -> str | None:
    """Return the lower of two positions."""
    return None if one is None or other is None else min(one, other)


def next_start(start: str | None, answer: Answer) -> str | None:
    """Return the position that the page after this one is asked with; None: there is none.

    HLCs are not unique, and the origin answers with what is strictly greater.  Entries of one
    HLC may lie on both sides of a page's end, so the next page starts from the greatest
    position before the cursor, if this page gave one.  That holds when the last entry's HLC is
    not the cursor too: then the origin read a last row that it did not send.
    """
    if answer.cursor is None or not _after(answer.cursor, start):
        return None
    before = [text for text in _positions(start, answer) if text < answer.cursor]
    return max(before, default=answer.cursor)


def judge(before: Position, start: str | None, answer: Answer, limits: PagingLimits) -> Progress:
    """Work out what a page that was asked with ``start`` makes of the position."""
    positions = _positions(start, answer)
    latest = answer.sent_at_ms + limits.future_bound_ms
    after = replace(before, frontier=_frontier(before.frontier, positions, latest))
    clock = _read_clock(before, answer, limits.overlap_ms)
    if clock is None:
        return Progress(start, before, after, None, answer.has_more)
    after = replace(
        _fall(after, clock, limits.overlap_ms),
        origin_time_ms=clock.relied_on_ms,
        origin_time_at_ms=answer.sent_at_ms,
        ahead_ms=clock.ahead_ms,
        ahead_since_ms=clock.ahead_since_ms,
    )
    slack = limits.overlap_ms // _SLACK_SHARE
    new_checkpoint = None
    if after.settled == before.settled == start:
        end = next_start(start, answer) if answer.has_more else None
        bound = clock.settling_ms - limits.overlap_ms - slack
        after, new_checkpoint = _rise(
            after,
            [text for text in positions if (end is None or text <= end) and _earlier(text, bound)],
            answer.sent_at_ms,
            limits.overlap_ms,
        )
    fallen = before.fallen_ms + clock.fell_ms
    progress = Progress(
        start, before, after, new_checkpoint, answer.has_more, clock_fell=fallen > slack
    )
    return replace(progress, after=replace(after, fallen_ms=0 if progress.moved else fallen))


def thin(checkpoints: tuple[Checkpoint, ...], now_ms: int) -> tuple[Checkpoint, ...]:
    """Thin checkpoints (oldest first) by the age of their wall part at ``now_ms``.

    All of the last ten minutes stay, then the newest of each hour for a day, the newest of each
    day for 30 days, and the newest of what is older, so that there is always one to fall to.
    """
    kept: dict[tuple[int, int], Checkpoint] = {}
    for number, checkpoint in enumerate(checkpoints):
        wall = hlc.wall_ms(checkpoint.position) or 0
        age = now_ms - wall
        if age <= _KEEP_ALL_MS:
            kept[0, number] = checkpoint
        elif age <= _KEEP_HOURLY_MS:
            kept[1, wall // _HOUR_MS] = checkpoint
        elif age <= _KEEP_DAILY_MS:
            kept[2, wall // _DAY_MS] = checkpoint
        else:
            kept[3, 0] = checkpoint
    return tuple(kept.values())


@dataclass(frozen=True, slots=True)
class _OriginClock:
    """What one answer says of the origin's clock; milliseconds since 1970.

    ``relied_on_ms`` was certainly reached, under every stamp that may still be uncommitted;
    ``fall_to_ms`` is where entries may have appeared when the clock was set back.  ``fell_ms``
    says how much lower than expected the first is, negative where it rose.
    """

    relied_on_ms: int
    fall_to_ms: int
    fell_ms: int = 0
    stepped_back: bool = False
    ahead_ms: int | None = None
    ahead_since_ms: int | None = None

    @property
    def settling_ms(self) -> int:
        return self.fall_to_ms if self.stepped_back else self.relied_on_ms


def _read_clock(before: Position, answer: Answer, overlap_ms: int) -> _OriginClock | None:
    """Judge the origin's clock by one answer; None without a Date: then nothing is judged."""
    if answer.date_ms is None:
        return None
    now = answer.sent_at_ms
    seen = min(answer.date_ms - answer.duration_ms, now)
    if before.origin_time_ms is None or before.origin_time_at_ms is None:
        return _OriginClock(seen, seen)
    passed = now - before.origin_time_at_ms
    expected = before.origin_time_ms + passed
    fall_to = min(seen, expected) - max(passed, 0)
    if seen <= expected:
        fell = expected - seen
        return _OriginClock(seen, fall_to, fell, stepped_back=fell > overlap_ms)
    ahead = seen - expected if before.ahead_ms is None else min(seen - expected, before.ahead_ms)
    since = now if before.ahead_since_ms is None else min(before.ahead_since_ms, now)
    if now - since > overlap_ms:
        return _OriginClock(expected + ahead, fall_to, -ahead)
    return _OriginClock(expected, fall_to, ahead_ms=ahead, ahead_since_ms=since)


def _fall(position: Position, clock: _OriginClock, overlap_ms: int) -> Position:
    """Let the settled position fall when the origin's clock no longer stands far past it.

    It falls to the newest checkpoint that no entry can appear behind, and checkpoints above
    that are settled no more.
    """
    settled = position.settled
    if settled is None or _earlier(settled, clock.settling_ms - overlap_ms):
        return position
    bound = clock.fall_to_ms - overlap_ms
    kept = tuple(
        checkpoint
        for checkpoint in position.checkpoints
        if checkpoint.position <= settled and _earlier(checkpoint.position, bound)
    )
    return replace(position, settled=kept[-1].position if kept else None, checkpoints=kept)


def _rise(
    position: Position, candidates: list[str], now_ms: int, overlap_ms: int
) -> tuple[Position, Checkpoint | None]:
    """Raise the settled position to the greatest candidate, and keep a checkpoint now and then."""
    if not candidates:
        return position, None
    settled = max(candidates)
    position = replace(position, settled=settled)
    if position.checkpoints:
        newest = hlc.wall_ms(position.checkpoints[-1].position) or 0
        if (hlc.wall_ms(settled) or 0) - newest < overlap_ms:
            return position, None
    checkpoint = Checkpoint(settled, now_ms)
    # The origin's time, not ours, is what the wall parts are aged by.
    aged_at = now_ms if position.origin_time_ms is None else position.origin_time_ms
    checkpoints = thin((*position.checkpoints, checkpoint), aged_at)
    return replace(position, checkpoints=checkpoints), checkpoint


def _frontier(frontier: str | None, positions: list[str], latest_ms: int) -> str | None:
    """Return the frontier after a page: it only rises, and never beyond ``latest_ms``.

    A position too far ahead would hide everything that follows from whoever starts there; the
    same holds for one that is no HLC, so it never takes the place of one that is.
    """
    storable = [text for text in positions if _earlier(text, latest_ms + 1)]
    if not storable and (frontier is None or hlc.wall_ms(frontier) is None):
        storable = [text for text in positions if hlc.wall_ms(text) is None]
    newest = max(storable, default=None)
    return newest if newest is not None and _after(newest, frontier) else frontier


def _positions(start: str | None, answer: Answer) -> list[str]:
    """Return the positions of a page: after its start, up to its cursor where it has one."""
    return [
        text
        for text in (*answer.hlcs, answer.cursor)
        if text is not None
        and _after(text, start)
        and (answer.cursor is None or text <= answer.cursor)
    ]


def _after(text: str, position: str | None) -> bool:
    return position is None or text > position


def _earlier(text: str, time_ms: int) -> bool:
    """Whether a position lies before a time, by its wall part and as text.

    A text such as "9.0" has an early wall part and yet comes after every stamp of our days.  A
    text that is no HLC lies before no time.
    """
    wall = hlc.wall_ms(text)
    return wall is not None and wall < time_ms and text < str(time_ms)
