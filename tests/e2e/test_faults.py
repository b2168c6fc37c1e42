"""Crashes, signals and other writers: whatever happens, nothing is lost, doubled or half done.

Every test ends the same way: the command runs to its end undisturbed, and the ledger is clean.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from stigmem_replicator.store.apply import Point
from tests.e2e.conftest import CliResult, cli_environ
from tests.forked import COMMAND, Forked
from tests.nodes.bulk import InsideNode, assert_in_bulk
from tests.nodes.fact_corpus import facts, plain_facts, uncarriable_facts
from tests.nodes.federation import Pair, pair_of_nodes
from tests.nodes.ledger import Ledger
from tests.nodes.node import NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.nodes.environment import NodeEnvironment

FACTS = 450
SEED = 20260102
KILLS = 12
KILLED = -signal.SIGKILL

# Long pauses between small transactions, so that there is time to disturb.
SLOWLY = {"write_share_idle": "0.1", "write_share_busy": "0.1"}


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin with facts, and the receiver's database before any of them was pulled."""

    pair: Pair
    snapshot: Path
    ledger: Ledger
    hlcs: dict[str, str]
    """The origin's HLC of every fact in the ledger."""

    def assert_more(self, count: int, namespace: str) -> None:
        self.note(assert_in_bulk(self.pair.origin, plain_facts(count, namespace=namespace)))

    def note(self, asserted: list[Any], *, refusable: bool = False) -> None:
        self.ledger.acknowledge(asserted, refusable=refusable)
        self.hlcs.update({entry.id: entry.hlc for entry in asserted})


@pytest.fixture(scope="module")
def origin(
    node_environment: NodeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Origin]:
    """Facts of every kind, contradictions and some that must be refused, at a running origin."""
    folder = tmp_path_factory.mktemp("faults")
    with pair_of_nodes(node_environment, folder) as pair:
        snapshot = pair.receiver.copy_database(folder / "snapshot.db")
        made = Origin(pair, snapshot, Ledger(pair.origin.node_id), {})
        corpus = facts(FACTS, namespace="faults")
        with InsideNode(pair.origin) as inside:
            made.note(inside.assert_facts(corpus[:150]))
            made.note(inside.assert_facts(uncarriable_facts(namespace="faults")), refusable=True)
            made.note(inside.assert_facts(corpus[150:]))
        yield made


