"""What `cursor` says of tombstones and revocations, and setting them back by hand.

The command runs in this process; what a daemon makes of a reset is at the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import daemon
from tests.pages.origin import Raw
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstones import add_revocation, add_tombstone, add_tombstones

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")

BOTH = ("tombstones", "revocations")


class Cursor:
    """The `cursor` commands of a receiver whose one peer is the page server."""

    def __init__(self, here: Here, receiver: Receiver, server: PageServer) -> None:
        self._here = here
        self._receiver = receiver
        self._server = server

    def run(self, command: str, *words: str) -> Result:
        named = () if command == "show" else ("--peer", self._server.node_id)
        return self._here("cursor", command, *named, *words, db=self._receiver.database)

    def __call__(self, command: str, *words: str) -> str:
        """What a good command prints."""
        result = self.run(command, *words)
        assert (result.code, result.stderr) == (0, ""), result.stderr
        return result.stdout

    def lines(self, *words: str) -> dict[str, str]:
        """What `cursor show` says of the peer, by name."""
        said = (line.split("  ", 1) for line in self("show", *words).splitlines())
        return {name.strip(): rest.strip() for name, rest in said}

    def document(self, command: str, *words: str) -> dict[str, Any]:
        document = json.loads(self(command, "--json", *words))
        shown: dict[str, Any] = document[0] if command == "show" else document
        return shown

    def pull(self) -> None:
        words = ("pull", "--all", "--stream", "tombstones")
        assert self._here(*words, db=self._receiver.database).code == 0

    def stored(self, stream: str) -> tuple[str | None, str | None]:
        (row,) = self._receiver.query(
            "SELECT frontier, settled FROM replicator_cursors WHERE stream = ?", [stream]
        )
        return row["frontier"], row["settled"]


@pytest.fixture
def cursor(here: Here, adopted: Receiver, server: PageServer) -> Cursor:
    return Cursor(here, adopted, server)


@pytest.fixture
def records(cursor: Cursor, server: PageServer) -> list[Raw]:
    """Two tombstones of an hour ago, and one of now with its revocation, pulled."""
    made = [*add_tombstones(server.origin, 2), add_tombstone(server.origin, "person:kim")]
    made.append(add_revocation(server.origin, made[-1]["id"]))
    cursor.pull()
    return made


def test_where_both_stand_is_a_line_each(cursor: Cursor, records: list[Raw]) -> None:
    """Beside the facts: the newest time that was seen, and where passes begin."""
    begins = records[1]["created_at"]
    lines = cursor.lines()
    assert list(lines) == ["peer", "cursor", "updated", "settled", *BOTH]
    for stream, newest in zip(BOTH, records[2:], strict=True):
        words = f"newest {newest['created_at']}; passes begin after {begins}"
        assert lines[stream] == words
    shown = cursor.document("show")
    assert (shown["stream"], shown["cursor"]) == ("facts", None)
    assert shown["tombstones"] == {"cursor": records[2]["created_at"], "settled": begins}
    assert shown["revocations"] == {"cursor": records[3]["created_at"], "settled": begins}


def test_one_stream_alone(cursor: Cursor, records: list[Raw]) -> None:
    """--stream shows nothing of the others."""
    begins = records[1]["created_at"]
    assert list(cursor.lines("--stream", "facts")) == ["peer", "cursor", "updated", "settled"]
    lines = cursor.lines("--stream", "revocations")
    assert (lines["stream"], lines["newest"]) == ("revocations", records[3]["created_at"])
    assert lines["passes begin"] == f"after {begins}"
    assert cursor.document("show", "--stream", "tombstones") == {
        "peer": lines["peer"],
        "stream": "tombstones",
        "cursor": records[2]["created_at"],
        "updated_at": None,
        "settled": begins,
        "checkpoints": [],
    }
    assert cursor.run("show", "--stream", "manifests").code == 2


def test_nothing_is_needed_to_show_them(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """Before the replicator has tables both stand at the beginning, and nothing is made."""
    bare_receiver.adopt(server)
    before = bare_receiver.dump()
    bare = Cursor(here, bare_receiver, server)
    for stream in BOTH:
        words = "at the beginning; passes begin at the beginning"
        assert bare.lines()[stream] == words
        assert bare.lines("--stream", stream)["newest"] == "at the beginning"
        assert bare.document("history", "--stream", stream)["changes"] == []
    assert bare_receiver.dump() == before


def test_a_reset_has_all_of_them_read_again(cursor: Cursor, records: list[Raw]) -> None:
    """It asks, and sets this stream to the beginning; its position is found anew."""
    asked = cursor.run("reset", "--stream", "tombstones")
    assert asked.failed_among("usage", 2).endswith("--yes answers for you")
    assert f"from {records[1]['created_at']}" in asked.stderr
    assert cursor.stored("tombstones")[0] is not None

    revocations = cursor.stored("revocations")
    said = cursor("reset", "--stream", "tombstones", "--yes")
    assert said.endswith("now stand at the beginning; passes begin at the beginning\n"), said
    assert cursor.stored("tombstones") == (None, None)
    assert cursor.stored("revocations") == revocations
    # Both come in one answer, which begins at the older of their places.
    assert cursor.lines()["revocations"].endswith("begin at the beginning")
    assert cursor.document("show")["cursor"] is None
    cursor.pull()
    assert cursor.stored("tombstones")[0] == records[2]["created_at"]


def test_a_reset_to_a_time_that_the_peer_gave(cursor: Cursor, records: list[Raw]) -> None:
    """A stored time is taken, and that where it stood before too; `set` takes the same."""
    begins, newest = records[1]["created_at"], records[2]["created_at"]
    assert newest in cursor("reset", "--stream", "tombstones", "--to", newest, "--yes")
    assert cursor.stored("tombstones") == (newest, newest)
    cursor("reset", "--stream", "tombstones", "--yes")
    cursor("reset", "--stream", "revocations", "--yes")
    cursor("set", "--stream", "tombstones", newest, "--yes")
    cursor("set", "--stream", "revocations", begins, "--yes")
    assert cursor.lines()["tombstones"] == f"newest {newest}; passes begin after {begins}"


@pytest.mark.parametrize(
    "words",
    [
        ("reset", "--to", "2026-01-01T00:00:00+00:00"),
        ("reset", "--to", "soon\x1b[31m"),
        ("reset", "--back", "1h"),
        ("set", "2026-01-01T00:00:00+00:00"),
    ],
)
def test_any_other_place_is_one_clear_error(
    cursor: Cursor, adopted: Receiver, words: tuple[str, ...]
) -> None:
    """Exit 2 says that the beginning is cheap, and nothing is changed."""
    before = adopted.dump()
    line = cursor.run(*words, "--stream", "revocations", "--yes").failed("usage", 2)
    assert "`cursor reset --stream revocations`" in line
    assert "cheap" in line
    assert "\x1b" not in line
    assert adopted.dump() == before


def test_force_is_for_facts(cursor: Cursor, records: list[Raw]) -> None:
    """Exit 2 says so, also of a time that the peer gave: it is not passed over in silence."""
    stored = cursor.stored("tombstones")
    for time in (records[0]["created_at"], "2026-01-01T00:00:00+00:00"):
        result = cursor.run("set", "--stream", "tombstones", time, "--force", "--yes")
        line = result.failed("usage", 2)
        assert "--force is for facts: tombstones go only to a time that the peer gave" in line
        assert "`cursor reset --stream tombstones`" in line
    assert cursor.stored("tombstones") == stored


def test_each_stream_has_its_own_history(cursor: Cursor, records: list[Raw]) -> None:
    """What was done with one is told of that one, with who and when, and the event names it."""
    begins = records[1]["created_at"]
    cursor("reset", "--stream", "tombstones", "--yes")
    cursor("reset", "--stream", "revocations", "--to", records[3]["created_at"], "--yes")
    cursor("reset", "--yes")
    shown = cursor.document("history", "--stream", "tombstones")
    (change,) = shown.pop("changes")
    assert (shown["stream"], shown["cursor"], shown["settled"]) == ("tombstones", None, None)
    assert (change["event"], change["before"], change["after"]) == ("cursor_reset", begins, None)
    assert change["actor"].endswith("(cursor reset)")
    text = cursor("history", "--stream", "revocations")
    assert "cursor_reset" in text
    assert records[3]["created_at"] in text.splitlines()[-1]
    (of_facts,) = cursor.document("history")["changes"]
    assert (of_facts["before"], of_facts["after"]) == (None, None)


def test_the_files_of_cursors_are_the_nodes_own(
    here: Here, cursor: Cursor, records: list[Raw], adopted: Receiver
) -> None:
    """Nothing of these streams is written to a checkpoint, and an import leaves them alone."""
    before = [cursor.stored(stream) for stream in BOTH]
    text = here("cursor", "export", "--with-state", db=adopted.database).stdout
    assert records[1]["created_at"] not in text
    assert "tombstones" not in text
    assert [cursor.stored(stream) for stream in BOTH] == before


def test_a_daemon_follows_a_reset(
    cursor: Cursor, records: list[Raw], adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """A page in flight does not overwrite it; the next pass begins where it says."""
    begins = records[1]["created_at"]
    asked = server.tombstone_endpoint.requests

    def since(number: int) -> list[str | None]:
        return [request.since for request in asked[number:]]

    number = len(asked)
    with daemon(tmp_path, adopted.database, tombstone_interval_s=0.5) as running:
        running.wait(lambda: begins in since(number), "a pass that is not full")
        page = server.hold_tombstones()
        page.wait()
        number = len(asked)
        newer = add_tombstone(server.origin, "person:ann")
        cursor("reset", "--stream", "tombstones", "--yes")
        # It brings the newest record, and would move the position to it.
        page.let_go()
        running.wait(lambda: None in since(number), "a pass from the beginning")
        running.wait(lambda: begins in since(number), "a pass that is not full again")
    assert cursor.stored("tombstones") == (newer["created_at"], begins)
    assert newer["id"] in adopted.tombstone_ids()
