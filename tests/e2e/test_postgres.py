"""Pulling into a real node's PostgreSQL: what arrives, who may pull, a connection that is cut."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import cli_environ, make_cli
from tests.forked import Forked
from tests.nodes.bulk import assert_in_bulk
from tests.nodes.database import PostgresDatabase
from tests.nodes.fact_corpus import facts, uncarriable_facts
from tests.nodes.federation import introduce, peer
from tests.nodes.ledger import Ledger
from tests.nodes.node import Node
from tests.nodes.postgres import node_settings
from tests.nodes.proxy import Cut, CuttingProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Cli
    from tests.nodes.environment import NodeEnvironment
    from tests.nodes.postgres import PostgresServer

FACTS = 150
ENOUGH = 100
WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class World:
    """Two running nodes on PostgreSQL, and the receiver's database before anything was pulled."""

    server: PostgresServer
    origin: Node
    receiver: Node
    ledger: Ledger
    snapshot: str
    """The URL of the database to copy."""

    def copy(self) -> PostgresDatabase:
        """Return a database like the receiver's, on which no node runs."""
        return PostgresDatabase(self.server.create_database(name_of(self.snapshot)))


def name_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


@pytest.fixture(scope="module")
def world(
    postgres_server: PostgresServer,
    node_environment: NodeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("postgres")
    urls = [postgres_server.create_database() for _ in range(2)]
    origin, receiver = (
        Node(node_environment, folder / name, name=name, settings=node_settings(url))
        for name, url in zip(("origin", "receiver"), urls, strict=True)
    )
    with origin, receiver:
        peer(origin, receiver)
        receiver.stop()  # a database can be copied while nobody is connected to it
        snapshot = postgres_server.create_database(name_of(urls[1]))
        receiver.start()
        yield World(postgres_server, origin, receiver, assert_corpus(origin), snapshot)


def assert_corpus(origin: Node) -> Ledger:
    """Have facts of every kind at the origin, and know which of them nobody can verify."""
    ledger = Ledger(origin.node_id)
    corpus = facts(FACTS, namespace="postgres")
    asserted = assert_in_bulk(origin, corpus)
    # PostgreSQL's REAL has seven digits: a longer confidence is not served as it was signed.
    kept: dict[str, float] = dict(origin.store.query("SELECT id, confidence FROM facts"))
    for said, fact in zip(asserted, corpus, strict=True):
        ledger.acknowledge([said], refusable=kept[said.id] != fact.confidence)
    ledger.acknowledge(assert_in_bulk(origin, uncarriable_facts()), refusable=True)
    ledger.adopt(origin.store)
    return ledger


@pytest.fixture
def database(world: World) -> Iterator[PostgresDatabase]:
    """A database of this test's own, like the receiver's before anything was pulled."""
    copy = world.copy()
    yield copy
    world.server.drop_database(copy.location)


def environ(database: PostgresDatabase, **more: str) -> dict[str, str]:
    """The settings of the receiver's node that say where its data is."""
    return {**database.settings, **more}


def pull(cli: Cli, world: World, env: dict[str, str]) -> dict[str, Any]:
    """Pull everything from the origin, and return the summary."""
    said = cli("pull", "--peer", world.origin.node_id, "--json", env=env)
    summary: dict[str, Any] = json.loads(said.stdout)
    assert summary["caught_up"]
    return summary


def status(database: PostgresDatabase) -> dict[str, Any]:
    (row,) = database.rows("replicator_peers")
    return row


@pytest.fixture(scope="module")
def summary(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the pull into the running receiver's database said."""
    cli = make_cli(tmp_path_factory.mktemp("pull"))
    return pull(cli, world, {**world.receiver.settings})


class TestRunningReceiver:
    """A pull into the database of a node that runs, with the settings of that node."""

    def test_everything_arrives_once(self, world: World, summary: dict[str, Any]) -> None:
        """Of what the origin acknowledged nothing is lost, doubled, incomplete or refused."""
        verdict = world.ledger.assert_clean(world.receiver.store)
        assert len(verdict.admitted) == summary["new"] > ENOUGH
        assert verdict.refused.keys() == world.ledger.refusable

    @pytest.mark.usefixtures("summary")
    def test_values_are_carried_to_the_letter(self, world: World) -> None:
        """Every column that makes a fact what it is, is the origin's."""
        columns = "id, entity, relation, value_type, value_v, source, timestamp, valid_until"
        sql = f"SELECT {columns}, confidence, scope, interpret_as, cid FROM facts"  # noqa: S608
        held = world.origin.store.query(f"{sql} ORDER BY id")
        came = world.receiver.store.query(
            f"{sql} WHERE received_from = ? ORDER BY id", world.origin.node_id
        )
        carried = world.ledger.acknowledged - world.ledger.refusable
        assert [row for row in came if row[0] in carried] == [
            row for row in held if row[0] in carried
        ]

    @pytest.mark.usefixtures("summary")
    def test_the_node_serves_what_was_written_for_it(self, world: World) -> None:
        """A fact that the replicator wrote is a fact of the running node."""
        fact_id = min(world.ledger.acknowledged - world.ledger.refusable)
        served, asserted = world.receiver.fact(fact_id), world.origin.fact(fact_id)
        assert served is not None
        assert asserted is not None
        assert served["value"] == asserted["value"]
        assert served["received_from"] == world.origin.node_id

    @pytest.mark.usefixtures("summary")
    def test_the_node_goes_on_stamping_above_what_came(self, world: World) -> None:
        """The node's own clock is not confused by our rows: what it asserts next is readable."""
        said = world.receiver.assert_fact("here:afterwards", "test:name", "mine")
        assert world.receiver.fact(said["id"]) is not None


def test_pulling_again_adds_nothing(cli: Cli, world: World, database: PostgresDatabase) -> None:
    """A second pull finds everything there, and writes nothing into the node's tables."""
    env = environ(database)
    first = pull(cli, world, env)
    tables = {"facts", "conflicts", "fact_audit_log", "federation_audit"}
    before = {table: rows for table, rows in database.dump().items() if table in tables}
    second = pull(cli, world, env)
    assert {table: rows for table, rows in database.dump().items() if table in tables} == before
    assert (first["new"] > ENOUGH, second["new"]) == (True, 0)
    world.ledger.assert_clean(database)


def test_reading_commands_read_it(cli: Cli, world: World, database: PostgresDatabase) -> None:
    """Peers, cursors, dead letters and our own schema are shown as from a SQLite file."""
    env = environ(database)
    assert "never pulled" in cli("peers", "list", env=env).stdout
    pull(cli, world, env)
    (listed,) = json.loads(cli("peers", "list", "--json", env=env).stdout)
    assert (listed["peer"], listed["replication"]["state"]) == (world.origin.node_id, "idle")
    assert world.origin.node_id in cli("cursor", "show", env=env).stdout
    letters = json.loads(cli("dead-letters", "list", "--limit", "500", "--json", env=env).stdout)
    assert {letter["entry_id"] for letter in letters} == world.ledger.refusable
    current = cli("db", "current", env=env).stdout
    assert status(database)["commit_number"] > 0
    assert current.strip()
    cli("db", "drop", "--yes", env=env)
    assert not any(table.startswith("replicator_") for table in database.tables())


def test_passwords_are_not_shown(cli: Cli, world: World, database: PostgresDatabase) -> None:
    """Neither a summary nor a failure says the password in the database's URL."""
    env = environ(database)
    gone = environ(PostgresDatabase(world.server.url("no_such_database")))
    failed = cli("--log-level", "debug", "pull", "--all", env=gone, check=False)
    assert failed.returncode == 3
    assert "no_such_database" in failed.stderr
    for said in (
        failed,
        cli("pull", "--all", env=env),
        cli("config", "show", env=env),
        cli("peers", "list", "--json", env=env),
    ):
        assert world.server.password not in said.stdout + said.stderr


def test_the_nodes_schema_may_have_another_name(
    cli: Cli, world: World, node_environment: NodeEnvironment, tmp_path: Path
) -> None:
    """A second node in the same database, in a schema of its own, gets its own facts and tables."""
    shared = world.copy()
    settings = node_settings(shared.location, "second")
    with Node(node_environment, tmp_path / "second", name="second", settings=settings) as second:
        introduce(second, world.origin)
        introduce(world.origin, second)
        before = shared.dump()
        pull(cli, world, {**second.settings})
        world.ledger.assert_clean(second.store)
        assert shared.dump() == before
        pull(cli, world, environ(shared))
        world.ledger.assert_clean(shared)
    world.server.drop_database(shared.location)


@pytest.mark.parametrize("cut", Cut)
def test_a_connection_cut_at_commit(
    cli: Cli, world: World, database: PostgresDatabase, cut: Cut
) -> None:
    """A batch whose answer is lost is applied once: the peer's commit number tells that it is.

    One whose COMMIT never arrived is not applied, and the pull says so; the next one goes on.
    """
    words = ("pull", "--peer", world.origin.node_id, "--json")
    with CuttingProxy(world.server.port, cut, word=b"INSERT INTO facts") as proxy:
        url = world.server.url(name_of(database.location), port=proxy.port)
        said = cli(*words, env=environ(database, STIGMEM_PG_DSN=url), check=False)
    assert proxy.cuts == 1
    if cut is Cut.AFTER_COMMIT:
        assert said.returncode == 0, said.stderr
        summary = json.loads(said.stdout)
        assert summary["caught_up"]
    else:
        assert said.returncode == 3, said.stderr
        assert status(database)["commit_number"] == 0
        summary = pull(cli, world, environ(database))
    verdict = world.ledger.assert_clean(database)
    row = status(database)
    assert len(verdict.admitted) == summary["new"] == row["admitted"]
    assert len(verdict.refused) == row["rejected"]
    assert pull(cli, world, environ(database))["new"] == 0


@contextmanager
def stopped(node: Node) -> Iterator[None]:
    """Have a node take connections and answer nothing."""
    assert node.pid is not None
    os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


def test_one_process_at_a_time(
    cli: Cli, world: World, database: PostgresDatabase, tmp_path: Path
) -> None:
    """A second pull of a peer is exit 8 and names who works on it; a killed one lets go."""
    words = ("pull", "--peer", world.origin.node_id)
    env = environ(database)
    cli("db", "upgrade", env=env)
    with (
        stopped(world.origin),
        Forked(words, folder=tmp_path, environ=cli_environ(tmp_path, env)) as first,
    ):
        try:
            _wait_for_holder(database, first.pid)
            second = cli(*words, "--wait", "0", env=env, check=False)
            assert second.returncode == 8
            assert "(peer_held)" in second.stderr
            assert f"process {first.pid} on " in second.stderr
        finally:
            first.kill()
    pull(cli, world, env)
    world.ledger.assert_clean(database)


def _wait_for_holder(database: PostgresDatabase, pid: int) -> None:
    until = time.monotonic() + WAIT_S
    while database.query("SELECT holder_pid FROM replicator_peers") != [(pid,)]:
        assert time.monotonic() < until
        time.sleep(0.05)
