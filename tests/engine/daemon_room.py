"""What the tests of the daemon's engine share: a supervisor in this process, in a time that runs.

Durations pass fifty times as fast as outside, so that polls and backoffs come soon; the wall
clock is the machine's, which tokens and stamps need.  Nobody waits for a time here, only for
something to happen.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import anyio

from stigmem_replicator.clock import Clock, SystemClock, system_sleep
from stigmem_replicator.engine.supervisor import Supervisor
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.writer import Writer
from stigmem_replicator.errors import LocalError
from stigmem_replicator.store.locks import lock_file
from stigmem_replicator.transport.network import open_network
from tests.engine.engine_room import CountingClock, engine_of
from tests.nodes.database import PostgresDatabase
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

SPEED: Final = 50
"""How many seconds pass in one of the machine's."""

WAIT_S: Final = 20.0
"""How long a test waits for what must happen, in seconds of the machine's."""

NEVER_S: Final = 86_400.0
"""A wait that no test lives to see the end of."""

_LOOK_S: Final = 0.01
_HOLD: Final = """
import fcntl, sys
file = open(sys.argv[1], "a+b")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


class HasNodeId(Protocol):
    """A page server or an origin."""

    @property
    def node_id(self) -> str: ...


class FastClock(CountingClock):
    """A clock whose durations pass fast; see `CountingClock` for the rest."""

    def monotonic(self) -> float:
        return super().monotonic() * SPEED


async def fast_sleep(seconds: float, /) -> None:
    await anyio.sleep(seconds / SPEED)


class Chance:
    """Chance that says what the test wants: 0 is the shortest of waits, 1 the longest."""

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    def uniform(self, low: float, high: float, /) -> float:
        return low + (high - low) * self.value


class PostgresReceiver(Receiver):
    """A receiver whose node keeps its data in PostgreSQL."""

    def __init__(self, store: PostgresDatabase) -> None:
        super().__init__(Path("nowhere"))
        self.store = store

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self.store.records(sql, parameters)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.store.run(sql.replace("INSERT OR REPLACE", "INSERT"), *parameters)


@dataclass
class Daemon:
    """A supervisor over one receiver's database, and what can be seen of it from outside."""

    receiver: Receiver
    around: Surroundings
    supervisor: Supervisor = field(init=False)
    cause: LocalError | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(self.around)

    async def run(self) -> None:
        try:
            self.cause = await self.supervisor.run()
        finally:
            self.ended.set()

    async def until_ended(self) -> None:
        with anyio.fail_after(WAIT_S):
            await self.ended.wait()

    async def until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Wait for something to happen while the supervisor runs."""
        with anyio.move_on_after(WAIT_S):
            while not condition():
                assert not self.ended.is_set(), f"the supervisor ended before {what} happened"
                await anyio.sleep(_LOOK_S)
            return
        raise AssertionError(f"{what} did not happen: {self.rows()}")

    async def until_state(self, peer: HasNodeId, state: str, reason: str | None = None) -> None:
        await self.until(
            lambda: (self.row(peer).get("state"), self.row(peer).get("reason")) == (state, reason),
            f"{peer.node_id} {state} ({reason})",
        )

    async def until_held(self, peer: HasNodeId) -> None:
        await self.until(
            lambda: self.row(peer).get("holder_pid") == self.around.process.pid,
            f"{peer.node_id} taken",
        )

    async def polled(self, server: PageServer, more: int = 3) -> None:
        """Wait until a peer was asked some more times, so that the supervisor has looked."""
        before = len(server.requests)
        await self.until(lambda: len(server.requests) >= before + more, "more polls")

    async def until_free(self, peer: HasNodeId) -> None:
        """Wait until nobody works on a peer, in the table and by its lock."""
        await self.until(lambda: self.row(peer)["holder_pid"] is None, f"{peer.node_id} let go")
        await self.until(
            lambda: not self.around.locks.holds(self.row(peer)["number"]),
            f"{peer.node_id} freed",
        )

    def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.receiver.query("SELECT * FROM replicator_peers")]

    def row(self, peer: HasNodeId) -> dict[str, Any]:
        """What the table says of a peer, empty where it says nothing yet."""
        found = [row for row in self.rows() if row["node_id"] == peer.node_id]
        return found[0] if found else {}

    async def operator(self, work: Callable[..., object], *args: object) -> None:
        """Do what a command of an operator does, in a transaction."""
        await self.around.writer.run(work, *args)


@contextmanager
def surroundings_of(
    receiver: Receiver,
    *,
    clock: CountingClock | None = None,
    chance: Chance | None = None,
    timeout_s: float = 5.0,
    location: str | None = None,
    network_clock: Clock | None = None,
    **settings: Any,  # noqa: ANN401 - values of any setting
) -> Iterator[Surroundings]:
    """What an engine needs, in a fast time; requests are timed by the machine's clock."""
    clock = clock or FastClock()
    with engine_of(receiver, clock=clock, timeout_s=timeout_s, location=location) as engine:
        around = engine.around
        own = replace(around.settings, **settings)
        random = chance or Chance()
        yield replace(
            around,
            settings=own,
            writer=Writer(around.database, own, clock, fast_sleep, random),
            network=open_network(own, network_clock or SystemClock(), system_sleep),
            sleep=fast_sleep,
            random=random,
        )


@asynccontextmanager
async def daemon_of(
    receiver: Receiver,
    **values: Any,  # noqa: ANN401 - see surroundings_of
) -> AsyncIterator[Daemon]:
    """Run a supervisor for the length of the context; it must end when it is cancelled."""
    with surroundings_of(receiver, **values) as around:
        daemon = Daemon(receiver, around)
        with anyio.fail_after(4 * WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(daemon.run)
                try:
                    yield daemon
                finally:
                    tasks.cancel_scope.cancel()


@contextmanager
def held_elsewhere(receiver: Receiver, number: int) -> Iterator[None]:
    """Have another process hold the lock of a peer."""
    path = lock_file(receiver.database)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", _HOLD, str(path), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield
        finally:
            process.kill()


def enlist(receiver: Receiver, *peers: HasNodeId) -> None:
    """Give peers the numbers 1, 2 and so on, as a first run would."""
    for number, peer in enumerate(peers, 1):
        receiver.execute(
            "INSERT INTO replicator_peers (node_id, number) VALUES (?, ?)", [peer.node_id, number]
        )


def backlog(receiver: Receiver, peer: HasNodeId) -> int:
    """How many facts of a peer are here."""
    (row,) = receiver.query(
        "SELECT COUNT(*) AS number FROM facts WHERE received_from = ?", [peer.node_id]
    )
    return int(row["number"])
