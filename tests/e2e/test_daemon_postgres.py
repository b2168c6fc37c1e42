"""The daemon on PostgreSQL: sessions that are lost, a server that restarts, who works on a peer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.conftest import make_cli
from tests.e2e.daemon import POLL_S, SOON_S, Daemon, daemon
from tests.e2e.page_pulls import assert_failed
from tests.nodes.database import PostgresDatabase
from tests.nodes.node import Node
from tests.nodes.postgres import node_settings
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.nodes.environment import NodeEnvironment
    from tests.nodes.postgres import PostgresServer

pytestmark = pytest.mark.slow

EVENT: Final = "replicator.local_db"
LASTS_S: Final = 2.5 * POLL_S


class PostgresReceiver(Receiver):
    """A receiver whose node keeps its data in PostgreSQL."""

    def __init__(self, store: PostgresDatabase) -> None:
        super().__init__(Path("nowhere"))
        self.store = store

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self.store.records(sql, parameters)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.store.run(sql.replace("INSERT OR REPLACE", "INSERT"), *parameters)


@dataclass(slots=True)
class World:
    """A receiver on PostgreSQL with one peer, and the daemon between them."""

    postgres: PostgresServer
    receiver: PostgresReceiver
    server: PageServer
    daemon: Daemon
    cli: Cli
    folder: Path

    def has(self, fact_id: str) -> bool:
        return fact_id in self.receiver.fact_ids(self.server)

    def arrives(self, fact_id: str) -> None:
        self.daemon.wait(lambda: self.has(fact_id), "the new fact")
        self.daemon.wait_for_state(self.server, "idle")
        self.server.origin.ledger.assert_clean(self.receiver.store)

    def pull(self, *words: str, check: bool = True) -> Any:  # noqa: ANN401 - a CliResult
        env = self.receiver.store.settings
        return self.cli("pull", "--peer", self.server.node_id, *words, env=env, check=check)

    @contextmanager
    def another(self) -> Iterator[Daemon]:
        with daemon(self.folder, self.receiver.store) as running:
            yield running


@pytest.fixture(scope="module")
def shared(
    postgres_server: PostgresServer,
    node_environment: NodeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("daemon-postgres")
    url = postgres_server.node_database(node_environment)
    node = Node(node_environment, folder / "node", settings=node_settings(url))
    try:
        node.prepare()
    finally:
        node.close()
    receiver = PostgresReceiver(PostgresDatabase(url))
    with PageServer() as server:
        server.origin.add_many(10)
        receiver.adopt(server)
        with daemon(folder, receiver.store) as running:
            cli = make_cli(folder)
            yield World(postgres_server, receiver, server, running, cli, folder)
            if running.running:
                running.stop()
    postgres_server.drop_database(url)


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    shared.daemon.wait_until_held(shared.server)
    shared.daemon.wait_for_state(shared.server, "idle")
    yield shared
    shared.daemon.wait_until_held(shared.server)
    shared.daemon.wait_for_state(shared.server, "idle")
    assert shared.daemon.row(shared.server)["failures"] == 0


def test_a_pull_gets_the_peer_and_gives_it_back(world: World) -> None:
    new = world.server.origin.add()
    assert world.pull().returncode == 0
    assert world.has(new)
    world.daemon.wait_until_held(world.server, SOON_S)
    world.arrives(world.server.origin.add())


def test_a_daemon_that_stands_still_is_named(world: World) -> None:
    """A pull that does not get the peer in time is exit 8 and says who has it."""
    with world.daemon.frozen():
        said = world.pull("--wait", "1", check=False)
    assert f"process {world.daemon.pid} on " in assert_failed(said, "peer_held", 8)
    assert world.pull().returncode == 0


def test_the_server_restarts(world: World) -> None:
    """While it is away that is told once, with its cause; then all goes on without a restart.

    A daemon that is asked to end meanwhile does.
    """
    before, told = world.daemon.row(world.server), len(world.daemon.said(EVENT))
    with world.another() as second:
        second.wait_for_line("replicator.started")
        world.postgres.stop()
        try:
            new = world.server.origin.add()
            took = world.daemon.wait(
                lambda: len(world.daemon.said(EVENT)) > told, "word that the database is away"
            )
            print(f"told after {took:.2f} s")
            second.wait_for_line(EVENT, gate="closed")
            until = time.monotonic() + LASTS_S
            world.daemon.wait(lambda: time.monotonic() > until, "the server to be away for a while")
            print(f"the second daemon ended in {second.stop():.2f} s")
            assert len(world.daemon.said(EVENT)) == told + 1
        finally:
            world.postgres.start()
    took = world.daemon.wait(lambda: world.has(new), "the new fact")
    print(f"goes on {took:.2f} s after the server does")
    world.arrives(new)
    closed, opened = world.daemon.said(EVENT)[told:]
    assert closed["reason"] == opened["reason"] == "local_db"
    assert closed["cause"] == "database_failed"
    after = world.daemon.row(world.server)
    for name in ("state", "reason", "failures", "since_ms"):
        assert after[name] == before[name]


def test_every_session_is_ended(world: World) -> None:
    """An operator ends the daemon's sessions: it takes its peer again and goes on."""
    world.receiver.store.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    world.arrives(world.server.origin.add())
    world.daemon.wait_until_held(world.server)
    said = world.pull("--wait", "0", check=False)
    assert said.returncode in {0, 8}  # it is the daemon's, which may have let go in time


def test_a_second_daemon_takes_over(shared: World) -> None:
    """It has nothing to do until the first is gone; then it takes over at once.

    The last of these tests: the daemon that they shared does not come back.
    """
    first = shared.daemon
    first.wait_until_held(shared.server)
    with shared.another() as second:
        second.wait_for_line("replicator.started")
        shared.arrives(shared.server.origin.add())
        assert first.holds(shared.server)
        first.kill()
        print(f"taken over after {second.wait_until_held(shared.server, SOON_S):.2f} s")
        new = shared.server.origin.add()
        second.wait(lambda: shared.has(new), "the new fact")
        second.stop()
