"""What a service manager hears from the real process, from its start to its end.

When it is told that the daemon lives, and when not, is tested to the second in
tests/unit/test_manager.py.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmem_replicator.store.locks import DAEMON
from tests.e2e.daemon import Daemon, daemon, is_free
from tests.e2e.database_trouble import move_away
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.service_manager import ServiceManager

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = pytest.mark.slow

WATCHDOG_S = 1.5
IDLE = "1 active peer, 1 idle"
BEFORE_READY = {"STATUS", "WATCHDOG", "EXTEND_TIMEOUT_USEC"}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify") as listening:
        yield listening


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "replicator.toml"
    file.write_text("")
    return file


@pytest.fixture
def running(
    adopted: Receiver, manager: ServiceManager, config: Path, tmp_path: Path
) -> Iterator[Daemon]:
    """A daemon under a manager that watches it."""
    env = manager.environ(watchdog_s=WATCHDOG_S)
    with daemon(tmp_path, adopted.database, config=config, env=env) as made:
        yield made


def test_from_its_start_to_its_end(
    running: Daemon,
    manager: ServiceManager,
    adopted: Receiver,
    server: PageServer,
    config: Path,
) -> None:
    """READY, how it stands, RELOADING and READY again, STOPPING, in this order."""
    before = manager.wait_for({"READY": "1"})
    assert all(set(message) <= BEFORE_READY for message in before[:-1])
    assert "active peer" in before[-1]["STATUS"]
    assert not is_free(adopted.database, DAEMON), "ready before the daemon's lock was taken"
    assert running.said("replicator.started")
    running.wait_for_state(server, "idle")

    server.always = misbehaviour.status(403)
    manager.wait_for({"STATUS": "1 active peer, 1 blocked"})

    for text, result in (("blocked_retry_s = 0.2\n", "applied"), ("page_size = 0\n", "refused")):
        taken_ms = running.row(server)["holder_since_ms"]
        config.write_text(text)
        began = time.monotonic()
        running.send(signal.SIGHUP)
        reloading = manager.wait_for({"RELOADING": "1"})[-1]
        assert began <= int(reloading["MONOTONIC_USEC"]) / 1e6 <= time.monotonic()
        manager.wait_for({"READY": "1"})
        assert running.said("replicator.reload")[-1]["result"] == result
        in_use = running.row(server)["holder_since_ms"] != taken_ms
        assert in_use is (result == "applied")

    running.send(signal.SIGTERM)
    manager.wait_for({"STOPPING": "1"})
    assert running.ended() == 0
    assert "READY" not in str(manager_rest(manager))


def manager_rest(manager: ServiceManager) -> list[dict[str, str]]:
    """What is still to be heard."""
    rest = []
    while True:
        try:
            rest.append(manager.hear(0.0))
        except (TimeoutError, BlockingIOError):
            return rest


def test_signs_of_life_come_while_it_works_and_not_while_it_hangs(
    running: Daemon, manager: ServiceManager, server: PageServer
) -> None:
    """At least one in each span of the watchdog; a process that stands still sends none."""
    running.wait_for_state(server, "idle")
    manager.wait_for({"READY": "1"})
    manager.wait_for({"WATCHDOG": "1"})
    for _ in range(3):
        assert manager.wait_for({"WATCHDOG": "1"}, patience_s=WATCHDOG_S)
    with running.frozen():
        manager_rest(manager)
        with pytest.raises(TimeoutError):
            manager.hear(WATCHDOG_S)
    manager.wait_for({"WATCHDOG": "1"})
    running.stop()


def test_it_lives_while_its_database_is_gone(
    running: Daemon, manager: ServiceManager, adopted: Receiver, tmp_path: Path
) -> None:
    """A restart would mend nothing; what it waits for is said."""
    manager.wait_for({"STATUS": IDLE})
    aside = tmp_path / "aside.db"
    move_away(adopted.database, aside)
    running.wait_for_line("replicator.local_db", gate="closed")
    heard = manager.wait_for({"WATCHDOG": "1"})
    while not any("held up by the database: " in said.get("STATUS", "") for said in heard):
        heard += manager.wait_for({"WATCHDOG": "1"}, patience_s=WATCHDOG_S)
    for _ in range(3):
        assert manager.wait_for({"WATCHDOG": "1"}, patience_s=WATCHDOG_S)
    move_away(aside, adopted.database)
    manager.wait_for({"STATUS": IDLE})
    running.stop()
