"""The token bucket: what is spent stays under the line that the rate draws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.replication.rates import Bucket, full, spend

RATES = st.floats(min_value=0.001, max_value=1e9)
AMOUNTS = st.floats(min_value=0.0, max_value=1e9)
STEPS_S = st.floats(min_value=-1e6, max_value=1e6)
SPENDING = st.lists(st.tuples(STEPS_S, AMOUNTS), max_size=30)


def at_most(spent: float, line: float) -> bool:
    return spent <= line or spent == pytest.approx(line)


@given(RATES, SPENDING)
def test_what_is_done_after_its_wait_stays_under_the_line(
    rate: float, history: list[tuple[float, float]]
) -> None:
    """Capacity + rate * time, whatever the clock does and whoever asks without having waited."""
    bucket, now_s, latest_s, spent = full(rate, 0.0), 0.0, 0.0, 0.0
    for step_s, amount in history:
        now_s += step_s
        latest_s = max(latest_s, now_s)
        bucket, wait_s = spend(bucket, amount, now_s)
        spent += amount
        assert at_most(spent, bucket.capacity + rate * (latest_s + wait_s))


@given(RATES, st.lists(st.tuples(st.floats(min_value=0.0, max_value=1e6), AMOUNTS), max_size=30))
def test_what_is_counted_afterwards_is_over_the_line_by_the_last_amount_at_most(
    rate: float, history: list[tuple[float, float]]
) -> None:
    """Who waits after each part that was read has never read more than one part too much."""
    bucket, now_s, spent = full(rate, 0.0), 0.0, 0.0
    for idle_s, amount in history:
        now_s += idle_s
        spent += amount
        assert at_most(spent, bucket.capacity + rate * now_s + amount)
        bucket, wait_s = spend(bucket, amount, now_s)
        now_s += wait_s


@given(RATES, SPENDING)
def test_waits_are_finite_and_not_negative(rate: float, history: list[tuple[float, float]]) -> None:
    """Nobody waits for ever, and no bucket holds more than its capacity."""
    bucket, now_s = full(rate, 0.0), 0.0
    for step_s, amount in history:
        now_s += step_s
        bucket, wait_s = spend(bucket, amount, now_s)
        assert 0.0 <= wait_s < math.inf
        assert bucket.level <= bucket.capacity


@given(RATES, st.lists(st.floats(max_value=1_000.0, allow_nan=False), max_size=30))
def test_a_clock_that_stands_or_goes_back_fills_nothing(rate: float, times: list[float]) -> None:
    """Nor does it fill anything on its way to where it was."""
    empty = Bucket(rate, 0.0, 1_000.0)
    bucket = empty
    for now_s in times:
        bucket, wait_s = spend(bucket, 0.0, now_s)
        assert wait_s == 0.0
    assert bucket == empty


@given(RATES, AMOUNTS, st.floats(min_value=0.0, max_value=1e6))
def test_after_its_wait_nothing_is_owed(rate: float, amount: float, now_s: float) -> None:
    """The wait that is asked for is enough, and not longer than that."""
    bucket, wait_s = spend(full(rate, now_s), amount, now_s)
    _, again_s = spend(bucket, 0.0, now_s + wait_s)
    assert again_s == pytest.approx(0.0, abs=1e-6)
    if wait_s:
        paid, _ = spend(bucket, 0.0, now_s + wait_s)
        assert paid.level == pytest.approx(0.0, abs=max(1.0, amount) * 1e-6 + rate * 1e-6)


@pytest.mark.parametrize(
    ("rate", "waits_s"),
    [(2.0, [0.0, 0.0, 0.5, 1.0]), (1.0, [0.0, 1.0, 2.0, 3.0]), (0.5, [0.0, 2.0, 4.0, 6.0])],
)
def test_one_seconds_worth_is_free_and_at_least_one_unit(rate: float, waits_s: list[float]) -> None:
    """A rate under one a second lets the first through at once, too."""
    bucket, got = full(rate, 7.0), []
    for _ in waits_s:
        bucket, wait_s = spend(bucket, 1.0, 7.0)
        got.append(wait_s)
    assert got == waits_s


def test_one_large_amount_is_paid_by_waiting_afterwards() -> None:
    """Ten seconds' worth at once: one second's worth was there, nine are waited for."""
    bucket, wait_s = spend(full(100.0, 0.0), 1_000.0, 0.0)
    assert (bucket.level, wait_s) == (-900.0, 9.0)


def test_an_idle_bucket_saves_no_more_than_its_capacity() -> None:
    """After a day without requests, one second's worth is free, not a day's."""
    bucket, _ = spend(full(2.0, 0.0), 2.0, 0.0)
    bucket, wait_s = spend(bucket, 3.0, 86_400.0)
    assert (bucket.level, wait_s) == (-1.0, 0.5)


@given(AMOUNTS, STEPS_S)
def test_a_rate_of_zero_is_no_limit(amount: float, now_s: float) -> None:
    """Nothing is counted and nobody waits."""
    bucket = full(0.0, 0.0)
    assert spend(bucket, amount, now_s) == (bucket, 0.0)
