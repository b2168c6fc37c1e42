"""What holds for all engine tests: both async backends, and a turn that ends by its pages.

Where durations pass fifty times as fast, half a minute is over before a slow machine has read a
few pages.
"""

from __future__ import annotations

from typing import Any

import pytest

from stigmem_replicator.engine import stream


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - a name
    """Both, named: where one is not installed the test fails and is not left out."""
    return request.param


@pytest.fixture(autouse=True)
def turns_end_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every turn all the time of the test."""
    monkeypatch.setattr(stream, "TURN_SECONDS", 86_400.0)
