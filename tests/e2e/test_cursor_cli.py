"""Cursors set by hand, and what their history says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stigmem_replicator.cli.render import moment
from stigmem_replicator.clock import SystemClock
from tests.e2e.cursors import HOUR_MS, checkpoint, entry, pulled, put_cursor
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


def test_set_takes_positions_that_the_peer_gave(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A cursor goes to a checkpoint, and after a reset back to where it stood."""
    stamps = pulled(here, adopted, server)

    def place(*words: str) -> Result:
        return here("cursor", "set", "--peer", server.node_id, *words, db=adopted.database)

    assert place(stamps[1]).failed_among("usage", 2).endswith("--yes answers for you")
    assert adopted.cursor(server) == stamps[2]
    assert place(stamps[1], "--yes").code == 0
    assert (adopted.cursor(server), adopted.settled(server)) == (stamps[1], stamps[1])
    assert here("cursor", "reset", "--peer", "stigmem", "--yes", db=adopted.database).code == 0
    assert "is now" in place(stamps[2], "--yes").stdout
    assert (adopted.cursor(server), adopted.settled(server)) == (stamps[2], stamps[2])
    assert adopted.events(server)[-3:] == ["cursor_set", "cursor_reset", "cursor_set"]

    asked = len(server.requests)
    assert here("pull", "--all", db=adopted.database).code == 0
    assert server.requests[asked].cursor == stamps[2]
    adopted.assert_clean(server)


@pytest.mark.parametrize(
    "text", ["soon", "1746230400000.", "-1.0", "1.2.3", "", "9" * 19, "\u0661"]
)
def test_a_text_that_is_no_position(
    here: Here, adopted: Receiver, server: PageServer, text: str
) -> None:
    """What does not read as an HLC is exit 2, also with --force, and nothing is changed."""
    before = adopted.dump()
    for force in ([], ["--force"]):
        words = ("cursor", "set", "--peer", server.node_id, "--yes", *force, "--", text)
        result = here(*words, db=adopted.database)
        assert "milliseconds" in result.failed("usage", 2)
    assert adopted.dump() == before


