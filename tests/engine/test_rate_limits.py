"""Rate limits among tasks, in a time that passes only when every task waits."""

from __future__ import annotations

import heapq
import math

import anyio
import anyio.lowlevel
import pytest

from stigmem_replicator.transport.rates import BothRates, RateLimits, Rates

pytestmark = pytest.mark.anyio


class Timeline:
    """A clock and a sleep: whoever sleeps wakes when `run` has come to that time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._sleeping: list[tuple[float, int, anyio.Event]] = []
        self._naps = 0

    def now_ms(self) -> int:
        raise NotImplementedError

    def now_iso(self) -> str:
        raise NotImplementedError

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float, /) -> None:
        self._naps += 1
        awake = anyio.Event()
        heapq.heappush(self._sleeping, (self.now_s + seconds, self._naps, awake))
        await awake.wait()

    async def run(self, until_s: float = math.inf) -> None:
        """Let the time pass until `until_s` seconds after the start, or until nobody sleeps."""
        await anyio.wait_all_tasks_blocked()
        while self._sleeping and self._sleeping[0][0] <= 100.0 + until_s:
            self.now_s, _, awake = heapq.heappop(self._sleeping)
            awake.set()
            await anyio.wait_all_tasks_blocked()
        if until_s < math.inf:
            self.now_s = 100.0 + until_s


class Tasks:
    """Tasks that ask for requests or read bytes, and the times at which they were let on."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.let_on: list[tuple[str, float, float]] = []
        """Whose, seconds after the start, seconds waited."""

    async def request(self, name: str, limits: RateLimits) -> None:
        waited_s = await limits.request()
        self.let_on.append((name, self.timeline.now_s - 100.0, waited_s))

    async def read(self, name: str, limits: RateLimits, count: int) -> None:
        waited_s = await limits.received(count)
        self.let_on.append((name, self.timeline.now_s - 100.0, waited_s))


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


@pytest.fixture
def tasks(timeline: Timeline) -> Tasks:
    return Tasks(timeline)


def rates(timeline: Timeline, *, requests: float = 0, received: float = 0) -> Rates:
    return Rates(requests, received, timeline, timeline.sleep)


async def test_requests_are_let_on_in_the_order_in_which_they_came(
    timeline: Timeline, tasks: Tasks
) -> None:
    """Two at once, which is one second's worth, then one every half second."""
    limits = rates(timeline, requests=2.0)
    async with anyio.create_task_group() as group:
        for name in "abcde":
            group.start_soon(tasks.request, name, limits)
            await anyio.wait_all_tasks_blocked()
        await timeline.run()
    assert tasks.let_on == [
        ("a", 0.0, 0.0),
        ("b", 0.0, 0.0),
        ("c", 0.5, 0.5),
        ("d", 1.0, 1.0),
        ("e", 1.5, 1.5),
    ]


async def test_bytes_are_paid_for_in_the_order_in_which_they_were_read(
    timeline: Timeline, tasks: Tasks
) -> None:
    """Whoever read much waits long; who came after it waits for those bytes, too."""
    limits = rates(timeline, received=1_000)
    async with anyio.create_task_group() as group:
        for name, count in (("a", 600), ("b", 10_400), ("c", 500)):
            group.start_soon(tasks.read, name, limits, count)
            await anyio.wait_all_tasks_blocked()
        await timeline.run()
    assert tasks.let_on == [("a", 0.0, 0.0), ("b", 10.0, 10.0), ("c", 10.5, 10.5)]


async def test_a_stream_is_read_at_its_rate(timeline: Timeline) -> None:
    """A hundred parts of 500 bytes at 1,000 a second take 49 seconds: the first second is free."""
    limits = rates(timeline, received=1_000)

    async def read() -> None:
        for _ in range(100):
            await limits.received(500)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await timeline.run()
    assert timeline.now_s - 100.0 == pytest.approx(49.0)


async def test_a_cancelled_request_is_not_counted(timeline: Timeline, tasks: Tasks) -> None:
    """Those behind it move up, whether it was the first of the queue or further back."""
    limits = rates(timeline, requests=1.0)
    async with anyio.create_task_group() as group:
        await tasks.request("a", limits)
        scopes = {name: anyio.CancelScope() for name in "bcde"}

        async def cancellable(name: str) -> None:
            with scopes[name]:
                await tasks.request(name, limits)

        for name in scopes:
            group.start_soon(cancellable, name)
            await anyio.wait_all_tasks_blocked()
        scopes["b"].cancel()
        scopes["d"].cancel()
        await timeline.run()
    assert tasks.let_on == [("a", 0.0, 0.0), ("c", 1.0, 1.0), ("e", 2.0, 2.0)]


