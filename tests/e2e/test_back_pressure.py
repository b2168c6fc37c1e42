"""A peer that is behind its own origins says so; it is left alone as long as it asks, and shown."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import Exchange, PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.pages.fixtures", "tests.e2e.here")

OVERLOADED = {"error": "relay_lag_exceeded", "lag_ms": 400_000, "retry_after_s": 120}


def lagging(exchange: Exchange) -> None:
    """Answer honestly, a minute behind."""
    exchange.send(200, exchange.page(), {"X-Stigmem-Replication-Lag": "61000"})


def shown(here: Here, receiver: Receiver, server: PageServer) -> dict[str, object]:
    said = here("peers", "show", server.node_id, "--json", db=receiver.database)
    document: dict[str, object] = json.loads(said.stdout)["replication"]
    return document


def test_a_lagging_peer_is_left_alone_as_long_as_it_asks(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A 503 with the wait in its body alone is `throttled` for that long; the lag is shown."""
    server.script(misbehaviour.status(503, body=json.dumps(OVERLOADED).encode()))
    words = ("pull", "--peer", server.node_id, "--wait", "0")
    line = here(*words, db=adopted.database).failed("throttled", 5)
    assert "relay_lag_exceeded" in line
    assert "--wait 121" in line
    assert shown(here, adopted, server)["upstream_lag_ms"] == OVERLOADED["lag_ms"]
    listed = here("peers", "list", db=adopted.database).stdout
    assert re.search(r"throttled \(throttled\)  upstream lag 7 min +- +1 ", listed)
    here(*words, db=adopted.database).failed("throttled", 5)
    assert len(server.requests) == 1


def test_an_upstream_lag_is_told_until_it_is_over(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """The header of a good page is in the summary, the JSON and `peers show`, until it is gone."""
    server.origin.add_many(1)
    server.script(lagging, lagging)
    words = ("pull", "--peer", server.node_id)
    assert "upstream lag 61 s" in here(*words, db=adopted.database).stdout
    assert shown(here, adopted, server)["upstream_lag_ms"] == 61_000
    said = here(*words, "--json", db=adopted.database)
    assert json.loads(said.stdout)["upstream_lag_ms"] == 61_000
    assert "upstream" not in here(*words, db=adopted.database).stdout
    assert shown(here, adopted, server)["upstream_lag_ms"] is None
