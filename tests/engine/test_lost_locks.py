"""A supervisor whose session with PostgreSQL is ended: what is still its own, and what is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import migrations, standings
from stigmem_replicator.store.engine import open_database, writing
from stigmem_replicator.store.postgres import PostgresSchema
from stigmem_replicator.store.standings import Holder, Note
from tests.engine.daemon_room import NEVER_S, Daemon, PostgresReceiver, backlog, daemon_of
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
WAITING = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


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
) -> None:
    """Its task ends and changes nothing of what the other wrote; the other peers go on."""
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
            held = second_server.hold()
            await daemon.until(held.reached.is_set, "a poll")
            # The session ends while ours is at work; the other one is there first.
            with taken_over(daemon, receiver, number):
                with (
                    closing(open_database(location, timeout_s=5.0)) as other,
                    writing(other) as connection,
                ):
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
    assert lost(told) == [server.node_id]
    server.origin.ledger.assert_clean(receiver.store)


async def test_an_idle_daemon_sees_which_peers_it_lost(
    receiver_on_postgres: PostgresReceiver, server: PageServer, second_server: PageServer
) -> None:
    """Although it has nothing to write; each is told once, and taken again when it is free."""
    receiver = receiver_on_postgres
    receiver.adopt(server)
    receiver.adopt(second_server)
    location = receiver.store.location
    with capture_logs() as told:
        waits = {"poll_interval_s": NEVER_S, "tombstone_interval_s": NEVER_S}
        async with daemon_of(receiver, location=location, **waits) as daemon:
            for peer in (server, second_server):
                await daemon.until_state(peer, "idle")
            idle = "SELECT node_id FROM replicator_streams WHERE state = 'idle'"
            await daemon.until(lambda: len(receiver.query(idle)) == 2, "tombstones read")
            holds = daemon.around.locks.holds
            numbers = [daemon.row(peer)["number"] for peer in (server, second_server)]
            with taken_over(daemon, receiver, *numbers):
                await daemon.until(lambda: not any(map(holds, numbers)), "the loss")
                await daemon.until(lambda: len(lost(told)) == len(numbers), "telling it")
            await daemon.until(lambda: all(map(holds, numbers)), "the return")
            for peer in (server, second_server):
                await daemon.until_held(peer)
    assert sorted(lost(told)) == sorted([server.node_id, second_server.node_id])
    assert "replicator.local_db" not in {line["event"] for line in told}


def lost(told: list[Any]) -> list[str]:
    return [line["peer"] for line in told if line["event"] == "federation.peer.lost"]


@contextmanager
def taken_over(daemon: Daemon, receiver: PostgresReceiver, *numbers: int) -> Iterator[None]:
    """Wait for peers of ours as another session, and end our sessions: then that one has them."""
    backend = daemon.around.database.backend
    assert isinstance(backend, PostgresSchema)
    with ExitStack() as stack:
        waiting = [stack.enter_context(receiver.store.connection()) for _number in numbers]
        threads = stack.enter_context(ThreadPoolExecutor(len(numbers)))
        for connection in waiting:
            connection.execute("SET lock_timeout = '20s'")
        asked = [
            threads.submit(
                connection.execute, "SELECT pg_advisory_lock(%s, %s)", (backend.lock_space, number)
            )
            for connection, number in zip(waiting, numbers, strict=True)
        ]
        while receiver.store.query(WAITING) != [(len(numbers),)]:
            assert not any(answer.done() for answer in asked), "a lock was not ours"
            receiver.store.query("SELECT pg_sleep(0.01)")
        receiver.store.query(END_SESSIONS)
        for answer in asked:
            answer.result(timeout=20.0)
        yield
