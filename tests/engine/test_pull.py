"""The engine in this process, under both async backends, against the page server."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import anyio
import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from stigmem_replicator.engine import writer
from stigmem_replicator.engine.pull import Streams, Wishes
from stigmem_replicator.errors import LocalError, PeerBlockedError, Reason, UnknownPeerError
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import Point
from tests.engine.engine_room import (
    CountingClock,
    Points,
    assert_consistent,
    engine_of,
)
from tests.pages import misbehaviour
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, honestly

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

WAIT_S = 20.0


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    made = Points()
    monkeypatch.setattr(apply, "reached", made)
    return made


# --- pages


async def test_several_pages_are_drained(adopted: Receiver, server: PageServer) -> None:
    """A stream of several pages arrives whole, and the report grows with each page."""
    server.origin.add_many(25)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    assert len(adopted.assert_clean(server).admitted) == 25
    assert engine.report.counts.admitted == 25
    assert engine.report.caught_up_ms is not None
    assert engine.report.cursor == adopted.cursor(server) == server.origin.rows[-1].hlc
    assert [pages for pages, _new in engine.pages] == list(range(1, len(server.requests) + 1))
    assert [new for _pages, new in engine.pages] == sorted(new for _pages, new in engine.pages)
    assert not any(request.refused for request in server.requests)
    assert len({request.claims["nonce"] for request in server.requests}) == len(server.requests)
    assert engine.told == []
    assert_consistent(adopted, server)


async def test_a_page_may_be_written_in_parts(adopted: Receiver, server: PageServer) -> None:
    """A page of more rows than a transaction may have is written in several, the cursor last."""
    server.origin.add_many(6)
    server.origin.add_many(6, entity="pages:same")
    with engine_of(adopted, page_size=12, row_budget=3) as engine:
        await engine.pull(server).run()
    assert engine.report.counts.admitted == 12
    assert engine.report.counts.conflicts == 15
    assert adopted.count("conflicts") == 15
    adopted.assert_clean(server)
    assert_consistent(adopted, server)


async def test_the_next_page_is_fetched_while_one_is_written(
    adopted: Receiver, server: PageServer, points: Points
) -> None:
    """One page is asked for ahead of the page in commit, and no more than that."""
    server.origin.add_many(20)
    asked: list[int] = []

    def look() -> None:
        wait_until(lambda: len(server.requests) == 2)
        # A third request would come at once if it came.
        threading.Event().wait(0.3)
        asked.append(len(server.requests))

    points.on(Point.BEFORE_COMMIT, 1, look)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    assert asked == [2]
    assert len(adopted.assert_clean(server).admitted) == 20


async def test_a_dry_run_counts_what_a_pull_then_does(
    adopted: Receiver, server: PageServer
) -> None:
    """A dry run and the pull after it tell the same numbers of new and refused entries."""
    for _ in range(5):
        server.origin.add_many(3)
        serve(server.origin, poison("a content beside its id"))
    with engine_of(adopted) as dry:
        await dry.pull(server, Wishes(streams=Streams.FACTS, dry_run=True)).run()
    assert adopted.count("facts") == 0
    with engine_of(adopted) as wet:
        await wet.pull(server).run()
    assert (dry.report.counts.admitted, dry.report.counts.rejected) == (15, {"cid_mismatch": 5})
    assert (wet.report.counts.admitted, wet.report.counts.rejected) == (15, {"cid_mismatch": 5})


async def test_one_peer_does_not_delay_another(
    adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """While one peer keeps its answer back, another is pulled to its end by the same process."""
    adopted.adopt(second_server)
    server.origin.add_many(3)
    second_server.origin.add_many(9)
    held = server.hold()
    with engine_of(adopted) as slow, engine_of(adopted) as _other:
        quick = type(slow)(slow.around)
        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(slow.pull(server).run)
                await quick.pull(second_server).run()
                assert adopted.fact_ids(server) == set()
                held.let_go()
    assert len(adopted.assert_clean(second_server).admitted) == 9
    assert len(adopted.assert_clean(server).admitted) == 3


# --- what others do meanwhile


async def test_a_cursor_moved_in_flight(
    adopted: Receiver, server: PageServer, points: Points
) -> None:
    """A row that somebody else writes before a commit wins, and reading goes on from there."""
    server.origin.add_many(14)

    def reset() -> None:
        adopted.execute("UPDATE replication_cursors SET cursor = NULL, updated_at = 'elsewhere'")

    points.on(Point.BEFORE_BEGIN, 3, reset)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    assert engine.report.moved_elsewhere == 1
    assert engine.report.counts.admitted == 14
    assert [request.cursor for request in server.requests].count(None) == 2
    assert len(adopted.assert_clean(server).admitted) == 14
    assert adopted.events(server).count("cursor_moved_elsewhere") == 1
    assert_consistent(adopted, server)


async def test_a_cursor_moved_between_the_parts_of_a_page(
    adopted: Receiver, server: PageServer, points: Points
) -> None:
    """What was written of a page stays when the row is moved, and is counted once."""
    server.origin.add_many(8)

    def reset() -> None:
        adopted.execute(
            "INSERT INTO replication_cursors (peer_id, direction, cursor, updated_at)"
            " SELECT id, 'inbound', NULL, 'elsewhere' FROM peers"
        )

    points.on(Point.BEFORE_BEGIN, 3, reset)
    with engine_of(adopted, page_size=8, row_budget=4) as engine:
        await engine.pull(server).run()
    assert engine.report.moved_elsewhere == 1
    assert engine.report.counts.admitted == 8
    assert len(adopted.assert_clean(server).admitted) == 8
    assert_consistent(adopted, server)


async def test_a_fact_that_came_from_elsewhere_meanwhile(
    adopted: Receiver, server: PageServer, points: Points
) -> None:
    """A fact that another process wrote after the page was judged is a duplicate, not an error."""
    server.origin.add_many(4)
    fact = server.origin.rows[1].entry["fact"]

    def insert() -> None:
        adopted.execute(
            "INSERT INTO facts (id, entity, relation, value_type, value_v, source, timestamp,"
            " confidence, scope, hlc, cid) VALUES (?,?,?,'string',?,?,?,1.0,'public',?,?)",
            [
                *(fact["id"], fact["entity"], fact["relation"], fact["value"]["v"]),
                *(fact["source"], fact["timestamp"], "1.0", fact["cid"]),
            ],
        )

    points.on(Point.BEFORE_BEGIN, 1, insert)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    assert engine.report.counts.admitted == 3
    assert engine.report.counts.duplicates == 1
    assert adopted.cursor(server) == server.origin.rows[-1].hlc


async def test_a_contradiction_that_came_from_elsewhere_meanwhile(
    adopted: Receiver, server: PageServer, points: Points
) -> None:
    """A fact that another process wrote under the same key is paired with all that arrive."""
    server.origin.add_many(3, entity="pages:same")

    def insert() -> None:
        adopted.execute(
            "INSERT INTO facts (id, entity, relation, value_type, value_v, source, timestamp,"
            " confidence, scope, hlc) VALUES ('local', 'pages:same', 'test:name', 'string', 'x',"
            " 'agent:here', '2026-01-01T00:00:00+00:00', 1.0, 'public', '1.0')"
        )

    points.on(Point.BEFORE_BEGIN, 1, insert)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    assert engine.report.counts.conflicts == 6
    with_local = adopted.query("SELECT fact_a_id FROM conflicts WHERE fact_b_id = 'local'")
    assert {row["fact_a_id"] for row in with_local} == adopted.fact_ids(server)
    adopted.assert_clean(server)


async def test_a_peer_revoked_between_the_parts_of_a_page(
    adopted: Receiver, server: PageServer, points: Points
) -> None:
    """The parts before stay, whole and told; nothing is written after, and the cursor stays."""
    server.origin.add_many(8)
    points.on(Point.BEFORE_BEGIN, 3, lambda: adopted.execute("UPDATE peers SET status='revoked'"))
    with (
        engine_of(adopted, page_size=8, row_budget=4) as engine,
        pytest.raises(UnknownPeerError) as caught,
    ):
        await engine.pull(server).run()
    assert caught.value.reason is Reason.PEER_NOT_ACTIVE
    assert 0 < len(adopted.fact_ids(server)) < 8
    assert adopted.cursor(server) is None
    assert engine.report.counts.admitted == len(adopted.fact_ids(server))
    assert_consistent(adopted, server)


# --- commits that fail


def disk_error() -> OperationalError:
    """What the library makes of a driver's failure to commit."""
    return OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))


