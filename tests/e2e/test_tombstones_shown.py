"""How the tombstones of a peer stand, as `peers` and `status` show it, beside its facts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from stigmem_replicator.observe import words
from stigmem_replicator.replication.states import PeerState
from tests.e2e.cursors import HOUR_MS
from tests.e2e.peer_commands import Peers
from tests.pages.origin import now_ms
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstone_poison import serve_poison, tombstone_poison

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.e2e.peer_fixtures", "tests.pages.fixtures")

DAY_MS = 24 * HOUR_MS
OTHER = "stigmem:node:0-first-by-name"
REQUIRED: dict[str, Any] = {
    "state": "blocked",
    "reason": "capability_required",
    "detail": "peer x gives its tombstones only for a capability token: 401",
    "hint": "the peer's operator runs: stigmem capability issue",
    "failures": 3,
}


class Shown:
    """The looks at a receiver whose peer's facts are well, and how its tombstones stand."""

    def __init__(self, here: Here, peers: Peers) -> None:
        self._here = here
        self.peers = peers
        self.facts(PeerState.IDLE)

    def facts(self, state: PeerState, reason: str | None = None, **columns: object) -> None:
        self.peers.stand(state, reason, caught_up_ms=now_ms(), last_attempt_ms=now_ms(), **columns)

    def tombstones(self, **columns: object) -> None:
        """Have them stand somewhere, as a daemon would have written it."""
        values = {
            "node_id": self.peers.node_id,
            "stream": "tombstones",
            "state": "idle",
            "since_ms": now_ms() - 2 * HOUR_MS,
            "last_attempt_ms": now_ms(),
            **columns,
        }
        names, marks = ", ".join(values), ", ".join("?" for _ in values)
        self.peers.receiver.execute(
            f"INSERT OR REPLACE INTO replicator_streams ({names}) VALUES ({marks})",  # noqa: S608
            list(values.values()),
        )

    def status(self, *words: str) -> tuple[int, str]:
        result = self._here("status", *words, db=self.peers.receiver.database)
        assert result.stderr == ""
        return result.code, result.stdout

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.status("--json")[1])
        return found


@pytest.fixture
def shown(here: Here, known: Peers) -> Shown:
    return Shown(here, known)


@pytest.mark.usefixtures("running")
def test_tombstones_that_are_well(shown: Shown) -> None:
    """The state in the list, when they were caught up and what is left of the token with it."""
    ends_ms = now_ms() + 3 * DAY_MS + HOUR_MS
    shown.tombstones(
        caught_up_ms=now_ms(), next_attempt_ms=now_ms() - 1, token_not_after_ms=ends_ms
    )
    assert shown.peers.cells()["TOMBSTONES"] == "idle"
    lines = shown.peers.lines()
    assert lines["tombstones"] == "idle"
    assert lines["  failures"] == "0"
    assert lines["  next attempt"] == "within 36 s"
    assert lines["  caught up"].startswith("20")
    assert lines["  token"].endswith("Z (3 d left)")
    assert "  last error" not in lines
    assert shown.status("--check")[1].endswith("0 open dead letters\n")
    assert "tombstones  " not in shown.status()[1].partition("\n\n")[0]
    assert shown.document()["tombstones_blocked"] == []


@pytest.mark.usefixtures("running")
def test_tombstones_that_want_a_token(shown: Shown) -> None:
    """State, reason, error and next step are the same words everywhere; facts are well."""
    shown.peers.receiver.register(OTHER, "http://127.0.0.1:2")
    next_ms = now_ms() + HOUR_MS
    shown.tombstones(
        **REQUIRED, next_attempt_ms=next_ms, token_not_after_ms=now_ms() - 2 * HOUR_MS - 1
    )
    row = shown.peers("list").splitlines()[2]
    assert re.search(r"  idle  .*  blocked \(capability_required\)$", row)
    lines = shown.peers.lines()
    assert lines["state"] == "idle"
    assert "last error" not in lines
    step = f"{REQUIRED['hint']}; then: stigmem-replicate peers resume {shown.peers.node_id}"
    told = {
        "tombstones": "blocked (capability_required)",
        "  last error": REQUIRED["detail"],
        "  next step": step,
    }
    assert told.items() <= lines.items()
    assert lines["  failures"] == "3"
    assert lines["  next attempt"] == "in 60 min"
    assert lines["  caught up"] == "never"
    assert lines["  token"].endswith("Z (expired 2 h ago)")

    head, needing, table = shown.status()[1].split("\n\n")
    assert "\ntombstones    1 peer blocked" in head
    names = dict(re.findall(r"(?m)^(.+?)  +(.*)$", needing))
    assert told.items() <= names.items()
    # Whom an operator must help comes first.
    assert shown.peers.node_id in table.splitlines()[1]

    found = shown.document()
    assert found["needs_operator"] == []
    (blocked,) = found["tombstones_blocked"]
    assert (blocked["peer"], blocked["reason"]) == (shown.peers.node_id, REQUIRED["reason"])
    assert (blocked["detail"], blocked["next_step"]) == (REQUIRED["detail"], step)
    (listed,) = (
        item for item in json.loads(shown.peers("list", "--json")) if item["peer"] != OTHER
    )
    assert REQUIRED.items() <= listed["tombstones"].items()
    assert listed["tombstones"]["next_attempt_ms"] == next_ms
    assert listed["replication"]["state"] == "idle"


