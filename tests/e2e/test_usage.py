"""The command line as words: what it refuses, how it says so, and what the quiet commands show.

What only reads words and a database runs inside the test's own process, through the same entry
point; what needs another process, or none of ours, is a subprocess.
"""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import structlog
import typer

from stigmem_replicator import __version__
from stigmem_replicator.cli.app import app
from stigmem_replicator.cli.app import run as run_app
from stigmem_replicator.engine.pull import Pull
from stigmem_replicator.settings import DEFINITIONS
from tests.pages.origin import Origin, now_ms
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.pages.fixtures",)

WIDTH = 80


class Result:
    """What a command printed and how it ended."""

    def __init__(self, stdout: str, stderr: str, code: int) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.code = code

    def failed(self, reason: str, code: int) -> str:
        """Return the one line that says why, having checked that there is no other."""
        assert len(self.stderr.splitlines()) == 1, self.stderr
        return self.failed_among(reason, code)

    def failed_among(self, reason: str, code: int) -> str:
        """The same where other lines may stand before it."""
        line = self.stderr.splitlines()[-1]
        assert line.startswith("stigmem-replicate: ")
        assert f" ({reason})" in line, line
        assert self.code == code
        return line


class Here(Protocol):
    def __call__(
        self, *arguments: str, db: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Result: ...


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Here]:
    """Run the command in this process, in an empty folder, with nothing to read from."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in list(os.environ):
        if name.startswith("STIGMEM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")

    def run(
        *arguments: str, db: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Result:
        database = [] if db is None else ["--db", str(db)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["stigmem-replicate", *database, *arguments])
            patch.setattr(sys, "stdin", io.StringIO())
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = run_app()
        said = capsys.readouterr()
        return Result(said.out, said.err, code)

    yield run
    structlog.reset_defaults()


# --- databases that cannot be used


def test_no_database(here: Here, tmp_path: Path) -> None:
    """A missing file is exit 3 and is not created."""
    path = tmp_path / "absent.db"
    for words in (["pull", "--all"], ["peers", "list"], ["db", "upgrade"]):
        assert str(path) in here(*words, db=path).failed("database_missing", 3)
        assert not path.exists()
    assert "--db" in here("peers", "list").failed("database_missing", 3)


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 2\x00"])
def test_a_file_that_is_no_database(here: Here, tmp_path: Path, content: bytes) -> None:
    """A file that is not SQLite is exit 3 and stays as it was."""
    path = tmp_path / "other.db"
    path.write_bytes(content)
    here("pull", "--all", db=path).failed("database_not_a_node", 3)
    assert path.read_bytes() == content


def test_a_folder_is_no_database(here: Here, tmp_path: Path) -> None:
    """A folder where the file should be is exit 3."""
    here("pull", "--all", db=tmp_path).failed("database_failed", 3)


def test_a_database_of_something_else(here: Here, tmp_path: Path) -> None:
    """A SQLite database without a node's tables is exit 3 and stays empty."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE facts (id TEXT)")
    assert "start the node" in here("db", "upgrade", db=path).failed("database_not_a_node", 3)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("facts",)]


def test_a_damaged_database(here: Here, bare_receiver: Receiver) -> None:
    """A database whose pages do not read is exit 3, in words."""
    data = bytearray(bare_receiver.database.read_bytes())
    data[100:8192] = b"\x55" * 8092
    bare_receiver.database.write_bytes(data)
    assert "damaged" in here("peers", "list", db=bare_receiver.database).failed(
        "database_not_a_node", 3
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE conflicts RENAME COLUMN detected_at TO found_at", "conflicts.detected_at"),
        ("ALTER TABLE peers RENAME COLUMN relay_trusted TO trusted", "peers.relay_trusted"),
        ("DROP TABLE peer_tenant_map", "peer_tenant_map."),
        ("ALTER TABLE facts RENAME COLUMN origin_sig TO signature", "wire version 1"),
    ],
)
def test_a_schema_that_lacks_something(
    here: Here, bare_receiver: Receiver, change: str, named: str
) -> None:
    """A column or table that is not there is exit 3 and is named."""
    bare_receiver.execute(change)
    before = bare_receiver.dump()
    line = here("pull", "--all", db=bare_receiver.database).failed("schema_unsupported", 3)
    assert named in line
    assert bare_receiver.dump() == before


