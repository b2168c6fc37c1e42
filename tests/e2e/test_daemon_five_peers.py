"""One daemon and five peers beside a running node: each peer fares as it deserves, alone.

Two are healthy real nodes, one never answers, one asks to wait, one sends poison.  The tests are
parts of one story and run in their order.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.daemon import POLL_S, STOP_S, Daemon, HasNodeId, daemon
from tests.nodes.bulk import InsideNode
from tests.nodes.database import SqliteDatabase
from tests.nodes.fact_corpus import Fact, plain_facts
from tests.nodes.federation import introduce
from tests.nodes.ledger import Ledger
from tests.nodes.node import Node
from tests.pages import misbehaviour
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import Held, PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here
    from tests.nodes.environment import NodeEnvironment

pytest_plugins = ("tests.e2e.here",)
pytestmark = pytest.mark.slow

RETRY_AFTER_S: Final = 30
FORGED: Final = 60
"""More refused entries in a row than a peer is granted."""
SEEN_S: Final = 5.0
"""A change of the registry is seen by then."""
TWO_POLLS_S: Final = 2 * 1.2 * POLL_S
"""Two intervals, each a fifth longer than it is set."""
SLACK_S: Final = 4.0
"""What a busy machine may need for the rest."""


@dataclass(slots=True)
class World:
    """A running receiver and those that it hears."""

    receiver: Node
    first: Node
    """Healthy, and a peer from the start."""
    second: Node
    """Healthy, and registered while the daemon runs."""
    silent: PageServer
    throttling: PageServer
    poisonous: PageServer
    folder: Path
    ledgers: dict[str, Ledger] = field(default_factory=dict)

    @property
    def database(self) -> Receiver:
        return Receiver(self.receiver.database)

    @property
    def servers(self) -> tuple[PageServer, ...]:
        return self.silent, self.throttling, self.poisonous

    def assert_fact(self, origin: Node) -> str:
        """Have a new fact at a healthy peer; its id."""
        ledger = self.ledgers.setdefault(origin.node_id, Ledger(origin.node_id))
        number = len(ledger.acknowledged)
        fact_id: str = origin.assert_fact(f"{origin.name}:{number}", "test:name", "new")["id"]
        ledger.acknowledge([fact_id])
        return fact_id

    def has(self, *fact_ids: str) -> bool:
        rows = self.database.query("SELECT id FROM facts WHERE received_from IS NOT NULL")
        return set(fact_ids) <= {row["id"] for row in rows}

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """A daemon with the settings of the receiver's node, and little patience."""
        config = self.folder / "replicator.toml"
        # Asked for one entry at a time, a peer cannot be asked for less when it is silent.
        config.write_text(f'[peer."{self.silent.node_id}"]\npage_size = 1\n')
        with daemon(
            self.folder,
            self.receiver.database,
            config=config,
            env={"STIGMEM_NODE_URL": self.receiver.url},
            read_timeout_s=2.0,
            backoff_cap_s=2.0,
        ) as running:
            yield running


@pytest.fixture(scope="module")
def world(
    node_environment: NodeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("five-peers")
    nodes = [
        Node(node_environment, folder / name, name=name) for name in ("receiver", "first", "second")
    ]
    with ExitStack() as stack, ThreadPoolExecutor(3) as threads:
        servers = [stack.enter_context(PageServer()) for _ in range(3)]
        for node in nodes:
            stack.callback(node.close)
        for started in [threads.submit(node.__enter__) for node in nodes]:
            started.result()
        receiver, first, second = nodes
        silent, throttling, poisonous = servers
        made = World(receiver, first, second, silent, throttling, poisonous, folder)
        introduce(made.first, made.receiver)
        for origin in (made.first, made.second):
            introduce(made.receiver, origin)
        for server in servers:
            server.origin.add()
            made.database.adopt(server)
        misbehave(made)
        yield made


def misbehave(world: World) -> None:
    world.silent.always = misbehaviour.hang
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    world.throttling.always = misbehaviour.status(429, headers=headers)
    for _ in range(FORGED):
        serve(world.poisonous.origin, poison("a signature of another key"))


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Daemon]:
    with world.daemon() as made:
        yield made


def shown(here: Here, world: World, *words: str) -> Any:  # noqa: ANN401 - what JSON holds
    said = here(*words, "--json", db=world.receiver.database)
    assert said.code == 0, said.stderr
    return json.loads(said.stdout)


def arrives(running: Daemon, world: World, fact_id: str, seconds: float, what: str) -> None:
    """Wait until a fact is there, and say how long that took."""
    took = running.wait(lambda: world.has(fact_id), what, seconds)
    print(f"{what}: {took:.2f} s")


