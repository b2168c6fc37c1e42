"""One pass over a peer's tombstones and revocations, as values.  No I/O, no clock.

Both lists come in one answer: those with a ``created_at`` after ``since``, by that time, each
cut at the same limit.  A position is the ``created_at`` of a record that this peer served; each
list has its own, and only such texts, or none, are ever sent.

Rule 1: reading goes on by the last record's time.  Records that share it may have been cut off,
so it goes on from the last time before it on the page, and they come again.  A page that has
only one time leads nowhere: it is asked for again with a greater limit.

Rule 2: a list is at its end when it is shorter than the limit and nobody says that there is
more.  Only the tombstones of wire version 2 have somebody to say so.

Rule 3: where a pass begins.  The time is the issuer's: a record can appear behind others.  So
the next pass begins at the newest time that is OVERLAP_MS older than the newest of all, or an
hour older than the peer's clock, and reads again what came after it.  A pass can take long, and
what it has read can get company meanwhile: its own beginning bounds both.  Once both lists were
read to their ends, they begin at the same place, so that mostly one answer is all; before, none
begins after where it goes on.  A record that was relayed keeps its old time, which no overlap
covers: so the lists, which are short, are read in full at times.

Rule 4: an answer counts for a list only where it was asked from that list's position; what else
it brings is taken too, and changes no position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.times import parse_time
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.positions import Position

PAGE_SIZE: Final = 200
"""Records of each kind that a page is asked for, as a node asks."""

OVERLAP_MS: Final = 300_000

QUIET_MS: Final = 3_600_000
"""How old a record must be by the peer's clock to be the last that is not read again: without
that a great many of one moment, and nothing after them, would come with every answer."""

TIMEOUTS: Final = 2
"""Answers too late in a row that are met with a smaller page."""

GOOD_PAGES: Final = 4
"""Pages in a row after which a page that had to be made smaller is made larger again."""

LIMIT_MAX: Final = 1_000_000
"""More records of one time are nothing that is asked for."""

_PLAIN: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", re.ASCII)
"""How a node writes a time.  Of two such texts of different seconds the later is the greater,
which of other forms is not so: a pass that began at one might miss what came after it."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for ``limit`` records of each kind created after ``since`` (None: all)."""

    since: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What paging must know of one decoded page.

    ``created`` has the times of the entries of each kind in the order served, None where one
    does not read; ``cursor`` and ``has_more`` are the page's.  ``sent_at_ms`` is our clock when
    it was asked for, ``date_ms`` the peer's when it answered, None where it did not say; both
    milliseconds since 1970.
    """

    created: Mapping[Artifact, tuple[str | None, ...]]
    cursor: str | None
    has_more: bool | None
    sent_at_ms: int
    date_ms: int | None = None


_BEFORE_ALL: Final = -(2**62)


def milliseconds(text: str | None) -> int | None:
    """Return a time as milliseconds since 1970, None when it does not read."""
    moment = None if text is None else parse_time(text)
    return None if moment is None else round(moment.timestamp() * 1000)


def _or_first(text: str | None) -> int:
    at_ms = milliseconds(text)
    return _BEFORE_ALL if at_ms is None else at_ms


def begin_at(positions: Mapping[Artifact, Position]) -> str | None:
    """Return where a pass over both lists begins: at the older of their settled positions.

    A peer compares times as text.  Where that and the times themselves disagree on which is the
    older, and where a list has none, it begins at the beginning.
    """
    settled = [position.settled for position in positions.values()]
    texts = [text for text in settled if text is not None]
    if len(texts) < len(settled):
        return None
    oldest = min(texts, key=_or_first)
    return oldest if oldest == min(texts) else None


@dataclass(slots=True)
class _List:
    """Where one list stands in the pass, and the times that it has shown.

    ``since`` is where it goes on.  ``newest`` and ``settled`` are what is to be stored; of the
    times after the settled one it keeps one a second, so that a great many take no memory.
    """

    since: str | None
    newest: str | None
    settled: str | None
    done: bool = False
    after: dict[int, str] = field(default_factory=dict)

    def add(self, texts: tuple[str | None, ...], sent_at_ms: int, began_ms: int) -> None:
        """Take note of the times of one page, in a pass that began when the peer's clock said."""
        for text in texts:
            at_ms = _or_first(text)
            if text is None or not _PLAIN.fullmatch(text) or at_ms > sent_at_ms + OVERLAP_MS:
                # A stamp of the future says nothing of how late others may come.
                continue
            if at_ms > _or_first(self.newest):
                self.newest = text
            second = at_ms // 1000
            if at_ms > began_ms - OVERLAP_MS:
                # No pass begins there yet.
                continue
            if at_ms > max(_or_first(self.after.get(second)), _or_first(self.settled)):
                self.after[second] = text

    def shown(self) -> list[str]:
        """Return the times that it could begin at: what comes after each is read or will be."""
        texts = [text for text in (*self.after.values(), self.settled) if text is not None]
        return texts if self.done else [text for text in texts if self._is_behind(text)]

    def settle(self, text: str | None) -> None:
        """Begin the next pass at ``text``, unless that is later already."""
        if _or_first(text) > _or_first(self.settled):
            self.settled = text
            at_ms = _or_first(text)
            self.after = {at: kept for at, kept in self.after.items() if _or_first(kept) > at_ms}

    def _is_behind(self, text: str) -> bool:
        """Say whether all up to ``text`` was read, whichever way the peer compares texts."""
        if self.since is None or text == self.since:
            return text == self.since
        return text < self.since and _or_first(text) // 1000 < _or_first(self.since) // 1000


