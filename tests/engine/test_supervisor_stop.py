"""A supervisor that is stopped, at whatever moment: every peer is free and nothing is lost."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest

from stigmem_replicator.engine import writer
from stigmem_replicator.engine.supervisor import Supervisor
from tests.engine.daemon_room import (
    WAIT_S,
    Daemon,
    FastClock,
    backlog,
    daemon_of,
    enlist,
    surroundings_of,
)
from tests.engine.engine_room import assert_consistent
from tests.pages import misbehaviour
from tests.pages.origin import now_ms
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, honestly

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

FACTS = 11
THROTTLED = misbehaviour.status(429, headers={"Retry-After": "600"})


Fresh = Callable[[str], Receiver]


@pytest.fixture
def fresh(
    template: Path,
    tmp_path: Path,
    server: PageServer,
    second_server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Fresh:
    """Make receivers of two peers: one with entries of every kind, one that asks to be left."""
    monkeypatch.setattr(writer, "TIDY_ROWS", 4)
    server.origin.add_many(7)
    serve(server.origin, poison("a content beside its id"))
    server.origin.add_many(4, entity="pages:same")
    second_server.always = THROTTLED

    def make(name: str) -> Receiver:
        receiver = Receiver(Path(shutil.copyfile(template, tmp_path / f"{name}.db")))
        receiver.adopt(server)
        receiver.adopt(second_server)
        enlist(receiver, server, second_server)
        return receiver

    return make


async def stopped_at(
    receiver: Receiver, number: int | None, after: Callable[[Daemon], bool] | None = None
) -> int:
    """Run, stopped when the clock is asked for that time, counted from when `after` is true.

    Without a number it is stopped at once.  Returns how often the clock was asked.
    """
    clock = FastClock()
    values: dict[str, Any] = {"poll_interval_s": 5.0, "network_clock": clock}
    with surroundings_of(receiver, clock=clock, **values) as around:
        daemon = Daemon(receiver, around)
        began = clock.asked
        with anyio.fail_after(WAIT_S), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(daemon.run)
                if after is not None:
                    await daemon.until(lambda: after(daemon), "what comes before")
                if number is None:
                    scope.cancel()
                else:
                    began = clock.asked
                    clock.scope, clock.cancel_at = scope, began + number
        clock.scope = None
        numbers = [row["number"] for row in daemon.rows()]
        assert not any(around.locks.holds(held) for held in numbers), number
        return clock.asked - began


def assert_let_go(receiver: Receiver, server: PageServer, second_server: PageServer) -> None:
    assert_consistent(receiver, server)
    assert receiver.holder(second_server) is None


async def test_stopped_anywhere_peers_are_free_and_the_database_is_whole(
    fresh: Fresh, server: PageServer, second_server: PageServer, anyio_backend: str
) -> None:
    """However far it came: no holder, no lock, whole facts; a next run has all of them."""
    drained = fresh("whole")
    whole = await stopped_at(drained, None, lambda _: drained.state(server) == ("idle", None))
    partly = 0
    step = max(1, whole // 7)
    # The two backends take turns, so that together they look twice as closely.
    first = 1 if anyio_backend == "asyncio" else 1 + step // 2
    for index, number in enumerate(range(first, whole, step)):
        receiver = fresh(f"stopped-{number}")
        await stopped_at(receiver, number)
        assert_let_go(receiver, server, second_server)
        partly += 0 < backlog(receiver, server) < FACTS
        if index % 3 == 0:
            async with daemon_of(receiver) as again:
                await again.until_state(server, "idle")
            assert len(receiver.assert_clean(server).admitted) == FACTS
            assert_consistent(receiver, server)
    assert partly >= 1


async def test_stopped_while_peers_are_taken(
    fresh: Fresh, server: PageServer, second_server: PageServer
) -> None:
    """A lock that was just taken is freed again, whether the table names us yet or not."""
    for number in range(1, 10):
        receiver = fresh(f"taken-{number}")
        await stopped_at(receiver, number)
        assert_let_go(receiver, server, second_server)


async def test_stopped_while_peers_are_let_go_of(
    fresh: Fresh, server: PageServer, second_server: PageServer
) -> None:
    """Also what is on its way to somebody else is nobody's then, and its waits are kept."""

    def wanted_once(receiver: Receiver) -> Callable[[Daemon], bool]:
        def done(_daemon: Daemon) -> bool:
            if receiver.state(second_server)[0] != "throttled":
                return False
            if receiver.state(server) != ("idle", None):
                return False
            receiver.execute(
                "UPDATE replicator_peers SET wanted_by = 'somebody', wanted_at_ms = ?", [now_ms()]
            )
            return True

        return done

    for number in range(1, 6):
        receiver = fresh(f"wanted-{number}")
        await stopped_at(receiver, number, wanted_once(receiver))
        assert_let_go(receiver, server, second_server)
        (row,) = receiver.query(
            "SELECT not_before_ms FROM replicator_peers WHERE node_id = ?", [second_server.node_id]
        )
        assert row["not_before_ms"] > now_ms() + 300_000


async def test_what_is_to_be_noted_is_noted_at_the_end(
    fresh: Fresh, server: PageServer, second_server: PageServer
) -> None:
    """A wait that a peer asked for is kept also when there was no time to note it before."""
    receiver = fresh("noted")
    second_server.always = honestly
    with surroundings_of(receiver, poll_interval_s=5.0) as around:
        daemon = Daemon(receiver, around)
        turns = around.writer._turns  # noqa: SLF001 - keeps everybody from writing
        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(daemon.run)
                await daemon.until_state(server, "idle")
                await daemon.until_state(second_server, "idle")
                async with turns.turn(small=True):
                    second_server.always = THROTTLED
                    await daemon.until(lambda: turns._small, "the note")  # noqa: SLF001
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await anyio.wait_all_tasks_blocked()
    assert receiver.state(second_server) == ("throttled", "throttled")
    assert daemon.row(second_server)["not_before_ms"] > now_ms() + 300_000
    assert receiver.holder(second_server) is None


async def test_a_stop_while_another_process_keeps_the_database(
    fresh: Fresh, server: PageServer
) -> None:
    """It waits as long as one statement may, writes nothing more, and ends."""
    receiver = fresh("kept")
    with surroundings_of(receiver, timeout_s=0.5, poll_interval_s=5.0) as around:
        held = server.hold()
        daemon = Daemon(receiver, around)
        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(daemon.run)
                await daemon.until(held.reached.is_set, "the request")
                await daemon.until_held(server)
                with closing(sqlite3.connect(receiver.database)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    asking = threading.Event()
                    around.writer._check_room = asking.set  # type: ignore[method-assign] # noqa: SLF001
                    held.let_go()
                    await daemon.until(asking.is_set, "the write")
                    began = monotonic()
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await daemon.until_ended()
                    assert monotonic() - began < 4.0
    assert receiver.fact_ids(server) == set()
    async with daemon_of(receiver) as again:
        await again.until_state(server, "idle")
    assert len(receiver.assert_clean(server).admitted) == FACTS


def test_a_supervisor_is_made_without_a_loop(fresh: Fresh) -> None:
    """Making one asks nothing of the database."""
    with surroundings_of(fresh("made")) as around:
        Supervisor(around)