def test_new_facts_of_a_healthy_peer_arrive_within_two_polls(world: World, running: Daemon) -> None:
    """Neither the silent, nor the throttling, nor the poisonous peer delays it."""
    running.wait_for_state(world.first, "idle")
    for _ in range(2):
        fact_id = world.assert_fact(world.first)
        arrives(running, world, fact_id, TWO_POLLS_S + SLACK_S, "a new fact of the first")


def test_the_others_are_shown_with_their_reason(world: World, running: Daemon, here: Here) -> None:
    """State, reason, what happened and when it is tried again, the same word everywhere."""
    expected = {
        world.silent: ("backing_off", "timeout"),
        world.throttling: ("throttled", "throttled"),
        world.poisonous: ("blocked", "reject_burst"),
    }
    for server, (state, reason) in expected.items():
        running.wait_for_state(server, state, reason)
    listed = {peer["peer"]: peer for peer in shown(here, world, "peers", "list")}
    for server, (state, reason) in expected.items():
        detailed = shown(here, world, "peers", "show", server.node_id)
        for document in (listed[server.node_id], detailed):
            assert document["daemon_running"] is True
            standing = document["replication"]
            assert (standing["state"], standing["reason"]) == (state, reason)
            assert standing["detail"]
            assert standing["failures"] >= 1
            assert standing["next_attempt_ms"] > standing["since_ms"]
        of_peer = [line for line in running.lines() if line.get("peer") == server.node_id]
        said = [line["reason"] for line in of_peer if line.get("state") == state]
        assert said[-1] == reason
    assert listed[world.first.node_id]["replication"]["state"] == "idle"
    text = here("peers", "list", db=world.receiver.database).stdout
    for state, reason in expected.values():
        assert f"{state} ({reason})" in text


def test_nothing_shortens_what_a_peer_asked_for(world: World, running: Daemon, here: Here) -> None:
    """Neither a resume, nor a cursor reset, a pull by hand or a change of its row.

    That it was not asked is seen at the end, when its time has come.
    """
    database, name = world.receiver.database, world.throttling.node_id
    asked_for = running.row(world.throttling)["not_before_ms"]
    for words in (
        ("peers", "pause", name),
        ("peers", "resume", name),
        ("cursor", "reset", "--peer", name, "--yes"),
    ):
        assert here(*words, db=database).code == 0
    assert "asked not to be asked" in here(
        "pull", "--peer", name, "--wait", "2", db=database
    ).failed_among("throttled", 5)
    statement = "UPDATE peers SET allowed_scopes = ? WHERE node_id = ?"
    world.database.execute(statement, ['["public"]', name])
    running.wait_until_held(world.throttling)
    assert running.row(world.throttling)["not_before_ms"] == asked_for


def test_a_peer_added_through_the_nodes_api_starts(world: World, running: Daemon) -> None:
    """Registered and approved at the running node, it is pulled without a restart."""
    fact_id = world.assert_fact(world.second)
    introduce(world.second, world.receiver)
    arrives(running, world, fact_id, SEEN_S, "a fact of the peer that was just approved")
    fact_id = world.assert_fact(world.second)
    arrives(running, world, fact_id, TWO_POLLS_S + SLACK_S, "a new fact of the second")
    running.wait_for_state(world.second, "idle")


def test_a_peer_that_is_revoked_stops(world: World, running: Daemon) -> None:
    """It is let go, and what it has to say from then on is not asked for.

    The node has no call for it: its operator changes the row.
    """
    set_status(world, world.second, "revoked")
    took = running.wait(
        lambda: running.row(world.second)["holder_pid"] is None, "the revoked to be let go", SEEN_S
    )
    print(f"revoked, and let go: {took:.2f} s")
    unheard = world.assert_fact(world.second)
    for _ in range(2):
        heard = world.assert_fact(world.first)
        arrives(running, world, heard, TWO_POLLS_S + SLACK_S, "a fact of the first beside it")
    assert not world.has(unheard)
    set_status(world, world.second, "active")
    arrives(running, world, unheard, SEEN_S, "a fact of the peer that is active again")


def test_a_peer_that_goes_while_its_page_is_in_flight(world: World, running: Daemon) -> None:
    """Nothing of the page is admitted and its cursor stays, revoked or gone from the registry."""
    with PageServer() as server:
        server.origin.add_many(3)
        in_flight = server.hold()
        world.database.adopt(server)
        in_flight.wait()
        set_status(world, server, "revoked")
        assert_let_go(world, running, server, in_flight)
        in_flight = server.hold()
        set_status(world, server, "active")
        in_flight.wait()
        world.database.execute("DELETE FROM peers WHERE node_id = ?", [server.node_id])
        assert_let_go(world, running, server, in_flight)
        heard = world.assert_fact(world.first)
        arrives(running, world, heard, TWO_POLLS_S + SLACK_S, "a fact of the first beside it")


