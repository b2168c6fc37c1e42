"""A supervisor whose session with PostgreSQL is ended: what is still its own, and what is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import locks, migrations, standings
from stigmem_replicator.store.engine import open_database, writing
from stigmem_replicator.store.locks import PeerLocks, make_locks
from stigmem_replicator.store.standings import Holder, Note
from tests.engine.daemon_room import PostgresReceiver, backlog, daemon_of
from tests.nodes.database import PostgresDatabase
from tests.nodes.environment import node_environment
from tests.nodes.postgres import PostgresServer
from tests.pages.origin import now_ms
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

POLL_S = 5.0
END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE application_name = 'stigmem-replicate' AND datname = current_database()
"""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - a name
    return request.param


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer, template: Path) -> str:
    """The database of a node on PostgreSQL, with the identity of the one on SQLite."""
    url = postgres_server.node_database(node_environment())
    store = PostgresDatabase(url)
    with closing(sqlite3.connect(template)) as source:
        for key, value in source.execute("SELECT key, value FROM node_meta"):
            store.run("INSERT INTO node_meta (key, value) VALUES (?, ?)", key, value)
    database = open_database(url, timeout_s=5.0)
    migrations.upgrade(database)
    database.close()
    return url


@pytest.fixture
def receiver_on_postgres(
    postgres_server: PostgresServer, filled: str
) -> Iterator[PostgresReceiver]:
    url = postgres_server.create_database(filled.rsplit("/", 1)[1])
    yield PostgresReceiver(PostgresDatabase(url))
    postgres_server.drop_database(url)


async def test_a_session_that_is_lost_keeps_its_peers(
    receiver_on_postgres: PostgresReceiver, server: PageServer
) -> None:
    """Nobody else took them meanwhile: work goes on, and the peer is held as before."""
    receiver = receiver_on_postgres
    receiver.adopt(server)
    server.origin.add_many(3)
    location = receiver.store.location
    async with daemon_of(receiver, location=location, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        receiver.store.query(END_SESSIONS)
        server.origin.add()
        await daemon.until(lambda: backlog(receiver, server) == 4, "the new fact")
        await daemon.until_state(server, "idle")
        assert daemon.row(server)["failures"] == 0
        await daemon.until_held(server)
    assert daemon.row(server)["holder_pid"] is None
    server.origin.ledger.assert_clean(receiver.store)


async def test_a_peer_that_somebody_else_took_is_left_alone(
    receiver_on_postgres: PostgresReceiver,
    server: PageServer,
    second_server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its task ends and changes nothing of what the other wrote; the other peers go on."""
    monkeypatch.setattr(locks, "_RETAKE_ATTEMPTS", 3)
    receiver = receiver_on_postgres
    receiver.adopt(server)
    receiver.adopt(second_server)
    location = receiver.store.location
    other_process = Holder("elsewhere", 77, "pull", now_ms())
    with capture_logs() as told:
        async with daemon_of(receiver, location=location, poll_interval_s=POLL_S) as daemon:
            for peer in (server, second_server):
                await daemon.until_state(peer, "idle")
            number = daemon.row(server)["number"]
            with (
                closing(open_database(location, timeout_s=5.0)) as other,
                make_locks(other) as others,
            ):
                held = second_server.hold()
                await daemon.until(held.reached.is_set, "a poll")
                # The session ends while ours is at work; the other one is there first.
                await taken_over(receiver, others, number)
                with writing(other) as connection:
                    standings.take(connection, [server.node_id], other_process)
                    standing = Standing(PeerState.BACKING_OFF, "timeout", failures=1)
                    note = Note(server.node_id, standing)
                    standings.write(connection, [note], daemon.around.clock)
                before = daemon.row(server)
                held.let_go()
                await daemon.until(lambda: not daemon.around.locks.holds(number), "the loss")
                server.origin.add_many(2)
                second_server.origin.add_many(2)
                await daemon.until(lambda: backlog(receiver, second_server) == 2, "the others")
                await daemon.until_held(second_server)
                polled = len(second_server.requests)
                await daemon.until(lambda: len(second_server.requests) > polled + 3, "polls")
                after = daemon.row(server)
                assert after == before
                assert (after["holder_pid"], after["holder_host"]) == (77, "elsewhere")
                assert backlog(receiver, server) == 0
            # The other one is gone without a word.
            await daemon.until_held(server)
            await daemon.until(lambda: backlog(receiver, server) == 2, "its facts")
    assert "replicator.unexpected" not in {line["event"] for line in told}
    server.origin.ledger.assert_clean(receiver.store)


async def taken_over(receiver: PostgresReceiver, others: PeerLocks, number: int) -> None:
    """End every session of ours until the other one has the lock."""
    with receiver.store.connection() as ending:
        for _ in range(200):
            ending.execute(END_SESSIONS)
            if others.take(number):
                return
    raise AssertionError("the lock was never free")