def _settle(lists: Sequence[_List], began_ms: int) -> None:
    """Have lists begin at the newest time that is old enough, all at the same.

    ``began_ms`` is when the pass began by the peer's clock.
    """
    newest_ms = max(_or_first(of_kind.newest) for of_kind in lists)
    old_ms = max(min(newest_ms, began_ms) - OVERLAP_MS, began_ms - QUIET_MS)
    old = [text for of_kind in lists for text in of_kind.shown() if _or_first(text) <= old_ms]
    best = max(old, key=_or_first, default=None)
    for of_kind in lists:
        of_kind.settle(best)


class Pass:
    """Reads both lists to their ends.

    The caller does what ``next_fetch`` says and reports back: ``on_page`` or ``on_failure`` once
    for each.  A pass that failed may be gone on with: ``next_fetch`` asks for the same again.
    """

    def __init__(self, positions: Mapping[Artifact, Position], *, full: bool) -> None:
        since = None if full else begin_at(positions)
        self._lists = {
            artifact: _List(since, positions[artifact].frontier, positions[artifact].settled)
            for artifact in Artifact
        }
        self.full = full
        self._size = PAGE_SIZE
        self._limit = PAGE_SIZE
        self._timeouts = 0
        self._good_pages = 0
        self._one_time = 0
        self._began_ms: int | None = None
        self._asked: set[tuple[Artifact, str | None]] = set()
        self.pages = 0
        """How many pages were answered so far."""

    @property
    def undrained(self) -> bool:
        """Whether the peer has more that this pass has not read, as far as is known."""
        return self.pages > 0 and self.next_fetch() is not None

    def position(self, artifact: Artifact) -> Position:
        """Return what is to be stored of a list, as of the last page."""
        of_kind = self._lists[artifact]
        return Position(frontier=of_kind.newest, settled=of_kind.settled)

    def next_fetch(self) -> Fetch | None:
        """Return what is to be asked for now, None at the end."""
        for artifact in Artifact:
            if not self._lists[artifact].done:
                return Fetch(self._lists[artifact].since, self._limit)
        return None

    def on_page(self, fetch: Fetch, answer: Answer) -> Reason | None:
        """Take note of a page; returns ``cursor_stalled`` when the peer leads nowhere."""
        self.pages += 1
        self._timeouts = 0
        if self._began_ms is None:
            self._began_ms = min(answer.sent_at_ms, answer.date_ms or answer.sent_at_ms)
        grow = False
        for artifact in Artifact:
            of_kind = self._lists[artifact]
            if of_kind.done or of_kind.since != fetch.since:
                continue
            created = answer.created[artifact]
            of_kind.add(created, answer.sent_at_ms, self._began_ms)
            if not _has_more(artifact, created, answer, fetch.limit):
                of_kind.done = True
                continue
            following = _following(artifact, created, answer)
            if following is None and fetch.limit < LIMIT_MAX and _was_cut(created, fetch, answer):
                grow = True
            elif not self._go_on(artifact, following):
                return Reason.CURSOR_STALLED
        lists = list(self._lists.values())
        for group in [lists] if self.next_fetch() is None else [[of_kind] for of_kind in lists]:
            _settle(group, self._began_ms)
        if grow and self.next_fetch() == fetch:
            self._one_time, self._limit = fetch.limit, fetch.limit * 2
        else:
            self._good_pages += 1
            if self._good_pages >= GOOD_PAGES:
                self._size, self._good_pages = min(self._size * 2, PAGE_SIZE), 0
            self._limit = self._size
        return None

    def _go_on(self, artifact: Artifact, following: str | None) -> bool:
        """Have a list go on after ``following``; say whether that leads anywhere."""
        of_kind = self._lists[artifact]
        if following in (None, of_kind.since) or (artifact, following) in self._asked:
            return False
        self._asked.add((artifact, following))
        of_kind.since = following
        return True

    def on_failure(self, reason: Reason) -> Reason | None:
        """Return what a failure means, None when the page is to be asked for in a smaller size.

        A page too large or too late is asked for with half as many records, down to one.  One
        that was made larger, for a time that many records share, is asked for with fewer only
        as far as it shows more than before.
        """
        self._timeouts = self._timeouts + 1 if reason is Reason.TIMEOUT else 0
        self._good_pages = 0
        grown = self._limit > self._size
        shown = self._one_time if grown else 0
        smaller = (shown + self._limit) // 2
        helps = reason is Reason.PAGE_TOO_LARGE or (
            reason is Reason.TIMEOUT and self._timeouts <= TIMEOUTS
        )
        if helps and smaller > shown:
            self._limit = smaller
            self._size = min(self._size, smaller)
            return None
        self._timeouts = 0
        return Reason.ENTRY_TOO_LARGE if reason is Reason.PAGE_TOO_LARGE else reason


def _has_more(
    artifact: Artifact, created: tuple[str | None, ...], answer: Answer, limit: int
) -> bool:
    if artifact is Artifact.TOMBSTONE and answer.has_more:
        return True
    if artifact is Artifact.TOMBSTONE and answer.has_more is not None:
        return False
    return len(created) >= limit


def _following(artifact: Artifact, created: tuple[str | None, ...], answer: Answer) -> str | None:
    """Return where a list that was cut off goes on, None when the page has only one time, or none.

    Where the tombstones' cursor is not the last one's time, entries after it were left out: then
    nothing of that time was cut off.  Where no tombstone has a time all of them are bad, and so
    is what was cut off of the cursor's.
    """
    texts = [text for text in created if text is not None]
    if artifact is Artifact.TOMBSTONE and answer.cursor not in (None, *texts[-1:]):
        return texts[-1] if texts else answer.cursor if created else None
    return next((text for text in reversed(texts) if text != texts[-1]), None)


def _was_cut(created: tuple[str | None, ...], fetch: Fetch, answer: Answer) -> bool:
    """Say whether a greater limit can show more: the page had entries, or left out all it had."""
    return bool(created) or answer.cursor not in (None, fetch.since)
