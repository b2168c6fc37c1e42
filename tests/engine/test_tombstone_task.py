"""One peer's tombstones under the daemon: beside its facts, by a clock of their own.

What one pass makes of a page is in tests/e2e/test_tombstone_pull.py, the paging itself in the
unit tests of ``replication.tombstones``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from stigmem_replicator.engine.notes import AnyNote, Notes
from stigmem_replicator.store.streams import StreamNote
from tests.engine.daemon_room import NEVER_S, SPEED, Daemon, backlog, daemon_of
from tests.pages import misbehaviour
from tests.pages.backlog import add_backlog
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstone_endpoint import CAPABILITY, PEER_TOKEN
from tests.pages.tombstones import add_revocation, add_tombstone, add_tombstones

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POLL_S = 5.0
MILLION = 1_000_000


def stream(receiver: Receiver) -> dict[str, Any]:
    """What the table says of the tombstones of the one peer."""
    found = receiver.query("SELECT * FROM replicator_streams")
    return dict(found[0]) if found else {}


async def until_stream(daemon: Daemon, state: str, reason: str | None = None) -> None:
    await daemon.until(
        lambda: (
            (row := stream(daemon.receiver)) and (row["state"], row["reason"]) == (state, reason)
        ),
        f"tombstones {state} ({reason})",
    )


async def until_read(daemon: Daemon, server: PageServer, more: int = 3) -> None:
    """Wait until the tombstones were asked for some more times."""
    requests = server.tombstone_endpoint.requests
    before = len(requests)
    await daemon.until(lambda: len(requests) >= before + more, "more looks")


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


async def test_a_backlog_of_facts_keeps_no_tombstone_waiting(
    adopted: Receiver, server: PageServer
) -> None:
    """With a million facts waiting, a new tombstone is here before the facts are."""
    add_backlog(server.origin, MILLION)
    pages = {"page_size": 50, "quantum_pages": 10**6}
    async with daemon_of(adopted, tombstone_interval_s=POLL_S, **pages) as daemon:
        await daemon.until(lambda: backlog(adopted, server) > 100, "facts")
        for number in range(2):
            record = add_tombstone(server.origin, f"waiting:{number}")
            asked = len(server.tombstone_endpoint.requests)
            await daemon.until(partial(_is_here, adopted, record["id"]), "the tombstone")
            # In the first look after it was made, or in one that was under way.
            assert len(server.tombstone_endpoint.requests) <= asked + 2
        assert 100 < backlog(adopted, server) < MILLION / 2


def _is_here(receiver: Receiver, tombstone_id: str) -> bool:
    return tombstone_id in receiver.tombstone_ids()


async def test_a_quiet_stream_is_one_small_look(adopted: Receiver, server: PageServer) -> None:
    """It is read in full first, then from the newest settled record on; nothing is written."""
    old = add_tombstone(server.origin, "person:old", created_at=ago(hours=3))
    new = add_tombstone(server.origin, "person:new", created_at=ago(minutes=2))
    add_revocation(server.origin, old["id"], created_at=ago(minutes=1))
    quiet = {"tombstone_interval_s": POLL_S, "poll_interval_s": NEVER_S}
    async with daemon_of(adopted, tombstone_full_read_s=NEVER_S, **quiet) as daemon:
        await until_stream(daemon, "idle")
        await daemon.until_state(server, "idle")
        await until_read(daemon, server)
        commits = daemon.row(server)["commit_number"]
        await until_read(daemon, server)
        assert daemon.row(server)["commit_number"] == commits
    sinces = [request.since for request in server.tombstone_endpoint.requests]
    assert sinces[0] is None
    assert set(sinces[1:]) == {old["created_at"]}
    assert adopted.tombstone_ids() == {old["id"], new["id"]}


async def test_all_is_read_again_every_so_often(adopted: Receiver, server: PageServer) -> None:
    """A record that was relayed late lies behind every position: a full read finds it."""
    add_tombstone(server.origin, "person:new", created_at=ago(hours=2))
    often = {"tombstone_interval_s": POLL_S, "tombstone_full_read_s": int(10 * POLL_S)}
    async with daemon_of(adopted, **often) as daemon:
        await until_stream(daemon, "idle")
        await until_read(daemon, server, 2)
        late = add_tombstone(server.origin, "person:late", created_at=ago(days=30))
        await daemon.until(lambda: late["id"] in adopted.tombstone_ids(), "the late one")
    sinces = [request.since for request in server.tombstone_endpoint.requests]
    assert sinces.count(None) == 2


async def test_a_reset_has_them_all_read_again(adopted: Receiver, server: PageServer) -> None:
    """What an operator sets while the daemon runs is where the next look begins."""
    record = add_tombstone(server.origin, "person:kim", created_at=ago(hours=2))
    quiet = {"tombstone_interval_s": POLL_S, "tombstone_full_read_s": NEVER_S}
    async with daemon_of(adopted, **quiet) as daemon:
        await until_stream(daemon, "idle")
        await until_read(daemon, server)
        adopted.execute("UPDATE replicator_cursors SET settled = NULL, frontier = NULL")
        before = len(server.tombstone_endpoint.requests)
        await daemon.until(
            lambda: (
                None in [request.since for request in server.tombstone_endpoint.requests[before:]]
            ),
            "a full look",
        )
        await daemon.until(
            lambda: adopted.settled(server, "tombstones") == record["created_at"], "the position"
        )


async def test_without_a_token_facts_go_on_and_a_new_file_is_seen(
    adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """The stream is blocked, the peer is idle; a token in the file opens it without a restart."""
    server.tombstone_endpoint.demands_capability = True
    server.origin.add_many(2)
    record = add_tombstone(server.origin, "person:kim")
    token = tmp_path / "token.json"
    own = {server.node_id: {"capability_token_file": token}}
    token.write_text("{}")
    async with daemon_of(adopted, peer_tables=own, blocked_retry_s=NEVER_S) as daemon:
        await daemon.until_state(server, "idle")
        await until_stream(daemon, "blocked", "capability_required")
        assert backlog(adopted, server) == 2
        assert str(token) in stream(adopted)["detail"]
        token.write_text(server.tombstone_endpoint.capabilities.issue(server.origin))
        await until_stream(daemon, "idle")
        ends = json.loads(token.read_text())["expiry"]
        at_ms = round(datetime.fromisoformat(ends).timestamp() * 1000)
        assert stream(adopted)["token_not_after_ms"] == at_ms
    assert adopted.tombstone_ids() == {record["id"]}
    assert {request.bearer for request in server.tombstone_endpoint.requests} == {CAPABILITY}


async def test_a_peer_that_demands_nothing_gets_the_peer_token(
    adopted: Receiver, server: PageServer
) -> None:
    """A new one for each request, since a nonce is good for one."""
    add_tombstone(server.origin, "person:kim")
    async with daemon_of(adopted, tombstone_interval_s=POLL_S) as daemon:
        await until_stream(daemon, "idle")
        await until_read(daemon, server)
    asked = server.tombstone_endpoint.requests
    assert {request.bearer for request in asked} == {PEER_TOKEN}
    assert {request.flaw for request in asked} == {""}


async def test_a_wish_for_quiet_holds_for_both_streams(
    adopted: Receiver, server: PageServer
) -> None:
    """A peer whose tombstones answer 429 is not asked for its facts either before its time."""
    soon = {"tombstone_interval_s": POLL_S, "poll_interval_s": POLL_S}
    async with daemon_of(adopted, **soon) as daemon:
        await until_stream(daemon, "idle")
        await daemon.polled(server)
        server.tombstone_endpoint.always = misbehaviour.status(429, headers={"Retry-After": "3600"})
        await until_stream(daemon, "throttled", "throttled")
        # One that was under way when the wish came may still be answered.
        under_way = len(server.requests)
        asked = len(server.tombstone_endpoint.requests)
        # That something does not happen shows in time alone: so long as some polls would take.
        await anyio.sleep(6 * POLL_S / SPEED)
        assert len(server.requests) <= under_way + 1
        assert len(server.tombstone_endpoint.requests) == asked


async def test_a_failure_of_one_is_none_of_the_other(adopted: Receiver, server: PageServer) -> None:
    """Tombstones that fail back off by themselves, and recover by themselves."""
    server.origin.add_many(3)
    server.tombstone_endpoint.script(*[misbehaviour.status(500)] * 2)
    async with daemon_of(adopted) as daemon:
        await daemon.until_state(server, "idle")
        await until_stream(daemon, "idle")
        assert daemon.row(server)["failures"] == 0
    assert len(server.tombstone_endpoint.requests) >= 3
    assert len(adopted.assert_clean(server).admitted) == 3


def changes(receiver: Receiver) -> int:
    """How many changes of state were written."""
    (row,) = receiver.query(
        "SELECT COUNT(*) AS n FROM replicator_events WHERE event = 'state_changed'"
    )
    return int(row["n"])


async def test_what_is_read_again_at_each_look_is_no_news(
    adopted: Receiver, server: PageServer
) -> None:
    """More of the last minutes than a page holds is read again each time: nothing is written."""
    add_tombstones(server.origin, 450, start=datetime.now(UTC) - timedelta(minutes=20))
    quiet = {"tombstone_interval_s": POLL_S, "poll_interval_s": NEVER_S}
    async with daemon_of(adopted, tombstone_full_read_s=NEVER_S, **quiet) as daemon:
        await until_stream(daemon, "idle")
        await daemon.until_state(server, "idle")
        assert len(adopted.tombstone_ids()) == 450
        before, commits = changes(adopted), daemon.row(server)["commit_number"]
        await until_read(daemon, server, 9)
        assert (changes(adopted), daemon.row(server)["commit_number"]) == (before, commits)
        assert stream(adopted)["state"] == "idle"


async def test_a_stream_that_stays_blocked_is_no_news(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried now and then; what is known of it is not written each time."""
    server.tombstone_endpoint.demands_capability = True
    told: list[bool] = []
    post = Notes.post

    def posted(self: Notes, note: AnyNote, *, urgent: bool) -> None:
        if isinstance(note, StreamNote):
            told.append(urgent)
        post(self, note, urgent=urgent)

    monkeypatch.setattr(Notes, "post", posted)
    async with daemon_of(adopted, blocked_retry_s=POLL_S, poll_interval_s=NEVER_S) as daemon:
        await until_stream(daemon, "blocked", "capability_required")
        await until_read(daemon, server, 4)
    assert told[0]
    assert not any(told[1:])


async def test_two_looks_for_a_new_key_are_one(adopted: Receiver, server: PageServer) -> None:
    """A peer that takes a new key is asked for its manifest once, and both streams go on."""
    often = {"tombstone_interval_s": POLL_S, "poll_interval_s": POLL_S}
    async with daemon_of(adopted, **often) as daemon:
        await until_stream(daemon, "idle")
        await daemon.until_state(server, "idle")
        server.origin.rotate()
        server.origin.add_many(3)
        record = add_tombstone(server.origin, "person:kim")
        await daemon.until(partial(_is_here, adopted, record["id"]), "the tombstone")
        await daemon.until(lambda: backlog(adopted, server) == 3, "the facts")
    assert len(server.manifest_requests) == 1
    assert adopted.letters(server) == {}
