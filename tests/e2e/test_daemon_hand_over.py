"""Who works on a peer while the daemon runs: commands that ask for it, pauses, another daemon.

The daemon drains one peer, which is slow and has much to say, and idles on another, at which it
would not look again for an hour.  The tests share it; each leaves both peers with it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.daemon import SOON_S, Daemon, daemon, receiver_of, wait_until_taken
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, Request, honestly

if TYPE_CHECKING:
    from tests.e2e.here import Here
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")
pytestmark = pytest.mark.slow

PAGE: Final = 5
BACKLOG: Final = 3000
SLOWNESS_S: Final = 0.25
"""A page takes this long: the backlog is not drained before a test is over."""
NEVER_S: Final = 3600


@dataclass(slots=True)
class World:
    """A receiver, a peer that is being drained, one that is not, and who does it."""

    receiver: Receiver
    busy: PageServer
    quiet: PageServer
    folder: Path
    daemon: Daemon

    def drained(self) -> bool:
        return self.receiver.cursor(self.busy) == self.busy.origin.rows[-1].hlc

    def settle(self) -> None:
        """Have both peers with the daemon again: the one drained further, the other idle."""
        for server in (self.busy, self.quiet):
            self.daemon.wait_until_held(server)
        self.daemon.wait_for_state(self.quiet, "idle")
        assert not self.drained()
        asked = len(self.busy.requests)
        self.daemon.wait(lambda: len(self.busy.requests) > asked + 1, "the draining to go on")


@contextmanager
def daemon_of(folder: Path, receiver: Receiver, page_size: int = PAGE) -> Iterator[Daemon]:
    with daemon(folder, receiver.database, poll_interval_s=NEVER_S, page_size=page_size) as running:
        yield running


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hand-over")
    receiver = receiver_of(template, folder)
    with PageServer() as busy, PageServer() as quiet:
        busy.origin.add_many(BACKLOG)
        busy.always = misbehaviour.slow(SLOWNESS_S)
        quiet.origin.add_many(12)
        for server in (busy, quiet):
            receiver.adopt(server)
        with daemon_of(folder, receiver) as running:
            yield World(receiver, busy, quiet, folder, running)
            if running.running:
                running.stop()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    shared.settle()
    yield shared
    shared.settle()


def reads_from_the_start(requests: list[Request]) -> int:
    return [request.cursor for request in requests].count(None)


def test_a_pull_of_an_idle_peer(world: World, start: Start, here: Here) -> None:
    """It starts within two seconds; while it works the peer is elsewhere, then it comes back."""
    new = world.quiet.origin.add()
    held = world.quiet.hold()
    running = start("pull", "--peer", world.quiet.node_id, "--json", db=world.receiver.database)
    wait_until_taken(world.daemon, world.quiet, running)
    held.wait()
    assert world.daemon.state(world.quiet) == ("elsewhere", "peer_held")
    replication = shown(here, world, world.quiet)["replication"]
    assert f"process {running.pid} " in replication["detail"]
    assert (replication["holder_pid"], replication["holder_command"]) == (running.pid, "pull")
    held.let_go()
    stdout, _stderr, code = running.end()
    assert code == 0
    assert json.loads(stdout)["new"] == 1
    print(f"and is back after {world.daemon.wait_until_held(world.quiet, SOON_S):.2f} s")
    assert new in world.receiver.fact_ids(world.quiet)
    assert world.daemon.row(world.quiet)["wanted_by"] is None


def test_a_pull_of_the_peer_that_is_being_drained(world: World, start: Start) -> None:
    """It starts within two seconds, shows how it goes, and ends where it was told to."""
    before = len(world.receiver.fact_ids(world.busy))
    running = start(
        *("pull", "--peer", world.busy.node_id, "--max-pages", "22"),
        db=world.receiver.database,
        env={"STIGMEM_REPLICATOR_PAGE_SIZE": str(PAGE)},
    )
    wait_until_taken(world.daemon, world.busy, running)
    stdout, stderr, code = running.end()
    assert code == 0, stderr
    # A line every five seconds; so many slow pages take longer.
    assert [line for line in stderr.splitlines() if world.busy.node_id in line], stderr
    assert "new facts" in stdout
    assert len(world.receiver.fact_ids(world.busy)) - before >= 18 * PAGE
    print(f"and is back after {world.daemon.wait_until_held(world.busy, SOON_S):.2f} s")


def test_a_pull_that_is_killed_half_way(world: World, start: Start) -> None:
    """The daemon takes the peer back at once, and what the pull left undone is done."""
    new = world.quiet.origin.add()
    held = world.quiet.hold()
    running = start("pull", "--peer", world.quiet.node_id, db=world.receiver.database)
    held.wait()
    wait_until_taken(world.daemon, world.quiet, running)
    running.kill()
    assert running.end()[2] == -9
    print(f"back after {world.daemon.wait_until_held(world.quiet, SOON_S):.2f} s")
    world.daemon.wait(lambda: new in world.receiver.fact_ids(world.quiet), "the new fact")


def test_a_cursor_reset_is_followed_at_once(world: World, here: Here) -> None:
    """Everything is read once more, without waiting for the poll, and adds nothing."""
    facts, asked = world.receiver.fact_ids(world.quiet), len(world.quiet.requests)
    words = ("cursor", "reset", "--peer", world.quiet.node_id, "--yes")
    for times in (1, 2):
        assert here(*words, db=world.receiver.database).code == 0
        took = world.daemon.wait(
            lambda: world.receiver.cursor(world.quiet) == world.quiet.origin.rows[-1].hlc,
            "everything to be read once more",
            SOON_S,
        )
        print(f"read once more {took:.2f} s after the reset")
        assert reads_from_the_start(world.quiet.requests[asked:]) == times
    assert world.receiver.fact_ids(world.quiet) == facts
    world.receiver.assert_clean(world.quiet)
    assert "cursor_reset" in world.receiver.events(world.quiet)


def shown(here: Here, world: World, server: PageServer) -> dict[str, Any]:
    """A peer as `peers show` has it."""
    said = here("peers", "show", server.node_id, "--json", db=world.receiver.database)
    document: dict[str, Any] = json.loads(said.stdout)
    return document


def test_a_cursor_set_is_followed_at_once(world: World, here: Here) -> None:
    """Reading goes on from the position that was set."""
    asked = len(world.quiet.requests)
    position = world.quiet.origin.rows[PAGE - 1].hlc
    words = ("cursor", "set", position, "--peer", world.quiet.node_id, "--force", "--yes")
    assert here(*words, db=world.receiver.database).code == 0
    world.daemon.wait(
        lambda: world.receiver.cursor(world.quiet) == world.quiet.origin.rows[-1].hlc,
        "the rest to be read once more",
        SOON_S,
    )
    assert world.quiet.requests[asked].cursor == position
    world.receiver.assert_clean(world.quiet)


def test_a_cursor_reset_is_not_overwritten_by_a_page_in_flight(world: World, here: Here) -> None:
    """A page that was asked for before the reset moves no cursor: all is read once more."""
    words = ("cursor", "reset", "--peer", world.busy.node_id, "--yes")
    for _ in range(2):
        held = world.busy.hold()
        held.wait()
        asked = len(world.busy.requests)
        assert here(*words, db=world.receiver.database).code == 0
        assert world.receiver.cursor(world.busy) is None
        held.let_go()
        world.daemon.wait(
            lambda asked=asked: reads_from_the_start(world.busy.requests[asked:]),  # type: ignore[misc]
            "the beginning to be read",
        )
    verdict = world.busy.origin.ledger.judge(world.receiver.database)
    assert not [line for line in verdict.problems() if " lost: " not in line]
    # What an operator does to a cursor is not taken for the node's own loop.
    assert not shown(here, world, world.busy)["node_loop"]


def test_a_paused_peer_is_left_alone(world: World, here: Here) -> None:
    """Nobody asks it but a pull by hand, which leaves it paused; resumed, it is asked at once."""
    database, name = world.receiver.database, world.quiet.node_id
    said = here("peers", "pause", name, "--reason", "moving house", db=database)
    assert said.code == 0, said.stderr
    took = world.daemon.wait(
        lambda: world.daemon.row(world.quiet)["holder_pid"] is None, "the peer to be free", SOON_S
    )
    print(f"free {took:.2f} s after the pause")
    assert world.daemon.state(world.quiet)[0] == "paused"
    new, asked = world.quiet.origin.add(), len(world.quiet.requests)
    assert here("cursor", "reset", "--peer", name, "--yes", db=database).code == 0
    going = len(world.busy.requests)
    world.daemon.wait(lambda: len(world.busy.requests) > going + 6, "the other to go on")
    assert len(world.quiet.requests) == asked
    assert here("pull", "--peer", name, db=database).code == 0
    assert new in world.receiver.fact_ids(world.quiet)
    assert world.daemon.state(world.quiet)[0] == "paused"
    newer = world.quiet.origin.add()
    assert here("peers", "resume", name, db=database).code == 0
    took = world.daemon.wait(
        lambda: newer in world.receiver.fact_ids(world.quiet), "the newer fact", SOON_S
    )
    print(f"asked {took:.2f} s after it was resumed")


def test_a_pause_with_an_end_ends_by_itself(world: World, here: Here) -> None:
    """At the time that was given the peer is asked again, not before."""
    words = ("peers", "pause", world.quiet.node_id, "--until", "3s")
    said = here(*words, db=world.receiver.database)
    assert said.code == 0, said.stderr
    until_ms = world.daemon.row(world.quiet)["paused_until_ms"]
    new = world.quiet.origin.add()
    world.daemon.wait(lambda: new in world.receiver.fact_ids(world.quiet), "the new fact")
    late_s = time.time() - until_ms / 1000
    print(f"asked {late_s:.2f} s after the pause was over")
    assert 0 <= late_s < SOON_S
    assert world.daemon.row(world.quiet)["paused_at_ms"] is None


@contextmanager
def frozen_between_writes(world: World) -> Iterator[None]:
    """Have the daemon stand still; in the middle of a write it would keep the database too."""
    deadline = time.monotonic() + SOON_S
    while True:
        with world.daemon.frozen():
            if writable(world.receiver.database):
                yield
                return
        assert time.monotonic() < deadline, "it writes without end"


def writable(database: Path) -> bool:
    """Say whether nobody has the database's write lock."""
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.rollback()
        return True


