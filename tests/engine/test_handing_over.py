"""Who works on a peer: locks that others hold, and peers that others want."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import pytest

from stigmem_replicator.engine import running, supervisor
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import apply, events, standings
from stigmem_replicator.store.apply import Point
from tests.engine.daemon_room import SPEED, WAIT_S, backlog, daemon_of, enlist, held_elsewhere
from tests.engine.engine_room import Points, assert_consistent
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POLL_S = 5.0
LEFT_S = 25.0


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    made = Points()
    monkeypatch.setattr(apply, "reached", made)
    return made


async def test_a_peer_held_elsewhere_is_taken_when_it_comes_free(
    adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """While another process has its lock nothing is asked of it; its end is enough to go on."""
    adopted.adopt(second_server)
    server.origin.add_many(5)
    enlist(adopted, server, second_server)
    with ExitStack() as held:
        held.enter_context(held_elsewhere(adopted, 1))
        async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
            await daemon.until_held(second_server)
            await daemon.polled(second_server)
            assert server.requests == []
            assert daemon.row(server)["holder_pid"] is None
            held.close()
            await daemon.until_held(server)
            await daemon.until_state(server, "idle")
    assert len(adopted.assert_clean(server).admitted) == 5


async def test_a_wanted_peer_is_handed_over(
    adopted: Receiver,
    server: PageServer,
    points: Points,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batch in commit is finished, nothing after it; `elsewhere` names who wanted the peer."""
    server.origin.add_many(30)
    ending = threading.Event()
    end_all = running.end_all  # the moment at which tasks are cancelled

    async def told(items: Any) -> None:  # noqa: ANN401 - as the original
        items = list(items)
        if items:
            ending.set()
        await end_all(items)

    def await_ending() -> None:
        ending.wait(WAIT_S)

    monkeypatch.setattr(supervisor, "end_all", told)
    monkeypatch.setattr(supervisor, "WANTED_SECONDS", LEFT_S)
    points.on(Point.BEFORE_BEGIN, 2, lambda: want(adopted, server))
    points.on(Point.BEFORE_COMMIT, 2, await_ending)
    async with daemon_of(adopted, poll_interval_s=POLL_S, page_size=4) as daemon:
        await daemon.until(lambda: daemon.row(server).get("state") == "elsewhere", "handing over")
        await daemon.until_free(server)
        row = daemon.row(server)
        assert (row["reason"], row["next_attempt_ms"]) == ("peer_held", None)
        assert "process 77 on somewhere" in row["detail"]
        assert backlog(adopted, server) == 7
        assert_consistent(adopted, server)
        # Left to whoever wanted it, who does not come.
        await daemon.until_held(server)
        assert now_ms() >= row["wanted_at_ms"] + 1000 * LEFT_S / SPEED
        assert daemon.row(server)["wanted_by"] is None
        await daemon.until_state(server, "idle")
    assert len(adopted.assert_clean(server).admitted) == 30
    states = [event for event in adopted.events(server) if event == events.STATE_CHANGED]
    assert len(states) >= 2


def want(receiver: Receiver, server: PageServer) -> None:
    receiver.execute(
        "UPDATE replicator_peers SET wanted_by = 'process 77 on somewhere (pull)',"
        " wanted_at_ms = ? WHERE node_id = ?",
        [now_ms(), server.node_id],
    )


async def test_a_peer_that_was_handed_over_is_taken_back(
    adopted: Receiver,
    server: PageServer,
    second_server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as another process has it, and no longer, however old the wish is by then."""
    monkeypatch.setattr(supervisor, "WANTED_SECONDS", LEFT_S)
    adopted.adopt(second_server)
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        want(adopted, server)
        await daemon.until_free(server)
        number = daemon.row(server)["number"]
        with held_elsewhere(adopted, number):
            asked = len(server.requests)
            wished = daemon.around.clock.monotonic() + supervisor.WANTED_SECONDS
            await daemon.until(lambda: daemon.around.clock.monotonic() > wished, "an old wish")
            await daemon.polled(second_server)
            assert daemon.row(server)["holder_pid"] is None
            assert daemon.row(server)["state"] == "elsewhere"
            assert len(server.requests) == asked
        server.origin.add()
        await daemon.until_held(server)
        await daemon.until(lambda: backlog(adopted, server) == 1)
        await daemon.until_state(server, "idle")


async def test_a_peer_that_could_not_be_let_go_of_is_kept(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is written that nobody has it, it is ours; whoever wanted it is not forgotten."""
    monkeypatch.setattr(supervisor, "WANTED_SECONDS", 4 * LEFT_S)
    left, held = standings.let_go, list[bool]()

    def let_go(connection: Any, *words: Any) -> None:  # noqa: ANN401 - the original's
        held.append(daemon.around.locks.holds(daemon.row(server)["number"]))
        if len(held) < 3:
            raise LocalError(Reason.DATABASE_FAILED, "it failed")
        left(connection, *words)

    monkeypatch.setattr(standings, "let_go", let_go)
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        want(adopted, server)
        await daemon.until_state(server, "elsewhere", "peer_held")
        await daemon.until_free(server)
        assert "process 77 on somewhere" in daemon.row(server)["detail"]
    assert held == [True] * 3


@pytest.mark.parametrize("fails", [False, True])
async def test_a_peer_that_cannot_be_taken_yet(
    adopted: Receiver,
    server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Its row is gone, or nothing can be written: its lock is given back, and taken again later."""
    took, calls = standings.take, list[int]()

    def take(connection: Any, *words: Any) -> Any:  # noqa: ANN401 - the original's
        calls.append(1)
        if len(calls) > 1:
            return took(connection, *words)
        if fails:
            raise LocalError(Reason.DATABASE_FAILED, "it failed")
        return {}

    monkeypatch.setattr(standings, "take", take)
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_held(server)
        await daemon.until_state(server, "idle")
    assert len(calls) == 2
