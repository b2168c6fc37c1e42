"""Times as an operator writes them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.cli import times
from stigmem_replicator.errors import Reason, UsageError

NOW_MS = 1_767_323_045_000  # 2026-01-02T03:04:05Z
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("90s", 90_000), ("30m", 1_800_000), ("2h", 7_200_000), ("1d", DAY_MS), ("0s", 0)],
)
def test_a_span_is_a_number_and_a_unit(text: str, milliseconds: int) -> None:
    """Seconds, minutes, hours and days."""
    assert times.span_ms(text, "--back") == milliseconds


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1w", "-1h", "1.5h", "1 h", "1h ", "1234567s", "\u0661s"]
)
def test_what_is_no_span(text: str) -> None:
    """Anything else is told, with the option and what may be said."""
    with pytest.raises(UsageError, match="--back") as caught:
        times.span_ms(text, "--back")
    assert caught.value.reason is Reason.USAGE
    assert "30m" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1s", NOW_MS + 1_000),
        ("1d", NOW_MS + DAY_MS),
        ("2026-01-02T03:04:06", NOW_MS + 1_000),
        ("2026-01-02T03:04:06Z", NOW_MS + 1_000),
        ("2026-01-02 05:04:06+02:00", NOW_MS + 1_000),
        ("2026-01-02T03:04:05.250", NOW_MS + 250),
        ("20260103T030405Z", NOW_MS + DAY_MS),
        ("2026-01-03", NOW_MS + DAY_MS - 11_045_000),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
    ],
)
def test_a_moment_to_come(text: str, at_ms: int) -> None:
    """A span counts from now; a moment without a zone is UTC."""
    assert times.future_ms(text, "--until", NOW_MS) == at_ms


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tomorrow", "no time"),
        ("12:00", "no time"),
        ("2026-13-01", "no time"),
        ("1767323046", "no time"),
        ("0s", "not in the future"),
        ("2026-01-02T03:04:05", "not in the future"),
        ("2026-01-02T04:04:05+02:00", "not in the future"),
        ("0001-01-01T00:00+23:59", "not in the future"),
    ],
)
def test_what_is_no_moment_to_come(text: str, said: str) -> None:
    """What does not read and what is over are told apart."""
    with pytest.raises(UsageError, match=said):
        times.future_ms(text, "--until", NOW_MS)


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_told(text: str) -> None:
    """Nothing that an operator types ends in anything but a moment to come or words."""
    with suppress(UsageError):
        assert times.future_ms(text, "--until", NOW_MS) > NOW_MS