@dataclass(frozen=True, slots=True)
class Receiver:
    """A database of its own for one test, and our command on it."""

    origin: Origin
    database: Path
    home: Path

    def start(
        self,
        *options: str,
        page_size: str = "100",
        own: Mapping[str, str] | None = None,
        module: str = COMMAND,
        before: tuple[str, ...] = (),
    ) -> Forked:
        """Start a pull; `own` are more settings of the replicator."""
        settings = {"page_size": page_size, **(own or {})}
        environ = {f"STIGMEM_REPLICATOR_{key.upper()}": value for key, value in settings.items()}
        return Forked(
            [
                *(*before, "--db", str(self.database)),
                *("pull", "--peer", self.origin.pair.origin.node_id, "--json", *options),
            ],
            folder=self.home,
            environ=cli_environ(self.home, environ),
            module=module,
        )

    def pull(
        self, *options: str, page_size: str = "100", own: Mapping[str, str] | None = None
    ) -> CliResult:
        return ended(self.start(*options, page_size=page_size, own=own))

    def die(self, point: Point, nth: int, *, page_size: str) -> CliResult:
        """Pull, and be killed the n-th time that writing a batch comes to a point."""
        before = ("--point", point, "--nth", str(nth), "--")
        return ended(
            self.start(page_size=page_size, module="tests.faults.crashing_cli", before=before)
        )

    def wait_for_pages(self, process: Forked) -> None:
        """Return when the process has written its first page."""
        while not self.holds()[1]:
            assert process.poll() is None, ended(process).stderr
            time.sleep(0.01)

    def wait_for_work(self, process: Forked) -> None:
        """Return when the process holds the peer, or has ended."""
        while process.poll() is None:
            with suppress(sqlite3.OperationalError), self._reading() as connection:
                held = connection.execute("SELECT holder_pid FROM replicator_peers").fetchone()
                if held == (process.pid,):
                    return
            time.sleep(0.01)

    def admitted(self) -> frozenset[str]:
        return self.origin.ledger.judge(self.database).admitted

    def holds(self) -> tuple[bool, bool]:
        """Whether there are facts, and whether there is a cursor."""
        with self._reading() as connection:
            facts = connection.execute("SELECT 1 FROM facts LIMIT 1").fetchone()
            cursor = connection.execute("SELECT cursor FROM replication_cursors").fetchone()
        return facts is not None, cursor is not None and cursor[0] is not None

    def _reading(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True))

    def check_so_far(self) -> None:
        """Whatever was interrupted, what is there is whole, and the cursor passed nothing by."""
        verdict = self.origin.ledger.judge(self.database)
        problems = [line for line in verdict.problems() if " lost: " not in line]
        assert not problems, problems
        with self._reading() as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            row = connection.execute("SELECT cursor FROM replication_cursors").fetchone()
        cursor = row[0] if row is not None and row[0] is not None else ""
        passed = {
            fact_id
            for fact_id in verdict.lost
            if fact_id in self.origin.hlcs and self.origin.hlcs[fact_id] <= cursor
        }
        assert not passed, f"the cursor {cursor} passed {passed}"

    def heal(self) -> dict[str, Any]:
        """Pull undisturbed to the end; everything must be there, once."""
        done = self.pull()
        assert done.returncode == 0, done.stderr
        self.origin.ledger.assert_clean(self.database)
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary


def ended(process: Forked) -> CliResult:
    with process:
        try:
            stdout, stderr = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
    return CliResult(stdout, stderr, process.wait())


@pytest.fixture
def receiver(origin: Origin, tmp_path: Path) -> Receiver:
    copy = tmp_path / "receiver.db"
    copy.touch(mode=0o600)
    copy.write_bytes(origin.snapshot.read_bytes())
    home = tmp_path / "home"
    home.mkdir()
    return Receiver(origin, copy, home)


@contextmanager
def writing_on(origin: Origin) -> Iterator[list[str]]:
    """Have the origin write facts all the while; yields the ids as they come."""
    written: list[str] = []
    stop = threading.Event()

    def write() -> None:
        with InsideNode(origin.pair.origin) as inside:
            while not stop.wait(0.4):
                batch = plain_facts(20, namespace=f"meanwhile-{len(written)}")
                origin.ledger.attempt(batch)
                asserted = inside.assert_facts(batch)
                origin.note(asserted)
                written.extend(entry.id for entry in asserted)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        try:
            yield written
        finally:
            stop.set()
        writing.result()


class TestCrashPoints:
    """Death at each named moment of writing a batch."""

    @pytest.mark.parametrize("point", list(Point))
    def test_between_pages(self, receiver: Receiver, point: Point) -> None:
        """Killed at the first, second and third page, each time on what the last left behind.

        A page of sixty facts is one transaction: it is there with its cursor, or not at all.
        """
        for nth in (1, 2, 3):
            assert receiver.die(point, nth, page_size="60").returncode == KILLED
            receiver.check_so_far()
            if nth == 1:
                committed = point is Point.AFTER_COMMIT
                assert receiver.holds() == (committed, committed)
        receiver.heal()

    @pytest.mark.parametrize("point", list(Point))
    def test_within_a_page(self, receiver: Receiver, point: Point) -> None:
        """Killed within a page that takes several transactions: only its last moves the cursor."""
        assert receiver.die(point, 2, page_size="500").returncode == KILLED
        receiver.check_so_far()
        assert receiver.holds() == (True, False)
        assert receiver.die(point, 1, page_size="500").returncode == KILLED
        receiver.check_so_far()
        receiver.heal()


