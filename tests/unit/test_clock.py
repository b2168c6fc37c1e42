"""The system's own time, waiting, chance and identifiers."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from stigmem_replicator.clock import (
    Clock,
    NewId,
    Random,
    Sleep,
    SystemClock,
    SystemRandom,
    system_new_id,
    system_sleep,
)

CLOCK: Clock = SystemClock()
RANDOM: Random = SystemRandom()
SLEEP: Sleep = system_sleep
NEW_ID: NewId = system_new_id


def test_wall_clock_in_milliseconds_is_the_time_of_this_machine() -> None:
    before = time.time_ns() // 1_000_000
    assert before <= CLOCK.now_ms() <= time.time_ns() // 1_000_000


def test_wall_clock_as_text_is_the_same_time_in_utc() -> None:
    stamp = datetime.fromisoformat(CLOCK.now_iso())
    assert stamp.utcoffset() == timedelta(0)
    assert abs(stamp - datetime.now(UTC)) < timedelta(seconds=5)


def test_monotonic_clock_never_goes_back() -> None:
    readings = [CLOCK.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


def test_chance_stays_between_its_bounds_and_varies() -> None:
    drawn = [RANDOM.uniform(2.0, 3.0) for _ in range(100)]
    assert all(2.0 <= number <= 3.0 for number in drawn)
    assert len(set(drawn)) > 1


def test_identifiers_are_version_4_in_their_usual_form_and_differ() -> None:
    made = [NEW_ID() for _ in range(100)]
    assert len(set(made)) == len(made)
    for text in made:
        assert uuid.UUID(text).version == 4
        assert str(uuid.UUID(text)) == text


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_sleep_waits_on_either_async_backend() -> None:
    before = CLOCK.monotonic()
    await SLEEP(0.01)
    assert CLOCK.monotonic() - before >= 0.009
