"""One stream's pull as a state table: each rule by an example."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stigmem_replicator.errors import Reason
from stigmem_replicator.replication.positions import thin
from stigmem_replicator.replication.session import (
    EVENT_DOCS,
    GOOD_PAGES,
    STATE_DOCS,
    TRANSITIONS,
    Action,
    Answer,
    AwaitCommit,
    CaughtUp,
    Checkpoint,
    Event,
    Failed,
    Fetch,
    PagingLimits,
    Position,
    Progress,
    ProtocolMisuse,
    Session,
    State,
    Stopped,
)

NOW = 1_790_000_000_000
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
OVERLAP = 10 * SECOND
NEW = Position(None, None)


def at(before_now_ms: int, counter: int = 0) -> str:
    """Return the HLC of so long before now."""
    return f"{NOW - before_now_ms}.{counter}"


def answer(
    *hlcs: str | None,
    more: bool = False,
    cursor: str | None = "last",
    date_ms: int | None = NOW,
    sent_at_ms: int = NOW,
    duration_ms: int = 0,
) -> Answer:
    """Build an answer whose cursor is its last HLC unless told."""
    if cursor == "last":
        cursor = hlcs[-1] if hlcs else None
    return Answer(cursor, more, hlcs, date_ms, sent_at_ms, duration_ms)


def later(of: Answer, ours_ms: int, theirs_ms: int) -> Answer:
    """Ask again after so long by our clock and so long by the origin's."""
    assert of.date_ms is not None
    return replace(of, sent_at_ms=of.sent_at_ms + ours_ms, date_ms=of.date_ms + theirs_ms)


def feed(session: Session, page: Answer) -> Progress:
    """Fetch, answer and commit one page."""
    assert isinstance(session.next_action(), Fetch)
    progress = session.on_response(page)
    assert isinstance(progress, Progress)
    session.on_committed(progress)
    return progress


def settle(position: Position, *pages: Answer) -> Position:
    """Read each page in a pass of its own, asked with the settled position."""
    for page in pages:
        session = Session(position, PagingLimits())
        feed(session, page)
        position = session.position
    return position


def fetched(action: Action) -> Fetch:
    """Narrow an action to a fetch."""
    assert isinstance(action, Fetch)
    return action


# --- the course of a pass ---------------------------------------------------------------------


def test_a_pass_reads_to_the_answer_that_says_no_more() -> None:
    """has_more decides when a pass ends, not the number of entries."""
    session = Session(NEW, PagingLimits())
    assert session.next_action() == Fetch(None, 500)
    first = session.on_response(answer(at(HOUR), more=True))
    assert session.next_action() == Fetch(at(HOUR), 500)
    second = session.on_response(answer(*[at(MINUTE, n) for n in range(500)]))
    assert isinstance(first, Progress)
    assert isinstance(second, Progress)
    assert session.next_action() == AwaitCommit()
    session.on_committed(first)
    assert session.next_action() == AwaitCommit()
    session.on_committed(second)
    assert session.next_action() == CaughtUp()
    assert session.pages == 2


def test_an_empty_page_with_more_to_come_goes_on() -> None:
    """Rows that the origin does not send still move the cursor."""
    session = Session(NEW, PagingLimits())
    feed(session, answer(cursor=at(HOUR), more=True))
    assert session.next_action() == Fetch(at(HOUR), 500)


@pytest.mark.parametrize("cursor", [at(HOUR), at(2 * HOUR), None])
def test_more_to_come_without_a_cursor_that_leads_on_is_a_failed_page(
    cursor: str | None,
) -> None:
    """The same, a lower or no cursor with more to come would bring the same page for good."""
    session = Session(Position(at(HOUR), at(HOUR)), PagingLimits())
    session.next_action()
    assert session.on_response(answer(cursor=cursor, more=True)) == Failed(Reason.CURSOR_STALLED)
    assert session.next_action() == Failed(Reason.CURSOR_STALLED)
    assert session.pages == 0


def test_a_null_cursor_leaves_ours_alone() -> None:
    """No answer takes a position away."""
    before = Position(at(HOUR), at(HOUR))
    session = Session(before, PagingLimits())
    feed(session, answer(cursor=None))
    assert session.position.frontier == before.frontier
    assert session.position.settled == before.settled
    assert session.next_action() == CaughtUp()


def test_max_pages_counts_answered_pages() -> None:
    """A limited pass stops with its pages committed, unless the last of them was the end."""
    session = Session(NEW, PagingLimits(max_pages=2))
    feed(session, answer(at(HOUR), more=True))
    feed(session, answer(at(MINUTE), more=True))
    assert session.next_action() == Stopped()
    session = Session(NEW, PagingLimits(max_pages=1))
    feed(session, answer(at(HOUR)))
    assert session.next_action() == CaughtUp()


