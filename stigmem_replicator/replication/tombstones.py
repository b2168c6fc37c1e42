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

Rule 5: time does not go back.  Of times in a node's own form neither does the second, on a page
or after where it began, however a peer compares texts; so what is remembered of a pass is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.tombstone import Artifact, Stamp, read_stamp
from stigmem_replicator.replication.positions import Position
from stigmem_replicator.replication.session import GOOD_PAGES, TIMEOUTS

PAGE_SIZE: Final = 200
"""Records of each kind that a page is asked for, as a node asks."""

OVERLAP_MS: Final = 300_000

QUIET_MS: Final = 3_600_000
"""How old a record must be by the peer's clock to be the last that is not read again: without
that a great many of one moment, and nothing after them, would come with every answer."""

LIMIT_MAX: Final = 50_000
"""More records of one time are nothing that is asked for."""

ASKED_MAX: Final = 1_000
"""So many places of one second are remembered, to know a circle by; a longer one leads on."""

_BEFORE_ALL: Final = -(2**62)
_HALVES: Final = frozenset({Reason.PAGE_TOO_LARGE, Reason.TIMEOUT})


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

    created: Mapping[Artifact, tuple[Stamp | None, ...]]
    cursor: str | None
    has_more: bool | None
    sent_at_ms: int
    date_ms: int | None = None


def begin_at(positions: Mapping[Artifact, Position]) -> str | None:
    """Return where a pass over both lists begins: at the older of their settled positions.

    A peer compares times as text.  Where that and the times themselves disagree on which is the
    older, and where a list has none, it begins at the beginning.
    """
    settled = [_stored(position.settled) for position in positions.values()]
    stamps = [stamp for stamp in settled if stamp is not None]
    if len(stamps) < len(settled):
        return None
    oldest = min(stamps, key=_ms).text
    return oldest if oldest == min(stamp.text for stamp in stamps) else None


def _stored(text: str | None) -> Stamp | None:
    """Return a stored position; one that is no time is before all."""
    return None if text is None else read_stamp(text) or Stamp(text, _BEFORE_ALL, plain=False)


def _ms(stamp: Stamp | None) -> int:
    return _BEFORE_ALL if stamp is None else stamp.at_ms


def _second(stamp: Stamp | None) -> int:
    """Return the second before which nothing can come after ``stamp``."""
    return stamp.at_ms // 1000 if stamp is not None and stamp.plain else _BEFORE_ALL


def _text(stamp: Stamp | None) -> str | None:
    return None if stamp is None else stamp.text


