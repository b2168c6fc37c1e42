"""What the engine tests share: pulls in this process, with a clock and a writer to rig."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import anyio
import anyio.from_thread
import anyio.lowlevel

from stigmem_replicator.clock import SystemRandom, system_new_id
from stigmem_replicator.engine.identity import load_identity
from stigmem_replicator.engine.pull import Pull, Streams, Wishes
from stigmem_replicator.engine.report import PullReport, TombstoneReport
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.trust_inputs import TrustBook
from stigmem_replicator.engine.writer import Writer
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import reads
from stigmem_replicator.store.apply import Point
from stigmem_replicator.store.engine import open_database, reading
from stigmem_replicator.store.locks import make_locks
from stigmem_replicator.store.standings import Holder
from stigmem_replicator.transport.network import open_network
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer


class CountingClock:
    """The system's clock, which counts how often it is asked and can cancel a scope on one of them.

    The engine asks what time it is wherever it does something, in its tasks and in its threads:
    to cancel at each of these moments is to cancel everywhere.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.cancel_at: int | None = None
        self.scope: anyio.CancelScope | None = None
        self._loop_thread = threading.get_ident()
        self._turn = threading.Lock()

    def now_ms(self) -> int:
        self._count()
        return now_ms()

    def now_iso(self) -> str:
        self._count()
        return datetime.now(UTC).isoformat()

    def monotonic(self) -> float:
        self._count()
        return monotonic()

    def _count(self) -> None:
        with self._turn:
            self.asked += 1
            hit = self.asked == self.cancel_at
        if not hit or self.scope is None:
            return
        if threading.get_ident() == self._loop_thread:
            self.scope.cancel()
        else:
            anyio.from_thread.run_sync(self.scope.cancel)


async def no_sleep(_seconds: float, /) -> None:
    """Let the others run, and wait for nothing."""
    await anyio.lowlevel.checkpoint()


@dataclass
class Engine:
    """The parts of one process, and the pulls that it makes."""

    around: Surroundings
    report: PullReport = field(default_factory=PullReport)
    tombstone_report: TombstoneReport = field(default_factory=TombstoneReport)
    told: list[str] = field(default_factory=list)
    pages: list[tuple[int, int]] = field(default_factory=list)
    """After each page: how many pages, and how many new facts."""

    def pull(self, server: PageServer, wishes: Wishes | None = None) -> Pull:
        with reading(self.around.database) as connection:
            peers = reads.peers(connection)
        (peer,) = [peer for peer in peers if peer.node_id == server.node_id]
        return Pull(
            peer,
            # Where sleep takes no time, tombstones are asked for over and over beside the facts.
            wishes or Wishes(streams=Streams.FACTS),
            self.around,
            self.report,
            self.tombstone_report,
            on_page=lambda report: self.pages.append((report.pages, report.counts.admitted)),
            tell=self.told.append,
        )


@contextmanager
def engine_of(
    receiver: Receiver,
    *,
    page_size: int = 4,
    row_budget: int | None = None,
    clock: CountingClock | None = None,
    timeout_s: float = 5.0,
    location: Path | str | None = None,
) -> Iterator[Engine]:
    """An engine on a receiver's database; `row_budget` makes it write a page in several parts.

    `location` is where that database is, unless it is the receiver's file.
    """
    location = location or receiver.database
    # However slow the disk, no transaction counts as too long: the parts stay as they are cut.
    settings = Settings(
        database=str(location),
        federation_insecure=True,
        page_size=page_size,
        transaction_target_ms=2000,
    )
    clock = clock or CountingClock()
    database = open_database(location, timeout_s=timeout_s)
    try:
        with make_locks(database) as locks:
            writer = Writer(database, settings, clock, no_sleep, SystemRandom())
            if row_budget is not None:
                writer.row_budget = row_budget
            yield Engine(
                Surroundings(
                    database=database,
                    settings=settings,
                    writer=writer,
                    trust=TrustBook(database, settings, clock),
                    identity=load_identity(database, settings),
                    locks=locks,
                    network=open_network(settings, clock, no_sleep),
                    process=Holder(platform.node(), os.getpid(), "test", now_ms()),
                    clock=clock,
                    sleep=no_sleep,
                    random=SystemRandom(),
                    new_id=system_new_id,
                )
            )
    finally:
        database.close()


def assert_consistent(receiver: Receiver, server: PageServer) -> None:
    """Whatever happened: every fact is whole, and the cursor passed nothing unwritten."""
    verdict = server.origin.ledger.judge(receiver.database)
    assert not verdict.duplicated
    assert not verdict.incomplete
    assert not verdict.unverified
    assert not verdict.unexpected
    cursor, settled = receiver.cursor(server), receiver.settled(server)
    here = verdict.admitted | receiver.letters(server).keys()
    if cursor is not None:
        passed = {
            row.entry["fact"]["id"]
            for row in server.origin.rows
            if row.entry is not None and row.hlc <= cursor
        }
        assert passed <= here
        assert settled is None or settled <= cursor
    else:
        assert settled is None
    assert receiver.holder(server) is None


class Points:
    """Takes the place of `apply.reached`: does something when a point is reached so many times."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(Point, 0)
        self._actions: dict[tuple[Point, int], Callable[[], None]] = {}

    def on(self, point: Point, number: int, action: Callable[[], None]) -> None:
        self._actions[point, number] = action

    def __call__(self, point: Point) -> None:
        self.counts[point] += 1
        action = self._actions.get((point, self.counts[point]))
        if action is not None:
            action()
