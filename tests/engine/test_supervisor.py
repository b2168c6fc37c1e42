"""Which peers run: as rows of the registry come, change and go, and as operators pause them."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from stigmem_replicator.errors import Reason
from stigmem_replicator.store import events, pauses
from stigmem_replicator.store.locks import DAEMON
from tests.engine.daemon_room import (
    NEVER_S,
    Chance,
    backlog,
    daemon_of,
    held_elsewhere,
)
from tests.engine.engine_room import assert_consistent
from tests.pages import misbehaviour
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POLL_S = 5.0


# --- the registry


async def test_a_peer_that_is_added_starts(
    receiver: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """It is taken, drained and polled, without a restart; so is the next one."""
    server.origin.add_many(9)
    second_server.origin.add_many(5)
    async with daemon_of(receiver, poll_interval_s=POLL_S) as daemon:
        receiver.adopt(server)
        await daemon.until_state(server, "idle")
        receiver.adopt(second_server)
        await daemon.until_state(second_server, "idle")
        await daemon.until_held(server)
        server.origin.add()
        await daemon.until(lambda: backlog(receiver, server) == 10)
    assert len(receiver.assert_clean(server).admitted) == 10
    assert len(receiver.assert_clean(second_server).admitted) == 5
    assert_consistent(receiver, server)


@pytest.mark.parametrize(
    "statement", ["UPDATE peers SET status = 'revoked' WHERE node_id = ?", "DELETE FROM peers"]
)
async def test_a_peer_that_is_revoked_or_gone_stops(
    receiver: Receiver, server: PageServer, second_server: PageServer, statement: str
) -> None:
    """It is let go of and not asked again, others go on; approved again, it starts again."""
    receiver.adopt(server)
    async with daemon_of(receiver, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        with receiver.at_once():
            parameters = [server.node_id] if "?" in statement else []
            receiver.execute(statement, parameters)
            receiver.execute("DELETE FROM federation_manifests")
        await daemon.until_free(server)
        asked = len(server.requests)
        receiver.adopt(second_server)
        await daemon.polled(second_server)
        assert len(server.requests) == asked
        receiver.execute("DELETE FROM peers WHERE node_id = ?", [server.node_id])
        server.origin.add()
        receiver.adopt(server)
        await daemon.until(lambda: backlog(receiver, server) == 1)


@pytest.mark.parametrize("seen", [False, True])
async def test_a_peer_revoked_while_its_page_is_in_flight(
    adopted: Receiver,
    server: PageServer,
    second_server: PageServer,
    seen: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Nothing of the page is admitted, whether the supervisor saw the revocation before or not."""
    server.origin.add_many(4)
    held = server.hold()
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until(held.reached.is_set, "the request")
        adopted.execute("UPDATE peers SET status = 'revoked'")
        if seen:
            await daemon.until_free(server)
        held.let_go()
        await daemon.until_free(server)
        adopted.adopt(second_server)
        await daemon.polled(second_server)
    assert adopted.fact_ids(server) == set()
    assert adopted.cursor(server) is None
    assert daemon.row(server)["failures"] == 0


@pytest.mark.parametrize("column", ["node_url", "allowed_scopes"])
async def test_a_peer_whose_row_changes_begins_anew(
    receiver: Receiver, server: PageServer, second_server: PageServer, column: str
) -> None:
    """What failed before is forgotten, and the peer is asked at once by the row as it is now."""
    server.origin.add_many(3, scope="public")
    other = server.url_at("localhost", tls=False)
    receiver.adopt(server, url=server.url)
    server.always = misbehaviour.status(500)
    chance = Chance(0.0)
    waits = {"backoff_base_s": 3600.0, "backoff_cap_s": NEVER_S}
    async with daemon_of(receiver, chance=chance, **waits) as daemon:
        await daemon.until(lambda: daemon.row(server).get("failures", 0) > 2, "failures")
        chance.value = 1.0
        await daemon.until(
            lambda: daemon.row(server)["next_attempt_ms"] > now_ms() + 1_000_000, "a long wait"
        )
        asked = len(server.requests)
        value = other if column == "node_url" else '["public"]'
        receiver.execute(f"UPDATE peers SET {column} = ?", [value])  # noqa: S608 - from above
        await daemon.until(lambda: len(server.requests) == asked + 1, "another attempt")
        await daemon.until(lambda: daemon.row(server)["failures"] == 1, "a count from the start")
        if column == "allowed_scopes":
            assert server.requests[-1].claims["scopes"] == ["public"]
        else:
            assert server.requests[-1].headers["Host"].startswith("localhost")
        # Nothing but the row's change could have led there.
        receiver.adopt(second_server)
        await daemon.polled(second_server, 1)
        assert len(server.requests) == asked + 1


