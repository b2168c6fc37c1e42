"""Pacing: backoff, Retry-After, the size of a transaction, the writer's pause, reject bursts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.replication import pacing
from stigmem_replicator.replication.pacing import Backoff, RejectWindow

chances = st.floats(min_value=0.0, max_value=1.0)

DATE = "Fri, 02 Jan 2026 03:04:05 GMT"
DATE_MS = 1_767_323_045_000


# backoff


@pytest.mark.parametrize(
    ("failures", "bound"),
    [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (10, 300.0), (10**9, 300.0)],
)
def test_the_bound_doubles_up_to_the_cap(failures: int, bound: float) -> None:
    """The wait lies between nothing and a bound that doubles with each failure."""
    assert Backoff().wait_s(failures, 1.0) == bound
    assert Backoff().wait_s(failures, 0.5) == bound / 2


@given(st.integers(min_value=-3, max_value=10**6), chances)
def test_a_wait_is_never_under_100_ms_nor_over_the_cap(failures: int, chance: float) -> None:
    """Whatever chance says, a peer is not hammered and not forgotten."""
    assert 0.1 <= Backoff().wait_s(failures, chance) <= 300.0


@given(st.integers(min_value=1, max_value=100), chances, chances)
def test_jitter_is_full(failures: int, one: float, other: float) -> None:
    """The wait grows with chance over the whole range, so that peers do not fall into step."""
    low, high = sorted((one, other))
    assert Backoff().wait_s(failures, low) <= Backoff().wait_s(failures, high)


# Retry-After


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("007", 7.0),
        ("0" * 12 + "30", 30.0),
        ("0" * 400, 0.0),
        ("3599", 3599.0),
        ("3601", 3600.0),
        ("9" * 400, 3600.0),
        ("", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("1e3", 0.0),
        ("\u0667", 0.0),
        ("\u00b2", 0.0),
        (DATE, 60.0),
        ("Fri, 02 Jan 2026 03:04:04 GMT", 59.0),
        ("Fri, 02 Jan 2026 03:03:05 GMT", 0.0),
        ("Fri, 02 Jan 2026 05:04:05 GMT", 3600.0),
        ("Sun, 31 Feb 2026 00:00:00 GMT", 0.0),
        ("Fri, 02 Jan 99999999 03:04:05 GMT", 0.0),
    ],
)
def test_retry_after_reads_seconds_and_dates(header: str | None, seconds: float) -> None:
    """Whole seconds or an HTTP date, never negative, at most the cap; anything else is no wait."""
    now_ms = DATE_MS - 60_000
    assert pacing.retry_after_s(header, None, now_ms, 3600.0) == seconds


def test_an_endless_number_of_seconds_is_the_cap() -> None:
    """A number that is cut would be a shorter wait than the peer asked for."""
    assert pacing.retry_after_s("1" + "0" * 20, None, DATE_MS, 1e15) == 1e15


def test_a_date_counts_from_the_answers_own_date() -> None:
    """Two clocks that differ neither lengthen nor shorten the wait."""
    wrong_ms = DATE_MS + 10**9
    assert pacing.retry_after_s(DATE, DATE_MS - 30_000, wrong_ms, 3600.0) == 30.0


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        (DATE, DATE_MS),
        ("Friday, 02-Jan-26 03:04:05 GMT", DATE_MS),
        ("Fri Jan  2 03:04:05 2026", DATE_MS),
        ("Fri, 02 Jan 2026 03:04:05 -0000", DATE_MS),
        ("", None),
        ("2026-01-02T03:04:05Z", None),
        ("yesterday", None),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_http_dates_read_in_all_their_forms(
    header: str | None, expected: int | None, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three forms of an HTTP date name the same moment, wherever this machine stands."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", zone)
        time.tzset()
        got = pacing.http_date_ms(header)
    time.tzset()
    assert got == expected


@given(st.text(alphabet='0123456789 :,;-+()"\\<>[]@.\tMonJanGTESTPamé', max_size=50) | st.text())
def test_a_header_never_raises(header: str) -> None:
    """Whatever a peer puts into a header, it is a time, a wait, or neither."""
    date_ms = pacing.http_date_ms(header)
    assert date_ms is None or isinstance(date_ms, int)
    assert 0.0 <= pacing.retry_after_s(header, date_ms, DATE_MS, 60.0) <= 60.0


# transactions


@pytest.mark.parametrize(
    ("budget", "held_s", "expected"),
    [
        (400, 0.051, 200),
        (400, 0.050, 440),
        (400, 0.0, 440),
        (39, 1.0, 20),
        (20, 1.0, 20),
        (20, 0.0, 22),
        (1_999, 0.0, 2_000),
        (2_000, 0.0, 2_000),
    ],
)
def test_the_row_budget_halves_after_a_long_transaction(
    budget: int, held_s: float, expected: int
) -> None:
    """Over the target it is halved, else it grows by a tenth, between 20 and 2,000 rows."""
    assert pacing.next_row_budget(budget, held_s, 0.05) == expected


@given(st.integers(min_value=20, max_value=2000), st.floats(min_value=0, max_value=100))
def test_the_row_budget_stays_in_bounds(budget: int, held_s: float) -> None:
    """No transaction is planned for fewer than 20 or more than 2,000 rows."""
    assert 20 <= pacing.next_row_budget(budget, held_s, 0.05) <= 2000


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_the_pause_gives_the_lock_away_for_its_share(share: float) -> None:
    """On average over chance, the lock is held for the share of the time that was asked."""
    chance = [n / 1000 for n in range(1001)]
    paused = sum(pacing.pause_s(0.05, share, c) for c in chance) / len(chance)
    assert 0.05 / (0.05 + paused) == pytest.approx(share)


@pytest.mark.parametrize(("chance", "part"), [(0.0, 0.6), (0.5, 1.0), (1.0, 1.4)])
def test_the_pause_varies_by_forty_percent(chance: float, part: float) -> None:
    """Two writers never fall into step."""
    assert pacing.pause_s(0.05, 0.5, chance) == pytest.approx(0.05 * part)


# bursts


def fill(window: RejectWindow, reasons: list[Reason | None]) -> list[bool]:
    return [window.add(reason) for reason in reasons]


def test_a_run_of_refusals_is_a_burst() -> None:
    """The fiftieth refusal in a row is one too many."""
    window = RejectWindow()
    assert fill(window, [Reason.CID_MISMATCH] * 49) == [False] * 49
    assert window.add(Reason.ORIGIN_SIG_INVALID)


def test_one_admitted_entry_ends_a_run() -> None:
    """Refusals must follow each other to be a run."""
    window = RejectWindow()
    entries = [*[Reason.CID_MISMATCH] * 49, None] * 8
    assert not any(fill(window, entries))


@pytest.mark.parametrize("reason", sorted(pacing.UNCOUNTED_IN_BURSTS))
def test_some_reasons_are_no_sign_of_a_bad_peer(reason: Reason) -> None:
    """Old content ids, clocks and scopes come in masses; they neither count nor end a run."""
    window = RejectWindow(run=2)
    assert not any(fill(window, [reason] * 2000))
    assert fill(window, [Reason.CID_MISMATCH, reason, Reason.CID_MISMATCH]) == [False, False, True]


def test_nine_tenths_of_a_full_window_are_a_burst() -> None:
    """Scattered refusals are a burst when they are 90 percent of the last 500 entries."""
    window = RejectWindow()
    ten = [*[Reason.CID_MISMATCH] * 9, None]
    seen = fill(window, ten * 50)
    assert seen == [False] * 499 + [True]


def test_just_under_nine_tenths_are_no_burst() -> None:
    """One refusal fewer in the window is borne, and what leaves the window counts no more."""
    window = RejectWindow()
    ten = [*[Reason.CID_MISMATCH] * 9, None]
    assert not any(fill(window, [None, None, *ten[2:], *ten * 49]))
    assert not window.add(None)
    assert fill(window, [Reason.CID_MISMATCH] * 9)[-1]


def test_a_bound_of_zero_is_off() -> None:
    """An operator who wants them all dead-lettered turns both bounds off."""
    window = RejectWindow(run=0, percent=0)
    assert not any(fill(window, [Reason.CID_MISMATCH] * 2000))


def test_the_commonest_reason_is_named() -> None:
    """What an operator is told is the reason seen most often."""
    window = RejectWindow()
    assert window.commonest() is None
    fill(window, [None, Reason.CID_MISMATCH, Reason.INVALID_SCOPE, Reason.CID_MISMATCH, None])
    assert window.commonest() is Reason.CID_MISMATCH


# back-pressure


@pytest.mark.parametrize(
    ("document", "lag_ms", "wait_s"),
    [
        ({"error": "relay_lag_exceeded", "lag_ms": 400_000, "retry_after_s": 120}, 400_000, 120.0),
        ({"lag_ms": 0, "retry_after_s": 0.5}, 0, 0.5),
        ({"retry_after_s": 10**400}, None, 3600.0),
        ({"retry_after_s": float("inf")}, None, 3600.0),
        ({"retry_after_s": float("nan")}, None, 0.0),
        ({"lag_ms": -1, "retry_after_s": -5}, None, 0.0),
        ({"lag_ms": True, "retry_after_s": True}, None, 0.0),
        ({"lag_ms": 1.5, "retry_after_s": "120"}, None, 0.0),
        ({"lag_ms": 10**12}, None, 0.0),
        (["lag_ms"], None, 0.0),
        (None, None, 0.0),
    ],
)
def test_back_pressure_is_what_reads_of_it(
    document: object, lag_ms: int | None, wait_s: float
) -> None:
    """The wait is bounded by the cap; what is no number, or none that can be, was not said."""
    assert pacing.back_pressure(document, 3600.0) == pacing.BackPressure(lag_ms, wait_s)


@pytest.mark.parametrize(
    ("header", "lag_ms"),
    [
        ("61000", 61_000),
        (" 0 ", 0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 13, None),
    ],
)
def test_an_upstream_lag_is_whole_milliseconds(header: str | None, lag_ms: int | None) -> None:
    assert pacing.upstream_lag_ms(header) == lag_ms
