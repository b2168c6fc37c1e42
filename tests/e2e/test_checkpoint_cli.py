"""Cursors in files: export and import, beside the node's own command."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stigmem_replicator.cli.checkpoint_file import document
from stigmem_replicator.store import checkpoints
from stigmem_replicator.store.engine import open_database, reading
from tests.e2e.cursors import checkpoint, cursors, entry, pulled, put_cursor
from tests.nodes.environment import NodeEnvironment
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")

OTHER = "stigmem:node:other"

NodeCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def node_command(node_environment: NodeEnvironment, tmp_path: Path) -> NodeCommand:
    """Run `stigmem federation ...`, the node's own, on a database."""

    def run(*words: str, db: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(node_environment.bin / "stigmem"), "federation", *words, "--db", str(db)],
            env={"PATH": os.defpath, "HOME": str(tmp_path), "LANG": "C.UTF-8"},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def populated(adopted: Receiver, server: PageServer) -> Receiver:
    """A receiver with three peers of different status, and cursors in both directions."""
    adopted.register(OTHER, "http://127.0.0.1:2/\u00fc", status="revoked")
    adopted.register("stigmem:node:another", "http://127.0.0.1:3")
    put_cursor(adopted, server.node_id, "1746230400000.3")
    put_cursor(adopted, server.node_id, "1746230400000.4", "outbound")
    put_cursor(adopted, OTHER, None)
    return adopted


# --- export


def test_the_export_is_the_nodes_own_byte_for_byte(
    here: Here, populated: Receiver, node_command: NodeCommand, tmp_path: Path
) -> None:
    """Apart from the moment our export and the node's are the same bytes, in a file too."""
    db = populated.database
    ours = here("cursor", "export", db=db)
    theirs = node_command("cursor-export", db=db)
    assert (ours.code, theirs.returncode) == (0, 0)
    stamp = re.compile(r'"checkpoint_timestamp": "([^"]+)"')
    at = stamp.search(theirs.stdout)
    assert at is not None
    assert stamp.sub(at[0], ours.stdout) == theirs.stdout
    assert len(json.loads(ours.stdout)["cursors"]) == 3

    database = open_database(db, timeout_s=5.0)
    with reading(database) as connection:
        entries = checkpoints.entries(connection)
    database.close()
    assert document(entries, None, at=at[1], db_path=str(db)) + "\n" == theirs.stdout

    files = [tmp_path / "ours.json", tmp_path / "theirs.json"]
    result = here("cursor", "export", "--out", str(files[0]), db=db)
    assert (result.code, result.stdout) == (0, "")
    assert result.stderr == f"3 cursors written to {files[0]}\n"
    node_command("cursor-export", "--out", str(files[1]), db=db)
    texts = [stamp.sub(at[0], file.read_text()) for file in files]
    assert texts == [theirs.stdout, theirs.stdout]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]


def test_an_export_shows_no_secret_of_a_url(here: Here, populated: Receiver) -> None:
    """Who logs in at a peer is left out, which no import misses."""
    populated.execute("UPDATE peers SET node_url = 'https://me:hunter2@node.example/x'")
    text = here("cursor", "export", "--with-state", db=populated.database).stdout
    assert "hunter2" not in text
    assert "@node.example/x" in text


def test_an_export_needs_no_tables_of_ours(
    here: Here, bare_receiver: Receiver, node_command: NodeCommand
) -> None:
    """A node that was never replicated to has an empty checkpoint, in the node's own form."""
    before = bare_receiver.dump()
    ours = here("cursor", "export", db=bare_receiver.database)
    with_state = here("cursor", "export", "--with-state", db=bare_receiver.database)
    assert bare_receiver.dump() == before
    theirs = node_command("cursor-export", db=bare_receiver.database).stdout
    assert ours.stdout.splitlines()[2:] == theirs.splitlines()[2:]
    assert json.loads(with_state.stdout)["stigmem_replicator"]["streams"] == []


def test_an_export_replaces_a_file_whole_or_not_at_all(
    here: Here, populated: Receiver, tmp_path: Path
) -> None:
    """A file that was there stays until the new one is complete; a link stays a link."""
    target = tmp_path / "cursors.json"
    target.write_text("old")
    target.chmod(0o644)
    link = tmp_path / "link.json"
    link.symlink_to(target)
    assert here("cursor", "export", "--out", str(link), db=populated.database).code == 0
    assert link.is_symlink()
    assert len(json.loads(target.read_text())["cursors"]) == 3
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert here("cursor", "export", "--out", "/dev/null", db=populated.database).code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["absent/cursors.json", "."])
def test_an_export_that_cannot_be_written(
    here: Here, populated: Receiver, tmp_path: Path, name: str
) -> None:
    """A file that cannot be made is exit 3 and named."""
    result = here("cursor", "export", "--out", str(tmp_path / name), db=populated.database)
    assert str(tmp_path) in result.failed("file_failed", 3)