# --- pauses


async def test_a_paused_peer_stops_and_a_resumed_one_goes_on(
    adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """A pause ends its work at once, also in the middle of an answer; a resume begins it again."""
    adopted.adopt(second_server)
    server.origin.add_many(6)
    held = server.hold()
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        clock = daemon.around.clock
        await daemon.until(held.reached.is_set, "the request")
        await daemon.operator(pauses.pause, server.node_id, "noise", None, events.REPLICATOR, clock)
        await daemon.until_free(server)
        held.let_go()
        assert daemon.row(server)["state"] == "paused"
        asked = len(server.requests)
        await daemon.polled(second_server)
        assert len(server.requests) == asked
        assert adopted.fact_ids(server) == set()
        await daemon.operator(pauses.resume, server.node_id, "somebody", clock)
        await daemon.until_held(server)
        await daemon.until_state(server, "idle")
    assert len(adopted.assert_clean(server).admitted) == 6


async def test_a_pause_ends_by_itself(adopted: Receiver, server: PageServer) -> None:
    """At its time the peer is taken again, and an event says that it was no operator."""
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        until, clock = now_ms() + 500, daemon.around.clock
        await daemon.operator(pauses.pause, server.node_id, None, until, "somebody", clock)
        await daemon.until(lambda: daemon.row(server)["paused_at_ms"] is None, "the end")
        assert now_ms() >= until
        server.origin.add()
        await daemon.until(lambda: backlog(adopted, server) == 1)
        await daemon.until_state(server, "idle")
    resumed = adopted.query("SELECT actor FROM replicator_events WHERE event = 'resumed'")
    assert [row["actor"] for row in resumed] == [events.REPLICATOR]


# --- the database


async def test_a_daemon_waits_while_the_tables_are_changed(
    adopted: Receiver, server: PageServer
) -> None:
    """Whoever changes them has the lock that daemons share: nothing is done before it is free."""
    server.origin.add()
    with capture_logs() as told, ExitStack() as held:
        held.enter_context(held_elsewhere(adopted, DAEMON))
        async with daemon_of(adopted) as daemon:
            await daemon.until(lambda: told, "word of it")
            assert daemon.rows() == []
            held.close()
            await daemon.until_state(server, "idle")
    assert told[0]["event"] == "replicator.waiting"
    assert "changes the replicator's tables" in told[0]["detail"]


async def test_a_replaced_database_ends_the_supervisor(
    adopted: Receiver, server: PageServer
) -> None:
    """It says why, for whoever opens the database anew, and leaves the new file alone."""
    path = adopted.database
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        new = path.with_name("new.db")
        new.write_bytes(path.read_bytes())
        written = new.read_bytes()
        new.rename(path)
        await daemon.until_ended()
        assert daemon.cause is not None
        assert daemon.cause.reason is Reason.DATABASE_REPLACED
        assert path.read_bytes() == written


async def test_a_migrated_node_ends_the_supervisor(adopted: Receiver, server: PageServer) -> None:
    """Its new schema has to be looked at before anything more is written."""
    async with daemon_of(adopted, poll_interval_s=POLL_S) as daemon:
        await daemon.until_state(server, "idle")
        adopted.execute(
            "INSERT INTO schema_migrations (version, applied_at) VALUES ('059_later', ?)",
            [datetime.now(UTC).isoformat()],
        )
        await daemon.until_ended()
        assert daemon.cause is not None
        assert daemon.cause.reason is Reason.SCHEMA_UNSUPPORTED


async def test_nothing_is_asked_of_a_supervisor_without_peers(receiver: Receiver) -> None:
    """A node without peers is looked at all the same, and the end comes at once."""
    async with daemon_of(receiver, poll_interval_s=NEVER_S) as daemon:
        await daemon.until(lambda: receiver.count("replicator_clock") == 1, "the seed")
    assert daemon.rows() == []