def test_equal_hlcs_at_a_page_edge_are_asked_for_again() -> None:
    """The next page starts before the cursor, so that nothing stamped like it is skipped."""
    session = Session(NEW, PagingLimits())
    feed(session, answer(at(9), at(8), at(7), at(7), more=True))
    assert session.next_action() == Fetch(at(8), 500)
    session.on_response(answer(at(7), at(7), at(7), more=True))
    assert session.next_action() == Fetch(at(7), 500)


def test_a_row_that_was_read_and_not_sent_may_hide_its_equals() -> None:
    """A cursor past the last entry belongs to a row left out; its equals are asked for too."""
    session = Session(NEW, PagingLimits())
    feed(session, answer(at(9), at(8), cursor=at(7), more=True))
    assert session.next_action() == Fetch(at(8), 500)


def test_entries_without_hlc_are_no_positions() -> None:
    """An entry that could not be read leaves the paging alone."""
    session = Session(NEW, PagingLimits())
    progress = feed(session, answer(None, at(HOUR), None, cursor=at(HOUR)))
    assert progress.after.settled == at(HOUR)


# --- pages that wait for their commit ---------------------------------------------------------


def test_as_many_pages_are_read_ahead_as_may_wait() -> None:
    """A page may be asked for before those before it are committed, up to a bound."""
    session = Session(NEW, PagingLimits(pages_ahead=2))
    session.next_action()
    first = session.on_response(answer(at(HOUR), more=True))
    session.next_action()
    session.on_response(answer(at(MINUTE), more=True))
    assert session.next_action() == AwaitCommit()
    assert session.position == NEW
    assert isinstance(first, Progress)
    session.on_committed(first)
    assert session.position.frontier == at(HOUR)
    assert session.next_action() == Fetch(at(MINUTE), 500)


def test_commits_come_in_order() -> None:
    """A commit out of order is a mistake of the caller."""
    session = Session(NEW, PagingLimits())
    session.next_action()
    session.on_response(answer(at(HOUR), more=True))
    session.next_action()
    second = session.on_response(answer(at(MINUTE), more=True))
    assert isinstance(second, Progress)
    with pytest.raises(ProtocolMisuse):
        session.on_committed(second)


def test_a_commit_still_counts_after_a_later_page_failed() -> None:
    """What was answered well before a failure may be kept."""
    session = Session(NEW, PagingLimits())
    session.next_action()
    first = session.on_response(answer(at(HOUR), more=True))
    session.next_action()
    assert session.on_failure(Reason.UNREACHABLE) == Failed(Reason.UNREACHABLE)
    assert isinstance(first, Progress)
    session.on_committed(first)
    assert session.position.frontier == at(HOUR)
    assert session.on_failure(Reason.DATABASE_LOCKED) == Failed(Reason.UNREACHABLE)


def test_misuse_is_named() -> None:
    """What cannot happen in a state raises, and never guesses."""
    session = Session(NEW, PagingLimits())
    with pytest.raises(ProtocolMisuse):
        session.on_response(answer())
    with pytest.raises(ProtocolMisuse):
        session.on_failure(Reason.TIMEOUT)
    session.next_action()
    with pytest.raises(ProtocolMisuse):
        session.next_action()


def test_every_state_and_event_is_described_and_reachable() -> None:
    """The documentation is made from the table, so the table is whole."""
    assert set(TRANSITIONS) == set(STATE_DOCS) == set(State)
    assert set(EVENT_DOCS) == set(Event)
    used = {event for events in TRANSITIONS.values() for event in events}
    reached = {state for events in TRANSITIONS.values() for state in events.values()}
    assert used == set(Event)
    assert reached == set(State)


@pytest.mark.parametrize(
    "wrong",
    [
        {"page_size": 0},
        {"pages_ahead": 0},
        {"max_pages": 0},
        {"overlap_ms": -1},
        {"future_bound_ms": -1},
    ],
)
def test_limits_that_read_nothing_are_refused(wrong: dict[str, int]) -> None:
    """Limits are checked where they are made."""
    with pytest.raises(ValueError, match="must"):
        PagingLimits(**wrong)


# --- page size --------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.PAGE_TOO_LARGE, Reason.TIMEOUT])
def test_a_page_too_large_or_late_is_asked_for_in_halves(reason: Reason) -> None:
    """The cursor stays and the limit halves, down to one."""
    session = Session(Position(at(HOUR), at(HOUR)), PagingLimits(page_size=5))
    session.next_action()
    assert session.on_failure(reason) == Fetch(at(HOUR), 2)
    assert session.on_failure(reason) == Fetch(at(HOUR), 1)
    end = Reason.ENTRY_TOO_LARGE if reason is Reason.PAGE_TOO_LARGE else Reason.TIMEOUT
    assert session.on_failure(reason) == Failed(end)


