"""One peer's facts read pass by pass: what is kept from one pass to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from stigmem_replicator.engine import stream as stream_module
from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.stream import FactStream, Watcher
from stigmem_replicator.engine.worker import Yielded
from stigmem_replicator.errors import LocalError, Reason, TransientPeerError
from stigmem_replicator.replication.session import CaughtUp, Stopped
from stigmem_replicator.store import apply, events, hlc_clock, reads
from stigmem_replicator.store.apply import Point
from stigmem_replicator.store.engine import writing
from tests.engine.daemon_room import backlog, enlist, surroundings_of
from tests.engine.engine_room import Points, assert_consistent
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, limits_of

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@dataclass
class Reading:
    """A stream, and what it told."""

    stream: FactStream
    report: PullReport
    told: list[str] = field(default_factory=list)


@asynccontextmanager
async def stream_of(
    receiver: Receiver,
    server: PageServer,
    *,
    read_only: bool = False,
    **settings: Any,  # noqa: ANN401 - values of any setting
) -> AsyncIterator[Reading]:
    """A stream of one peer's facts, which nobody else works on."""
    if not receiver.query("SELECT 1 FROM replicator_peers"):
        enlist(receiver, server)
    with surroundings_of(receiver, **settings) as around:
        with writing(around.database) as connection:
            hlc_clock.seed(connection)
            (peer,) = reads.peers(connection)
        report, told = PullReport(), list[str]()
        watcher = Watcher(tell=told.append)
        async with PeerConnection(peer, around, read_only=read_only) as connection:
            stream = FactStream(connection, report, watcher, still_held=lambda: True)
            yield Reading(stream, report, told)


def cursors(server: PageServer) -> list[str | None]:
    return [request.cursor for request in server.requests]


async def test_a_pass_goes_on_after_each_quantum(adopted: Receiver, server: PageServer) -> None:
    """The turns of a pass together are the pass: the same pages, no other, and one report."""
    server.origin.add_many(20)
    ends: list[object] = []
    async with stream_of(adopted, server) as read:
        stream = read.stream
        while not isinstance(end := await stream.read(quantum=2), CaughtUp):
            ends.append(end)
            assert isinstance(end, Yielded)
            assert len(server.requests) == 2 * len(ends)
            # What a turn read is committed at its end.
            assert backlog(adopted, server) == read.report.counts.admitted > 0
    assert len(set(cursors(server))) == len(server.requests) == read.report.pages
    assert read.report.counts.admitted == 20
    assert read.report.counts.duplicates == read.report.pages - 1
    assert len(adopted.assert_clean(server).admitted) == 20


async def test_a_cursor_that_was_moved_between_turns(adopted: Receiver, server: PageServer) -> None:
    """The next turn begins a pass of its own from there, and says so once."""
    server.origin.add_many(20)
    async with stream_of(adopted, server) as read:
        stream = read.stream
        assert isinstance(await stream.read(quantum=2), Yielded)
        adopted.execute("UPDATE replication_cursors SET cursor = NULL, updated_at = 'later'")
        assert isinstance(await stream.read(quantum=2), Yielded)
        while not isinstance(await stream.read(quantum=2), CaughtUp):
            pass
    assert cursors(server).count(None) == 2
    assert adopted.events(server).count(events.CURSOR_MOVED) == 1
    assert len([words for words in read.told if "changed by somebody else" in words]) == 1
    assert len(adopted.assert_clean(server).admitted) == 20
    assert_consistent(adopted, server)