def assert_let_go(world: World, running: Daemon, server: PageServer, in_flight: Held) -> None:
    in_flight.let_go()
    running.wait(lambda: running.row(server)["holder_pid"] is None, "it to be let go", SEEN_S)
    assert world.database.fact_ids(server) == set()
    assert world.database.cursor(server) is None


def set_status(world: World, peer: HasNodeId, status: str) -> None:
    world.database.execute("UPDATE peers SET status = ? WHERE node_id = ?", [status, peer.node_id])


@dataclass(frozen=True, slots=True)
class Loop:
    """The node's own loop at work on a database of its own."""

    inside: InsideNode
    database: Receiver

    def turn(self, *fact_ids: str) -> set[str]:
        """Let it take a turn; which of these facts it has then."""
        self.inside.pull_all_peers_once()
        rows = self.database.query("SELECT id FROM facts")
        return {row["id"] for row in rows} & set(fact_ids)


@pytest.fixture
def loop(world: World, running: Daemon, tmp_path: Path) -> Iterator[Loop]:
    """The node's own loop on a copy of the receiver, where it has read what the daemon has."""
    running.wait_for_state(world.first, "idle")
    copy = SqliteDatabase(world.receiver.database).copy(tmp_path / "copy.db")
    database = Receiver(copy)
    # It would wait for the silent peer, and ask the throttling one before its time.
    database.execute(
        "UPDATE peers SET status = 'revoked' WHERE node_id <> ?", [world.first.node_id]
    )
    with InsideNode(world.receiver, database=copy) as inside:
        yield Loop(inside, database)


def test_facts_that_are_committed_late(world: World, running: Daemon, loop: Loop) -> None:
    """Their places were given out before those of facts that have been read already.

    The node's own loop never sees them; the daemon has them two polls later.
    """
    with InsideNode(world.first) as inside:
        held = [
            inside.hold(Fact(f"late:held-{number}", "test:name", "string", "late"))
            for number in range(4)
        ]
        newer = world.assert_fact(world.first)
        running.wait(lambda: world.has(newer), "what is on time")
        assert loop.turn(newer)
        late = [one.commit().id for one in held]
    seen_by_the_daemon_only(world, running, loop, late)


def test_counters_whose_text_order_is_not_their_order(
    world: World, running: Daemon, loop: Loop
) -> None:
    """Counters 10 to 14 are less than 9 as text, which has been read already."""
    with InsideNode(world.first) as inside, inside.frozen_clock() as wall_ms:
        first = [one.id for one in inside.assert_facts(plain_facts(10, namespace="counter"))]
        running.wait(lambda: world.has(*first), "what is in order")
        assert loop.turn(*first) == set(first)
        behind = inside.assert_facts(plain_facts(5, namespace="counter-behind"))
        assert [one.hlc for one in behind] == [f"{wall_ms}.{n}" for n in range(10, 15)]
    world.ledgers[world.first.node_id].acknowledge(first)
    seen_by_the_daemon_only(world, running, loop, [one.id for one in behind])


def seen_by_the_daemon_only(world: World, running: Daemon, loop: Loop, fact_ids: list[str]) -> None:
    world.ledgers[world.first.node_id].acknowledge(fact_ids)
    took = running.wait(lambda: world.has(*fact_ids), "what came late", TWO_POLLS_S + SLACK_S)
    print(f"what came late was there after {took:.2f} s, polls are {POLL_S} s apart")
    for _ in range(2):
        assert not loop.turn(*fact_ids)


def test_stopped_and_started_again(world: World, running: Daemon, here: Here) -> None:
    """It ends well with an answer outstanding, and starts again with what it knew.

    Nothing of the bad peers came in.  The throttling one is asked when its time has come, not
    before, whatever happened in between.
    """
    asked = len(world.silent.requests)
    running.wait(lambda: len(world.silent.requests) > asked, "the silent one to be asked again")
    took = running.stop()
    print(f"stopped in {took:.2f} s")
    assert took < STOP_S
    for peer in shown(here, world, "peers", "list"):
        assert peer["replication"]["holder_pid"] is None
        assert peer["daemon_running"] is False
    with world.daemon() as again:
        for origin in (world.first, world.second):
            heard = world.assert_fact(origin)
            arrives(again, world, heard, TWO_POLLS_S + SLACK_S, f"a fact of the {origin.name}")
        again.wait(
            lambda: len(world.throttling.requests) > 1,
            "the throttling peer to be asked again",
            RETRY_AFTER_S + SLACK_S,
        )
        times = [request.at for request in world.throttling.requests]
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        print(f"asked again after {waits} s, {RETRY_AFTER_S} were asked for")
        assert min(waits) >= RETRY_AFTER_S
        again.stop()
    for origin in (world.first, world.second):
        verdict = world.ledgers[origin.node_id].assert_clean(world.receiver.database)
        assert verdict.admitted == world.ledgers[origin.node_id].acknowledged
    for server in world.servers:
        assert not world.database.fact_ids(server)