async def test_bytes_of_a_cancelled_task_stay_counted(timeline: Timeline, tasks: Tasks) -> None:
    """They were read: the next one waits for them."""
    limits = rates(timeline, received=1_000)
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await limits.received(3_000)
        group.start_soon(tasks.read, "b", limits, 1_000)
        await timeline.run()
    assert tasks.let_on == [("b", 3.0, 3.0)]


async def test_a_peer_that_waits_for_its_own_rate_does_not_hold_up_the_others(
    timeline: Timeline, tasks: Tasks
) -> None:
    """Its own comes first; the shared one is asked when a request could really be sent."""
    shared = rates(timeline, requests=2.0)
    slow = BothRates(rates(timeline, requests=0.1), shared)
    free = BothRates(rates(timeline), shared)
    async with anyio.create_task_group() as group:
        for name, limits in (("s1", slow), ("s2", slow), ("f1", free), ("f2", free), ("f3", free)):
            group.start_soon(tasks.request, name, limits)
            await anyio.wait_all_tasks_blocked()
        await timeline.run()
    assert tasks.let_on == [
        ("s1", 0.0, 0.0),
        ("f1", 0.0, 0.0),
        ("f2", 0.5, 0.5),
        ("f3", 1.0, 1.0),
        ("s2", 10.0, 10.0),
    ]


async def test_both_rates_hold_and_the_wait_is_that_of_the_slower(
    timeline: Timeline, tasks: Tasks
) -> None:
    """Bytes count for the peer and for all; who waits ten seconds has waited one as well."""
    shared = rates(timeline, received=1_000)
    slow = BothRates(rates(timeline, received=100), shared)
    free = BothRates(rates(timeline), shared)
    async with anyio.create_task_group() as group:
        for name, limits, count in (("s", slow, 1_100), ("f", free, 900)):
            group.start_soon(tasks.read, name, limits, count)
            await anyio.wait_all_tasks_blocked()
        await timeline.run()
    assert tasks.let_on == [("f", 1.0, 1.0), ("s", 10.0, 10.0)]


async def test_an_idle_time_is_no_credit_for_a_burst(timeline: Timeline, tasks: Tasks) -> None:
    """After an hour, one second's worth goes at once and no more."""
    limits = rates(timeline, requests=1.0)
    await timeline.run(3600.0)
    async with anyio.create_task_group() as group:
        for name in "ab":
            group.start_soon(tasks.request, name, limits)
            await anyio.wait_all_tasks_blocked()
        await timeline.run()
    assert tasks.let_on == [("a", 3600.0, 0.0), ("b", 3601.0, 1.0)]


@pytest.mark.parametrize("kind", ["request", "received"])
async def test_the_callers_deadline_stands_still_during_a_wait(kind: str) -> None:
    """A wait that is ours, however long, is not the peer's slowness."""
    seen: list[float] = []
    timeline = Timeline()

    async def sleep(_seconds: float, /) -> None:
        seen.append(limit.deadline)
        await anyio.lowlevel.checkpoint()

    limits = Rates(0.001, 0.001, timeline, sleep)
    with anyio.fail_after(60.0) as limit:
        before = limit.deadline
        for _ in range(2):
            await (limits.request(limit) if kind == "request" else limits.received(1, limit))
        assert limit.deadline == pytest.approx(before, abs=30.0)
    assert seen == [math.inf]


async def test_a_cancelled_wait_gives_the_deadline_back(timeline: Timeline) -> None:
    """A scope that lives on is not left without a limit."""
    limits = rates(timeline, received=1)
    with anyio.fail_after(60.0) as limit, anyio.CancelScope() as scope:
        scope.cancel()
        await limits.received(1_000, limit)
    assert scope.cancelled_caught
    assert limit.deadline < math.inf


async def test_no_limit_costs_nothing() -> None:
    """No wait, no lock, no look at the clock: a cancelled task passes without noticing it."""

    class NoClock(Timeline):
        def monotonic(self) -> float:
            looks.append(1)
            return super().monotonic()

    looks: list[int] = []
    timeline = NoClock()
    limits = BothRates(rates(timeline), rates(timeline))
    made = len(looks)
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await limits.request(scope) == 0.0
        assert await limits.received(10**9, scope) == 0.0
    assert not scope.cancelled_caught
    assert len(looks) == made