def test_a_position_that_nobody_sent_needs_force(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """An invented position is exit 2; forced it is set, remembered as such, and stays invented."""
    stamps = pulled(here, adopted, server)
    invented = f"{now_ms() - 2 * HOUR_MS}.0"
    words = ("cursor", "set", "--peer", server.node_id, invented)
    assert "--force" in here(*words, "--yes", db=adopted.database).failed("usage", 2)
    assert adopted.cursor(server) == stamps[2]
    asked = here(*words, "--force", db=adopted.database)
    assert "never given by this peer" in asked.stderr
    assert here(*words, "--force", "--yes", db=adopted.database).code == 0
    assert adopted.cursor(server) == invented
    changes = history(here, adopted, server)["changes"]
    assert (changes[0]["event"], changes[0]["forced"]) == ("cursor_set", True)

    assert here("cursor", "reset", "--peer", "stigmem", "--yes", db=adopted.database).code == 0
    for command in (words, ("cursor", "reset", "--peer", server.node_id, "--to", invented)):
        here(*command, "--yes", db=adopted.database).failed("usage", 2)
    # A position that the peer did give is not forced, whatever was said.
    given = ("cursor", "set", "--peer", "stigmem", "--force", "--yes", stamps[2])
    assert here(*given, db=adopted.database).code == 0
    assert history(here, adopted, server)["changes"][0]["forced"] is False


def test_an_imported_position_is_not_the_peers_once_it_was_left(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """A file's word does not make a position the peer's own."""
    file = checkpoint(tmp_path / "cursors.json", entry(adopted, server.node_id, "1746230400000.9"))
    assert here("cursor", "import", str(file), db=adopted.database).code == 0
    assert here("cursor", "reset", "--peer", "stigmem", "--yes", db=adopted.database).code == 0
    words = ("cursor", "set", "--peer", "stigmem", "1746230400000.9", "--yes")
    here(*words, db=adopted.database).failed("usage", 2)


def test_a_position_ahead_of_our_clock_is_set_with_a_warning(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """Who forces or imports a position that hides everything is told so."""
    position = f"{now_ms() + HOUR_MS}.0"
    words = ("cursor", "set", "--peer", server.node_id, position, "--force", "--yes")
    assert "nothing stamped before it" in here(*words, db=adopted.database).stdout
    file = checkpoint(tmp_path / "cursors.json", entry(adopted, server.node_id, position))
    result = here("cursor", "import", "--force", str(file), db=adopted.database)
    assert "nothing stamped before it" in result.stdout


def test_a_peer_that_asked_to_be_left_alone_is_read_again_later(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """Whoever sets its cursor is told until when that waits, as long as it does."""
    stamps = pulled(here, adopted, server)
    until = now_ms() + HOUR_MS
    adopted.execute("UPDATE replicator_peers SET not_before_ms = ?", [until])
    words = ("--peer", server.node_id, "--yes")
    for command in (("reset", *words), ("set", *words, stamps[2])):
        said = here("cursor", *command, db=adopted.database).stdout
        assert f"it asked not to be asked before {moment(until)}" in said
    adopted.execute("UPDATE replicator_peers SET not_before_ms = 1")
    assert "asked" not in here("cursor", "reset", *words, db=adopted.database).stdout


def test_set_names_its_peer_as_a_pull_does(here: Here, adopted: Receiver) -> None:
    """An unknown peer is exit 4."""
    words = ("cursor", "set", "--peer", "nobody", "1.0", "--yes")
    here(*words, db=adopted.database).failed("unknown_peer", 4)
    here("cursor", "history", "--peer", "nobody", db=adopted.database).failed("unknown_peer", 4)


# --- history


def history(here: Here, receiver: Receiver, server: PageServer, *words: str) -> dict[str, Any]:
    command = ("cursor", "history", "--peer", server.node_id, "--json", *words)
    result = here(*command, db=receiver.database)
    assert (result.code, result.stderr) == (0, "")
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_the_history_of_a_cursor(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """Every change is there with who, before and after, newest first, and the checkpoints."""
    put_cursor(adopted, server.node_id, "1000.0")
    began = SystemClock().now_ms()
    stamps = pulled(here, adopted, server)
    put_cursor(adopted, server.node_id, stamps[0])
    assert here("pull", "--all", db=adopted.database).code == 0
    for words in (
        ("reset", "--to", stamps[1], "--yes"),
        ("set", stamps[0], "--yes"),
    ):
        command = ("cursor", words[0], "--peer", server.node_id, *words[1:])
        assert here(*command, db=adopted.database).code == 0
    file = checkpoint(
        tmp_path / "cursors.json",
        entry(adopted, server.node_id, stamps[0]),
        entry(adopted, server.node_id, "7.0", direction="outbound"),
    )
    assert here("cursor", "import", "--force", str(file), db=adopted.database).code == 0

    found = history(here, adopted, server)
    assert (found["cursor"], found["settled"]) == (stamps[0], stamps[0])
    assert [item["position"] for item in found["checkpoints"]] == [stamps[0]]
    told = [
        (item["event"], item["direction"], item["before"], item["after"])
        for item in found["changes"]
    ]
    assert told == [
        ("cursor_imported", "outbound", None, "7.0"),
        ("cursor_imported", "inbound", stamps[0], stamps[0]),
        ("cursor_set", "inbound", stamps[1], stamps[0]),
        ("cursor_reset", "inbound", stamps[2], stamps[1]),
        ("cursor_moved_elsewhere", "inbound", stamps[2], stamps[0]),
        ("first_contact", "inbound", None, "1000.0"),
    ]
    actors = [item["actor"] for item in found["changes"]]
    assert [re.sub(r"^\S+ ", "", actor) for actor in actors] == [
        "(cursor import)",
        "(cursor import)",
        "(cursor set)",
        "(cursor reset)",
        "replicator",
        "replicator",
    ]
    assert all(item["at_ms"] >= began for item in found["changes"])
    assert len(history(here, adopted, server, "--limit", "2")["changes"]) == 2

    text = here("cursor", "history", "--peer", server.node_id, db=adopted.database).stdout
    assert text.index("cursor_imported (outbound)") < text.index("first_contact")
    assert "the beginning" in text
    assert text.rstrip().endswith("Z)")


def test_the_history_of_a_cursor_that_never_moved(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """Before the replicator has tables the history is empty, and nothing is made."""
    bare_receiver.adopt(server)
    before = bare_receiver.dump()
    found = history(here, bare_receiver, server)
    assert (found["changes"], found["checkpoints"], found["cursor"]) == ([], [], None)
    text = here("cursor", "history", "--peer", server.node_id, db=bare_receiver.database).stdout
    assert "at the beginning" in text
    assert bare_receiver.dump() == before
