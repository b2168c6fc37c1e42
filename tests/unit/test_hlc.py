"""Hybrid logical clocks as text: reading, stepping, skew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.protocol import hlc
from stigmem_replicator.protocol.hlc import HlcState

numbers = st.integers(min_value=0, max_value=10**18 - 1)
states = st.builds(HlcState, numbers, numbers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1746230400000.3", (1746230400000, 3)),
        ("1746230400000", (1746230400000, 0)),
        ("0.0", (0, 0)),
        ("0007.010", (7, 10)),
        ("9" * 18 + "." + "9" * 18, (10**18 - 1, 10**18 - 1)),
    ],
)
def test_parse_reads_both_parts(text: str, expected: tuple[int, int]) -> None:
    """An HLC is two decimal numbers with a point between; a missing counter is 0."""
    assert hlc.parse(text) == expected
    assert hlc.wall_ms(text) == expected[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.",
        ".1",
        "1.2.3",
        "-1.0",
        "+1.0",
        "1_0.0",
        " 1.0",
        "1.0\n",
        "1e3",
        "0x1",
        "NaN",
        "\u0661.0",
        "\u00b2",
        "2026-01-02T03:04:05+00:00",
        "1" * 19,
        "1." + "1" * 19,
        "1" * 100_000,
    ],
)
def test_parse_refuses_anything_else(text: str) -> None:
    """Signs, spaces, other digits than ASCII and endless numbers are no HLC."""
    with pytest.raises(ValueError, match="not an HLC"):
        hlc.parse(text)
    assert hlc.wall_ms(text) is None


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("1746230400000", True),
        ("1746230400000.3", True),
        ("1." + "9" * 12, True),
        ("1." + "1" * 13, False),
        ("9" * 18, True),
        ("9" * 19, False),
        ("soon", False),
    ],
)
def test_a_peers_counter_has_at_most_12_digits(text: str, fits: object) -> None:
    """A peer may send fewer counter digits than are read from our own database."""
    assert hlc.fits_wire(text) is fits


def test_what_follows_a_peers_counter_reads_back() -> None:
    """The greatest counter that a peer may send leaves room for a million steps of our own."""
    greatest = HlcState(10**18 - 1, 10**12 - 1)
    assert hlc.fits_wire(greatest.text)
    received = hlc.receive(greatest, greatest, 0)
    assert HlcState(*hlc.parse(received.text)) == received
    later = HlcState(received.wall_ms, received.counter + 10**6)
    assert HlcState(*hlc.parse(hlc.tick(later, 0).text)) > later


def test_a_refusal_does_not_repeat_an_endless_text() -> None:
    """A peer cannot fill the log through the message."""
    with pytest.raises(ValueError, match="not an HLC") as caught:
        hlc.parse("x" * 10_000)
    assert len(str(caught.value)) < 100


@given(states)
def test_text_reads_back(state: HlcState) -> None:
    """What a clock writes, it reads."""
    assert HlcState(*hlc.parse(state.text)) == state


@given(states, numbers)
def test_tick_is_greater_and_not_behind_now(state: HlcState, now_ms: int) -> None:
    """Each tick is greater than the last, and its wall part never lies behind the clock."""
    ticked = hlc.tick(state, now_ms)
    assert ticked > state
    assert ticked.wall_ms == max(state.wall_ms, now_ms)


@given(states, states, numbers)
def test_receive_is_greater_than_both(state: HlcState, remote: HlcState, now_ms: int) -> None:
    """What was received is before whatever we do next."""
    received = hlc.receive(state, remote, now_ms)
    assert received > state
    assert received > remote
    assert received.wall_ms == max(state.wall_ms, remote.wall_ms, now_ms)


@pytest.mark.parametrize(
    ("state", "remote", "now_ms", "expected"),
    [
        (HlcState(5, 2), HlcState(5, 7), 5, HlcState(5, 8)),
        (HlcState(5, 7), HlcState(5, 2), 4, HlcState(5, 8)),
        (HlcState(5, 2), HlcState(4, 9), 5, HlcState(5, 3)),
        (HlcState(4, 2), HlcState(5, 9), 5, HlcState(5, 10)),
        (HlcState(4, 2), HlcState(5, 9), 6, HlcState(6, 0)),
    ],
)
def test_receive_counts_where_the_wall_part_came_from(
    state: HlcState, remote: HlcState, now_ms: int, expected: HlcState
) -> None:
    """The counter follows the side whose wall part won, and starts again under a new one."""
    assert hlc.receive(state, remote, now_ms) == expected


def test_tick_counts_within_a_millisecond() -> None:
    """The counter starts again with a later wall part and counts on under the same."""
    assert hlc.tick(HlcState(5, 3), 6) == HlcState(6, 0)
    assert hlc.tick(HlcState(5, 3), 5) == HlcState(5, 4)
    assert hlc.tick(HlcState(5, 3), 1) == HlcState(5, 4)


@pytest.mark.parametrize(
    ("remote_wall_ms", "max_future_ms", "max_past_ms", "expected"),
    [
        (1_300, 300, 500, None),
        (1_301, 300, 500, "future"),
        (500, 300, 500, None),
        (499, 300, 500, "past"),
        (999_999, 0, 500, None),
        (0, 300, 0, None),
    ],
)
def test_skew(
    remote_wall_ms: int, max_future_ms: int, max_past_ms: int, expected: str | None
) -> None:
    """A bound is still inside; 0 disables its side."""
    assert hlc.skew(remote_wall_ms, 1_000, max_future_ms, max_past_ms) == expected