def test_the_limit_doubles_after_good_pages() -> None:
    """Some good pages in a row double the limit, up to the page size."""
    session = Session(NEW, PagingLimits(page_size=50, overlap_ms=0))
    session.next_action()
    session.on_failure(Reason.TIMEOUT)
    page = session.on_response(answer(at(DAY), more=True))
    assert isinstance(page, Progress)
    session.on_committed(page)
    for number in range(1, GOOD_PAGES):
        assert session.limit == 25
        feed(session, answer(at(DAY - number), more=True))
    assert session.limit == 50
    for number in range(2 * GOOD_PAGES):
        feed(session, answer(at(HOUR - number), more=True))
    assert session.limit == 50


def test_a_pass_can_begin_with_the_size_that_the_last_one_found() -> None:
    """A peer whose pages are too large is not asked for a full page in every pass."""
    assert fetched(Session(NEW, PagingLimits(), limit=7).next_action()).limit == 7
    assert fetched(Session(NEW, PagingLimits(), limit=900).next_action()).limit == 500


# --- the settled position ---------------------------------------------------------------------


def test_what_is_older_than_the_overlap_is_settled() -> None:
    """Settled is the greatest position that the origin's clock stands far enough past."""
    position = settle(NEW, answer(at(HOUR), at(12 * SECOND), at(9 * SECOND)))
    assert position.settled == at(12 * SECOND)
    assert position.frontier == at(9 * SECOND)
    assert fetched(Session(position, PagingLimits()).next_action()).cursor == at(12 * SECOND)


def test_in_a_quiet_stream_all_is_settled_and_a_poll_moves_nothing() -> None:
    """A poll that brings nothing is not worth a write."""
    page = answer(at(HOUR))
    position = settle(NEW, page, later(page, MINUTE, MINUTE))
    assert position.settled == position.frontier == at(HOUR)
    progress = feed(Session(position, PagingLimits()), later(answer(cursor=at(HOUR)), HOUR, HOUR))
    assert not progress.moved
    assert progress.after.origin_time_ms == NOW + HOUR


def test_the_first_time_of_the_origin_is_worth_a_write() -> None:
    """A process that starts without one cannot see a step."""
    assert feed(Session(NEW, PagingLimits()), answer()).moved


def test_the_origins_time_is_its_date_less_the_duration_and_never_past_ours() -> None:
    """A late answer makes the origin's time too low, never too high."""
    late = settle(NEW, answer(at(15 * SECOND), duration_ms=5 * SECOND))
    assert late.settled is None
    assert late.origin_time_ms == NOW - 5 * SECOND
    ahead = settle(NEW, answer(at(0), date_ms=NOW + HOUR))
    assert ahead.settled is None
    assert ahead.origin_time_ms == NOW


def test_without_a_date_nothing_is_settled() -> None:
    """The frontier moves, the settled position waits for an answer that shows a clock."""
    position = settle(NEW, answer(at(HOUR), date_ms=None))
    assert position == Position(at(HOUR), None)


def test_an_unsettled_page_end_keeps_the_settled_position_for_the_pass() -> None:
    """Once behind a page's end it stays: what lies between is unsettled."""
    session = Session(NEW, PagingLimits())
    feed(session, answer(at(HOUR), at(5 * SECOND), at(4 * SECOND), more=True))
    assert session.position.settled == at(HOUR)
    feed(session, later(answer(at(4 * SECOND), at(3 * SECOND)), HOUR, HOUR))
    assert session.position.settled == at(HOUR)


def test_with_more_to_come_only_a_start_of_the_next_page_is_settled() -> None:
    """An entry stamped like the last one may not have been read yet."""
    session = Session(NEW, PagingLimits())
    feed(session, answer(at(3 * HOUR), at(2 * HOUR), more=True))
    assert session.position.settled == at(3 * HOUR)
    feed(session, answer(at(2 * HOUR), at(2 * HOUR), more=True))
    assert session.position.settled == at(2 * HOUR)


@pytest.mark.parametrize("odd", ["9.0", "999", "cursor-7", "2026-11-24T19:00:00+00:00"])
def test_a_text_that_only_looks_early_is_not_settled(odd: str) -> None:
    """A stamp with an early wall part that sorts after ours, or one unreadable, never settles."""
    position = settle(NEW, answer(at(HOUR), odd))
    assert position.settled == at(HOUR)
    assert position.frontier == at(HOUR)