def test_a_pull_that_got_no_tombstones_says_so_afterwards(
    here: Here, peers: Peers, server: PageServer
) -> None:
    """The whole command for the peer's operator is there, long as it is."""
    server.tombstone_endpoint.demands_capability = True
    server.origin.add_many(1)
    assert here("pull", "--all", db=peers.receiver.database).code == 0
    lines = peers.lines()
    assert lines["state"] == "idle"
    assert lines["tombstones"] == peers.cells()["TOMBSTONES"] == "blocked (capability_required)"
    assert "stigmem capability issue --issuer" in lines["  next step"]
    assert lines["  next step"].endswith(f"; then: {words.resume_command(peers.node_id)}")
    assert "only for a capability token" in lines["  last error"]
    assert peers.document()["tombstones"]["failures"] == 1
    server.tombstone_endpoint.demands_capability = False
    assert here("pull", "--all", db=peers.receiver.database).code == 0
    assert peers.cells()["TOMBSTONES"] == "idle"
    assert "  last error" not in peers.lines()


@pytest.mark.usefixtures("running")
def test_a_check_names_a_token_that_is_wanted_and_passes(shown: Shown) -> None:
    """A peer may never give one: that is told in the line, and is no failure."""
    shown.tombstones(**REQUIRED)
    note = f"the tombstones of {shown.peers.node_id} are blocked (capability_required)"
    code, line = shown.status("--check")
    assert (code, line.startswith("ok: 1 active peer, 1 idle; ")) == (0, True)
    assert line.endswith(f"; {note}\n")
    check = shown.document()["check"]
    assert check == {"exit_code": 0, "problems": [], "notes": [note]}
    # It is told beside what does fail it.
    shown.facts(PeerState.BLOCKED, "key_changed")
    code, line = shown.status("--check")
    assert (code, line.startswith("blocked: ")) == (9, True)
    assert line.endswith(f"; {note}\n")


@pytest.mark.usefixtures("running")
def test_a_check_fails_where_tombstones_are_blocked_otherwise(shown: Shown) -> None:
    """More records of one time than may be read is nothing that a peer's operator decides."""
    shown.tombstones(state="blocked", reason="entry_too_large", hint="raise page_bytes_max")
    code, line = shown.status("--check")
    assert code == 9
    assert line == (
        f"blocked: the tombstones of {shown.peers.node_id} are blocked (entry_too_large): "
        f"raise page_bytes_max; then: stigmem-replicate peers resume {shown.peers.node_id}\n"
    )


@pytest.mark.usefixtures("running")
def test_of_a_paused_peer_no_tombstones_are_expected(shown: Shown) -> None:
    """Nobody is told to do anything for it, nor when they are asked for next."""
    shown.tombstones(**REQUIRED, next_attempt_ms=now_ms() + HOUR_MS)
    shown.peers.act("pause")
    assert shown.status("--check")[1].endswith("0 open dead letters\n")
    assert shown.peers.cells()["TOMBSTONES"] == "blocked (capability_required)"
    assert "  next attempt" not in shown.peers.lines()


def test_a_peer_whose_tombstones_were_never_asked_for(shown: Shown) -> None:
    """Nothing is known of them; one that is not active has none."""
    assert shown.peers.cells()["TOMBSTONES"] == "-"
    assert shown.peers.lines()["tombstones"] == "never pulled"
    assert shown.peers.document()["tombstones"] is None
    shown.tombstones(**REQUIRED)
    shown.peers.receiver.execute("UPDATE peers SET status = 'revoked'")
    assert shown.peers.cells()["TOMBSTONES"] == "-"
    assert "tombstones" not in shown.peers.lines()
    assert shown.document()["tombstones_blocked"] == []


def test_nothing_is_needed_to_look(here: Here, bare_receiver: Receiver, server: PageServer) -> None:
    """Without the replicator's tables the looks say that nothing was pulled, and make nothing."""
    bare_receiver.adopt(server)
    before = bare_receiver.dump()
    peers = Peers(here, bare_receiver, server.node_id)
    assert peers.cells()["TOMBSTONES"] == "-"
    assert peers.lines()["tombstones"] == "never pulled"
    assert here("status", db=bare_receiver.database).code == 0
    assert (
        here("dead-letters", "list", "--stream", "tombstones", db=bare_receiver.database).code == 0
    )
    assert bare_receiver.dump() == before


def test_dead_letters_say_of_which_stream_they_are(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A column names it, and --stream narrows a list and an export to one."""
    serve(server.origin, poison("a content beside its id"))
    ids = {
        stream: serve_poison(
            server.origin, tombstone_poison(f"a relayed {stream.removesuffix('s')}")
        )
        for stream in ("tombstones", "revocations")
    }
    assert here("pull", "--all", db=adopted.database).code == 0

    def said(command: str, *words: str) -> list[str]:
        result = here("dead-letters", command, *words, db=adopted.database)
        assert (result.code, result.stderr) == (0, "")
        return result.stdout.splitlines()

    heads, *rows = said("list")
    assert re.split(r"  +", heads) == ["ENTRY", "STREAM", "REASON", "STATUS", "LAST SEEN"]
    assert sorted(re.split(r"  +", row)[1] for row in rows) == [
        "facts",
        "revocations",
        "tombstones",
    ]
    for stream, entry_id in ids.items():
        (row,) = said("list", "--stream", stream)[1:]
        assert re.split(r"  +", row)[:3] == [entry_id, stream, "origin_not_sender"]
        (line,) = said("export", "--stream", stream)
        assert (json.loads(line)["entry_id"], json.loads(line)["stream"]) == (entry_id, stream)
        assert f"stream      {stream}" in said("show", entry_id or "", "--stream", stream)
    assert len(said("export")) == 3
    assert here("dead-letters", "list", "--stream", "x", db=adopted.database).code == 2