def test_a_schema_that_demands_more(here: Here, bare_receiver: Receiver) -> None:
    """A column that would have to be filled and is not known is exit 3 and is named."""
    bare_receiver.execute("DROP TABLE replication_cursors")
    bare_receiver.execute(
        "CREATE TABLE replication_cursors (peer_id TEXT, direction TEXT, cursor TEXT,"
        " updated_at TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (peer_id, direction))"
    )
    line = here("pull", "--all", db=bare_receiver.database).failed("schema_unsupported", 3)
    assert "demands replication_cursors.epoch" in line


def test_a_schema_with_harmless_additions(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """Columns that may stay empty, or have a default, and tables more are no hindrance."""
    for change in (
        "ALTER TABLE facts ADD COLUMN shade TEXT",
        "ALTER TABLE conflicts ADD COLUMN weight INTEGER NOT NULL DEFAULT 1",
        "CREATE TABLE novelties (id TEXT NOT NULL)",
        "INSERT INTO schema_migrations (version, applied_at) VALUES ('099_novelties', 'now')",
    ):
        bare_receiver.execute(change)
    bare_receiver.adopt(server)
    server.origin.add_many(2, entity="pages:same")
    assert here("pull", "--all", db=bare_receiver.database).code == 0
    assert len(bare_receiver.assert_clean(server).admitted) == 2


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the database's write lock."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.rollback()


def test_a_database_that_stays_locked(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A write lock held longer than database_timeout_s is exit 3; reading goes on beside it."""
    server.origin.add()
    env = {"STIGMEM_REPLICATOR_DATABASE_TIMEOUT_S": "0.3"}
    with locked(adopted.database):
        words = ("pull", "--peer", server.node_id)
        result = cli(*words, db=adopted.database, env=env, check=False)
        (line,) = result.stderr.splitlines()
        assert "(database_locked)" in line
        assert result.returncode == 3
        assert server.requests == []
        # A dry run has no use for the write lock.
        cli(*words, "--dry-run", db=adopted.database, env=env)


def test_a_database_locked_while_a_page_is_in_flight(
    start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A page that cannot be written for the lock is exit 3; it is not the peer's failure."""
    server.origin.add_many(3)
    held = server.hold()
    env = {"STIGMEM_REPLICATOR_DATABASE_TIMEOUT_S": "0.3"}
    running = start("pull", "--peer", server.node_id, db=adopted.database, env=env)
    held.wait()
    with locked(adopted.database):
        held.let_go()
        _stdout, stderr, code = running.end()
    assert code == 3
    assert stderr.count("(database_locked)") == 1
    assert "Traceback" not in stderr
    assert adopted.count("facts") == 0
    assert adopted.cursor(server) is None
    assert adopted.state(server) == ("catching_up", None)


def test_a_database_that_may_only_be_read(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A database that SQLite opens for reading only is exit 3, in words, and can be looked at.

    Its header asks for a newer way of writing, which binds every user; permissions do not bind
    the superuser.
    """
    data = bytearray(adopted.database.read_bytes())
    data[18] = 3
    adopted.database.write_bytes(data)
    line = here("pull", "--all", db=adopted.database).failed_among("database_failed", 3)
    assert "readonly" in line
    assert server.requests == []
    assert server.node_id in here("peers", "list", db=adopted.database).stdout


@pytest.mark.parametrize("key", ["node_id", "federation_privkey"])
def test_a_node_that_was_never_started(here: Here, bare_receiver: Receiver, key: str) -> None:
    """A database without the node's identity is exit 3 and says which part is missing."""
    bare_receiver.execute("DELETE FROM node_meta WHERE key = ?", [key])
    line = here("pull", "--all", db=bare_receiver.database).failed("node_not_initialised", 3)
    assert key in line


def test_a_key_that_does_not_read(here: Here, bare_receiver: Receiver) -> None:
    """A private key of the wrong length is exit 3 and is not shown."""
    bare_receiver.execute(
        "UPDATE node_meta SET value = 'c2VjcmV0LXNlZWQ' WHERE key = 'federation_privkey'"
    )
    line = here("pull", "--all", db=bare_receiver.database).failed("node_not_initialised", 3)
    assert "c2VjcmV0" not in line


@pytest.mark.parametrize(
    "env",
    [
        {"STIGMEM_STORAGE_BACKEND": "postgres"},
        {"STIGMEM_STORAGE_BACKEND": "libsql", "STIGMEM_LIBSQL_URL": "libsql://x?token=hunter2"},
        {"STIGMEM_AT_REST_ENCRYPTION": "on"},
        {"STIGMEM_DB_PATH": "postgresql://me:hunter2@db.example/node"},
    ],
)
def test_a_store_that_is_not_supported(
    here: Here, bare_receiver: Receiver, env: dict[str, str]
) -> None:
    """A node that keeps its data elsewhere, or encrypted, is exit 3 in plain words."""
    db = None if "STIGMEM_DB_PATH" in env else bare_receiver.database
    line = here("pull", "--all", db=db, env=env).failed("database_unsupported", 3)
    assert "hunter2" not in line


def test_strict_trust_is_not_supported(here: Here, bare_receiver: Receiver) -> None:
    """With trust_mode strict nothing is pulled: exit 3, and what to do instead."""
    env = {"STIGMEM_TRUST_MODE": "strict"}
    line = here("pull", "--all", db=bare_receiver.database, env=env).failed(
        "trust_mode_unsupported", 3
    )
    assert "relaxed" in line


# --- words that do not fit


@pytest.mark.parametrize(
    "words",
    [
        "pull",
        "pull --all --peer x",
        "pull --all --max-pages 0",
        "pull --all --max-pages many",
        "pull --all --wait -1",
        "pull --all --wait soon",
        "pull --all --wait nan",
        "pull --all --wait inf",
        "pull --all extra",
        "pull --peer",
        "pull --everything",
        "push",
        "peers",
        "peers forget x",
        "peers show",
        "cursor reset",
        "cursor reset --peer stigmem --to 1 --back 1h",
        "cursor reset --peer stigmem --back soon",
        "cursor reset --peer stigmem --back -1h",
        "cursor reset --peer stigmem --back 1w",
        "cursor reset --peer stigmem --to 1.0 --yes",
        "cursor reset --peer stigmem",
        "dead-letters show",
        "dead-letters show absent",
        "dead-letters list --limit 0",
        "db drop",
        "--config",
    ],
)
def test_words_that_do_not_fit(
    here: Here, adopted: Receiver, server: PageServer, words: str
) -> None:
    """What does not fit is exit 2 with words on standard error, and nothing is done."""
    before = adopted.dump()
    result = here(*words.split(), db=adopted.database)
    assert result.code == 2
    assert result.stderr.strip()
    assert "Traceback" not in result.stderr
    assert server.requests == []
    assert adopted.dump() == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("page_size = 0", "page_size"),
        ("page_siez = 5", "page_siez"),
        ("page_size = ", "not valid TOML"),
        ("backoff_base_s = 400", "backoff_cap_s"),
    ],
)
def test_a_configuration_that_does_not_fit(
    here: Here, bare_receiver: Receiver, tmp_path: Path, text: str, named: str
) -> None:
    """A configuration file with something wrong is exit 3 and names it."""
    path = tmp_path / "replicator.toml"
    path.write_text(text)
    line = here("--config", str(path), "peers", "list", db=bare_receiver.database).failed(
        "configuration_invalid", 3
    )
    assert named in line


@pytest.mark.parametrize(
    "rules",
    [
        "always_trust: 5",
        "always_trust: [5]",
        "never_trust: x",
        "- 5",
        "always_trust: [{}]",
        "always_trust: 2026-99-99",
    ],
)
def test_trust_rules_that_do_not_read(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path, rules: str
) -> None:
    """A trust rules file of another shape is exit 3 and named, and nothing is pulled."""
    path = tmp_path / "rules.yml"
    path.write_text(rules)
    env = {"STIGMEM_TRUST_RULES_FILE": str(path)}
    line = here("pull", "--all", db=adopted.database, env=env).failed("configuration_invalid", 3)
    assert str(path) in line
    assert server.requests == []


def test_a_configuration_file_that_is_not_there(here: Here, tmp_path: Path) -> None:
    """A configuration file that was named and does not exist is exit 3."""
    here("--config", str(tmp_path / "no.toml"), "config", "show").failed("configuration_invalid", 3)


# --- help


def commands(
    command: Any,  # noqa: ANN401 - typer's own kind of click's
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "(none)")
def test_help_fits_and_is_complete(here: Here, path: tuple[str, ...]) -> None:
    """--help of every command fits 80 columns and says something about every word it takes."""
    result = here(*path, "--help")
    assert (result.code, result.stderr) == (0, "")
    assert max(len(line) for line in result.stdout.splitlines()) <= WIDTH
    command = COMMANDS[path]
    assert command.help
    assert command.help.split(".")[0].split()[0] in result.stdout
    for parameter in command.params:
        for word in parameter.opts:
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", result.stdout), word
        assert getattr(parameter, "help", None), parameter.name
    for name in getattr(command, "commands", {}):
        assert re.search(rf"^  {name} ", result.stdout, re.MULTILINE)


def test_the_bare_command_shows_the_help(here: Here) -> None:
    """Without a command the help is shown, and -h is as good as --help."""
    assert here("-h").stdout == here("--help").stdout
    bare = here()
    assert bare.code == 2
    assert "Commands:" in bare.stdout + bare.stderr


def test_the_version(cli: Cli, here: Here) -> None:
    """--version prints name and version, as a process too."""
    assert here("--version").stdout == f"stigmem-replicate {__version__}\n"
    done = cli("--version")
    assert (done.stdout, done.stderr) == (f"stigmem-replicate {__version__}\n", "")


# --- config


def test_config_show(here: Here, bare_receiver: Receiver, tmp_path: Path) -> None:
    """Every setting is shown with its value and where it is from; secrets are not shown."""
    seed = "A" * 43
    config = tmp_path / "replicator.toml"
    config.write_text("page_size = 77\n")
    env_file = bare_receiver.database.parent / ".env"
    env_file.write_text("STIGMEM_NODE_URL=https://node.example\n")
    env = {
        "STIGMEM_REPLICATOR_OVERLAP_S": "3",
        "STIGMEM_FEDERATION_PUBKEY": seed,
        "STIGMEM_FEDERATION_PRIVKEY": seed[:-1] + "E",
    }
    words = ("--config", str(config), "--log-level", "error", "config", "show")
    text = here(*words, db=bare_receiver.database, env=env).stdout
    document = json.loads(here(*words, "--json", db=bare_receiver.database, env=env).stdout)

    rows = {row["name"]: row for row in document["settings"]}
    assert list(rows) == list(DEFINITIONS)
    expected = {
        "page_size": ("77", str(config)),
        "overlap_s": ("3.0", "environment STIGMEM_REPLICATOR_OVERLAP_S"),
        "node_url": ("https://node.example", str(env_file)),
        "log_level": ("error", "--log-level"),
        "database": (str(bare_receiver.database), "--db"),
        "federation_privkey": ("***", "environment STIGMEM_FEDERATION_PRIVKEY"),
        "backoff_cap_s": ("300.0", "default"),
    }
    for name, (value, origin) in expected.items():
        assert rows[name]["value"] == value
        assert origin in rows[name]["origin"]
        (line,) = [line for line in text.splitlines() if line.split()[0:1] == [name]]
        assert value in line
        assert origin in line
    assert seed[:-1] + "E" not in text + json.dumps(document)
    assert document["config_file"] == str(config)
    assert document["env_file"] == str(env_file)


def test_config_show_needs_no_database(here: Here) -> None:
    """The settings can be shown before there is a database."""
    result = here("config", "show")
    assert (result.code, result.stderr) == (0, "")
    assert "configuration file: none" in result.stdout


# --- the replicator's own tables


def test_db_upgrade_current_and_drop(here: Here, bare_receiver: Receiver) -> None:
    """The tables come and go, each step says what it did, and the node's own stay as they were."""
    db = bare_receiver.database
    bare = bare_receiver.dump()
    assert "no tables yet" in here("db", "current", db=db).stdout
    assert here("db", "drop", "--yes", db=db).stdout == "there were no tables\n"
    assert "now at revision" in here("db", "upgrade", db=db).stdout
    assert "already at revision" in here("db", "upgrade", db=db).stdout
    assert "what this version needs" in here("db", "current", db=db).stdout
    upgraded = bare_receiver.dump()
    assert set(bare) < set(upgraded)
    assert "not confirmed" in here("db", "drop", db=db).stderr
    assert bare_receiver.dump() == upgraded
    assert here("db", "drop", "--yes", db=db).stdout == "the tables are removed\n"
    assert bare_receiver.dump() == bare


def test_tables_of_a_newer_version(here: Here, adopted: Receiver) -> None:
    """Tables that a newer version made are left alone: exit 3, and what to do."""
    adopted.execute("UPDATE replicator_alembic_version SET version_num = '9999'")
    before = adopted.dump()
    for words in (["db", "upgrade"], ["pull", "--all"], ["pull", "--all", "--dry-run"]):
        here(*words, db=adopted.database).failed("own_schema_outdated", 3)
    assert "9999" in here("db", "current", db=adopted.database).stdout
    assert adopted.dump() == before


# --- peers


def test_peers_before_anything_was_pulled(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """The peers are shown before the replicator has tables, and when there are none."""
    assert "no peers" in here("peers", "list", db=bare_receiver.database).stdout
    assert json.loads(here("peers", "list", "--json", db=bare_receiver.database).stdout) == []
    bare_receiver.adopt(server)
    assert "never pulled" in here("peers", "list", db=bare_receiver.database).stdout
    shown = here("peers", "show", server.node_id[-8:], db=bare_receiver.database).stdout
    assert "at the beginning" in shown
    document = json.loads(
        here("peers", "show", server.url, "--json", db=bare_receiver.database).stdout
    )
    assert document["peer"] == server.node_id
    assert document["scopes"] == ["company", "public"]
    assert document["replication"] is None
    assert document["events"] == []


def test_a_peer_whose_row_does_not_read(here: Here, adopted: Receiver, server: PageServer) -> None:
    """A peer whose scopes do not read is agreed nothing, and does not stop the others' commands."""
    adopted.execute("UPDATE peers SET allowed_scopes = '{'")
    shown = here("peers", "show", server.node_id, db=adopted.database)
    assert (shown.code, shown.stderr) == (0, "")
    assert re.search(r"scopes +none", shown.stdout)


def test_a_peer_shows_its_last_events(here: Here, adopted: Receiver, server: PageServer) -> None:
    """Of what happened with a peer the newest 50 events are shown."""
    for _ in range(52):
        here("cursor", "reset", "--peer", server.node_id, "--yes", db=adopted.database)
    assert len(adopted.events(server)) == 52
    words = ("peers", "show", server.node_id)
    assert here(*words, db=adopted.database).stdout.count("cursor_reset") == 50
    document = json.loads(here(*words, "--json", db=adopted.database).stdout)
    assert len(document["events"]) == 50


def test_a_mistake_with_one_peer_does_not_end_the_others(
    here: Here, adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is its peer's alone: exit 1, one line, a traceback only for debug."""
    server.origin.add()
    other = "stigmem:node:mistaken"
    adopted.register(other, "http://127.0.0.1:2")
    run = Pull.run

    async def mistaken(self: Pull) -> None:
        seed = "the-seed-of-a-key"
        if self._peer.node_id == other:
            raise RuntimeError(seed[:3] + "\x1b[2J")
        await run(self)

    monkeypatch.setattr(Pull, "run", mistaken)
    line = here("pull", "--all", db=adopted.database).failed("unexpected", 1)
    assert other in line
    assert "RuntimeError" in line
    assert len(adopted.assert_clean(server).admitted) == 1
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown)
        result = here("--log-level", "debug", "pull", "--peer", other, db=adopted.database)
        assert result.code == 1
        assert "Traceback" in result.stderr
        assert "the-seed-of-a-key" not in result.stderr
        assert "\x1b[2J" not in result.stderr


# --- cursors


def test_cursor_show_and_reset(here: Here, bare_receiver: Receiver, server: PageServer) -> None:
    """A cursor goes to the beginning or to a position that was given, and only after a yes."""
    db = bare_receiver.database
    assert "no peers" in here("cursor", "show", db=db).stdout
    bare_receiver.adopt(server)
    assert "at the beginning" in here("cursor", "show", db=db).stdout
    hours = 3_600_000
    for age in (5 * hours, 3 * hours, 1 * hours):
        server.origin.add(hlc=f"{now_ms() - age}.0")
    stamps = [row.hlc for row in server.origin.rows]
    env = {"STIGMEM_REPLICATOR_PAGE_SIZE": "1"}
    assert here("pull", "--all", db=db, env=env).code == 0

    (shown,) = json.loads(here("cursor", "show", "--json", db=db).stdout)
    assert (shown["cursor"], shown["settled"]) == (stamps[-1], stamps[-1])
    assert [item["position"] for item in shown["checkpoints"]] == stamps
    text = here("cursor", "show", "--peer", server.node_id, db=db).stdout
    assert all(stamp in text for stamp in stamps)

    def reset(*words: str) -> Result:
        return here("cursor", "reset", "--peer", server.node_id, *words, db=db)

    assert reset().failed_among("usage", 2).endswith("--yes answers for you")
    assert "no position" in reset("--to", "123.0", "--yes").failed("usage", 2)
    assert bare_receiver.cursor(server) == stamps[-1]
    assert reset("--to", stamps[1], "--yes").code == 0
    assert bare_receiver.cursor(server) == stamps[1]
    assert reset("--back", "4h", "--yes").code == 0
    assert bare_receiver.cursor(server) == stamps[0]
    assert reset("--back", "9d", "--yes").code == 0
    assert bare_receiver.cursor(server) is None
    assert reset("--yes").code == 0
    assert bare_receiver.events(server).count("cursor_reset") == 4

    asked = len(server.requests)
    result = here("pull", "--peer", server.node_id, db=db)
    assert "duplicates  3" in result.stdout
    assert server.requests[asked].cursor is None
    bare_receiver.assert_clean(server)
    assert bare_receiver.cursor(server) == stamps[-1]


def test_a_reset_of_an_unknown_peer(here: Here, adopted: Receiver) -> None:
    """A reset names its peer as a pull does: nobody and two are exit 4."""
    words = ("cursor", "reset", "--yes", "--peer")
    here(*words, "nobody", db=adopted.database).failed("unknown_peer", 4)
    adopted.register("stigmem:node:second", "http://127.0.0.1:2")
    here(*words, "stigmem:node", db=adopted.database).failed("ambiguous_peer", 4)


# --- dead letters


def test_dead_letters(here: Here, bare_receiver: Receiver, server: PageServer) -> None:
    """What was refused is listed, narrowed and shown whole; nothing refused is said so."""
    db = bare_receiver.database
    for words in (["list"], ["list", "--json"], ["show", "absent"]):
        result = here("dead-letters", *words, db=db)
        assert result.code == (2 if words[0] == "show" else 0)
    assert here("dead-letters", "list", db=db).stdout == "nothing was refused\n"

    bare_receiver.adopt(server)
    server.origin.add()
    refused = serve(server.origin, poison("a content beside its id"))
    assert refused is not None
    serve(server.origin, poison("a scope that was not agreed"))
    serve(server.origin, poison("an entry that is a text"))
    assert here("pull", "--all", db=db).code == 0

    text = here("dead-letters", "list", db=db).stdout
    assert len(text.splitlines()) == 4
    assert refused in text
    documents = json.loads(here("dead-letters", "list", "--json", db=db).stdout)
    assert sorted(item["reason"] for item in documents) == [
        "cid_mismatch",
        "malformed_entry",
        "scope_not_permitted",
    ]
    narrowed = here("dead-letters", "list", "--reason", "cid_mismatch", db=db).stdout
    assert len(narrowed.splitlines()) == 2
    assert "and more" in here("dead-letters", "list", "--limit", "2", db=db).stdout
    of_peer = here("dead-letters", "list", "--peer", server.node_id, "--json", db=db).stdout
    assert json.loads(of_peer) == documents

    shown = here("dead-letters", "show", refused, db=db).stdout
    assert "cid_mismatch" in shown
    assert "open" in shown
    (document,) = json.loads(here("dead-letters", "show", refused, "--json", db=db).stdout)
    served = next(
        row.entry
        for row in server.origin.rows
        if isinstance(row.entry, dict) and row.entry["fact"]["id"] == refused
    )
    assert document["payload"] == served
    assert document["times_seen"] == 1


def test_no_dead_letter_speaks_to_the_terminal(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """Whatever a peer puts into an entry, what is shown of it holds no control character."""
    stranger = Origin("https://stranger.example\x1b[2J")
    stranger.node_id = "stigmem:node:\x1b]0;owned\x07"
    entry = stranger.entry(stranger.fact(fact_id="\x1b[31mred", hlc=server.origin.stamp()))
    server.origin.add(entry)
    server.origin.add(server.origin.entry(server.origin.fact(scope="\x9b2J\u202e")))
    server.origin.rows[-1] = replace(server.origin.rows[-1], scope="public")
    serve(server.origin, poison("a lone surrogate"))
    assert here("pull", "--all", db=adopted.database).code == 0
    words = [["dead-letters", "list"], ["dead-letters", "list", "--json"]]
    words += [["peers", "show", server.node_id], ["peers", "show", server.node_id, "--json"]]
    for row in adopted.query("SELECT entry_id FROM replicator_dead_letters"):
        words += [["dead-letters", "show", row["entry_id"]]]
        words += [["dead-letters", "show", row["entry_id"], "--json"]]
    assert len(words) == 10
    for command in words:
        result = here(*command, db=adopted.database)
        assert (result.code, result.stderr) == (0, "")
        assert all(line.isprintable() for line in result.stdout.split("\n")), repr(result.stdout)


def test_tables_in_use_are_not_dropped(
    here: Here, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """`db drop` beside a running pull removes nothing and is exit 8."""
    server.origin.add_many(1)
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    try:
        result = here("db", "drop", "--yes", db=adopted.database)
    finally:
        held.let_go()
        running.end()
    assert result.code == 8
    assert "(peer_held)" in result.stderr
    assert len(adopted.assert_clean(server).admitted) == 1
