"""The client keeps to its rates: it waits before a request, and after what it read."""

from __future__ import annotations

import anyio.lowlevel
import pytest

from stigmem_replicator.clock import SystemClock
from stigmem_replicator.settings import Settings
from stigmem_replicator.transport.client import Limits, PeerClient
from stigmem_replicator.transport.network import Destination, open_network
from tests.pages.server import PageServer

pytestmark = pytest.mark.anyio
pytest_plugins = ("tests.pages.fixtures",)

PATH = "/.well-known/stigmem-manifest.json"


class Still(SystemClock):
    """A clock by which no time passes but what was slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("shared", [True, False])
async def test_the_third_request_of_a_second_waits(server: PageServer, shared: bool) -> None:  # noqa: FBT001
    """Two requests a second, for all peers or for this one: the third waits half a second."""
    clock = Still()
    rate = 2.0
    settings = Settings(federation_insecure=True, requests_per_s=rate if shared else 0.0)
    limits = Limits(5.0, 5.0, 5.0, 1 << 20, 60.0, requests_per_s=0.0 if shared else rate)
    network = open_network(settings, clock, clock.sleep)
    async with PeerClient(Destination(server.url, None), network, limits) as client:
        for _ in range(3):
            await client.get(PATH)
    assert clock.slept == [0.5]


async def test_bytes_are_paid_for_after_they_were_read(server: PageServer) -> None:
    """An answer of more than a second's bytes is read on once they are paid for."""
    clock = Still()
    network = open_network(Settings(federation_insecure=True), clock, clock.sleep)
    limits = Limits(5.0, 5.0, 5.0, 1 << 20, 60.0, bytes_per_s=100.0)
    async with PeerClient(Destination(server.url, None), network, limits) as client:
        answer = await client.get(PATH)
    assert sum(clock.slept) == pytest.approx((len(answer.body) - 100) / 100)
