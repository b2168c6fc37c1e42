"""The JSON of the command line is what docs/cli-json.md says: every key, every type, no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from stigmem_replicator.cli.app import app
from stigmem_replicator.store.locks import SUFFIX
from tests.e2e.announcing import announced
from tests.json_document import Table, deviations, tables
from tests.nodes.certificates import Authority
from tests.pages.origin import now_ms
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import Exchange, PageServer
from tests.pages.tombstone_poison import serve_poison, tombstone_poison
from tests.pages.tombstones import add_revocation, add_tombstone, add_tombstones

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")

OTHER = "stigmem:node:other"
OF_TOMBSTONES = (
    *("reason", "detail", "hint", "last_attempt_ms", "caught_up_ms", "not_before_ms"),
    *("next_attempt_ms", "token_not_after_ms"),
)
WANTED = "capability_required"
EXPORTS = {"cursor export", "dead-letters export"}


def described() -> dict[str, Table]:
    """The document's tables of commands."""
    return {name: table for name, table in tables().items() if not name.startswith("/")}


class Recorder:
    """Runs commands and keeps what each printed."""

    def __init__(self, here: Here, receiver: Receiver) -> None:
        self._here = here
        self._receiver = receiver
        self.options: list[str] = []
        self.printed: dict[str, list[Any]] = {}

    def __call__(self, command: str, *words: str, **env: str) -> Any:  # noqa: ANN401 - any JSON
        asked = [] if command in EXPORTS else ["--json"]
        line = (*self.options, *command.split(), *words, *asked)
        text = self._here(*line, db=self._receiver.database, env=env).stdout
        whole = text.splitlines() if command == "dead-letters export" else [text]
        documents = [json.loads(part) for part in whole]
        if command == "pull" and "--all" in words:
            (documents,) = documents
        self.printed.setdefault(command, []).extend(documents)
        return next(iter(documents), None)

    def peers(self, node_id: str, **env: str) -> None:
        """Look at all peers and at one, and at a glance."""
        self("status", **env)
        self("peers list", **env)
        self("peers show", node_id, **env)

    def everything(self, node_id: str) -> None:
        """Run every command that only reads and needs no words."""
        self.peers(node_id)
        for command in ("cursor show", "cursor export", "dead-letters list"):
            self(command)
        for command in ("dead-letters export", "config show", "config check", "db current"):
            self(command)
        self("cursor export", "--with-state")
        self("cursor history", "--peer", node_id)
        for stream in ("tombstones", "revocations"):
            self("cursor show", "--stream", stream)
            self("cursor history", "--peer", node_id, "--stream", stream)


@pytest.fixture
def record(here: Here, bare_receiver: Receiver) -> Recorder:
    return Recorder(here, bare_receiver)


def test_every_document_is_as_described(
    here: Here,
    record: Recorder,
    bare_receiver: Receiver,
    server: PageServer,
    authority: Authority,
    tmp_path: Path,
) -> None:
    """From before the first pull to a peer that fails, all commands print what the page says."""
    bare_receiver.adopt(server)
    bare_receiver.register(OTHER, "http://127.0.0.1:2", status="revoked")
    bare_receiver.execute(
        "INSERT INTO replication_cursors (peer_id, direction, cursor, updated_at)"
        " SELECT id, 'outbound', NULL, 'x' FROM peers"
    )
    record.everything(server.node_id)
    replicate(here, record, bare_receiver, server)
    own = authority.issue(bare_receiver.meta("node_id"))
    shown = record("peers show", server.node_id, **own.environ)
    assert shown["own_certificate_not_after_ms"] == own.not_after.timestamp() * 1000
    assert not shown["insecure"]
    fail(record, bare_receiver, server.node_id, tmp_path)

    commands_described = described()
    assert record.printed.keys() == commands_described.keys()
    wrong = [
        line
        for command, documents in record.printed.items()
        for line in deviations(command, documents, commands_described[command])
    ]
    assert not wrong, "\n".join(wrong)


def lagging(exchange: Exchange) -> None:
    """Answer as a peer does that is behind its own sources."""
    exchange.send(*exchange.honest(), {"X-Stigmem-Replication-Lag": "180000"})


