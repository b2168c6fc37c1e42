"""Passes over tombstones and revocations that fail, or that a peer leads nowhere."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.positions import Position
from stigmem_replicator.replication.session import GOOD_PAGES
from stigmem_replicator.replication.tombstones import (
    LIMIT_MAX,
    PAGE_SIZE,
    Answer,
    Fetch,
    Pass,
)
from tests.unit.model_tombstones import (
    EMPTY,
    START_MS,
    answer,
    reader,
)
from tests.unit.signed_records import iso

TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION
SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE


def test_a_page_too_large_is_asked_for_in_halves_and_then_in_full_again() -> None:
    """Down to what fits; after a few good pages twice as many are tried."""
    read = reader(page_max=60)
    for number in range(400):
        read.peer.issue_at(TOMBSTONE, START_MS - HOUR + number)
    assert read.run() is None
    assert not read.missing()
    limits = [fetch.limit for fetch in read.fetches]
    assert limits[:3] == [200, 100, 50]
    assert limits[3 + GOOD_PAGES - 1] == 100
    assert limits[3 + GOOD_PAGES] == 50


def test_one_record_too_large_is_where_it_ends() -> None:
    """With one record a page cannot be smaller."""
    reading = Pass(EMPTY, full=True)
    limits = []
    while (stuck := reading.on_failure(Reason.PAGE_TOO_LARGE)) is None:
        fetch = reading.next_fetch()
        assert fetch is not None
        limits.append(fetch.limit)
    assert stuck is Reason.ENTRY_TOO_LARGE
    assert limits == [100, 50, 25, 12, 6, 3, 1]
    assert reading.next_fetch() == Fetch(None, 1)


def test_a_page_of_one_time_that_is_too_large_is_where_it_ends() -> None:
    """No page can be asked for that is both large enough and small enough."""
    read = reader(page_max=300)
    read.peer.issue_at(TOMBSTONE, START_MS - HOUR, 301)
    assert read.run() is Reason.ENTRY_TOO_LARGE
    assert read.under_way is not None
    # Once it may be larger the same pass goes on.
    read.peer.page_max = 500
    assert read.read_on() is None
    assert not read.missing()


def test_a_limit_that_grew_too_far_shrinks_only_as_far_as_it_must() -> None:
    """What fits between the two is found, however little that is above what was shown."""
    for page_max in (PAGE_SIZE + 1, PAGE_SIZE + 2, 250, 399):
        read = reader(page_max=page_max)
        read.peer.issue_at(TOMBSTONE, START_MS - HOUR, PAGE_SIZE)
        for number in range(500):
            read.peer.issue_at(TOMBSTONE, START_MS - HOUR + 1 + number)
        assert read.run() is None
        assert not read.missing()


def test_growing_after_halving_goes_on() -> None:
    """A page that had to be smaller can meet a group that is larger than it."""
    read = reader(page_max=70)
    for number in range(30):
        read.peer.issue_at(TOMBSTONE, START_MS - HOUR + number, 60 if number % 3 else 1)
        read.peer.issue_at(REVOCATION, START_MS - 2 * HOUR + number)
    assert read.run() is None
    assert not read.missing()


def test_an_answer_too_late_is_asked_for_in_halves_a_few_times() -> None:
    """Then the peer does not answer at all; the next turn begins smaller still."""
    reading = Pass(EMPTY, full=True)
    assert reading.on_failure(Reason.TIMEOUT) is None
    assert reading.on_failure(Reason.TIMEOUT) is None
    assert reading.on_failure(Reason.TIMEOUT) is Reason.TIMEOUT
    assert reading.next_fetch() == Fetch(None, 25)
    assert reading.on_failure(Reason.TIMEOUT) is None
    assert reading.on_failure(Reason.UNREACHABLE) is Reason.UNREACHABLE
    assert reading.on_failure(Reason.THROTTLED) is Reason.THROTTLED
    assert reading.next_fetch() == Fetch(None, 12)


def test_a_page_that_grew_and_is_late_still_shows_more_than_before() -> None:
    """Smaller than that it would show one time again."""
    read = reader()
    read.peer.issue_at(TOMBSTONE, START_MS - HOUR, 240)
    read.begin()
    told = [read.ask(), *(read.ask(timeout=True) for _ in range(7))]
    assert told == [None, None, None, Reason.TIMEOUT, None, None, Reason.TIMEOUT, None]
    assert [fetch.limit for fetch in read.fetches] == [200, 400, 300, 250, 225, 212, 206, 203]
    assert read.read_on() is None
    assert not read.missing()


# a peer that leads nowhere

A, B, C = (iso(START_MS - HOUR + number) for number in range(3))

NOWHERE_BOUND: Final = {
    "empty, and more": answer(has_more=True),
    "empty, with the cursor that it was asked with": answer(cursor=A, has_more=True),
    "one time over and over": answer((A, A), cursor=A, has_more=True),
    "the same page over and over": answer((A, B, C), cursor=C, has_more=True),
    "nothing but left out": answer(cursor=C, has_more=True),
    "no times and no cursor": answer((None, None), has_more=True),
    "no times and the same cursor": answer((None,), cursor="x", has_more=True),
    "full of revocations": answer((), (A, B) * 100, cursor=None, has_more=None),
}


@pytest.mark.parametrize("bound", NOWHERE_BOUND.values(), ids=list(NOWHERE_BOUND))
@pytest.mark.parametrize("begin", [None, A])
def test_a_peer_that_never_leads_on_is_left(bound: Answer, begin: str | None) -> None:
    """Within a few pages, none of them endless, and for a reason of its own."""
    reading = Pass(dict.fromkeys(Artifact, Position(begin, begin)), full=False)
    for _ in range(20):
        fetch = reading.next_fetch()
        assert fetch is not None
        assert fetch.limit <= LIMIT_MAX
        stuck = reading.on_page(fetch, bound)
        if stuck is not None:
            assert stuck is Reason.CURSOR_STALLED
            return
    raise AssertionError("it is asked for ever")


def test_a_peer_that_leads_round_in_circles_is_left() -> None:
    """A place that was gone on from before is not gone on from again."""
    reading = Pass(EMPTY, full=True)
    told = []
    for page in [(A, B), (B, C), (A, C)]:
        fetch = reading.next_fetch()
        assert fetch is not None
        told.append(reading.on_page(fetch, answer(page, cursor=page[-1], has_more=True)))
    assert told == [None, None, Reason.CURSOR_STALLED]


@pytest.mark.parametrize("cursor", [None, A])
def test_an_empty_page_that_is_not_the_end_stalls_at_once(cursor: str | None) -> None:
    """Unless its cursor says that there was something, which a greater limit may show."""
    reading = Pass(dict.fromkeys(Artifact, Position(A, A)), full=False)
    fetch = reading.next_fetch()
    assert fetch == Fetch(A, PAGE_SIZE)
    told = reading.on_page(fetch, answer(cursor=cursor, has_more=True))
    assert told is Reason.CURSOR_STALLED


POOL: Final = st.sampled_from([A, B, C, iso(START_MS + HOUR), "20260921T000000Z", "x", "2026"])
TEXTS: Final = st.lists(POOL, max_size=4).map(tuple)
ANSWERS: Final = st.builds(
    answer,
    TEXTS.map(lambda texts: tuple(None if text == "x" else text for text in texts)),
    TEXTS.map(lambda texts: tuple(None if text == "x" else text for text in texts)),
    cursor=st.none() | POOL,
    has_more=st.sampled_from([None, False, True]),
)
FAILURES: Final = st.sampled_from([Reason.PAGE_TOO_LARGE, Reason.TIMEOUT, Reason.UNREACHABLE])
STORED: Final = st.sampled_from([None, A, B])


@settings(max_examples=150, deadline=None)
@given(
    answers=st.lists(ANSWERS | FAILURES, min_size=1, max_size=6),
    tombstones=STORED,
    revocations=STORED,
    full=st.booleans(),
)
def test_whatever_a_peer_answers_over_and_over_a_pass_ends(
    answers: list[Answer | Reason], tombstones: str | None, revocations: str | None, *, full: bool
) -> None:
    """With as many times as it likes, in any order, and failures between; no position goes back."""
    stored = {TOMBSTONE: Position(tombstones, tombstones), REVOCATION: Position(None, revocations)}
    reading = Pass(stored, full=full)
    before = dict(stored)
    for said in itertools.chain(*itertools.repeat(answers, 300)):
        fetch = reading.next_fetch()
        if fetch is None:
            break
        assert 1 <= fetch.limit <= LIMIT_MAX
        if isinstance(said, Reason):
            if reading.on_failure(said) is not None:
                break
        elif reading.on_page(fetch, said) is not None:
            break
        for artifact, old in before.items():
            new = reading.position(artifact)
            assert {new.frontier, new.settled} <= {None, A, B, C}
            assert (new.frontier or "") >= (old.frontier or "")
            assert (new.settled or "") >= (old.settled or "")
            before[artifact] = new
    else:
        raise AssertionError("it is asked for ever")
