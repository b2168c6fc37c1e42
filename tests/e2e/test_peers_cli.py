"""How peers stand, as `peers` and other looks show it, with a daemon and without."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from stigmem_replicator.replication.states import PeerState
from tests.e2e.announcing import announced
from tests.e2e.cursors import HOUR_MS, put_cursor
from tests.e2e.peer_commands import Peers
from tests.loopback import DOWN
from tests.pages.origin import now_ms
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.e2e.peer_fixtures", "tests.pages.fixtures")

MINUTE_MS = 60_000


# --- looking


@pytest.mark.usefixtures("running")
def test_a_peer_that_is_drained(known: Peers) -> None:
    """While it catches up its rate is of now, and its lag the age of what was read last."""
    put_cursor(known.receiver, known.node_id, f"{now_ms() - 4 * HOUR_MS}.0")
    known.stand(
        PeerState.CATCHING_UP,
        last_attempt_ms=now_ms(),
        next_attempt_ms=now_ms(),
        turn_admitted=3_000,
        turn_ms=2_000,
    )
    cells = known.cells()
    assert list(cells) == [
        "PEER", "STATE", "LAG", "RATE", "FAILURES", "NEXT ATTEMPT", "CAUGHT UP", "TOMBSTONES",
    ]  # fmt: skip
    assert list(cells.values()) == [
        known.node_id, "catching_up", "4 h", "1500/s", "0", "now", "never", "-",
    ]  # fmt: skip
    assert known.lines()["rate"] == "1500/s new"
    assert "next step" not in known.lines()
    replication = known.document()["replication"]
    assert replication["rate_per_s"] == 1500
    assert abs(replication["lag_ms"] - 4 * HOUR_MS) < MINUTE_MS


@pytest.mark.usefixtures("running")
def test_an_idle_peer(known: Peers) -> None:
    """It does not lag while its last look is young; the rate is that of the last facts."""
    put_cursor(known.receiver, known.node_id, f"{now_ms() - 4 * HOUR_MS}.0")
    idle: dict[str, Any] = {
        "next_attempt_ms": now_ms() + 25_000,
        "turn_admitted": 1,
        "turn_ms": 2_000,
    }
    known.stand(PeerState.IDLE, caught_up_ms=now_ms() - 100_000, **idle)
    cells = known.cells()
    assert (cells["STATE"], cells["LAG"], cells["RATE"]) == ("idle", "0 s", "-")
    assert re.fullmatch(r"in 2[0-9] s", cells["NEXT ATTEMPT"])
    assert known.lines()["rate"] == "0.5/s new, the last time that any came"
    assert known.document()["replication"]["lag_ms"] == 0
    # Two polls of 30 s and the minute after which a look is written at the latest.
    known.stand(PeerState.IDLE, caught_up_ms=now_ms() - 130_000, **idle)
    assert known.cells()["LAG"] == "2 min"
    interval = {"STIGMEM_REPLICATOR_POLL_INTERVAL_S": "60"}
    assert known.document(**interval)["replication"]["lag_ms"] == 0


@pytest.mark.usefixtures("running")
def test_a_peer_that_failed_says_what_to_do(known: Peers) -> None:
    """The last error and the stored next step are shown; a blocked one is then resumed."""
    known.stand(
        PeerState.BLOCKED,
        "key_changed",
        detail="another key",
        hint="ask its operator",
        failures=2,
        next_attempt_ms=now_ms() + HOUR_MS + 5_000,
        last_attempt_ms=now_ms(),
    )
    cells = known.cells()
    assert (cells["STATE"], cells["FAILURES"]) == ("blocked (key_changed)", "2")
    assert cells["NEXT ATTEMPT"] == "in 60 min"
    lines = known.lines()
    assert lines["last error"] == "another key"
    assert lines["next step"] == (
        f"ask its operator; then: stigmem-replicate peers resume {known.node_id}"
    )
    assert lines["next attempt"].startswith("in 60 min, 20")
    replication = known.document()["replication"]
    assert (replication["hint"], replication["failures"]) == ("ask its operator", 2)
    known.stand(PeerState.BACKING_OFF, "timeout", detail="slow", hint=None)
    assert "next step" not in known.lines()


def test_a_peer_that_another_process_works_on(known: Peers) -> None:
    """Who works on it and who waits for it is named, but not who was killed while waiting."""
    known.stand(
        PeerState.ELSEWHERE,
        "peer_held",
        detail="process 7 on h (pull) works on it",
        wanted_by="process 8 on h (pull)",
        wanted_at_ms=now_ms(),
    )
    assert known.cells()["STATE"] == "elsewhere (peer_held)"
    lines = known.lines()
    assert lines["next step"].endswith("process 7 on h (pull) works on it")
    assert lines["wanted by"] == "process 8 on h (pull)"
    assert "last error" not in lines
    assert known.document()["replication"]["wanted_by"] == "process 8 on h (pull)"
    known.stand(PeerState.ELSEWHERE, "peer_held", wanted_at_ms=now_ms() - MINUTE_MS)
    assert "wanted by" not in known.lines()
    assert known.document()["replication"]["wanted_by"] is None


def test_a_peer_that_is_not_active_does_not_lag(known: Peers) -> None:
    """It is not pulled, so nothing is said of when it is asked and how far it is behind."""
    known.stand(PeerState.IDLE, caught_up_ms=now_ms() - HOUR_MS)
    known.receiver.execute("UPDATE peers SET status = 'revoked'")
    cells = known.cells()
    assert (cells["STATE"], cells["CAUGHT UP"]) == ("revoked", "60 min ago")
    assert {cells[name] for name in ("LAG", "RATE", "FAILURES", "NEXT ATTEMPT")} == {"-"}
    assert "lag" not in known.lines()
    assert known.document()["replication"]["lag_ms"] is None


# --- the node's own loop


def test_the_node_s_own_loop_is_named(here: Here, peers: Peers, server: PageServer) -> None:
    """Two cursors moved by somebody else within a quarter of an hour are the node's loop."""
    server.origin.add_many(2)
    for moved in range(3):
        assert here("pull", "--all", db=peers.receiver.database).code == 0
        assert peers.document()["node_loop"] is (moved == 2)
        put_cursor(peers.receiver, peers.node_id, f"{moved}.0")
    assert peers.receiver.events(server).count("cursor_moved_elsewhere") == 2
    assert "STIGMEM_FEDERATION_PULL_INTERVAL_S" in peers.lines()["node's loop"]
    (warning,) = peers.run("list").stderr.splitlines()
    assert warning.startswith("stigmem-replicate: WARNING: the node's own loop is still on: ")
    assert peers.node_id in warning
    old = now_ms() - 16 * MINUTE_MS
    peers.receiver.execute("UPDATE replicator_events SET at_ms = ?", [old])
    assert peers.document()["node_loop"] is False
    assert "node's loop" not in peers.lines()
    peers("list")