def replicate(here: Here, record: Recorder, receiver: Receiver, server: PageServer) -> None:
    """Pull, refuse an entry, move the cursor, pull again, and look at it all."""
    name = server.node_id
    record("pull", "--peer", name)
    record.everything(name)
    for hours in (5, 4, 3):
        server.origin.add(hlc=f"{now_ms() - hours * 3_600_000}.0")
    serve(server.origin, poison("a content beside its id"))
    server.always = lagging
    add_revocation(server.origin, add_tombstone(server.origin, "person:kim")["id"])
    add_tombstones(server.origin, 1)
    for kind in ("a relayed tombstone", "a relayed revocation"):
        serve_poison(server.origin, tombstone_poison(kind))
    record("pull", "--peer", name, STIGMEM_REPLICATOR_PAGE_SIZE="1")
    for who, *words in (
        (OTHER, "reset", "--yes"),
        (name, "set", server.origin.rows[0].hlc or "", "--yes"),
        (name, "reset", "--yes"),
        (name, "reset", "--yes"),
    ):
        words[1:1] = ["--peer", who]
        assert here("cursor", *words, db=receiver.database).code == 0
    record("peers show", OTHER)
    assert record("pull", "--peer", name)["refused_before"] == {"cid_mismatch": 1}
    record("dead-letters show", record("dead-letters list")[0]["entry_id"])
    record.everything(name)
    # As it is while a process works on a peer that asked to be left alone, and another wants it.
    receiver.execute(
        "UPDATE replicator_peers SET not_before_ms = 1, holder_host = 'h', holder_pid = 1,"
        " holder_command = 'pull', certificate_not_after_ms = 1, wanted_by = 'w', wanted_at_ms = ?",
        [now_ms() + 3_600_000],
    )
    # And while its tombstones are blocked, or nothing is known of them but that.
    for value in ("1", "NULL"):
        columns = ", ".join(f"{column} = {value}" for column in OF_TOMBSTONES)
        receiver.execute(f"UPDATE replicator_streams SET {columns}, state = 'blocked'")  # noqa: S608
        receiver.execute("UPDATE replicator_streams SET reason = ? WHERE reason = '1'", [WANTED])
        record.everything(name)
    look_at_the_daemon(record, receiver, name)
    # A peer that is blocked, and then one whose reason is not known.
    for reason in ("'key_changed', detail = 'd'", "NULL, detail = NULL"):
        receiver.execute(f"UPDATE replicator_peers SET state = 'blocked', reason = {reason}")  # noqa: S608
        record("status")
    for words in ([], ["--reason", "it moves", "--until", "1d"]):
        assert here("peers", "pause", name, *words, db=receiver.database).code == 0
        record.peers(name)
    assert here("peers", "resume", name, db=receiver.database).code == 0


def look_at_the_daemon(record: Recorder, receiver: Receiver, name: str) -> None:
    """Look where a daemon runs, where that cannot be told, and where it cannot write."""
    with announced(receiver.database):
        record.peers(name)
    lock_file = receiver.database.with_name(receiver.database.name + SUFFIX)
    lock_file.unlink()
    lock_file.symlink_to(lock_file)
    record.peers(name)
    lock_file.unlink()
    record.peers(name, STIGMEM_REPLICATOR_FREE_SPACE_MIN_MB=str(10**9))


def fail(record: Recorder, receiver: Receiver, node_id: str, folder: Path) -> None:
    """Pull from a peer that is not there, with settings that do not fit everywhere."""
    receiver.execute("UPDATE peers SET node_url = 'http://127.0.0.1:1'")
    receiver.database.with_name(".env").write_text(
        "STIGMEM_NODE_URL=https://node.example\n"
        "STIGMEM_LOCAL_DEV_ALLOW_INSECURE_NON_LOOPBACK=true\n"
    )
    config = folder / "replicator.toml"
    config.write_text('[peer."stigmem:node:gone"]\npage_size = 7\n')
    record.options = ["--config", str(config)]
    record("config check", STIGMEM_TRUST_MODE="strict")
    assert record("pull", "--peer", node_id)["error"]["reason"] == "unreachable"
    record("pull", "--all")
    record.everything(node_id)


def commands(
    command: Any,  # noqa: ANN401 - typer's own kind of click's
    path: str = "",
) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path.strip(), command
    for name, child in children.items():
        yield from commands(child, f"{path} {name}")


def test_every_command_that_prints_json_is_described() -> None:
    """A command has `--json` if and only if the page says what it prints."""
    asked = {
        path
        for path, command in commands(typer.main.get_command(app))
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert asked | EXPORTS == described().keys()


WRITING = {
    "cursor import",
    "cursor reset",
    "cursor set",
    "db drop",
    "db upgrade",
    "peers pause",
    "peers resume",
    "run",
}


def test_every_reading_command_prints_json() -> None:
    """What only reads has `--json`, or is an export and JSON by itself."""
    leaves = {path for path, _ in commands(typer.main.get_command(app))}
    assert leaves - WRITING == described().keys()


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([{"a": 1, "b": None}, {"a": 1, "b": "x"}], []),
        ([{"a": 1, "b": "x", "c": 1}], ["t: c is not described", "t: b is never null"]),
        ([{"a": "x", "b": None}], ["t: a is never integer", "t: a is text", "t: b is never text"]),
        ([{"a": True, "b": "x"}, {"b": None}], ["t: a is never integer", "t: a is boolean"]),
    ],
)
def test_a_deviation_is_noticed(documents: list[Any], said: list[str]) -> None:
    """A key too many, one that never comes and another type are each named."""
    table = {"a": frozenset({"integer"}), "b": frozenset({"text", "null"})}
    assert deviations("t", documents, table) == said