def test_a_cursor_that_does_not_parse_is_used() -> None:
    """A stream with positions of another form is read page by page, from the start each time."""
    session = Session(NEW, PagingLimits())
    feed(session, answer(cursor="2026-11-24T19:00:00+00:00", more=True))
    assert session.next_action() == Fetch("2026-11-24T19:00:00+00:00", 500)
    assert session.position.frontier == "2026-11-24T19:00:00+00:00"
    assert session.position.settled is None


def test_a_cursor_far_ahead_is_followed_and_never_stored() -> None:
    """One entry stamped far ahead must not hide everything that follows."""
    far = "7258118400000.0"
    session = Session(NEW, PagingLimits())
    progress = feed(session, answer(at(HOUR), cursor=far, more=True))
    assert progress.after.frontier == at(HOUR)
    feed(session, answer(far, more=True, cursor=far + "1"))
    assert session.next_action() == Fetch(far, 500)
    assert session.position.frontier == at(HOUR)
    assert session.position.settled == at(HOUR)


def test_the_frontier_never_goes_back_by_itself() -> None:
    """A rescan from a lower position leaves the newest cursor alone."""
    position = settle(Position(at(HOUR), at(3 * HOUR)), answer(at(2 * HOUR)))
    assert position.frontier == at(HOUR)
    assert position.settled == at(2 * HOUR)


# --- the origin's clock is set ----------------------------------------------------------------


def stepped(*pages: Answer) -> Position:
    """Settle minute by minute to two minutes ago, then read the pages given."""
    past = [answer(at(n * MINUTE), date_ms=NOW, sent_at_ms=NOW) for n in range(10, 1, -1)]
    return settle(NEW, *past, *pages)


def test_after_a_step_back_reading_starts_before_it() -> None:
    """Entries may appear from the origin's new time less the time since the last answer."""
    page = later(answer(cursor=None), 30 * SECOND, 30 * SECOND - 4 * MINUTE)
    position = stepped(page)
    assert position.settled == at(5 * MINUTE)
    assert position.checkpoints[-1].position == at(5 * MINUTE)


def test_a_step_back_without_a_checkpoint_before_it_reads_from_the_beginning() -> None:
    """No position is invented: without an early one there is only the beginning."""
    position = stepped(later(answer(cursor=None), SECOND, -HOUR))
    assert position.settled is None
    assert position.checkpoints == ()
    assert position.frontier == at(2 * MINUTE)


def test_a_settled_position_far_enough_back_survives_a_step_back() -> None:
    """Nothing can appear behind it, so nothing is read again."""
    position = stepped(later(answer(cursor=None), SECOND, -MINUTE))
    assert position.settled == at(2 * MINUTE)


def test_a_step_back_may_have_come_right_after_the_last_answer() -> None:
    """Stamps made since then may lie lower than the origin's clock does by now."""
    last = answer(at(12 * SECOND))
    page = later(replace(last, hlcs=(), cursor=None), 30 * SECOND, 15 * SECOND)
    position = settle(NEW, answer(at(MINUTE)), last, page)
    assert position.settled == at(MINUTE)


def test_answers_take_unequal_times_without_unsettling_anything() -> None:
    """A tenth of the overlap on top of it absorbs whole seconds and late answers."""
    assert settle(NEW, answer(at(11 * SECOND))).settled is None
    page = answer(at(11 * SECOND + 1))
    position = settle(NEW, page)
    assert position.settled == at(11 * SECOND + 1)
    position = settle(position, later(replace(page, duration_ms=999), 100, 100))
    assert position.settled == at(11 * SECOND + 1)


def test_several_small_steps_back_are_seen_too() -> None:
    """The settled position falls when the origin's clock stands no longer far past it."""
    first = answer(at(12 * SECOND))
    position = settle(NEW, answer(at(MINUTE)), first, later(first, SECOND, -3 * SECOND))
    assert position.settled == at(MINUTE)


def test_a_step_back_is_worth_a_write() -> None:
    """Even when it moves nothing: the next process must know the lower time."""
    session = Session(stepped(), PagingLimits())
    progress = feed(session, later(answer(cursor=None), SECOND, -MINUTE))
    assert progress.after.settled == progress.before.settled
    assert progress.moved


