"""Pausing and resuming peers by hand, and what is said of it."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from stigmem_replicator.replication.states import PeerState
from tests.e2e.peer_commands import Peers
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.e2e.peer_fixtures", "tests.pages.fixtures")

HOUR_MS = 3_600_000


def shown_moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- pausing


def test_pausing_and_resuming_a_peer(peers: Peers) -> None:
    """Both say what is so now, and are remembered as an operator's: who, what, why."""
    who = f"{getpass.getuser()} (peers pause)"
    before = peers.receiver.query("SELECT * FROM peers")
    assert peers.act("pause", "--reason", "it\x1b moves") == (
        "is paused until it is resumed (it  moves); only a pull by hand works on it meanwhile"
    )
    assert (peers.row["state"], peers.row["paused_by"]) == ("paused", who)
    assert peers.newest_event() == ("paused", who, {"reason": "it  moves", "until_ms": None})
    assert peers.cells()["STATE"] == "paused"
    lines = peers.lines()
    assert lines["paused"].startswith(f"by {who} at ")
    assert lines["paused"].endswith(": it  moves")
    assert lines["next step"] == f"to go on: stigmem-replicate peers resume {peers.node_id}"
    paused = peers.document()["replication"]["paused"]
    assert (paused["by"], paused["reason"], paused["until_ms"]) == (who, "it  moves", None)

    again = peers.act("pause")
    assert again.startswith(f"was paused already, by {who}, and is now paused until it is resumed;")
    assert peers.row["pause_reason"] is None

    assert peers.act("resume") == "is no longer paused; a pull asks it, or the daemon once it runs"
    event, actor, _detail = peers.newest_event()
    assert (event, actor) == ("resumed", f"{getpass.getuser()} (peers resume)")
    columns = ("state", "paused_at_ms", "paused_until_ms", "paused_by", "pause_reason", "detail")
    assert [peers.row[name] for name in columns] == ["catching_up", *[None] * 5]
    assert peers.act("resume").startswith("was not paused; ")
    assert peers.receiver.query("SELECT * FROM peers") == before


def test_a_pause_ends_when_it_was_said(peers: Peers) -> None:
    """A span counts from now, a moment without a zone is UTC; the time is shown."""
    began = now_ms()
    assert "is paused until 20" in peers.act("pause", "--until", "90s")
    assert began + 90_000 <= peers.row["paused_until_ms"] <= now_ms() + 90_000
    day = datetime.fromtimestamp(began // 1000 + 86_400, UTC).replace(minute=0, second=0)
    naive = day.strftime("%Y-%m-%dT%H:%M:%S")
    for text in (naive, f"{naive}Z", day.strftime("%Y-%m-%d %H:%M+00:00")):
        assert f"now paused until {naive}Z" in peers.act("pause", "--until", text)
        assert peers.row["paused_until_ms"] == day.timestamp() * 1000
    lines = peers.lines()
    assert f", until {naive}Z" in lines["paused"]
    assert peers.document()["replication"]["paused"]["until_ms"] == day.timestamp() * 1000
    assert peers.document()["replication"]["next_attempt_ms"] == day.timestamp() * 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--until", "soon"), "'soon' is no time"),
        (("--until", "1w"), "'1w' is no time"),
        (("--until", ""), "'' is no time"),
        (("--until", "2020-01-01"), "'2020-01-01' is not in the future"),
        (("--until", "0s"), "'0s' is not in the future"),
        (("--until", "0001-01-01T00:00+23:59"), "is not in the future"),
        (("--reason", "x" * 501), "501 characters"),
    ],
)
def test_a_pause_that_cannot_be(peers: Peers, words: tuple[str, str], said: str) -> None:
    """Times that do not read or are over, and reasons without end, are exit 2; nothing changes."""
    before = peers.receiver.dump()
    assert said in peers.run("pause", peers.node_id, *words).failed("usage", 2)
    assert peers.receiver.dump() == before


def test_the_first_pause_makes_our_tables(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """A peer that is not active yet can be paused too, before anything was pulled."""
    bare_receiver.adopt(server, status="pending_approval")
    peers = Peers(here, bare_receiver, server.node_id)
    assert peers.act("pause").startswith("is paused until ")
    assert peers.row["number"] == 1
    assert peers.cells()["STATE"] == "pending_approval"
    assert "paused" in peers.lines()
    assert peers.lines()["next step"] == "approve it on the node"
    said = peers.act("resume")
    assert (
        said == "is no longer paused; it is pending_approval in the node's registry and not pulled"
    )


def test_a_command_to_copy_is_one_for_a_shell(here: Here, adopted: Receiver) -> None:
    """A peer chooses its own name; what an operator copies does nothing but resume it."""
    adopted.register("x; reboot", "http://127.0.0.1:2")
    peers = Peers(here, adopted, "x; reboot")
    peers.act("pause")
    assert peers.lines()["next step"] == "to go on: stigmem-replicate peers resume 'x; reboot'"


def test_pausing_names_its_peer_as_a_pull_does(peers: Peers) -> None:
    """Nobody and two are exit 4."""
    for command in ("pause", "resume"):
        peers.run(command, "nobody").failed("unknown_peer", 4)
    peers.receiver.register("stigmem:node:second", "http://127.0.0.1:2")
    peers.run("pause", "stigmem:node").failed("ambiguous_peer", 4)


def test_a_pull_by_hand_works_on_a_paused_peer(
    here: Here, peers: Peers, server: PageServer
) -> None:
    """It brings what is new and leaves the peer paused."""
    server.origin.add_many(2)
    peers.act("pause", "--reason", "why")
    assert here("pull", "--peer", peers.node_id, db=peers.receiver.database).code == 0
    assert len(peers.receiver.fact_ids(server)) == 2
    assert (peers.row["state"], peers.row["pause_reason"]) == ("paused", "why")
    assert peers.cells()["LAG"] == "0 s"


# --- resuming what failed


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("state", [PeerState.BLOCKED, PeerState.BACKING_OFF])
def test_resuming_a_peer_that_failed(known: Peers, state: PeerState) -> None:
    """Its failures are forgotten and it is asked at once."""
    known.stand(state, "unreachable", failures=3, next_attempt_ms=now_ms() + HOUR_MS)
    assert known.act("resume") == (
        "was not paused; its failures (3) are forgotten; the daemon asks it now"
    )
    row = known.row
    assert (row["state"], row["reason"], row["failures"]) == ("catching_up", None, 0)
    assert row["next_attempt_ms"] <= now_ms()


def test_resuming_a_peer_that_asked_to_wait(known: Peers) -> None:
    """What it asked for stands; the operator is told until when."""
    until = now_ms() + HOUR_MS
    known.stand(PeerState.THROTTLED, "throttled", failures=1, not_before_ms=until)
    said = known.act("resume")
    assert said.endswith(f"it asked not to be asked before {shown_moment(until)}")
    assert (known.row["state"], known.row["not_before_ms"]) == ("throttled", until)
    known.act("pause")
    assert known.act("resume").endswith(f"before {shown_moment(until)}")
    assert known.row["next_attempt_ms"] == until
