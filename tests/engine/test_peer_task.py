"""One peer's task: its turns, what wakes it, and what its failures lead to."""

from __future__ import annotations

import itertools
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from stigmem_replicator.engine import stream_task
from stigmem_replicator.engine.fact_task import FactTask
from stigmem_replicator.engine.judging import Judge
from stigmem_replicator.engine.places import AskingSince, Places
from stigmem_replicator.store import pauses
from stigmem_replicator.store.reads import CursorRow
from tests.engine.daemon_room import NEVER_S, SPEED, Chance, Daemon, backlog, daemon_of, enlist
from tests.engine.engine_room import assert_consistent
from tests.pages import misbehaviour
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import Exchange, PageServer, honestly

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POLL_S = 5.0


# --- turns


async def test_a_deep_backlog_is_read_in_turns(
    adopted: Receiver,
    server: PageServer,
    second_server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a quantum of pages the other peer has the place; the pass then goes on where it was."""
    # On a busy machine either may seem slow here, whose seconds are short.
    monkeypatch.setattr(stream_task, "SLOW_PAGE_SECONDS", NEVER_S)
    adopted.adopt(second_server)
    for origin in (server, second_server):
        origin.origin.add_many(40)
    turns = {"peers_at_once": 1, "quantum_pages": 3, "poll_interval_s": NEVER_S}
    async with daemon_of(adopted, **turns) as daemon:
        await daemon.until_state(server, "idle")
        await daemon.until_state(second_server, "idle")
    assert len(adopted.assert_clean(server).admitted) == 40
    assert len(adopted.assert_clean(second_server).admitted) == 40
    requests = [(request.at, server.node_id) for request in server.requests]
    requests += [(request.at, second_server.node_id) for request in second_server.requests]
    turns_taken = [
        len(list(group)) for _, group in itertools.groupby(who for _, who in sorted(requests))
    ]
    pages = len(server.requests)
    assert max(turns_taken[:8]) <= 3
    assert len(second_server.requests) == pages
    cursors = [request.cursor for request in server.requests]
    # No page is asked for twice because of a turn's end.
    assert len(set(cursors)) == pages
    assert_consistent(adopted, server)


async def test_what_is_read_again_is_read_once_a_pass(
    adopted: Receiver, server: PageServer
) -> None:
    """New entries are not settled: the next pass reads them again, but no turn in between does."""
    begin = now_ms() - 1000
    for number in range(20):
        server.origin.add(hlc=f"{begin + number}.0")
    async with daemon_of(adopted, quantum_pages=1, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        await daemon.until(lambda: [r.cursor for r in server.requests].count(None) == 3, "polls")
    cursors = [request.cursor for request in server.requests]
    first = cursors[: cursors.index(None, 1)]
    assert len(first) == len(set(first)) > 5
    second = cursors[len(first) : cursors.index(None, len(first) + 1)]
    assert second == first
    assert_consistent(adopted, server)


async def test_a_poll_of_a_quiet_peer_is_one_page(adopted: Receiver, server: PageServer) -> None:
    """Where reading stands is kept from poll to poll: nothing is read again, nothing written."""
    server.origin.add_many(10)
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        drained = len(server.requests)
        await daemon.until(lambda: len(server.requests) > drained + 3, "polls")
        commits = daemon.row(server)["commit_number"]
        polled = len(server.requests)
        await daemon.until(lambda: len(server.requests) > polled + 3, "polls")
        assert daemon.row(server)["commit_number"] == commits
    newest = server.origin.rows[-1].hlc
    assert {request.cursor for request in server.requests[drained + 1 :]} == {newest}


# --- what wakes a peer


def reset(receiver: Receiver) -> None:
    """Do to the cursor what `cursor reset` does to it."""
    receiver.execute(
        "UPDATE replication_cursors SET cursor = NULL, updated_at = ?",
        [datetime.now(UTC).isoformat()],
    )


async def test_a_cursor_that_is_reset_wakes_its_peer(adopted: Receiver, server: PageServer) -> None:
    """However long the wait, everything is read once more, at once and without an effect."""
    server.origin.add_many(9)
    async with daemon_of(adopted, poll_interval_s=NEVER_S) as daemon:
        await daemon.until_state(server, "idle")
        drained = len(server.requests)
        reset(adopted)
        await daemon.until(lambda: len(server.requests) == 2 * drained, "a full reread")
        await daemon.until(
            lambda: adopted.cursor(server) == server.origin.rows[-1].hlc, "the cursor's return"
        )
    cursors = [request.cursor for request in server.requests]
    assert cursors[drained:] == cursors[:drained]
    assert len(adopted.assert_clean(server).admitted) == 9


async def test_a_reset_during_a_poll_is_not_lost(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll had looked at the cursor before; when it ends, the peer is asked again at once."""
    server.origin.add_many(9)
    rows: list[CursorRow | None] = []
    saw = FactTask.saw

    def seen(self: FactTask, row: CursorRow | None) -> None:
        saw(self, row)
        rows.append(row)

    monkeypatch.setattr(FactTask, "saw", seen)
    async with daemon_of(adopted, poll_interval_s=NEVER_S) as daemon:
        await daemon.until_state(server, "idle")
        drained = len(server.requests)
        held = server.hold()
        await daemon.operator(pauses.resume, server.node_id, "somebody", daemon.around.clock)
        await daemon.until(held.reached.is_set, "a poll")
        reset(adopted)
        await daemon.until(lambda: any(row and row.cursor is None for row in rows), "the look")
        held.let_go()
        await daemon.until(lambda: len(server.requests) == 1 + 2 * drained, "a full reread")
        await daemon.until(
            lambda: adopted.cursor(server) == server.origin.rows[-1].hlc, "the cursor's return"
        )
    assert len(adopted.assert_clean(server).admitted) == 9


async def test_our_own_pages_wake_nobody(
    adopted: Receiver,
    server: PageServer,
    second_server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look during a turn finds a cursor that the turn wrote: nothing is asked for that."""
    server.origin.add_many(24)
    rows: list[CursorRow | None] = []
    saw = FactTask.saw

    def seen(self: FactTask, row: CursorRow | None) -> None:
        saw(self, row)
        rows.append(row)

    monkeypatch.setattr(FactTask, "saw", seen)
    server.script(honestly, honestly, honestly)
    first, then = server.hold(), server.hold()
    async with daemon_of(adopted, poll_interval_s=NEVER_S) as daemon:
        await daemon.until(lambda: any(row and row.cursor for row in rows), "a look")
        seen_first = next(row for row in rows if row is not None and row.cursor)
        first.let_go()
        await daemon.until(lambda: adopted.cursor(server) != seen_first.cursor, "a commit")
        # As a look that began before the last commit and is told of after it.
        (running,) = daemon.supervisor._running.values()  # noqa: SLF001 - the peer's task
        running.task.facts.saw(seen_first)
        then.let_go()
        await daemon.until_state(server, "idle")
        drained = len(server.requests)
        adopted.adopt(second_server)
        await daemon.until_state(second_server, "idle")
        looks = len(rows)
        await daemon.until(lambda: len(rows) > looks + 4, "more looks")
        assert len(server.requests) == drained


async def test_a_resume_wakes_a_peer_that_failed(adopted: Receiver, server: PageServer) -> None:
    """An operator does not wait for a backoff, and the failures before are forgotten."""
    server.script(*[misbehaviour.status(500)] * 3)
    chance = Chance(0.0)
    waits = {"backoff_base_s": 3600.0, "backoff_cap_s": NEVER_S, "poll_interval_s": NEVER_S}
    async with daemon_of(adopted, chance=chance, **waits) as daemon:
        await daemon.until_state(server, "backing_off", "server_error")
        await daemon.until_state(server, "idle")
        server.script(*[misbehaviour.status(500)] * 2)
        chance.value = 1.0
        for _ in range(2):
            await resumed(daemon, server)
            await daemon.until(lambda: daemon.row(server)["failures"] == 1)
            await daemon.until_state(server, "backing_off", "server_error")
        await resumed(daemon, server)
        await daemon.until_state(server, "idle")
        assert daemon.row(server)["failures"] == 0
    assert len(server.requests) == 7


async def resumed(daemon: Daemon, server: PageServer) -> None:
    """Resume a peer and wait until it was asked."""
    asked = len(server.requests)
    await daemon.operator(pauses.resume, server.node_id, "somebody", daemon.around.clock)
    await daemon.until(lambda: len(server.requests) > asked, "a request")


async def test_nothing_shortens_a_wait_that_a_peer_asked_for(
    adopted: Receiver, server: PageServer
) -> None:
    """After a 429 neither a reset nor a resume leads to a request before its time."""
    seconds = 30
    server.origin.add_many(3)
    throttled = misbehaviour.status(429, headers={"Retry-After": str(seconds)})
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        server.script(throttled)
        await daemon.until_state(server, "throttled", "throttled")
        asked = len(server.requests)
        floor = daemon.row(server)["not_before_ms"]
        assert floor > now_ms() + 1000 * (seconds - 10)
        reset(adopted)
        await daemon.operator(pauses.resume, server.node_id, "somebody", daemon.around.clock)
        # It may have been asked to wait before it was told to hurry, and it stays throttled.
        assert daemon.row(server)["not_before_ms"] == floor
        assert daemon.row(server)["state"] == "throttled"
        await daemon.until(lambda: len(server.requests) > asked, "the next request")
        await daemon.until_state(server, "idle")
        assert daemon.row(server)["not_before_ms"] is None
    waited_s = server.requests[asked].at - server.requests[asked - 1].at
    assert waited_s >= seconds / SPEED


async def test_a_clock_that_was_set_back_does_not_lengthen_a_wait(
    adopted: Receiver, server: PageServer
) -> None:
    """What is noted further ahead than any peer may ask for is bounded by that."""
    enlist(adopted, server)
    adopted.execute(
        "UPDATE replicator_peers SET state = 'throttled', not_before_ms = ?, next_attempt_ms = ?",
        [now_ms() + 10**9] * 2,
    )
    async with daemon_of(adopted, retry_after_cap_s=20) as daemon:
        await daemon.until_held(server)
        await daemon.until_state(server, "idle")
        assert daemon.row(server)["not_before_ms"] is None


# --- failures


async def test_failures_are_counted_and_waits_grow(adopted: Receiver, server: PageServer) -> None:
    """Each failure doubles the wait up to its cap; a good pass forgets them all."""
    server.script(*[misbehaviour.status(500)] * 5)
    waits = {"backoff_base_s": 4.0, "backoff_cap_s": 16.0, "poll_interval_s": NEVER_S}
    seen: dict[int, int] = {}
    async with daemon_of(adopted, chance=Chance(1.0), **waits) as daemon:

        def all_seen() -> bool:
            row = daemon.row(server)
            if row and row["failures"]:
                seen[row["failures"]] = row["next_attempt_ms"] - row["last_attempt_ms"]
            return bool(row) and row["state"] == "idle"

        await daemon.until(all_seen, "the recovery")
        assert daemon.row(server)["failures"] == 0
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(server.requests)]
    for gap, wait_s in zip(gaps, (4, 8, 16, 16, 16), strict=True):
        assert gap >= wait_s / SPEED
    assert len(seen) >= 2
    for failures, wait_ms in seen.items():
        assert wait_ms >= 1000 * min(4 * 2 ** (failures - 1), 16)


async def test_what_nobody_foresaw_does_not_end_a_peers_task(
    adopted: Receiver,
    server: PageServer,
    second_server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told with a traceback, the peer backs off and is tried again, the others go on."""
    adopted.adopt(second_server)
    server.origin.add_many(5)
    second_server.origin.add_many(5)
    judged, broken = Judge.page, [server.node_id]

    async def page(self: Judge, entries: Any, **words: Any) -> Any:  # noqa: ANN401 - the original's
        if self._peer.node_id in broken:
            raise ZeroDivisionError("of all things")
        return await judged(self, entries, **words)

    monkeypatch.setattr(Judge, "page", page)
    with capture_logs() as told:
        async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
            await daemon.until_state(server, "backing_off", "unexpected")
            await daemon.until(lambda: daemon.row(server)["failures"] > 1, "another attempt")
            await daemon.until_state(second_server, "idle")
            assert "ZeroDivisionError" in daemon.row(server)["detail"]
            broken.clear()
            await daemon.until_state(server, "idle")
            assert daemon.row(server)["failures"] == 0
    lines = [line for line in told if line["event"] == "replicator.unexpected"]
    assert len(lines) > 1
    assert all(line["exc_info"] for line in lines)
    assert {line["peer"] for line in lines} == {server.node_id}
    assert len(adopted.assert_clean(server).admitted) == 5


@pytest.mark.parametrize("bad", [misbehaviour.slow(0.3), misbehaviour.status(500)])
async def test_a_doubtful_peer_has_only_some_of_the_places(
    adopted: Receiver,
    server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
    bad: Any,  # noqa: ANN401 - a behaviour
) -> None:
    """Whoever failed or was slow is doubtful from the next turn on, until a turn goes well."""
    asked: list[bool] = []
    place, of_facts = Places.place, list[Places]()

    def placed(
        self: Places, asking_since: AskingSince, *, doubtful: bool
    ) -> AbstractAsyncContextManager[None]:
        if self in of_facts:
            asked.append(doubtful)
        return place(self, asking_since, doubtful=doubtful)

    monkeypatch.setattr(Places, "place", placed)
    good = [False]

    def behave(exchange: Exchange) -> None:
        (honestly if good[0] else bad)(exchange)

    server.always = behave
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        of_facts.append(daemon.supervisor._shared.places)  # noqa: SLF001 - tombstones have others
        await daemon.until(lambda: len(asked) > 3, "turns")
        assert asked[:4] == [False, True, True, True]
        good[0] = True
        await daemon.until(lambda: not asked[-1], "a good turn")
    assert backlog(adopted, server) == 0
