"""Places for peers: so many at a time, and few besides for those in doubt."""

from __future__ import annotations

import anyio
import pytest

from stigmem_replicator.engine.places import DOUBTFUL_SHARE, PROMPT_SECONDS, Places
from tests.integration.world import FakeClock

pytestmark = pytest.mark.anyio


class Crowd:
    """Tasks that want a place and keep it until they are told to leave."""

    def __init__(self, at_once: int) -> None:
        self.clock = FakeClock()
        self.places = Places(at_once, self.clock)
        self.inside: list[str] = []
        self.leave = {name: anyio.Event() for name in "abcdefghijABC"}

    async def enter(self, name: str) -> None:
        """Take a place; who has a capital letter is in doubt."""
        asked_at: list[float] = []
        place = self.places.place(
            lambda: asked_at[0] if asked_at else None, doubtful=name.isupper()
        )
        async with place:
            asked_at.append(self.clock.monotonic())
            self.inside.append(name)
            await self.leave[name].wait()
            self.inside.remove(name)


@pytest.mark.parametrize("at_once", [5, 4, 3, 1])
async def test_doubtful_peers_have_a_few_places_besides(at_once: int) -> None:
    """One for some of the others, at least one; however many wait, no other place is theirs."""
    doubtful = max(1, at_once // DOUBTFUL_SHARE)
    crowd = Crowd(at_once)
    async with anyio.create_task_group() as tasks:
        for name in "ABC":
            tasks.start_soon(crowd.enter, name)
        await anyio.wait_all_tasks_blocked()
        assert len(crowd.inside) == doubtful
        for name in "defghij":
            tasks.start_soon(crowd.enter, name)
        await anyio.wait_all_tasks_blocked()
        assert len(crowd.inside) == min(at_once, 7) + doubtful
        tasks.cancel_scope.cancel()


async def test_whoever_waited_longest_is_next(anyio_backend: str) -> None:
    """A place that comes free goes to them in their order, also when somebody gives up."""
    crowd = Crowd(1)
    order: list[str] = []
    gives_up = anyio.CancelScope()

    async def wait(name: str) -> None:
        async with crowd.places.place(lambda: None, doubtful=False):
            order.append(name)

    async def give_up() -> None:
        with gives_up:
            await wait("never")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crowd.enter, "a")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(wait, "first")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(give_up)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(wait, "second")
        await anyio.wait_all_tasks_blocked()
        gives_up.cancel()
        crowd.leave["a"].set()
    assert order == ["first", "second"], anyio_backend


async def test_a_doubtful_peer_takes_no_place_while_it_waits_for_its_share() -> None:
    """Those who wait for the doubtful share keep nobody out of the rest."""
    crowd = Crowd(2)
    async with anyio.create_task_group() as tasks:
        for name in "ABC":
            tasks.start_soon(crowd.enter, name)
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(crowd.enter, "d")
        await anyio.wait_all_tasks_blocked()
        assert crowd.inside == ["A", "d"]
        crowd.leave["A"].set()
        await anyio.wait_all_tasks_blocked()
        assert crowd.inside == ["d", "B"]
        tasks.cancel_scope.cancel()


async def test_a_turn_that_brings_nothing_goes_over_to_the_doubtful() -> None:
    """Its place is then free for others, as far as there is one for those in doubt."""
    crowd = Crowd(2)
    async with anyio.create_task_group() as tasks:
        for name in "abcd":
            tasks.start_soon(crowd.enter, name)
            await anyio.wait_all_tasks_blocked()
        assert crowd.inside == ["a", "b"]
        crowd.clock.advance(PROMPT_SECONDS - 1)
        crowd.places.sort_out()
        await anyio.wait_all_tasks_blocked()
        assert crowd.inside == ["a", "b"]
        crowd.clock.advance(2)
        crowd.places.sort_out()
        await anyio.wait_all_tasks_blocked()
        assert crowd.inside == ["a", "b", "c"]
        crowd.leave["a"].set()
        await anyio.wait_all_tasks_blocked()
        crowd.places.sort_out()
        await anyio.wait_all_tasks_blocked()
        assert crowd.inside == ["b", "c", "d"]
        tasks.cancel_scope.cancel()