# --- import


def test_the_node_reads_our_export_with_state_and_without(
    here: Here, populated: Receiver, node_command: NodeCommand, tmp_path: Path
) -> None:
    """`stigmem federation cursor-import` restores every cursor from either file of ours."""
    expected = cursors(populated)
    for words in ([], ["--with-state"]):
        file = tmp_path / "cursors.json"
        here("cursor", "export", "--out", str(file), *words, db=populated.database)
        populated.execute("DELETE FROM replication_cursors")
        done = node_command("cursor-import", str(file), db=populated.database)
        assert done.returncode == 0, done.stderr
        assert "3 restored" in done.stderr
        assert cursors(populated) == expected


def test_we_read_the_nodes_export(
    here: Here,
    populated: Receiver,
    server: PageServer,
    node_command: NodeCommand,
    tmp_path: Path,
) -> None:
    """Every cursor of the node's file is restored, with a time of today and an event a peer."""
    expected = cursors(populated)
    file = tmp_path / "cursors.json"
    node_command("cursor-export", "--out", str(file), db=populated.database)
    populated.execute("DELETE FROM replication_cursors")
    result = here("cursor", "import", str(file), db=populated.database)
    assert (result.code, result.stderr) == (0, "")
    assert f"the inbound cursor of {server.node_id} is now 1746230400000.3" in result.stdout
    assert result.stdout.endswith("3 restored\n")
    assert cursors(populated) == expected
    assert populated.settled(server) == "1746230400000.3"
    assert populated.events(server) == ["cursor_imported", "cursor_imported"]
    times = populated.query("SELECT updated_at FROM replication_cursors")
    assert all(row["updated_at"] > "2026-01-01T00:00:01" for row in times)
    (actor,) = {row["actor"] for row in populated.query("SELECT actor FROM replicator_events")}
    assert actor.endswith("(cursor import)")


def test_both_imports_do_the_same(
    here: Here,
    populated: Receiver,
    server: PageServer,
    node_command: NodeCommand,
    tmp_path: Path,
) -> None:
    """What stays without --force, what is filled, what is left out: as the node does."""
    put_cursor(populated, OTHER, None)
    file = checkpoint(
        tmp_path / "cursors.json",
        entry(populated, server.node_id, "1.0"),
        entry(populated, OTHER, "2.0"),
        entry(populated, "stigmem:node:another", "3.0", direction="outbound"),
        entry(populated, OTHER, "4.0", peer_id="gone", peer_node_id="stigmem:node:gone"),
        {"peer_node_id": OTHER, "cursor": "5.0"},
        {"peer_id": "", "direction": "inbound"},
    )
    for force, kept in (([], "1746230400000.3"), (["--force"], "1.0")):
        results = []
        for run in ("ours", "theirs"):
            copy = Receiver(tmp_path / f"{run}{len(force)}.db")
            copy.database.write_bytes(populated.database.read_bytes())
            if run == "ours":
                result = here("cursor", "import", str(file), *force, db=copy.database)
                assert (result.code, result.stderr) == (0, "")
                assert "2 entries without peer_id or direction" in result.stdout
                assert "stigmem:node:gone (inbound) is not registered" in result.stdout
                assert ("--force sets it" in result.stdout) == (not force)
            else:
                assert node_command("cursor-import", str(file), *force, db=copy.database).stderr
            results.append(cursors(copy))
        assert results[0] == results[1]
        assert results[0][server.node_id, "inbound"] == kept
        assert results[0][OTHER, "inbound"] == "2.0"


