"""What holds for all engine tests: a turn ends by its pages, unless a test is about its time.

Where durations pass fifty times as fast, half a minute is over before a slow machine has read a
few pages.
"""

from __future__ import annotations

import pytest

from stigmem_replicator.engine import stream


@pytest.fixture(autouse=True)
def turns_end_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every turn all the time of the test."""
    monkeypatch.setattr(stream, "TURN_SECONDS", 86_400.0)