# --- the daemon


LOOKS = (
    ("peers", "list"),
    ("peers", "show", "stigmem"),
    ("cursor", "show"),
    ("cursor", "history", "--peer", "stigmem"),
    ("dead-letters", "list"),
)


def test_every_look_says_that_the_daemon_is_down(here: Here, known: Peers) -> None:
    """In one line on standard error, not beside JSON, and not while one runs."""
    for words in LOOKS:
        assert here(*words, db=known.receiver.database).warned.count(DOWN) == 1
        assert here(*words, "--json", db=known.receiver.database).warned == ""
    assert known.document()["daemon_running"] is False
    known.stand(PeerState.IDLE, next_attempt_ms=now_ms(), caught_up_ms=now_ms())
    assert known.cells()["NEXT ATTEMPT"] == "-"
    with announced(known.receiver.database):
        for words in LOOKS:
            assert DOWN not in here(*words, db=known.receiver.database).warned
        assert known.document()["daemon_running"] is True
        assert known.cells()["NEXT ATTEMPT"] == "within 36 s"


def test_where_it_cannot_be_told_whether_a_daemon_runs(known: Peers) -> None:
    """A lock file that does not open is told, and nobody is said to be down."""
    file = known.receiver.database.with_name(f"{known.receiver.database.name}.replicator-lock")
    file.unlink(missing_ok=True)
    file.symlink_to(file)
    result = known.run("list")
    assert result.code == 0
    assert "whether the daemon runs is not known" in result.stderr
    assert DOWN not in result.warned
    assert known.document()["daemon_running"] is None


def test_a_database_that_cannot_be_written_holds_the_daemon_up(
    known: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little room and a file that may only be read are named, with `local_db`."""
    room = {"STIGMEM_REPLICATOR_FREE_SPACE_MIN_MB": str(10**9)}
    for words in (("list",), ("show", known.node_id)):
        (line,) = known.run(*words, **room).stderr.splitlines()
        assert line.startswith("stigmem-replicate: the daemon is held up by its database: ")
        assert line.endswith(" (local_db: disk_low)")
    assert known.document(**room)["local_db"] == "disk_low"
    assert known.document()["local_db"] is None
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    (line,) = known.run("list").stderr.splitlines()
    assert "may only be read (local_db: database_failed)" in line
