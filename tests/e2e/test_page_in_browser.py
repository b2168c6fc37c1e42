"""The status page in a real browser, where one is installed: styled, whole, and asking nobody."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stigmem_replicator.clock import SystemClock
from stigmem_replicator.observe.metrics import Metrics
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.http import Endpoint
from stigmem_replicator.service.site import Application, Site
from stigmem_replicator.settings import Listen
from tests.pictures import board, realistic

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    clock = SystemClock()
    hung = board(realistic(), looked_at=clock.monotonic())
    site = Site(hung, Metrics(hung, clock), clock, Patience(), clock.monotonic())
    with Endpoint(Listen("127.0.0.1", 0), Application(site), clock) as made:
        yield made


def requests(log: Path) -> set[tuple[str, str]]:
    """The requests in a browser's log of its network: the address, and the page that asked."""
    events = json.loads(log.read_text("utf-8"))["events"]
    asked = [event.get("params", {}) for event in events]
    return {(each["url"], each["initiator"]) for each in asked if {"url", "initiator"} <= {*each}}


@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_a_browser_shows_it_and_asks_no_other_host(
    endpoint: Endpoint, tmp_path: Path, size: str
) -> None:
    """Nothing of it is refused by its own policy; every request goes to the endpoint."""
    assert BROWSER is not None
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            BROWSER,
            *QUIET,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={size}",
            f"--log-net-log={log}",
            "--dump-dom",
            f"http://{endpoint.address}/?refresh=off",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "Content Security Policy" not in done.stderr
    assert "https://oslo.example:8765" in done.stdout
    origin = f"http://{endpoint.address}"
    asked = requests(log)
    assert (f"{origin}/?refresh=off", "not an origin") in asked
    # A browser also talks to its maker, in its own name.
    by_page = {url for url, initiator in asked if initiator == origin}
    assert {urlsplit(url).netloc for url in by_page} <= {str(endpoint.address)}
