"""Two daemons on one database, and everything that disturbs them, at random and all at once.

DISTURBED_SECONDS=60 and DISTURBED_SEED=7 make it longer or another story than the usual one;
`make soak` takes five minutes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.conftest import cli_environ
from tests.e2e.daemon import Daemon, daemon
from tests.e2e.database_trouble import locked
from tests.forked import Forked
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, honestly

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")
pytestmark = pytest.mark.slow

SECONDS: Final = float(os.environ.get("DISTURBED_SECONDS", "6"))
SEED: Final = int(os.environ.get("DISTURBED_SEED", "20260107"))
PEERS: Final = 3
PAUSE_S: Final = 0.3
HEALED_S: Final = 60.0
CONFIGURATION: Final = 3
"""The exit code of a command that could not use its database."""
BAD: Final = (
    misbehaviour.status(500),
    misbehaviour.status(429, headers={"Retry-After": "1"}),
    misbehaviour.truncated,
    misbehaviour.slammed,
    misbehaviour.stalled,
    misbehaviour.version_one,
)


class Disturber:
    """Does one thing after the other to a receiver, its peers and its daemons."""

    def __init__(self, receiver: Receiver, servers: list[PageServer], folder: Path) -> None:
        self.receiver = receiver
        self.servers = servers
        self.chance = random.Random(SEED)
        self.daemons: list[Daemon] = []
        self.done: dict[str, int] = {}
        self._folder = folder
        self._stack = ExitStack()
        self._commands: list[Forked] = []
        self._log = self._stack.enter_context((folder / "commands.log").open("ab"))
        for _ in range(2):
            self._begin()

    def close(self) -> None:
        for command in self._commands:
            command.kill()
            command.wait()
        self._stack.close()

    def disturb(self) -> None:
        """Do something, whatever it is."""
        does = (
            self._pull,
            self._kill_pulls,
            self._pause,
            self._reset,
            self._revoke,
            self._activate,
            self._answer_badly,
            self._add,
            self._lock,
            self._freeze,
            self._kill_daemon,
        )
        do = self.chance.choice(does)
        do(self.chance.choice(self.servers))
        self.done[do.__name__] = self.done.get(do.__name__, 0) + 1

    def settle(self, here: Here) -> None:
        """End what was begun, and take back what an operator did."""
        for command in self._commands:
            command.wait(HEALED_S)
        self._activate()
        for server in self.servers:
            server.always = honestly
            for words in (("peers", "resume", server.node_id), _reset_of(server)):
                assert here(*words, db=self.receiver.database).code == 0

    def wait_for_all_of(self, server: PageServer) -> None:
        """Wait until a daemon has everything of a peer; nothing may be there twice."""
        self.mind_daemons()
        one, other = self.daemons
        last = server.origin.add()
        one.wait(lambda: last in self.receiver.fact_ids(server), "the last fact", HEALED_S)
        one.wait_for_state(server, "idle")
        one.wait(lambda: one.holds(server) or other.holds(server), "a daemon to hold the peer")
        self.receiver.assert_clean(server)

    def mind_daemons(self) -> None:
        """Expect every daemon to run; one that found the database locked at its start may not."""
        for running in list(self.daemons):
            if not running.running:
                assert running.process.returncode == CONFIGURATION, running.tail()
                assert "(database_locked)" in running.tail()
                assert "replicator.started" not in running.tail()
                self.daemons.remove(running)
                self._begin()

    # --- what disturbs

    def _begin(self) -> None:
        running = daemon(
            self._folder,
            self.receiver.database,
            poll_interval_s=0.5,
            page_size=5,
            database_timeout_s=1,
            backoff_cap_s=1,
            backoff_throttled_cap_s=1,
            backoff_protocol_cap_s=1,
            blocked_retry_s=1,
        )
        self.daemons.append(self._stack.enter_context(running))

    def _command(self, *words: str) -> None:
        database = str(self.receiver.database)
        self._commands.append(
            Forked(
                ["--db", database, *words],
                folder=self._folder,
                environ=cli_environ(self._folder, None),
                stdout=self._log,
                stderr=self._log,
            )
        )

    def _pull(self, server: PageServer) -> None:
        self._command("pull", "--peer", server.node_id, "--max-pages", "4")

    def _kill_pulls(self, _server: PageServer) -> None:
        for command in self._commands:
            command.kill()

    def _pause(self, server: PageServer) -> None:
        self._command("peers", "pause", server.node_id, "--until", "2s")

    def _reset(self, server: PageServer) -> None:
        self._command(*_reset_of(server))

    def _revoke(self, server: PageServer) -> None:
        statement = "UPDATE peers SET status = 'revoked' WHERE node_id = ?"
        self.receiver.execute(statement, [server.node_id])

    def _activate(self, _server: PageServer | None = None) -> None:
        self.receiver.execute("UPDATE peers SET status = 'active'")

    def _answer_badly(self, server: PageServer) -> None:
        server.script(*self.chance.choices(BAD, k=3))

    def _add(self, server: PageServer) -> None:
        server.origin.add_many(self.chance.randint(1, 10))

    def _lock(self, _server: PageServer) -> None:
        with locked(self.receiver.database):
            time.sleep(self.chance.uniform(0.0, 1.5))

    def _freeze(self, _server: PageServer) -> None:
        with self.chance.choice(self.daemons).frozen():
            time.sleep(self.chance.uniform(0.0, 1.0))

    def _kill_daemon(self, _server: PageServer) -> None:
        self.daemons.pop(0).send(self.chance.choice([signal.SIGKILL, signal.SIGTERM]))
        self._begin()


def _reset_of(server: PageServer) -> tuple[str, ...]:
    return ("cursor", "reset", "--peer", server.node_id, "--yes")


@pytest.fixture
def disturber(receiver: Receiver, tmp_path: Path) -> Iterator[Disturber]:
    with ExitStack() as stack:
        servers = [stack.enter_context(PageServer()) for _ in range(PEERS)]
        for server in servers:
            server.origin.add_many(150)
            server.always = misbehaviour.slow(0.05)
            receiver.adopt(server)
        made = Disturber(receiver, servers, tmp_path)
        stack.callback(made.close)
        yield made


def test_whatever_happens_each_fact_is_there_once(disturber: Disturber, here: Here) -> None:
    """When it is over the daemons bring everything, by themselves, and met nothing unexpected."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        disturber.disturb()
        time.sleep(disturber.chance.uniform(0.0, PAUSE_S))
        disturber.mind_daemons()
    disturber.settle(here)
    for server in disturber.servers:
        disturber.wait_for_all_of(server)
    for running in disturber.daemons:
        assert not running.said("replicator.unexpected")
        running.stop()
    print(f"seed {SEED}: {disturber.done}")
    assert len(disturber.done) > 5