def test_a_daemon_that_stands_still_is_named(world: World, here: Here) -> None:
    """A pull that does not get the peer in time is exit 8 and says who has it."""
    new = world.quiet.origin.add()
    words = ("pull", "--peer", world.quiet.node_id)
    held = world.busy.hold()
    held.wait()
    with frozen_between_writes(world):
        held.let_go()
        said = here(*words, "--wait", "1", db=world.receiver.database)
    assert f"process {world.daemon.pid} on " in (line := said.failed_among("peer_held", 8))
    assert "(run)" in line
    assert here(*words, db=world.receiver.database).code == 0
    assert new in world.receiver.fact_ids(world.quiet)


def test_a_second_daemon_beside_the_first(shared: World) -> None:
    """It has nothing to do until the first is gone; then it takes over at once.

    The last of these tests: the daemon that they shared does not come back.
    """
    world, first = shared, shared.daemon
    world.settle()
    with daemon_of(world.folder, world.receiver, page_size=500) as second:
        second.wait_for_line("replicator.started")
        going = len(world.busy.requests)
        second.wait(lambda: len(world.busy.requests) > going + 6, "the first to go on")
        for server in (world.busy, world.quiet):
            assert first.holds(server)
            assert first.state(server)[0] in {"catching_up", "idle"}
        new = world.quiet.origin.add()
        first.kill()
        world.daemon = second
        for server in (world.busy, world.quiet):
            print(f"taken over after {second.wait_until_held(server, SOON_S):.2f} s")
        second.wait(lambda: new in world.receiver.fact_ids(world.quiet), "the new fact", SOON_S)
        world.busy.always = honestly
        second.wait(world.drained, "the rest of the backlog", 60)
        for server in (world.busy, world.quiet):
            second.wait_for_state(server, "idle")
            world.receiver.assert_clean(server)
        second.stop()