def test_after_a_step_forward_the_settled_position_waits() -> None:
    """What was stamped before the step and commits late looks old at once."""
    base = answer(at(MINUTE), sent_at_ms=NOW + 2 * HOUR)
    step = later(replace(base, hlcs=(at(SECOND),), cursor=at(SECOND)), SECOND, HOUR)
    position = settle(settle(NEW, base), step)
    assert position.settled == at(MINUTE)
    new = replace(step, hlcs=(at(-MINUTE),), cursor=at(-MINUTE))
    position = settle(position, later(new, OVERLAP, OVERLAP))
    assert position.settled == at(MINUTE)
    position = settle(position, later(new, OVERLAP + 1, OVERLAP + 1))
    assert position.settled == at(-MINUTE)


def test_the_origins_time_follows_the_least_of_the_answers_ahead_of_it() -> None:
    """Two steps forward in a row are waited for like one."""
    base = answer(at(MINUTE), sent_at_ms=NOW + 2 * HOUR)
    one = later(base, SECOND, HOUR)
    low = later(base, 2 * SECOND, 30 * MINUTE)
    position = settle(NEW, base, one, low, later(one, OVERLAP + 1, OVERLAP + 1))
    assert position.origin_time_ms == NOW + 30 * MINUTE + 9 * SECOND + 1


def test_old_entries_settle_while_the_origins_time_is_in_doubt() -> None:
    """One slow answer in a long backlog does not hold the whole pass back."""
    session = Session(NEW, PagingLimits())
    feed(session, answer(at(3 * DAY), more=True))
    feed(session, answer(at(2 * DAY), more=True, duration_ms=40 * SECOND))
    assert session.position.settled == at(2 * DAY)
    feed(session, answer(at(DAY), more=True))
    assert session.position.settled == at(DAY)


# --- checkpoints ------------------------------------------------------------------------------


def test_checkpoints_are_kept_an_overlap_apart() -> None:
    """A settled position close to the last checkpoint is not kept."""
    position = settle(NEW, answer(at(60 * SECOND)), answer(at(51 * SECOND)))
    assert [c.position for c in position.checkpoints] == [at(60 * SECOND)]
    session = Session(position, PagingLimits())
    progress = feed(session, answer(at(50 * SECOND)))
    assert progress.new_checkpoint == Checkpoint(at(50 * SECOND), NOW)
    assert [c.position for c in session.position.checkpoints] == [at(60 * SECOND), at(50 * SECOND)]


def test_checkpoints_thin_out_with_age() -> None:
    """All of ten minutes, one an hour for a day, one a day for 30 days, and one older."""
    every_minute = tuple(Checkpoint(at(n * MINUTE), NOW) for n in range(40 * 24 * 60, -1, -1))
    kept = thin(every_minute, NOW)
    ages = [NOW - int(c.position.split(".")[0]) for c in kept]
    assert ages == sorted(ages, reverse=True)
    assert sum(age <= 10 * MINUTE for age in ages) == 11
    assert sum(10 * MINUTE < age <= DAY for age in ages) in (24, 25)
    assert sum(DAY < age <= 30 * DAY for age in ages) in (30, 31)
    assert sum(age > 30 * DAY for age in ages) == 1
    assert thin(kept, NOW) == kept


# --- others write the cursor row --------------------------------------------------------------


def test_first_contact_takes_the_row_over() -> None:
    """Whoever pulled before us read up to its cursor."""
    position = Position.first_contact(at(HOUR))
    assert position == Position(at(HOUR), at(HOUR))
    assert fetched(Session(position, PagingLimits()).next_action()).cursor == at(HOUR)


def test_a_row_taken_over_with_a_cursor_far_ahead_heals() -> None:
    """Such a cursor hid what followed; it is not settled, so the next pass reads it all."""
    position = settle(Position.first_contact("7258118400000.0"), answer(cursor=None))
    assert position.settled is None


@pytest.mark.parametrize(
    ("row", "settled"), [(None, None), (at(3 * HOUR), at(3 * HOUR)), (at(0), at(2 * HOUR))]
)
def test_a_row_changed_by_somebody_else_is_followed(row: str | None, settled: str | None) -> None:
    """The frontier becomes the row, the settled position never rises, and the pass restarts."""
    session = Session(Position(at(HOUR), at(2 * HOUR)), PagingLimits())
    session.next_action()
    forgotten = session.on_response(answer(at(MINUTE), more=True))
    session.next_action()
    session.on_cursor_moved(row)
    assert session.position == Position(row, settled)
    assert session.next_action() == Fetch(settled, 500)
    assert isinstance(forgotten, Progress)
    with pytest.raises(ProtocolMisuse):
        session.on_committed(forgotten)


def test_a_row_set_back_while_nobody_looked_is_followed() -> None:
    """The settled position is never above the frontier."""
    session = Session(Position(None, at(HOUR)), PagingLimits())
    assert session.next_action() == Fetch(None, 500)
