"""What the daemon looks after once in a while: the node's own loop, and peers that are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.housekeeping import EVERY_SECONDS, House
from stigmem_replicator.store import events
from stigmem_replicator.store.engine import writing
from tests.engine.engine_room import Engine, engine_of
from tests.pages.receiver import Receiver

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = pytest.mark.anyio


class Rounds:
    """Takes the place of sleep: after each round the test acts, and at last it ends."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        self._acts = list(acts)
        self.scope = anyio.CancelScope()

    async def __call__(self, seconds: float, /) -> None:
        assert seconds == EVERY_SECONDS
        if self._acts:
            self._acts.pop(0)()
        else:
            self.scope.cancel()
        await anyio.lowlevel.checkpoint()


async def keep(engine: Engine, *acts: Callable[[], None]) -> list[dict[str, Any]]:
    """Look after the house for as many rounds as there are acts, and one more."""
    rounds = Rounds(*acts)
    around = replace(engine.around, sleep=rounds)
    with capture_logs() as told, rounds.scope:
        await House(around, Gate(around.clock)).keep()
    return [dict(line) for line in told]


async def test_the_nodes_own_loop_is_told_once(receiver: Receiver) -> None:
    """Two moves of a cursor by somebody else are the loop; it is not told again each minute."""
    with engine_of(receiver) as engine:

        def moved() -> None:
            with writing(engine.around.database) as connection:
                actor, clock = events.REPLICATOR, engine.around.clock
                events.note(connection, "p", events.CURSOR_MOVED, actor, {"after": "1.0"}, clock)

        told = await keep(engine, moved, moved, lambda: None)
    (line,) = told
    assert (line["event"], line["peer"]) == ("federation.peer.node_loop", "p")
    assert "STIGMEM_FEDERATION_PULL_INTERVAL_S" in line["detail"]


async def test_peers_that_are_gone_are_noted(receiver: Receiver) -> None:
    """The first round already notes since when a peer is gone."""
    receiver.execute("INSERT INTO replicator_peers (node_id, number) VALUES ('gone', 1)")
    with engine_of(receiver) as engine:
        assert await keep(engine) == []
    ((since,),) = receiver.query("SELECT vanished_at_ms FROM replicator_peers")
    assert since is not None


async def test_trouble_with_the_database_closes_the_gate(receiver: Receiver) -> None:
    """It is told by the gate, and nothing else ends."""
    with engine_of(receiver) as engine:
        receiver.database.rename(receiver.database.with_suffix(".away"))
        engine.around.database.read.dispose()
        told: list[dict[str, Any]] = []
        with anyio.move_on_after(0.5):
            told = await keep(engine)
        receiver.database.with_suffix(".away").rename(receiver.database)
    assert [(line["event"], line["gate"]) for line in told] == [("replicator.local_db", "closed")]