def test_a_peer_that_was_registered_again_is_found_by_its_node_id(
    here: Here, populated: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """When the registry id is gone the node id decides; an entry with today's id goes first."""
    file = checkpoint(
        tmp_path / "cursors.json",
        entry(populated, server.node_id, "1.0", peer_id="an-older-registration"),
        entry(populated, server.node_id, "2.0"),
        entry(populated, OTHER, "3.0", peer_id="an-older-registration-too"),
    )
    result = here("cursor", "import", "--force", str(file), db=populated.database)
    assert result.stdout.endswith("2 restored, 1 said before\n")
    assert cursors(populated)[server.node_id, "inbound"] == "2.0"
    assert cursors(populated)[OTHER, "inbound"] == "3.0"


def test_what_is_known_of_a_stream_travels_with_its_cursor(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """With --with-state settled position and checkpoints come back, else the cursor is settled."""
    stamps = pulled(here, adopted, server)
    # As if the last answers had not been settled yet.
    adopted.execute("UPDATE replicator_cursors SET settled = ?", [stamps[1]])
    adopted.execute("DELETE FROM replicator_checkpoints WHERE position > ?", [stamps[1]])
    kept = adopted.query("SELECT * FROM replicator_checkpoints ORDER BY position")
    files = {}
    for name, wish in (("plain", []), ("state", ["--with-state"])):
        files[name] = tmp_path / name
        out = ("--out", str(files[name]))
        assert here("cursor", "export", *out, *wish, db=adopted.database).code == 0

    here("db", "drop", "--yes", db=adopted.database)
    words = ("cursor", "import", "--force")
    assert here(*words, str(files["state"]), db=adopted.database).code == 0
    assert adopted.cursor(server) == stamps[2]
    assert adopted.settled(server) == stamps[1]
    restored = adopted.query("SELECT * FROM replicator_checkpoints ORDER BY position")
    assert [tuple(row) for row in restored] == [tuple(row) for row in kept]

    assert here(*words, str(files["plain"]), db=adopted.database).code == 0
    assert adopted.settled(server) == stamps[2]

    edited = json.loads(files["state"].read_text())
    edited["cursors"][0]["cursor"] = stamps[0]
    files["state"].write_text(json.dumps(edited))
    assert here(*words, str(files["state"]), db=adopted.database).code == 0
    assert (adopted.cursor(server), adopted.settled(server)) == (stamps[0], stamps[0])
    assert here("pull", "--all", db=adopted.database).code == 0
    adopted.assert_clean(server)


STATE: dict[str, object] = {
    "peer_node_id": OTHER,
    "stream": "facts",
    "settled": None,
    "checkpoints": [],
}


def state(**changes: object) -> dict[str, object]:
    return {"stigmem_replicator": {"version": 1, "streams": [{**STATE, **changes}]}}


FIELDS: list[dict[str, object]] = [
    {"direction": "sideways"},
    {"direction": ["inbound"]},
    {"peer_id": 5},
    {"peer_node_id": {}},
    {"cursor": 5},
    {"cursor": ""},
    {"cursor": "1" * 257},
    {"cursor": "1.0\x00"},
    {"cursor": "\ud800"},
    {"peer_id": "\ud800"},
]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{}",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"5",
        b"{}",
        b'{"cursors": {}}',
        *(
            json.dumps({"cursors": [{"peer_id": "p", "direction": "inbound", **fields}]}).encode()
            for fields in FIELDS
        ),
        b'{"cursors": [5]}',
        *(
            json.dumps({"cursors": [], **extra}).encode()
            for extra in (
                {"stigmem_replicator": 5},
                {"stigmem_replicator": {"version": 2, "streams": []}},
                {"stigmem_replicator": {"version": 1, "streams": 5}},
                {"stigmem_replicator": {"version": 1, "streams": [5]}},
                state(settled=5),
                state(stream="dreams"),
                state(peer_node_id=None),
                state(checkpoints=None),
                state(checkpoints=[5]),
                state(checkpoints=[{"position": None, "kept_at_ms": 1}]),
                state(checkpoints=[{"position": "1.0", "kept_at_ms": True}]),
                state(checkpoints=[{"position": "1.0", "kept_at_ms": 2**63}]),
                state(checkpoints=[{"position": "1.0", "kept_at_ms": 1}] * 2),
            )
        ),
    ],
    ids=repr,
)
def test_a_damaged_checkpoint(
    here: Here, populated: Receiver, server: PageServer, tmp_path: Path, content: bytes
) -> None:
    """A file that is damaged anywhere is exit 3 in one line, and nothing at all is changed."""
    if content.startswith(b'{"cursors": ['):
        # What is damaged comes after what is not.
        whole = entry(populated, server.node_id, "1.0")
        content = content.replace(b"[", b"[" + json.dumps(whole).encode() + b",", 1)
        content = content.replace(b",]", b"]")
    file = tmp_path / "cursors.json"
    file.write_bytes(content)
    before = populated.dump()
    result = here("cursor", "import", "--force", str(file), db=populated.database)
    assert str(file) in result.failed("checkpoint_invalid", 3)
    assert result.stdout == ""
    assert populated.dump() == before


def test_a_checkpoint_that_cannot_be_read(here: Here, populated: Receiver, tmp_path: Path) -> None:
    """A file that is not there, or is a folder, is exit 3 and named."""
    before = populated.dump()
    for path in (tmp_path / "absent.json", tmp_path):
        result = here("cursor", "import", str(path), db=populated.database)
        assert str(path) in result.failed("file_failed", 3)
    assert populated.dump() == before


def test_an_import_is_one_transaction(
    here: Here, populated: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """When the database refuses one cursor none of the file is set, and no event is left."""
    populated.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON replication_cursors WHEN NEW.cursor = '2.0'"
        " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    file = checkpoint(
        tmp_path / "cursors.json",
        entry(populated, server.node_id, "1.0"),
        entry(populated, OTHER, "2.0"),
    )
    before = populated.dump()
    result = here("cursor", "import", "--force", str(file), db=populated.database)
    assert result.code != 0
    assert populated.dump() == before
