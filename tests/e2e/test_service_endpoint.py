"""The endpoint of the real daemon: the same words as everywhere else, and a port that is taken."""

from __future__ import annotations

import html
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import Daemon, daemon, receiver_of
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.service_manager import ServiceManager

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")
pytestmark = pytest.mark.slow

Words = dict[str, tuple[str, str | None]]
"""State and reason of each peer, by node id."""


@dataclass(slots=True)
class World:
    """A daemon and its peers: one is well, one asks to wait, one refuses us."""

    running: Daemon
    receiver: Receiver
    well: PageServer
    throttling: PageServer
    refusing: PageServer


@pytest.fixture(scope="module")
def world(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("endpoint")
    receiver = receiver_of(template, folder)
    with PageServer() as well, PageServer() as throttling, PageServer() as refusing:
        for each in (well, throttling, refusing):
            each.origin.add_many(3)
            receiver.adopt(each)
        throttling.always = misbehaviour.status(429, headers={"Retry-After": "600"})
        refusing.always = misbehaviour.status(403)
        with daemon(folder, receiver.database, http_listen="127.0.0.1:0") as running:
            running.wait_for_state(well, "idle")
            running.wait_for_state(throttling, "throttled", "throttled")
            running.wait_for_state(refusing, "blocked", "forbidden")
            running.wait(lambda: "catching_up" not in running.get("/status")[1], "a picture of now")
            yield World(running, receiver, well, throttling, refusing)
            running.stop()


def in_the_list(here: Here, receiver: Receiver) -> Words:
    found: Words = {}
    for line in here("peers", "list", db=receiver.database).stdout.splitlines()[1:]:
        match = re.match(r"(\S+)  +(\w+)(?: \((\w+)\))?  ", line)
        assert match is not None, line
        found[match[1]] = match[2], match[3]
    return found


def at_a_glance(here: Here, receiver: Receiver) -> Words:
    """The table of `status`."""
    table = here("status", db=receiver.database).stdout.split("\n\n")[-1]
    rows = re.findall(r"(?m)^(stigmem:\S+)  +(\w+)(?: \((\w+)\))?  ", table)
    return {peer: (state, reason or None) for peer, state, reason in rows}


def in_the_status(running: Daemon) -> Words:
    code, text = running.get("/status")
    assert code == 200
    return {
        peer["peer"]: (peer["replication"]["state"], peer["replication"]["reason"])
        for peer in json.loads(text)["peers"]
    }


def in_the_metrics(running: Daemon) -> Words:
    on = [name for name, value in running.metrics().items() if value == 1]

    def labels(metric: str, label: str) -> dict[str, str]:
        pattern = re.compile(rf'stigmem_replicator_{metric}{{peer_id="([^"]+)",{label}="(\w+)"}}')
        return {match[1]: match[2] for name in on if (match := pattern.fullmatch(name))}

    reasons = labels("peer_reason", "reason")
    return {
        peer: (state, reasons.get(peer)) for peer, state in labels("peer_state", "state").items()
    }


def in_the_log(running: Daemon) -> Words:
    """The last line about each peer; one about its tombstones names that stream."""
    return {
        line["peer"]: (line["state"], line.get("reason"))
        for line in running.said("federation.peer.state")
        if "stream" not in line
    }


def on_the_page(running: Daemon) -> Words:
    code, text = running.get("/")
    assert code == 200
    found: Words = {}
    for row in re.findall(r"<tr role=\"row\" class=.*?</tr>", text, re.DOTALL):
        plain = html.unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", row, flags=re.DOTALL))
        words = plain.split()
        peer = next(word for word in words if word.startswith("stigmem:"))
        state, after = words[words.index(peer) + 1 :][:2]
        found[peer] = state, None if after == "for" else after
    return found


def test_the_same_words_everywhere(here: Here, world: World) -> None:
    """In `peers list`, `status`, `/status`, the metrics, the log and on the page."""
    expected: Words = {
        world.well.node_id: ("idle", None),
        world.throttling.node_id: ("throttled", "throttled"),
        world.refusing.node_id: ("blocked", "forbidden"),
    }
    assert in_the_list(here, world.receiver) == expected
    assert at_a_glance(here, world.receiver) == expected
    assert in_the_status(world.running) == expected
    assert in_the_metrics(world.running) == expected
    assert in_the_log(world.running) == expected
    assert on_the_page(world.running) == expected


def test_peers_in_trouble_are_no_trouble_of_the_daemon(here: Here, world: World) -> None:
    """It is healthy and ready; asked for a lag it is not, and a check tells who needs somebody."""
    assert world.running.get("/healthz") == (200, "ok\n")
    assert world.running.get("/readyz") == (200, "ok\n")
    code, text = world.running.get("/readyz?max_lag=5m")
    assert code == 503
    assert world.refusing.node_id in text
    checked = here("status", "--check", db=world.receiver.database)
    assert checked.code == 9
    assert f"{world.refusing.node_id} is blocked (forbidden)" in checked.stdout


def test_a_port_that_is_taken(
    cli: Cli, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """Exit 3 and one line that names the setting; no peer was asked and nobody is told of READY."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        ServiceManager(tmp_path / "notify") as manager,
    ):
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = {
            "STIGMEM_FEDERATION_INSECURE": "true",
            "STIGMEM_REPLICATOR_HTTP_LISTEN": address,
            **manager.environ(),
        }
        result = cli("run", db=adopted.database, env=env, check=False)
        with pytest.raises(TimeoutError):
            manager.hear(0.0)
    assert (result.returncode, result.stdout) == (3, "")
    *logged, line = result.stderr.splitlines()
    assert all(json.loads(text)["event"] == "federation.insecure" for text in logged)
    assert line.startswith(f"stigmem-replicate: http_listen is {address} (from environment ")
    assert "Address already in use (configuration_invalid); " in line
    assert server.requests == []