def fail_with(error: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


async def test_a_commit_that_fails_behind_a_pipeline(adopted: Receiver, server: PageServer) -> None:
    """When a commit fails, the pages before it stay and none after it is written."""
    server.origin.add_many(20)
    commits = 0
    with engine_of(adopted) as engine:

        @event.listens_for(engine.around.database.write, "commit")
        def on_commit(connection: Connection) -> None:
            nonlocal commits
            if adopted.count("facts"):
                commits += 1
                if commits == 2:
                    raise disk_error()
            del connection

        with pytest.raises(LocalError) as caught:
            await engine.pull(server).run()
    assert caught.value.reason is Reason.DATABASE_FAILED
    assert adopted.cursor(server) == server.origin.rows[6].hlc
    assert engine.report.counts.admitted == len(adopted.fact_ids(server)) == 7
    assert_consistent(adopted, server)
    # It was not the peer's doing.
    assert adopted.state(server) == ("catching_up", None)
    with engine_of(adopted) as again:
        await again.pull(server).run()
    assert len(adopted.assert_clean(server).admitted) == 20


async def test_a_commit_whose_answer_is_lost(adopted: Receiver, server: PageServer) -> None:
    """A commit that took place although it seemed to fail is recognised, and reading goes on."""
    server.origin.add_many(20)
    commits = 0
    with engine_of(adopted) as engine:

        @event.listens_for(engine.around.database.write, "commit")
        def on_commit(connection: Connection) -> None:
            nonlocal commits
            if adopted.count("facts"):
                commits += 1
                if commits == 2:
                    driver = connection.connection.driver_connection
                    assert isinstance(driver, sqlite3.Connection)
                    driver.execute("COMMIT")
                    raise disk_error()

        await engine.pull(server).run()
    assert commits > 2
    assert engine.report.counts.admitted == 20
    # Each page begins with the last entry of the one before it.
    assert engine.report.counts.duplicates == engine.report.pages - 1
    assert len(adopted.assert_clean(server).admitted) == 20
    assert_consistent(adopted, server)


class PowerCutError(Exception):
    """Something that nobody foresaw."""


@pytest.mark.parametrize("point", Point)
async def test_an_unforeseen_failure_at_a_point_of_a_commit(
    adopted: Receiver, server: PageServer, points: Points, point: Point
) -> None:
    """Whatever fails in a commit, its page is there whole or not at all, and is pulled later."""
    server.origin.add_many(14)
    points.on(point, 2, fail_with(PowerCutError()))
    with engine_of(adopted) as engine, pytest.raises(BaseExceptionGroup):
        await engine.pull(server).run()
    written = 7 if point is Point.AFTER_COMMIT else 4
    assert len(adopted.fact_ids(server)) == written
    assert adopted.cursor(server) == server.origin.rows[written - 1].hlc
    assert_consistent(adopted, server)
    with engine_of(adopted) as again:
        await again.pull(server).run()
    assert len(adopted.assert_clean(server).admitted) == 14


async def test_a_page_that_blocks_leaves_the_page_before_it(
    adopted: Receiver, server: PageServer
) -> None:
    """When a page cannot be taken, what was answered before it is written or left, never half."""
    server.origin.add_many(4)
    server.script(honestly, misbehaviour.version_one)
    server.origin.add_many(4)
    with engine_of(adopted) as engine, pytest.raises(PeerBlockedError) as caught:
        await engine.pull(server).run()
    assert caught.value.reason is Reason.WRONG_DIALECT
    assert len(adopted.fact_ids(server)) == 4
    assert adopted.state(server) == ("blocked", "wrong_dialect")
    assert_consistent(adopted, server)


# --- cancellation


async def cancelled_at(
    receiver: Receiver, server: PageServer, number: int | None, row_budget: int | None
) -> int:
    """Pull, cancelled when the clock is asked for that time; returns how often it was asked."""
    clock = CountingClock()
    with engine_of(receiver, row_budget=row_budget, clock=clock) as engine:
        pull = engine.pull(server)
        with anyio.fail_after(WAIT_S), anyio.CancelScope() as scope:
            clock.scope, clock.cancel_at = scope, number
            await pull.run()
        clock.scope = None
        assert engine.report.counts.admitted == len(receiver.fact_ids(server)), number
    return clock.asked


@pytest.mark.parametrize("row_budget", [None, 3])
async def test_cancelled_anywhere_the_database_is_whole(
    template: Path,
    tmp_path: Path,
    server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
    anyio_backend: str,
    row_budget: int | None,
) -> None:
    """However far a pull came, facts are whole and the cursor is right; the rest comes later.

    The report tells what was written, no more and no less. With a `row_budget` a page is also
    given up between its parts.
    """
    monkeypatch.setattr(writer, "TIDY_ROWS", 4)
    server.origin.add_many(7)
    serve(server.origin, poison("a content beside its id"))
    server.origin.add_many(4, entity="pages:same")

    def fresh(name: str) -> Receiver:
        receiver = Receiver(Path(shutil.copyfile(template, tmp_path / f"{name}.db")))
        receiver.adopt(server)
        return receiver

    whole = await cancelled_at(fresh("whole"), server, None, row_budget)
    partly = 0
    step = max(1, whole // 12)
    # The two backends take turns, so that together they look twice as closely.
    first = 1 if anyio_backend == "asyncio" else 1 + step // 2
    for index, number in enumerate(range(first, whole, step)):
        receiver = fresh(f"cancelled-{number}")
        await cancelled_at(receiver, server, number, row_budget)
        if receiver.query("SELECT 1 FROM replicator_peers"):
            assert_consistent(receiver, server)
        partly += 0 < len(receiver.fact_ids(server)) < 11
        if index % 3 == 0:
            with engine_of(receiver) as again:
                await again.pull(server).run()
            assert len(receiver.assert_clean(server).admitted) == 11
            assert_consistent(receiver, server)
    assert partly > 1


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


# --- whose signature


async def test_a_lone_forgery_holds_the_stream_until_a_good_signature_follows(
    adopted: Receiver, server: PageServer
) -> None:
    """One good signature beside it proves the key: then the forged entry alone is refused."""
    serve(server.origin, poison("a signature of another key"))
    with engine_of(adopted) as engine, pytest.raises(PeerBlockedError):
        await engine.pull(server).run()
    server.origin.add_many(1)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    assert engine.report.counts.rejected == {"origin_sig_invalid": 1}
    assert engine.report.counts.admitted == 1


async def test_a_known_fact_proves_the_key_too(adopted: Receiver, server: PageServer) -> None:
    """What a node serves it signs anew, so a known fact tells whether the key is right."""
    server.origin.add_many(3)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    serve(server.origin, poison("a signature of another key"))
    adopted.execute("UPDATE replication_cursors SET cursor = NULL, updated_at = 'elsewhere'")
    with engine_of(adopted, page_size=8) as engine:
        await engine.pull(server).run()
    assert engine.report.counts.rejected == {"origin_sig_invalid": 1}


async def test_a_new_key_without_a_new_manifest_blocks_the_peer(
    adopted: Receiver, server: PageServer
) -> None:
    """When no signature fits and the manifest shows no other key, the cursor stays."""
    for _ in range(3):
        serve(server.origin, poison("a signature of another key"))
    with engine_of(adopted) as engine, pytest.raises(PeerBlockedError) as blocked:
        await engine.pull(server).run()
    assert blocked.value.reason == "key_changed"
    assert adopted.cursor(server) is None
    assert adopted.letters(server) == {}


async def test_a_page_that_cannot_be_judged_leaves_those_before_it(
    adopted: Receiver, server: PageServer
) -> None:
    """Good pages that were answered before a page that blocks are written whole."""
    server.origin.add_many(8)
    for _ in range(8):
        serve(server.origin, poison("a signature of another key"))
    with engine_of(adopted, page_size=4, row_budget=2) as engine:
        with pytest.raises(PeerBlockedError):
            await engine.pull(server).run()
        assert engine.report.counts.admitted == 8
    assert engine.report.pages >= 2
