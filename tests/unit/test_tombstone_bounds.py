"""What a peer can make a pass over its tombstones remember, read again or ask for: it is bounded.

A page on which time goes back leads nowhere; where it goes on, what is remembered is the seconds
of the overlap, and the places of one second.
"""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication import tombstones
from stigmem_replicator.replication.positions import Position
from stigmem_replicator.replication.tombstones import (
    ASKED_MAX,
    LIMIT_MAX,
    OVERLAP_MS,
    PAGE_SIZE,
    QUIET_MS,
    Answer,
    Fetch,
    Pass,
)
from tests.unit.model_tombstones import EMPTY, START_MS, answer, milliseconds, reader
from tests.unit.signed_records import iso

TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION
SECOND: Final = 1_000
HOUR: Final = 3_600 * SECOND
SECONDS_MAX: Final = OVERLAP_MS // SECOND + 1


def full(texts: tuple[str | None, ...]) -> Answer:
    """Return a page of tombstones that more follow."""
    return answer(texts, cursor=texts[-1], has_more=True)


def ask(reading: Pass, page: Answer) -> Reason | None:
    fetch = reading.next_fetch()
    assert fetch is not None
    return reading.on_page(fetch, page)


def remembered(reading: Pass) -> list[tuple[int, int]]:
    """Return how many times, and how many places, each list remembers."""
    lists = reading._lists.values()  # noqa: SLF001 - memory is nothing that a pass tells of
    return [(len(of_kind.after), len(of_kind.asked)) for of_kind in lists]


# time does not go back

T3, T4, T5, T6 = (f"2026-01-02T03:04:0{second}" for second in (3, 4, 5, 6))


@pytest.mark.parametrize("begin", [None, f"{T4}Z", "20990102T030404Z"])
@pytest.mark.parametrize(
    ("page", "goes_back"),
    [
        ((f"{T4}Z", f"{T5}Z", f"{T6}Z"), False),
        ((f"{T6}Z", f"{T5}Z"), True),
        ((f"{T5}.1Z", f"{T6}.1+00:00", f"{T5}"), True),
        ((f"{T6}.0", "20260102T030405Z", None, f"{T5}.9"), True),
        ((f"{T6}Z", "20260102T030404Z", "2026-01-02T17:04:05+14:00", "2026-01-02"), False),
        # A peer that orders by a collation may go back within a second.
        ((f"{T5}Z", f"{T5}.9Z", f"{T5}+00:00", f"{T5}.1", f"{T5}.5Z", f"{T5}"), False),
        ((f"{T5}.9996Z", f"{T5}Z", f"{T5}.9999999"), False),
    ],
)
def test_seconds_do_not_go_back_on_a_page(
    begin: str | None, page: tuple[str | None, ...], *, goes_back: bool
) -> None:
    """Times in a node's own form; of others a text says nothing."""
    for served in (full(page), answer(page), answer((), page)):
        reading = Pass(dict.fromkeys(Artifact, Position(begin, begin)), full=False)
        assert (ask(reading, served) is Reason.MALFORMED_PAGE) is goes_back


def test_seconds_do_not_go_back_behind_where_a_page_was_asked_for() -> None:
    """Neither behind the stored position nor behind where the pass went on, by whatever text."""
    for before, goes_back in ((f"{T4}.999Z", True), (f"{T5}.1Z", False), (f"{T5}", False)):
        reading = Pass(dict.fromkeys(Artifact, Position(None, f"{T5}.5Z")), full=False)
        told = ask(reading, answer((before,)))
        assert (told is Reason.MALFORMED_PAGE) is goes_back
        for via in (f"{T5}.5Z", "20260102T030405Z", "20990102T030405Z"):
            reading = Pass(EMPTY, full=True)
            assert ask(reading, full((f"{T3}Z", f"{T5}Z", via, f"{T6}"))) is None
            assert reading.next_fetch() == Fetch(via, PAGE_SIZE)
            assert (ask(reading, full((before, f"{T6}"))) is Reason.MALFORMED_PAGE) is goes_back


def test_an_answer_that_does_not_count_for_a_list_may_be_in_any_order() -> None:
    """It changes no position."""
    reading = Pass(EMPTY, full=True)
    assert ask(reading, full((f"{T4}Z", f"{T5}Z"))) is None
    fetch = reading.next_fetch()
    assert fetch == Fetch(f"{T4}Z", PAGE_SIZE)
    assert reading.on_page(fetch, answer((f"{T5}Z",), (f"{T6}Z", f"{T3}Z"))) is None
    assert reading.position(REVOCATION).frontier is None


# what is remembered


