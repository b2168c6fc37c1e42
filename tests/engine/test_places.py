"""Places for peers: so many at a time, and only a part of them for those in doubt."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from stigmem_replicator.engine.places import Places

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - a name
    return request.param


class Crowd:
    """Tasks that want a place and keep it until they are told to leave."""

    def __init__(self, at_once: int) -> None:
        self.places = Places(at_once)
        self.inside: list[str] = []
        self.leave = {name: anyio.Event() for name in "abcdefghijABC"}

    async def enter(self, name: str) -> None:
        """Take a place; who has a capital letter is in doubt."""
        async with self.places.place(doubtful=name.isupper()):
            self.inside.append(name)
            await self.leave[name].wait()
            self.inside.remove(name)


@pytest.mark.parametrize(("at_once", "doubtful"), [(8, 2), (4, 1), (3, 1), (1, 1)])
async def test_doubtful_peers_share_a_part_of_the_places(at_once: int, doubtful: int) -> None:
    """A quarter is theirs, at least one; however many wait, the rest is for the others."""
    crowd = Crowd(at_once)
    async with anyio.create_task_group() as tasks:
        for name in "ABC":
            tasks.start_soon(crowd.enter, name)
        await anyio.wait_all_tasks_blocked()
        assert len(crowd.inside) == doubtful
        for name in "defghij":
            tasks.start_soon(crowd.enter, name)
        await anyio.wait_all_tasks_blocked()
        assert len(crowd.inside) == min(at_once, doubtful + 7)
        tasks.cancel_scope.cancel()


async def test_whoever_waited_longest_is_next(anyio_backend: str) -> None:
    """A place that comes free goes to them in their order, also when somebody gives up."""
    crowd = Crowd(1)
    order: list[str] = []
    gives_up = anyio.CancelScope()

    async def wait(name: str) -> None:
        async with crowd.places.place(doubtful=False):
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