@dataclass(slots=True)
class _List:
    """Where one list stands in the pass, and the times that it has shown.

    ``since`` is where it goes on, ``second`` the second before which nothing can follow there,
    and ``asked`` has the places of that second where it went on before.  ``newest`` and
    ``settled`` are what is to be stored.  ``after`` has times that were read and are not old
    enough yet for the next pass to begin at: one a second, and so no more, from one page to the
    next, than the overlap has seconds.
    """

    since: str | None
    newest: Stamp | None
    settled: Stamp | None
    second: int
    done: bool = False
    asked: set[str] = field(default_factory=set)
    after: dict[int, Stamp] = field(default_factory=dict)

    def is_in_order(self, stamps: Sequence[Stamp | None]) -> bool:
        """Say whether time goes on, second by second, from where the page was asked for."""
        second = self.second
        for stamp in stamps:
            if stamp is None or not stamp.plain:
                continue
            at = stamp.at_ms // 1000
            if at < second:
                return False
            second = at
        return True

    def go_on(self, following: str | None, read: Sequence[Stamp | None]) -> bool:
        """Go on after ``following``, to which ``read`` led; say whether that leads anywhere."""
        if following is None or following == self.since or following in self.asked:
            return False
        second = _second(next((stamp for stamp in reversed(read) if stamp and stamp.plain), None))
        if second > self.second:
            self.second = second
            self.asked.clear()
        if len(self.asked) >= ASKED_MAX:
            self.asked.clear()
        self.asked.add(following)
        self.since = following
        return True

    def add(
        self, stamps: Sequence[Stamp | None], read: int, sent_at_ms: int, began_ms: int
    ) -> None:
        """Take note of the times of one page, in a pass that began when the peer's clock said.

        What comes after the first ``read`` of them will come again.
        """
        latest_ms, newest_ms = sent_at_ms + OVERLAP_MS, _ms(self.newest)
        # No pass begins later yet.
        settled_ms, old_ms = _ms(self.settled), began_ms - OVERLAP_MS
        for index, stamp in enumerate(stamps):
            if stamp is None or not stamp.plain or stamp.at_ms > latest_ms:
                # A stamp of the future says nothing of how late others may come.
                continue
            at_ms = stamp.at_ms
            if at_ms > newest_ms:
                self.newest, newest_ms = stamp, at_ms
            if index < read and settled_ms < at_ms <= old_ms:
                kept = self.after.get(at_ms // 1000)
                if kept is None or at_ms > kept.at_ms:
                    self.after[at_ms // 1000] = stamp

    def settle(self, stamp: Stamp | None) -> None:
        """Begin the next pass at ``stamp``, unless that is later already."""
        if stamp is not None and stamp.at_ms > _ms(self.settled):
            self.settled = stamp
            self.after = {at: kept for at, kept in self.after.items() if kept.at_ms > stamp.at_ms}


def _settle(lists: Sequence[_List], began_ms: int) -> None:
    """Have lists begin at the newest time that is old enough, all at the same.

    ``began_ms`` is when the pass began by the peer's clock.
    """
    newest_ms = max(_ms(of_kind.newest) for of_kind in lists)
    old_ms = max(min(newest_ms, began_ms) - OVERLAP_MS, began_ms - QUIET_MS)
    shown = [stamp for of_kind in lists for stamp in (*of_kind.after.values(), of_kind.settled)]
    best = max((stamp for stamp in shown if _ms(stamp) <= old_ms), key=_ms, default=None)
    for of_kind in lists:
        of_kind.settle(best)


class Pass:
    """Reads both lists to their ends.

    The caller does what ``next_fetch`` says and reports back: ``on_page`` or ``on_failure`` once
    for each.  A pass that failed may be gone on with: ``next_fetch`` asks for the same again.
    """

    def __init__(self, positions: Mapping[Artifact, Position], *, full: bool) -> None:
        since = None if full else begin_at(positions)
        second = _second(_stored(since))
        self._lists = {
            artifact: _List(since, _stored(at.frontier), _stored(at.settled), second)
            for artifact, at in positions.items()
        }
        self.full = full
        self._size = PAGE_SIZE
        self._limit = PAGE_SIZE
        self._timeouts = 0
        self._good_pages = 0
        self._one_time = 0
        self._began_ms: int | None = None
        self.pages = 0
        """How many pages were answered so far."""

    @property
    def undrained(self) -> bool:
        """Whether the peer has more that this pass has not read, as far as is known."""
        return self.pages > 0 and self.next_fetch() is not None

    def position(self, artifact: Artifact) -> Position:
        """Return what is to be stored of a list, as of the last page."""
        of_kind = self._lists[artifact]
        return Position(frontier=_text(of_kind.newest), settled=_text(of_kind.settled))

    def next_fetch(self) -> Fetch | None:
        """Return what is to be asked for now, None at the end."""
        for artifact in Artifact:
            if not self._lists[artifact].done:
                return Fetch(self._lists[artifact].since, self._limit)
        return None

    def on_page(self, fetch: Fetch, answer: Answer) -> Reason | None:
        """Take note of a page.

        Returns ``malformed_page`` when time goes back on it, ``cursor_stalled`` when it leads
        nowhere; with either the pass is over.  It takes a fraction of a microsecond a record.
        """
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
            if not of_kind.is_in_order(created):
                return Reason.MALFORMED_PAGE
            following, read = _following(artifact, created, answer)
            if not _has_more(artifact, created, answer, fetch.limit):
                of_kind.done, read = True, len(created)
            elif following is None and fetch.limit < LIMIT_MAX and _was_cut(created, fetch, answer):
                grow = True
            elif not of_kind.go_on(following, created[:read]):
                return Reason.CURSOR_STALLED
            of_kind.add(created, read, answer.sent_at_ms, self._began_ms)
        self._settle(self._began_ms)
        if grow and self.next_fetch() == fetch:
            self._one_time, self._limit = fetch.limit, min(fetch.limit * 2, LIMIT_MAX)
        else:
            self._on_good_page()
        return None

    def _settle(self, began_ms: int) -> None:
        lists = list(self._lists.values())
        for group in [lists] if self.next_fetch() is None else [[of_kind] for of_kind in lists]:
            _settle(group, began_ms)
        # What was old enough when the pass began is so for a list that was read to its end since,
        # also for one that has nothing.
        furthest = max((of_kind.settled for of_kind in lists), key=_ms)
        for of_kind in lists:
            if of_kind.done:
                of_kind.settle(furthest)

    def _on_good_page(self) -> None:
        self._good_pages += 1
        if self._good_pages >= GOOD_PAGES:
            self._size, self._good_pages = min(self._size * 2, PAGE_SIZE), 0
        self._limit = self._size

    def on_failure(self, reason: Reason) -> Reason | None:
        """Return what a failure means, None when the page is to be asked for in a smaller size.

        A page too large or too late is asked for with half as many records, down to one.  One
        that was made larger, for a time that many records share, is asked for with fewer only
        as far as it shows more than before.  After a few that were too late in a row the peer is
        taken not to answer at all; what is then asked for is smaller still.
        """
        self._timeouts = self._timeouts + 1 if reason is Reason.TIMEOUT else 0
        self._good_pages = 0
        shown = self._one_time if self._limit > self._size else 0
        smaller = (shown + self._limit) // 2
        helps = reason in _HALVES and smaller > shown
        if helps:
            self._limit = smaller
            self._size = min(self._size, smaller)
        if helps and self._timeouts <= TIMEOUTS:
            return None
        self._timeouts = 0
        return Reason.ENTRY_TOO_LARGE if reason is Reason.PAGE_TOO_LARGE else reason


def _has_more(
    artifact: Artifact, created: tuple[Stamp | None, ...], answer: Answer, limit: int
) -> bool:
    if artifact is Artifact.TOMBSTONE and answer.has_more:
        return True
    if artifact is Artifact.TOMBSTONE and answer.has_more is not None:
        return False
    return len(created) >= limit


def _following(
    artifact: Artifact, created: tuple[Stamp | None, ...], answer: Answer
) -> tuple[str | None, int]:
    """Return where a list that was cut off goes on, and how many of its entries lead there.

    It is None when the page has only one time, or none.  Where the tombstones' cursor is not the
    last one's time, entries after it were left out: then nothing of that time was cut off.  Where
    no tombstone has a time all of them are bad, and so is what was cut off of the cursor's.
    """
    cursor = answer.cursor if artifact is Artifact.TOMBSTONE else None
    last: str | None = None
    for index in range(len(created) - 1, -1, -1):
        stamp = created[index]
        if stamp is None or stamp.text == last:
            continue
        if last is not None or cursor not in (None, stamp.text):
            return stamp.text, index + 1
        last = stamp.text
    return (cursor if created and last is None else None), 0


def _was_cut(created: tuple[Stamp | None, ...], fetch: Fetch, answer: Answer) -> bool:
    """Say whether a greater limit can show more: the page had entries, or left out all it had."""
    return bool(created) or answer.cursor not in (None, fetch.since)
