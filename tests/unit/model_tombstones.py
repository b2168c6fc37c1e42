"""A model of a peer's tombstone endpoint, and of who reads it pass by pass.

Everything is plain memory and model time in milliseconds.  The peer does what makes paging hard:
it compares times as text, cuts each list at the limit, tells of one list whether there is more or
of none, gives many records one time, and lets records appear behind others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact, Stamp, read_stamp
from stigmem_replicator.replication.positions import Position
from stigmem_replicator.replication.tombstones import Answer, Fetch, Pass
from tests.unit.signed_records import iso

START_MS: Final = 1_790_000_000_000
PAGES_MAX: Final = 2_000
NOWHERE: Final = Position(frontier=None, settled=None)
EMPTY: Final[dict[Artifact, Position]] = dict.fromkeys(Artifact, NOWHERE)


def stamps(texts: Iterable[str | None]) -> tuple[Stamp | None, ...]:
    """Return what these texts say, None where one is no time."""
    return tuple(None if text is None else read_stamp(text) for text in texts)


def milliseconds(text: str | None) -> int | None:
    """Return a time as milliseconds since 1970, None when it does not read."""
    (stamp,) = stamps([text])
    return None if stamp is None else stamp.at_ms


@dataclass(frozen=True, slots=True)
class Row:
    """One record; ``created_at`` is what the peer sorts by and serves."""

    artifact: Artifact
    created_at: str
    number: int


@dataclass(slots=True)
class ModelPeer:
    """The peer; a page of more than ``page_max`` records is too large for whoever reads.

    It compares texts byte by byte, or as a collation does that looks at punctuation last.
    """

    dialect: Dialect = Dialect.V2
    now_ms: int = START_MS
    rows: list[Row] = field(default_factory=list)
    page_max: int | None = None
    collates: bool = False

    def issue(self, artifact: Artifact, created_at: str, count: int = 1) -> None:
        """Have records appear, all with one time."""
        for _ in range(count):
            self.rows.append(Row(artifact, created_at, len(self.rows)))

    def issue_at(self, artifact: Artifact, at_ms: int, count: int = 1) -> None:
        """Have records appear with a time as a node writes it."""
        self.issue(artifact, iso(at_ms), count)

    def page(self, artifact: Artifact, fetch: Fetch) -> tuple[list[Row], bool]:
        """Return what the route reads of one list, and whether there is more."""
        since = None if fetch.since is None else self._weight(fetch.since)
        following = sorted(
            (
                row
                for row in self.rows
                if row.artifact is artifact
                and (since is None or self._weight(row.created_at) > since)
            ),
            key=lambda row: self._weight(row.created_at),
        )
        return following[: fetch.limit], len(following) > fetch.limit

    def _weight(self, text: str) -> tuple[str, str]:
        return ("".join(filter(str.isalnum, text)) if self.collates else "", text)


@dataclass(slots=True)
class ModelReader:
    """Reads the peer as a stream does; only ``stored`` survives a pass that is given up."""

    peer: ModelPeer
    our_offset_ms: int = 0
    tells_date: bool = True
    stored: dict[Artifact, Position] = field(default_factory=lambda: dict(EMPTY))
    read: set[int] = field(default_factory=set)
    pages: int = 0
    fetches: list[Fetch] = field(default_factory=list)
    under_way: Pass | None = None
    dies_writing: bool = False
    _had_to_read: set[int] = field(default_factory=set)
    _served: set[str | None] = field(default_factory=lambda: {None})

    def begin(self, *, full: bool = False) -> None:
        """Begin a pass; what the peer has now is what the pass owes."""
        if self.under_way is None:
            self.under_way = Pass(self.stored, full=full)
            self._had_to_read = self._good()

    def give_up(self) -> None:
        """Forget the pass, as a process that dies does."""
        self.under_way = None

    def ask(self, *, timeout: bool = False, takes_ms: int = 10) -> Reason | None:
        """Ask for one page, or find the pass at its end; return why the pass is stuck, if it is.

        With ``dies_writing`` set only the tombstones of the page are written.
        """
        assert self.under_way is not None
        fetch = self.under_way.next_fetch()
        if fetch is None:
            self._end()
            return None
        assert fetch.since in self._served, "the peer never served this time"
        assert fetch.limit >= 1
        self.fetches.append(fetch)
        sent_at_ms = self.peer.now_ms + self.our_offset_ms
        lists = {artifact: self.peer.page(artifact, fetch) for artifact in Artifact}
        self.peer.now_ms += takes_ms
        if timeout:
            return self.under_way.on_failure(Reason.TIMEOUT)
        page_max = self.peer.page_max
        if page_max is not None and sum(len(rows) for rows, _ in lists.values()) > page_max:
            return self.under_way.on_failure(Reason.PAGE_TOO_LARGE)
        return self._take(self.under_way, fetch, lists, sent_at_ms)

    def read_on(self, pages: int = PAGES_MAX) -> Reason | None:
        """Ask until the pass is over, or is stuck, or for so many pages."""
        for _ in range(pages):
            stuck = self.ask()
            if stuck is not None or self.under_way is None:
                return stuck
        assert pages < PAGES_MAX, "the pass does not end"
        return None

    def run(self, *, full: bool = False) -> Reason | None:
        """Make a whole pass."""
        self.begin(full=full)
        return self.read_on()

    def missing(self) -> set[int]:
        """Return the records of the peer that were not read."""
        return self._good() - self.read

    def _good(self) -> set[int]:
        """Return the records that have a time: others are refused anyway."""
        return {row.number for row in self.peer.rows if milliseconds(row.created_at) is not None}

    def _take(
        self,
        reading: Pass,
        fetch: Fetch,
        lists: dict[Artifact, tuple[list[Row], bool]],
        sent_at_ms: int,
    ) -> Reason | None:
        self.pages += 1
        tombstones, more = lists[Artifact.TOMBSTONE]
        texts = {
            artifact: tuple(row.created_at for row in rows) for artifact, (rows, _) in lists.items()
        }
        self._served.update(*texts.values())
        answer = Answer(
            created={artifact: stamps(of_kind) for artifact, of_kind in texts.items()},
            cursor=tombstones[-1].created_at if tombstones else None,
            has_more=more if self.peer.dialect is Dialect.V2 else None,
            sent_at_ms=sent_at_ms,
            date_ms=self.peer.now_ms // 1000 * 1000 if self.tells_date else None,
        )
        before = {artifact: reading.position(artifact) for artifact in Artifact}
        stalled = reading.on_page(fetch, answer)
        if stalled is not None:
            self.under_way = None
            return stalled
        for artifact, position in before.items():
            after = reading.position(artifact)
            _check_forward(position, after)
            assert {after.frontier, after.settled} <= self._served | {
                position.frontier,
                position.settled,
            }
            if not any(texts.values()):
                assert after.frontier == position.frontier, "an empty answer is newer"
            self.stored[artifact] = after
            self.read.update(row.number for row in lists[artifact][0])
            if self.dies_writing:
                self.dies_writing = False
                self.give_up()
                return None
        if reading.next_fetch() is None:
            self._end()
        return None

    def _end(self) -> None:
        self.under_way = None
        lost = self._had_to_read - self.read
        assert not lost, f"a pass left out what was there when it began: {lost}"


def _check_forward(before: Position, after: Position) -> None:
    for old, new in ((before.frontier, after.frontier), (before.settled, after.settled)):
        if old is not None:
            assert new is not None, "a position was lost"
            old_ms, new_ms = milliseconds(old), milliseconds(new)
            assert old_ms is not None
            assert new_ms is not None
            assert new_ms >= old_ms, "a position went back"


def reader(dialect: Dialect = Dialect.V2, *, page_max: int | None = None) -> ModelReader:
    """Return a reader that has read nothing yet, of a peer that has nothing yet."""
    return ModelReader(ModelPeer(dialect, page_max=page_max))


def answer(
    tombstones: tuple[str | None, ...] = (),
    revocations: tuple[str | None, ...] = (),
    *,
    cursor: str | None = None,
    has_more: bool | None = False,
) -> Answer:
    """Return an answer with these times."""
    created = {Artifact.TOMBSTONE: stamps(tombstones), Artifact.REVOCATION: stamps(revocations)}
    return Answer(created, cursor, has_more, sent_at_ms=START_MS, date_ms=START_MS)
