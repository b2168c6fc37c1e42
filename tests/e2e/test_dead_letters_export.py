"""Dead letters as lines of JSON: all of them, with content, in bounded memory."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stigmem_replicator.store import letters
from stigmem_replicator.store.letters import Narrowing
from stigmem_replicator.store.views import LetterView
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


def put_letters(receiver: Receiver, number: int, payload: str | None) -> None:
    for index in range(number):
        receiver.execute(
            "INSERT INTO replicator_dead_letters (node_id, stream, entry_id, reason, detail,"
            " payload, payload_hash, generation, first_seen_at_ms, last_seen_at_ms, times_seen,"
            " status) VALUES (?, 'facts', ?, ?, '', ?, '', '', 1, 1, 1, 'open')",
            [
                f"stigmem:node:{index % 3}",
                f"entry-{index:03}",
                "hlc_skew" if index % 2 else "cid_mismatch",
                payload,
            ],
        )


def lines(text: str) -> list[dict[str, Any]]:
    assert text.isascii()
    return [json.loads(line) for line in text.splitlines()]


def test_every_refused_entry_is_a_line(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """A line is what `show --json` says, content included; a file is its owner's alone."""
    adopted.register("stigmem:node:other", "http://127.0.0.1:2")
    for what in ("a content beside its id", "a scope that was not agreed", "a lone surrogate"):
        serve(server.origin, poison(what))
    assert here("pull", "--peer", server.node_id, db=adopted.database).code == 0
    result = here("dead-letters", "export", db=adopted.database)
    assert (result.code, result.stderr) == (0, "")
    exported = lines(result.stdout)
    assert len(exported) == 3
    for letter in exported:
        command = ("dead-letters", "show", letter["entry_id"], "--json")
        assert [letter] == json.loads(here(*command, db=adopted.database).stdout)

    of_reason = here("dead-letters", "export", "--reason", "cid_mismatch", db=adopted.database)
    assert [item["reason"] for item in lines(of_reason.stdout)] == ["cid_mismatch"]
    other = here("dead-letters", "export", "--peer", "other", db=adopted.database)
    assert (other.code, other.stdout) == (0, "")

    file = tmp_path / "letters.jsonl"
    done = here("dead-letters", "export", "--out", str(file), db=adopted.database)
    assert (done.stdout, done.stderr) == ("", f"3 dead letters written to {file}\n")
    assert lines(file.read_text()) == exported
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_letter_without_content(here: Here, receiver: Receiver) -> None:
    """Content that was dropped for space is null."""
    put_letters(receiver, 1, None)
    (letter,) = lines(here("dead-letters", "export", db=receiver.database).stdout)
    assert letter["payload"] is None


@pytest.mark.parametrize(("rows", "size"), [(1, 10**6), (7, 10**6), (200, 1), (200, 2500)])
def test_letters_are_read_in_chunks(
    here: Here, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, rows: int, size: int
) -> None:
    """No chunk holds more rows or bytes than it may, and together they are all, each once."""
    content = json.dumps("x" * 998)
    put_letters(receiver, 20, content)
    monkeypatch.setattr(letters, "CHUNK_ROWS", rows)
    monkeypatch.setattr(letters, "CHUNK_BYTES", size)
    chunks: list[int] = []
    read = letters.chunk

    def counted(
        connection: Connection, narrowing: Narrowing, after: letters.Key | None
    ) -> list[LetterView]:
        found = read(connection, narrowing, after)
        chunks.append(len(found))
        return found

    monkeypatch.setattr(letters, "chunk", counted)
    exported = lines(here("dead-letters", "export", db=receiver.database).stdout)
    keys = [(item["node_id"], item["entry_id"]) for item in exported]
    assert keys == sorted(set(keys))
    assert len(keys) == 20
    assert max(chunks) == min(rows, max(1, size // len(content)), 20)

    chunks.clear()
    narrowed = here("dead-letters", "export", "--reason", "hlc_skew", db=receiver.database)
    assert {item["reason"] for item in lines(narrowed.stdout)} == {"hlc_skew"}
    assert sum(chunks) == 10


def test_nothing_to_export(here: Here, bare_receiver: Receiver, tmp_path: Path) -> None:
    """Before the replicator has tables the export is empty, and a file is too."""
    before = bare_receiver.dump()
    result = here("dead-letters", "export", db=bare_receiver.database)
    assert (result.code, result.stdout, result.stderr) == (0, "", "")
    file = tmp_path / "letters.jsonl"
    assert here("dead-letters", "export", "--out", str(file), db=bare_receiver.database).code == 0
    assert file.read_bytes() == b""
    assert bare_receiver.dump() == before


def test_an_export_that_breaks_off_leaves_no_half_file(
    here: Here, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When reading fails in the middle, the file is what it was before, and no other is left."""
    put_letters(receiver, 4, "1")
    monkeypatch.setattr(letters, "CHUNK_ROWS", 2)
    read = letters.chunk

    def failing(
        connection: Connection, narrowing: Narrowing, after: letters.Key | None
    ) -> list[LetterView]:
        if after is not None:
            receiver.execute("DROP TABLE replicator_dead_letters")
        return read(connection, narrowing, after)

    monkeypatch.setattr(letters, "chunk", failing)
    file = tmp_path / "letters.jsonl"
    file.write_text("before")
    result = here("dead-letters", "export", "--out", str(file), db=receiver.database)
    result.failed("schema_unsupported", 3)
    assert file.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk(here: Here, receiver: Receiver) -> None:
    """A device that takes nothing is exit 3 and named, and stays a device."""
    put_letters(receiver, 4, json.dumps("x" * 10_000))
    result = here("dead-letters", "export", "--out", "/dev/full", db=receiver.database)
    assert "/dev/full" in result.failed("file_failed", 3)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_reader_that_has_seen_enough(
    here: Here, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that is closed early is the reader's good right: exit 0 and no words."""

    class Closed(io.StringIO):
        def write(self, _text: str, /) -> int:
            raise BrokenPipeError

    put_letters(receiver, 4, "1")
    monkeypatch.setattr(sys, "stdout", Closed())
    assert here("dead-letters", "export", db=receiver.database).code == 0