@pytest.mark.parametrize("stored", [None, iso(START_MS - OVERLAP_MS)])
@pytest.mark.parametrize("until_ms", [-6 * HOUR, -HOUR, -OVERLAP_MS, 0, HOUR])
def test_a_pass_remembers_no_more_seconds_than_the_overlap_has(
    until_ms: int, stored: str | None
) -> None:
    """However many it is shown, of any time, before and after what is stored."""
    reading = Pass(dict.fromkeys(Artifact, Position(stored, stored)), full=True)
    per_page = 400
    first_ms = START_MS + until_ms - 2 * HOUR
    for since_ms in range(first_ms, START_MS + until_ms, per_page * SECOND):
        texts = tuple(iso(since_ms + number * SECOND) for number in range(per_page))
        last = since_ms + per_page * SECOND >= START_MS + until_ms
        assert ask(reading, answer(texts, texts, cursor=texts[-1], has_more=not last)) is None
        assert all(times <= SECONDS_MAX for times, _ in remembered(reading))
    newest_ms = min(START_MS + OVERLAP_MS, START_MS + until_ms - SECOND)
    settled_ms = max(min(newest_ms, START_MS) - OVERLAP_MS, START_MS - QUIET_MS)
    settled = iso(min(settled_ms, newest_ms))
    assert reading.position(TOMBSTONE).settled == max(settled, stored or settled)


@pytest.mark.parametrize("form", ["2026-01-02T03:04:05.{:06}Z", "20260102T030405.{:06}Z"])
def test_a_pass_remembers_a_bounded_number_of_places(form: str) -> None:
    """Those of one second, or of none; a circle of any that it remembers is still seen."""
    reading = Pass(EMPTY, full=True)
    numbers = range(3 * ASKED_MAX)
    for number in numbers:
        page = (form.format(number), form.format(number + 1))
        assert ask(reading, full(page)) is None
        assert all(places <= ASKED_MAX for _, places in remembered(reading))
    back = form.format(numbers[-2])
    assert ask(reading, full((back, form.format(5)))) is Reason.CURSOR_STALLED


def test_places_of_a_second_that_is_over_are_forgotten() -> None:
    """Time does not go back to them."""
    reading = Pass(EMPTY, full=True)
    for number in range(50):
        at_ms = START_MS - HOUR + number * SECOND // 2
        assert ask(reading, full((iso(at_ms), iso(at_ms + SECOND // 2)))) is None
        assert remembered(reading)[0][1] <= 2


def test_no_text_is_read_while_a_page_is_taken_note_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page can have a great many: each was read once, where nobody waits for it."""
    reading = Pass(dict.fromkeys(Artifact, Position(f"{T3}Z", f"{T3}Z")), full=False)
    pages = [full((f"{T4}Z", f"{T5}Z", f"{T6}Z")), answer((f"{T6}Z",))]
    monkeypatch.delattr(tombstones, "read_stamp")
    assert [ask(reading, page) for page in pages] == [None, None]


SECONDS: Final = st.lists(st.integers(0, 2 * HOUR // SECOND), unique=True, max_size=12).map(sorted)


@settings(max_examples=80, deadline=None)
@given(ages=SECONDS, size=st.integers(2, 5), pages=st.integers(1, 6))
def test_the_next_pass_begins_at_the_newest_that_is_old_enough(
    ages: list[int], size: int, pages: int
) -> None:
    """What is not remembered is missed by nobody, also where a pass was given up half-way."""
    read = reader()
    for age in ages:
        read.peer.issue_at(TOMBSTONE, START_MS - age * SECOND)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(tombstones, "PAGE_SIZE", size)
        read.begin(full=True)
        assert read.read_on(pages) is None
    newest_ms = milliseconds(read.stored[TOMBSTONE].frontier)
    if newest_ms is None:
        assert not ages
        return
    old_ms = max(newest_ms - OVERLAP_MS, START_MS - QUIET_MS)
    until = read.under_way.next_fetch() if read.under_way else None
    until_ms = START_MS if until is None else milliseconds(until.since)
    times = sorted(START_MS - age * SECOND for age in ages)
    good = [at_ms for at_ms in times if at_ms <= min(old_ms, until_ms or 0)]
    assert milliseconds(read.stored[TOMBSTONE].settled) == (good[-1] if good else None)


# what is asked for


def test_a_page_of_one_time_grows_only_so_far() -> None:
    """Then it is left: what a page of so many holds is more than fits into an answer."""
    reading = Pass(EMPTY, full=True)
    limits = []
    while (fetch := reading.next_fetch()) is not None:
        limits.append(fetch.limit)
        if reading.on_page(fetch, full((f"{T5}Z",) * 3)) is not None:
            break
    assert limits == [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 50_000]
    assert limits[-1] == LIMIT_MAX


def test_a_page_that_grew_and_is_always_late_is_asked_for_in_ever_smaller_sizes() -> None:
    """Each turn begins smaller than the one before ended, down to what shows one more."""
    reading = Pass(EMPTY, full=True)
    for _ in range(3):
        assert ask(reading, full((f"{T5}Z",) * 3)) is None
    turns = [[1_600]]
    for _ in range(16):
        if reading.on_failure(Reason.TIMEOUT) is not None:
            turns.append([])
        fetch = reading.next_fetch()
        assert fetch is not None
        turns[-1].append(fetch.limit)
    assert turns[:4] == [[1600, 1200, 1000], [900, 850, 825], [812, 806, 803], [801]]
    assert set(map(tuple, turns[4:])) == {(801,)}