class TestOthers:
    """Others at work on the same database."""

    def test_two_at_once(self, receiver: Receiver) -> None:
        """A second pull of the same peer waits for the first, and finds nothing left to do."""
        processes = [receiver.start("--wait", "60") for _ in range(2)]
        done = [ended(process) for process in processes]
        assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
        new = sorted(json.loads(one.stdout)["new"] for one in done)
        assert new[0] == 0
        assert new[1] == len(receiver.admitted())
        receiver.heal()

    def test_the_nodes_own_loop_at_the_same_time(self, receiver: Receiver, origin: Origin) -> None:
        """The node's loop pulls the same facts into the same tables: each is there once.

        The loop writes the cursor too, and dies of every fact that it refuses.
        """
        node, stop = origin.pair.receiver, threading.Event()
        turns = 0

        def loop() -> None:
            nonlocal turns
            with InsideNode(node, database=receiver.database) as inside:
                while not stop.is_set():
                    with suppress(NodeError):
                        inside.pull_all_peers_once()
                    turns += 1

        with ThreadPoolExecutor(1) as threads:
            looping = threads.submit(loop)
            try:
                while not turns:
                    time.sleep(0.05)
                done = receiver.pull("--wait", "60", page_size="60", own=SLOWLY)
            finally:
                stop.set()
            looping.result()
        assert done.returncode == 0, done.stderr
        assert turns > 1
        receiver.heal()

    def test_a_writer_that_does_not_let_go(self, receiver: Receiver) -> None:
        """A database that stays locked is exit code 3, and nothing was written."""
        with closing(sqlite3.connect(receiver.database)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            done = receiver.pull(own={"database_timeout_s": "0.5"})
            connection.rollback()
        assert done.returncode == 3, done.stderr
        assert "database_locked" in done.stderr
        assert receiver.holds() == (False, False)
        receiver.heal()


class TestEndedFromOutside:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_asked_to_end(self, receiver: Receiver, number: signal.Signals) -> None:
        """Asked to end it finishes its batch, says what it did, and exits with 130."""
        process = receiver.start(page_size="20", own=SLOWLY)
        receiver.wait_for_pages(process)
        process.send_signal(number)
        done = ended(process)
        assert done.returncode == 130, done.stderr
        summary = json.loads(done.stdout)
        assert summary["interrupted"]
        assert not summary["caught_up"]
        receiver.check_so_far()
        assert len(receiver.admitted()) == summary["new"] > 0
        healed = receiver.heal()
        assert healed["new"] + summary["new"] == len(receiver.admitted())

    def test_the_origin_dies(self, receiver: Receiver, origin: Origin) -> None:
        """An origin that dies is unreachable, exit code 5; when it is back the rest is pulled."""
        process = receiver.start("--wait", "0", page_size="20", own=SLOWLY)
        receiver.wait_for_pages(process)
        origin.pair.origin.kill()
        try:
            done = ended(process)
        finally:
            origin.pair.origin.start()
        assert done.returncode == 5, done.stderr
        assert json.loads(done.stdout)["error"]["reason"] == "unreachable"
        receiver.check_so_far()
        receiver.heal()

    def test_killed_at_random_moments_while_the_origin_writes(
        self, receiver: Receiver, origin: Origin
    ) -> None:
        """Killed again and again while the origin writes on, it still ends with everything once."""
        rng = random.Random(SEED)
        kills = 0
        with writing_on(origin) as written:
            for _ in range(KILLS):
                process = receiver.start(page_size="20", own=SLOWLY)
                receiver.wait_for_work(process)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0.0, 0.5))
                process.kill()
                kills += ended(process).returncode == KILLED
                receiver.check_so_far()
        assert kills > KILLS // 2
        assert written
        receiver.heal()
