"""Paging through tombstones and revocations: where a pass begins, goes on and ends."""

from __future__ import annotations

from typing import Final

import pytest

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.positions import Position
from stigmem_replicator.replication.tombstones import (
    OVERLAP_MS,
    PAGE_SIZE,
    QUIET_MS,
    Fetch,
    Pass,
    begin_at,
)
from tests.unit.model_tombstones import (
    EMPTY,
    START_MS,
    ModelReader,
    answer,
    milliseconds,
    reader,
)
from tests.unit.signed_records import iso

TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION
SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE


def settled(read: ModelReader) -> set[str | None]:
    return {position.settled for position in read.stored.values()}


def newest(read: ModelReader) -> list[str | None]:
    return [read.stored[artifact].frontier for artifact in Artifact]


# where a pass begins


@pytest.mark.parametrize(
    ("tombstones", "revocations", "begin"),
    [
        (None, None, None),
        ("2026-01-02T00:00:00+00:00", None, None),
        (None, "2026-01-02T00:00:00+00:00", None),
        ("2026-01-02T00:00:00+00:00", "2026-01-03T00:00:00+00:00", "2026-01-02T00:00:00+00:00"),
        ("2026-01-03T00:00:00+00:00", "2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("2026-01-02T00:00:05Z", "2026-01-02T00:00:05.5Z", None),
    ],
)
def test_a_pass_begins_at_the_older_position_or_at_the_beginning(
    tombstones: str | None, revocations: str | None, begin: str | None
) -> None:
    """At the beginning where a list has none, or where text and time disagree on the older."""
    positions = {
        TOMBSTONE: Position(None, tombstones),
        REVOCATION: Position(None, revocations),
    }
    assert begin_at(positions) == begin
    assert Pass(positions, full=False).next_fetch() == Fetch(begin, PAGE_SIZE)
    assert Pass(positions, full=True).next_fetch() == Fetch(None, PAGE_SIZE)


@pytest.mark.parametrize("dialect", Dialect)
def test_the_next_pass_begins_five_minutes_before_the_newest(dialect: Dialect) -> None:
    """At the newest time that is so much older than the newest of both lists; else nowhere."""
    read = reader(dialect)
    for age_ms in (OVERLAP_MS + 2 * SECOND, OVERLAP_MS, OVERLAP_MS - SECOND, 0):
        read.peer.issue_at(TOMBSTONE, START_MS - age_ms)
    read.peer.issue_at(REVOCATION, START_MS - OVERLAP_MS - SECOND)
    assert read.run() is None
    assert settled(read) == {iso(START_MS - OVERLAP_MS)}
    assert newest(read) == [iso(START_MS), iso(START_MS - OVERLAP_MS - SECOND)]
    assert read.pages == 1
    read.begin()
    read.ask()
    assert read.fetches[-1] == Fetch(iso(START_MS - OVERLAP_MS), PAGE_SIZE)


def test_without_an_old_enough_record_a_pass_begins_at_the_beginning() -> None:
    """The first records of a peer are read again until they have got older."""
    read = reader()
    read.peer.issue_at(TOMBSTONE, START_MS)
    assert read.run() is None
    assert settled(read) == {None}
    assert newest(read) == [iso(START_MS), None]


@pytest.mark.parametrize("offset_ms", [-3 * HOUR, 0, 3 * HOUR])
def test_a_quiet_stream_asks_with_the_newest_value_once_it_is_an_hour_old(offset_ms: int) -> None:
    """By the peer's clock, whatever ours shows, unless ours is behind it."""
    read = reader()
    read.our_offset_ms = offset_ms
    read.peer.issue_at(TOMBSTONE, START_MS, count=3)
    read.peer.now_ms = START_MS + QUIET_MS - 2 * SECOND
    assert read.run() is None
    assert settled(read) == {None}
    read.peer.now_ms = START_MS + QUIET_MS + 2 * SECOND + max(0, -offset_ms)
    assert read.run() is None
    assert settled(read) == {iso(START_MS)}
    assert read.run() is None
    assert read.fetches[-1] == Fetch(iso(START_MS), PAGE_SIZE)
    assert read.pages == 3


def test_a_stamp_of_the_future_moves_nothing() -> None:
    """It comes with every answer until its time has come, and hides nothing."""
    read = reader()
    read.peer.issue(TOMBSTONE, "2200-01-01T00:00:00+00:00", count=250)
    read.peer.issue_at(REVOCATION, START_MS)
    assert read.run() is None
    assert newest(read) == [None, iso(START_MS)]
    assert settled(read) == {None}
    read.peer.now_ms += HOUR + MINUTE
    assert read.run() is None
    assert settled(read) == {iso(START_MS)}
    read.peer.issue_at(TOMBSTONE, read.peer.now_ms)
    assert read.run() is None
    assert not read.missing()


@pytest.mark.parametrize(
    "form",
    [
        "20270103T000000Z",
        "2027-W01-1",
        "2027-01-03",
        "2027-01-03 00:00:00+00:00",
        "2027-01-03T00:00+00:00",
        "2027-01-03T14:00:00+14:00",
        "2027-01-02T12:00:00-12:00",
        "2027-01-03T00:00:00,5+00:00",
    ],
)
@pytest.mark.parametrize("dialect", Dialect)
def test_a_time_in_another_form_is_no_position(dialect: Dialect, form: str) -> None:
    """As text it may be greater than all that comes for hours, or for a year."""
    at_ms = milliseconds(form)
    assert at_ms is not None
    read = reader(dialect)
    read.peer.now_ms = at_ms + 2 * HOUR
    read.peer.issue(TOMBSTONE, form, count=3)
    read.peer.issue(REVOCATION, form)
    assert read.run() is None
    assert settled(read) == {None}
    read.peer.issue_at(TOMBSTONE, read.peer.now_ms)
    read.peer.issue_at(REVOCATION, read.peer.now_ms)
    assert read.run() is None
    assert not read.missing()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("settled_at", [None, "2026-01-02T00:00:00+00:00"])
def test_an_empty_answer_changes_nothing(settled_at: str | None, *, full: bool) -> None:
    """A peer that has nothing newer, and one that has nothing at all any more, are at their end."""
    stored = {
        TOMBSTONE: Position("2026-01-03T00:00:00+00:00", settled_at),
        REVOCATION: Position(None, settled_at),
    }
    reading = Pass(stored, full=full)
    fetch = reading.next_fetch()
    assert fetch is not None
    assert reading.on_page(fetch, answer()) is None
    assert {artifact: reading.position(artifact) for artifact in Artifact} == stored
    assert reading.next_fetch() is None


# how it goes on


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("count", [PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 3 * PAGE_SIZE])
def test_all_of_both_lists_arrive(dialect: Dialect, count: int) -> None:
    """Each list is cut at the limit, of which only one tells, and only in version 2."""
    read = reader(dialect)
    for number in range(count):
        read.peer.issue_at(TOMBSTONE, START_MS - 2 * HOUR + number)
        read.peer.issue_at(REVOCATION, START_MS - 3 * HOUR + number)
    assert read.run() is None
    assert not read.missing()
    assert all(fetch.limit == PAGE_SIZE for fetch in read.fetches)
    assert newest(read) == [
        iso(START_MS - 2 * HOUR + count - 1),
        iso(START_MS - 3 * HOUR + count - 1),
    ]
    # The next pass asks once, from one place for both.
    assert settled(read) == {iso(START_MS - 2 * HOUR + count - 1)}
    pages = read.pages
    assert read.run() is None
    assert read.pages == pages + 1


@pytest.mark.parametrize("dialect", Dialect)
def test_a_thousand_of_each_in_groups_of_one_time_arrive(dialect: Dialect) -> None:
    """Groups lie across the edges of pages, and one is larger than a page."""
    read = reader(dialect)
    at_ms = START_MS - 2 * HOUR
    for size in (150, 150, 450, 150, 100):
        at_ms += 1
        read.peer.issue_at(TOMBSTONE, at_ms, size)
    for number in range(1000):
        read.peer.issue_at(REVOCATION, START_MS - HOUR + number // 90)
    assert read.run() is None
    assert not read.missing()
    assert read.pages <= 25


@pytest.mark.parametrize("dialect", Dialect)
def test_pages_of_revocations_alone_are_read_to_their_end(dialect: Dialect) -> None:
    """They come without a cursor and without anybody saying that there is more."""
    read = reader(dialect)
    for number in range(2 * PAGE_SIZE + 50):
        read.peer.issue_at(REVOCATION, START_MS - HOUR + number)
    assert read.run() is None
    assert not read.missing()
    assert read.pages == 3


def test_the_limit_grows_only_for_a_page_of_one_time() -> None:
    """Twice as large each time until another time shows, then it is the usual one again."""
    read = reader()
    read.peer.issue_at(TOMBSTONE, START_MS - HOUR, 3 * PAGE_SIZE)
    read.peer.issue_at(TOMBSTONE, START_MS - HOUR + 1, 10)
    read.peer.issue_at(TOMBSTONE, START_MS - HOUR + 2, PAGE_SIZE)
    assert read.run() is None
    assert not read.missing()
    asked = [(fetch.since, fetch.limit) for fetch in read.fetches]
    assert asked == [
        (None, PAGE_SIZE),
        (None, 2 * PAGE_SIZE),
        (None, 4 * PAGE_SIZE),
        (iso(START_MS - HOUR + 1), PAGE_SIZE),
    ]


def test_one_list_may_grow_while_the_other_goes_on() -> None:
    """The tombstones are read to their end first; an answer counts where it was asked for."""
    read = reader()
    read.peer.issue_at(REVOCATION, START_MS - 2 * HOUR, 2 * PAGE_SIZE + 1)
    for number in range(2 * PAGE_SIZE + 1):
        read.peer.issue_at(TOMBSTONE, START_MS - HOUR + number)
    assert read.run() is None
    assert not read.missing()
    assert [fetch.limit for fetch in read.fetches] == [200, 200, 200, 200, 400, 800]
    assert newest(read)[1] == iso(START_MS - 2 * HOUR)


def test_records_without_a_time_do_not_stop_a_pass() -> None:
    """Bad ones in between are passed over; what came after them is read."""
    for dialect in Dialect:
        read = reader(dialect)
        for number in range(150):
            read.peer.issue_at(TOMBSTONE, START_MS - HOUR + number)
        read.peer.issue(TOMBSTONE, iso(START_MS - HOUR + 150) + "?", count=70)
        read.peer.issue(TOMBSTONE, "zz", count=PAGE_SIZE + 1)
        read.peer.issue(REVOCATION, "", count=PAGE_SIZE + 1)
        for number in range(151, 300):
            read.peer.issue_at(TOMBSTONE, START_MS - HOUR + number)
            read.peer.issue_at(REVOCATION, START_MS - HOUR + number)
        assert read.run() is None
        assert not read.missing()


def test_left_out_records_hide_none_of_their_time() -> None:
    """A page may be empty although there is more: then more is asked for, from where it was."""
    reading = Pass(EMPTY, full=True)
    first = Fetch(None, PAGE_SIZE)
    assert reading.on_page(first, answer(cursor=iso(START_MS), has_more=True)) is None
    assert reading.next_fetch() == Fetch(None, 2 * PAGE_SIZE)
    texts = (iso(START_MS - 1), iso(START_MS - 1))
    cut = answer(texts, cursor=iso(START_MS), has_more=True)
    assert reading.on_page(Fetch(None, 2 * PAGE_SIZE), cut) is None
    # Records after the last one were left out, so none of its time was cut off.
    assert reading.next_fetch() == Fetch(iso(START_MS - 1), PAGE_SIZE)


# a pass that takes long, and one that is given up


def test_what_appears_behind_a_pass_that_takes_long_is_read_by_the_next() -> None:
    """A pass that waited for an hour between two pages does not skip what came meanwhile."""
    read = reader()
    for number in range(PAGE_SIZE + 50):
        read.peer.issue_at(TOMBSTONE, START_MS - 10 * MINUTE + number)
    read.peer.now_ms = START_MS
    read.begin()
    assert read.ask() is None
    read.peer.now_ms += SECOND
    read.peer.issue_at(TOMBSTONE, START_MS - 4 * MINUTE)
    read.peer.issue_at(REVOCATION, START_MS - 4 * MINUTE)
    for _ in range(3):
        assert read.ask(timeout=True) in (None, Reason.TIMEOUT)
    read.peer.now_ms += 2 * HOUR
    read.peer.issue_at(TOMBSTONE, read.peer.now_ms)
    assert read.read_on() is None
    assert read.run() is None
    assert not read.missing()


def test_a_pass_that_is_given_up_leaves_no_group_half_read() -> None:
    """A list that was not read to its end does not begin after where it went on."""
    for dialect in Dialect:
        read = reader(dialect)
        at_ms = START_MS - 5 * HOUR
        for number in range(5):
            read.peer.issue_at(TOMBSTONE, at_ms + number * MINUTE, 90)
            read.peer.issue_at(REVOCATION, at_ms + number * MINUTE, 70)
        for _ in range(9):
            read.begin()
            assert read.ask() is None
            read.give_up()
        assert read.run() is None
        assert not read.missing()


def test_a_pass_that_goes_on_is_undrained_until_its_end() -> None:
    """Before its first page nothing is known."""
    read = reader()
    for number in range(PAGE_SIZE + 1):
        read.peer.issue_at(TOMBSTONE, START_MS - HOUR + number)
    read.begin()
    reading = read.under_way
    assert reading is not None
    told = [reading.undrained]
    while read.under_way is not None:
        assert read.ask() is None
        told.append(reading.undrained)
    assert told == [False, True, False]