async def test_a_cursor_that_is_moved_while_a_turn_ends(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages of that turn are dropped, and the pass goes on from where the row is now."""
    server.origin.add_many(20)
    points = Points()
    monkeypatch.setattr(apply, "reached", points)
    points.on(
        Point.BEFORE_BEGIN,
        4,
        lambda: adopted.execute(
            "UPDATE replication_cursors SET cursor = NULL, updated_at = 'later'"
        ),
    )
    async with stream_of(adopted, server) as read:
        stream = read.stream
        for _ in range(30):
            if isinstance(await stream.read(quantum=2), CaughtUp):
                break
    assert read.report.moved_elsewhere == 1
    assert cursors(server).count(None) == 2
    assert adopted.events(server).count(events.CURSOR_MOVED) == 1
    assert len(adopted.assert_clean(server).admitted) == 20
    assert_consistent(adopted, server)


async def test_a_pass_that_failed_begins_anew(adopted: Receiver, server: PageServer) -> None:
    """What was committed stays, and the next pass goes on at the settled position."""
    server.origin.add_many(20)
    server.script(*[lambda exchange: exchange.send(*exchange.honest())] * 3)
    server.script(misbehaviour.status(500))
    async with stream_of(adopted, server) as read:
        stream = read.stream
        with pytest.raises(TransientPeerError):
            await stream.read(quantum=20)
        admitted = read.report.counts.admitted
        assert 0 < admitted < 20
        failed = len(server.requests)
        assert isinstance(await stream.read(quantum=20), CaughtUp)
    assert server.requests[failed].cursor == cursors(server)[failed - 1]
    assert read.report.counts.admitted == 20
    assert_consistent(adopted, server)


async def test_the_size_of_a_page_is_kept(adopted: Receiver, server: PageServer) -> None:
    """What a peer could bear last is asked for first, in the next turn as in the next pass."""
    server.origin.add_many(12)
    server.script(misbehaviour.hang, misbehaviour.hang)
    async with stream_of(adopted, server, page_size=8, read_timeout_s=0.7) as read:
        stream = read.stream
        await stream.read(quantum=1)
        await stream.read(quantum=1)
        server.script(misbehaviour.status(500))
        with pytest.raises(TransientPeerError):
            await stream.read(quantum=1)
        await stream.read(quantum=1)
    assert limits_of(server.requests) == [8, 4, 2, 2, 2, 2]


async def test_what_is_known_of_the_peers_clock_is_kept(
    adopted: Receiver, server: PageServer
) -> None:
    """A poll that brings nothing writes nothing, and still the process knows the time it told."""
    server.origin.add_many(3)
    async with stream_of(adopted, server) as read:
        stream = read.stream
        await stream.read()
        await stream.read()
        position = stream._position  # noqa: SLF001 - what the next pass begins with
        await stream.read()
        later = stream._position  # noqa: SLF001 - the same
    (row,) = adopted.query("SELECT * FROM replicator_cursors")
    assert position is not None
    assert later is not None
    assert (position.settled, later.settled) == (row["settled"], row["settled"])
    assert later.origin_time_at_ms is not None
    assert later.origin_time_at_ms > row["origin_time_at_ms"]


async def test_a_database_that_fails_leaves_the_stream_as_it_was(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is raised, and the next read begins at what is committed."""
    server.origin.add_many(12)
    points = Points()
    monkeypatch.setattr(apply, "reached", points)

    def fail() -> None:
        raise LocalError(Reason.DATABASE_FAILED, "it failed")

    points.on(Point.AFTER_INSERTS, 2, fail)
    async with stream_of(adopted, server) as read:
        stream = read.stream
        with pytest.raises(LocalError):
            await stream.read(quantum=20)
        assert backlog(adopted, server) == 4
        assert isinstance(await stream.read(quantum=20), CaughtUp)
    assert read.report.counts.admitted == 12
    assert_consistent(adopted, server)


async def test_as_many_pages_as_are_wished(adopted: Receiver, server: PageServer) -> None:
    """A pass may be bounded, and ends committed."""
    server.origin.add_many(20)
    async with stream_of(adopted, server) as read:
        stream = read.stream
        assert isinstance(await stream.read(max_pages=2), Stopped)
    assert len(server.requests) == 2
    assert read.report.counts.admitted == 7


async def test_a_stream_that_only_reads_writes_nothing(
    adopted: Receiver, server: PageServer
) -> None:
    """Everything is counted, and the database is as it was."""
    server.origin.add_many(6)
    async with stream_of(adopted, server, read_only=True) as read:
        before = adopted.dump()
        stream = read.stream
        await stream.read()
    assert read.report.counts.admitted == 6
    assert adopted.dump() == before


async def test_a_turn_is_over_by_time_too(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that drips keeps its place for one page, and goes on where it was."""
    monkeypatch.setattr(stream_module, "TURN_SECONDS", 0.0)
    server.origin.add_many(9)
    async with stream_of(adopted, server) as read:
        stream = read.stream
        ends = [await stream.read(quantum=20)]
        while isinstance(ends[-1], Yielded):
            ends.append(await stream.read(quantum=20))
    assert len(ends) > 1
    assert read.report.counts.admitted == 9
    assert_consistent(adopted, server)
