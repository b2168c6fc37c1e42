"""One piece of work at a time, the small before the large, and no turn lost to a cancellation."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from stigmem_replicator.engine.turns import Turns

pytestmark = pytest.mark.anyio


class Queue:
    """Work that waits for turns, and the order in which it had them."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.done: list[str] = []
        self.at_once = 0

    async def work(self, name: str) -> None:
        """Have a turn; small work has a small letter."""
        async with self.turns.turn(small=name.islower()):
            self.at_once += 1
            try:
                assert self.at_once == 1
                await anyio.lowlevel.checkpoint()
                self.done.append(name)
            finally:
                self.at_once -= 1


async def test_small_work_goes_first_and_each_kind_in_its_order() -> None:
    """However many large pieces wait, a small one is next; nobody overtakes within a kind."""
    queue = Queue()
    async with anyio.create_task_group() as tasks, queue.turns.turn(small=False):
        for name in "ABaCbc":
            tasks.start_soon(queue.work, name)
            await anyio.wait_all_tasks_blocked()
    assert "".join(queue.done) == "abcABC"
    await queue.work("D")
    assert queue.done[-1] == "D"


async def test_a_cancelled_wait_gives_its_turn_to_the_next() -> None:
    """Also one that was given the turn in the same moment as it was cancelled."""
    queue = Queue()
    async with anyio.create_task_group() as tasks:
        scopes = {}

        async def cancellable(name: str) -> None:
            with anyio.CancelScope() as scopes[name]:
                await queue.work(name)

        async with queue.turns.turn(small=False):
            for name in "ABC":
                tasks.start_soon(cancellable, name)
                await anyio.wait_all_tasks_blocked()
            scopes["A"].cancel()
            await anyio.wait_all_tasks_blocked()
        # B has been given the turn by now, and has not run yet.
        scopes["B"].cancel()
    assert queue.done == ["C"]
    await queue.work("D")
    assert queue.done == ["C", "D"]


async def test_a_failure_gives_its_turn_to_the_next() -> None:
    """Whatever ends a turn, it ends."""
    queue = Queue()
    with pytest.raises(ValueError, match="oops"):
        async with queue.turns.turn(small=True):
            raise ValueError("oops")
    await queue.work("a")
    assert queue.done == ["a"]
