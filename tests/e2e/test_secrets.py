"""Secrets stay secret: planted in every place that can hold one, they come out nowhere.

Every command runs, with pulls that succeed and that fail, and all that it printed, all that it
wrote into the database and every file that it left is searched for what was planted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stigmem_replicator.cli.app import app
from stigmem_replicator.settings import DEFINITIONS
from stigmem_replicator.settings.values import Address, Database, OptionalDsn, OptionalKey
from tests.e2e.page_pulls import wait_for
from tests.e2e.planted import Search
from tests.nodes.database import PostgresDatabase
from tests.nodes.environment import NodeEnvironment
from tests.nodes.postgres import PostgresServer
from tests.pages import misbehaviour
from tests.pages.origin import base64url
from tests.pages.poison import poison, serve
from tests.pages.receiver import SCOPES, Receiver
from tests.pages.server import Exchange, PageServer, Reader

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.e2e.here import Here
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")

SEED = bytes(range(100, 132))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PRIVATE, PUBLIC = base64url(SEED), base64url(KEY.public_key().public_bytes_raw())

NO_SECRET = {"federation_pubkey"}
"""Settings that could hold any text, and hold no secret."""


@pytest.fixture
def search() -> Search:
    return Search()


class World:
    """A receiver with secrets all around it, its peers, and the commands run so far."""

    def __init__(self, here: Here, receiver: Receiver, search: Search, folder: Path) -> None:
        self.receiver = receiver
        self._here = here
        self._search = search
        self._ran: set[str] = set()
        self.env = {
            "STIGMEM_PG_DSN": search.url("env-dsn"),
            "STIGMEM_DATABASE_URL": search.url("env-database-url"),
            "DATABASE_URL": search.url("env-bare-database-url"),
            "STIGMEM_NODE_URL": search.url("env-node-url", "http", "localhost:8765"),
            "STIGMEM_LIBSQL_URL": search.url("env-libsql", "libsql"),
            "STIGMEM_LIBSQL_AUTH_TOKEN": search.plant("env-libsql-token"),
            "STIGMEM_NODE_PRIVATE_KEY": search.plant("env-node-private-key"),
            "STIGMEM_REPLICATOR_TYPO": search.plant("env-typo"),
        }
        self.config = folder / "replicator.toml"
        self.config.write_text(
            f'pg_dsn = "host=127.0.0.1 password={search.plant("toml-dsn")}"\n'
            f'node_url = "{search.url("toml-node-url", "http")}"\n'
            f'[peer."{search.url("toml-peer", "http")}"]\npage_size = 2\n'
        )
        self.env_file = receiver.database.with_name(".env")
        self.env_file.write_text(
            f"STIGMEM_PG_DSN={search.url('file-dsn')}\n"
            f"STIGMEM_NODE_URL={search.url('file-node-url', 'http')}\n"
            f"STIGMEM_LIBSQL_AUTH_TOKEN={search.plant('file-token')}\n"
            f"STIGMEM_REPLICATOR_TYPO={search.plant('file-typo')}\n"
        )
        search.plant("node-privkey", receiver.meta("federation_privkey"))
        self._before = set(receiver.dump())

    def _line(self, *words: str) -> tuple[str, ...]:
        return ("--config", str(self.config), "--log-level", "debug", *words)

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command in the midst of the secrets; returns what it printed."""
        arguments = self._line(*words)
        given = self.env if env is None else env
        result = self._here(*arguments, db=self.receiver.database, env=given)
        assert result.code != 1, result.stderr
        self._ran.add(" ".join(words))
        self._search.add(" ".join(words), f"{result.stdout}\n{result.stderr}")
        return result.stdout

    def run_daemon(self, start: Start, until: Callable[[], bool]) -> None:
        """Run the daemon in the midst of the secrets until something has come to pass."""
        running = start(*self._line("run"), db=self.receiver.database, env=self.env)
        wait_for(until)
        running.interrupt()
        stdout, stderr, code = running.end()
        assert code == 0, stderr
        self._ran.add("run")
        self._search.add("run", f"{stdout}\n{stderr}")

    def look_at_the_rest(self, folder: Path, peers: Iterable[PageServer]) -> None:
        """Add what was written, and the tokens that the peers were shown."""
        written = set(self.receiver.dump()) - self._before
        assert any("replicator_events" in line for line in written)
        assert any("fact_audit_log" in line for line in written)
        self._search.add("the database", "\n".join(written))
        database = self.receiver.database
        self._search.add_files(
            folder,
            but={
                self.config,
                self.env_file,
                *(database.with_name(database.name + end) for end in ("", "-wal", "-shm")),
            },
        )
        for peer in peers:
            for number, request in enumerate(peer.requests):
                token = request.headers["Authorization"].removeprefix("Bearer ")
                for part, text in zip(
                    ("head", "claims", "signature"), token.split("."), strict=True
                ):
                    if part != "head":
                        self._search.plant(f"{peer.url} {number} {part}", text)

    def commands_not_run(self) -> set[str]:
        """Return the commands of the program that did not run here."""
        return {
            command
            for command in commands(typer.main.get_command(app))
            if not any(f"{words} ".startswith(f"{command} ") for words in self._ran)
        }


def commands(command: object, name: str = "") -> Iterable[str]:
    """Yield the words of every command of the program."""
    children = getattr(command, "commands", None)
    if not children:
        yield name
        return
    for word, child in children.items():
        yield from commands(child, f"{name} {word}".strip())


def echo(exchange: Exchange) -> None:
    """Refuse, and repeat the token."""
    exchange.send(401, {"detail": f"not {exchange.request.headers['Authorization']}"})


def peers_without_end(receiver: Receiver) -> list[str]:
    """Return the peers of which a daemon does not know yet whether they can be replicated."""
    rows = receiver.query("SELECT node_id FROM replicator_peers WHERE state = 'catching_up'")
    return [row["node_id"] for row in rows]


def look_around(world: World, peer: str, letter: str, out: Path) -> None:
    """Run every command that reads."""
    for words in (
        ("config", "show"),
        ("config", "check"),
        ("status",),
        ("status", "--check"),
        ("peers", "list"),
        ("peers", "show", peer),
        ("cursor", "show"),
        ("cursor", "history", "--peer", peer),
        ("dead-letters", "list"),
        ("dead-letters", "show", letter),
    ):
        world.run(*words)
        world.run(*words, "--json")
    world.run("db", "current")
    world.run("peers", "show", "http://")
    world.run("peers", "show", "secretive-0")
    world.run("cursor", "export", "--out", str(out / "cursors.json"))
    world.run("cursor", "export", "--with-state")
    world.run("dead-letters", "export", "--out", str(out / "letters.jsonl"))


def test_no_secret_comes_out_of_any_command(
    here: Here,
    start: Start,
    receiver: Receiver,
    server: PageServer,
    second_server: PageServer,
    search: Search,
    tmp_path: Path,
) -> None:
    """Every command, with a good peer, one that repeats tokens, and addresses with passwords."""
    for peer in (server, second_server):
        receiver.adopt(peer)
    out = tmp_path / "home"
    for number, url in enumerate(
        (
            search.url("peer-url", "http", "127.0.0.1:9"),
            f"http://127.0.0.1:9?token={search.plant('peer-query')}",
            f"node:{search.plant('peer-no-scheme')}@127.0.0.1:9",
        )
    ):
        organisation = search.url(f"organisation-{number}", "https", "peer.example")
        receiver.register(f"stigmem:node:secretive-{number}", url, entity_uri=organisation)
    world = World(here, receiver, search, tmp_path)
    receiver.execute(  # so that it is exported
        "INSERT INTO replication_cursors (peer_id, direction, cursor, updated_at)"
        " SELECT id, 'inbound', '1.0', '2026-01-01T00:00:00Z' FROM peers"
        " WHERE node_id LIKE 'stigmem:node:secretive-%'"
    )
    server.origin.add_many(5)
    letter = serve(server.origin, poison("a content beside its id"))
    serve(server.origin, poison("an entry that is a text"))
    second_server.always = echo

    for words in (["--dry-run"], [], ["--json"]):
        world.run("pull", "--all", "--wait", "0", *words)
    for number in range(3):
        world.run("pull", "--peer", f"secretive-{number}")
    for behaviour in (misbehaviour.html, misbehaviour.truncated, misbehaviour.status(500)):
        server.script(behaviour)
        server.origin.add()
        world.run("pull", "--peer", server.node_id, "--wait", "0")
    assert letter is not None
    look_around(world, server.node_id, letter, out)
    cursor = receiver.cursor(server)
    assert cursor is not None
    world.run("cursor", "reset", "--peer", server.node_id, "--yes")
    world.run("cursor", "set", cursor, "--peer", server.node_id, "--yes")
    world.run("cursor", "import", str(out / "cursors.json"), "--force")
    world.run("db", "upgrade")
    for name in (
        "secretive-0",
        "secretive-1",
        "secretive-2",
        server.node_id,
        second_server.node_id,
    ):
        world.run("peers", "pause", name)
        world.run("peers", "resume", name)
    world.run_daemon(start, lambda: not peers_without_end(receiver))
    look_around(world, server.node_id, letter, out)

    world.look_at_the_rest(tmp_path, (server, second_server))
    world.run("db", "drop", "--yes")
    assert world.commands_not_run() == set()
    assert len(second_server.requests) >= 2
    assert all(event in search.text("run") for event in ("federation.peer.state", "blocked"))
    assert "***" in search.text("config show")
    assert "***@" in search.text("peers show")
    search.assert_nothing_found()


def test_keys_given_as_settings_stay_secret_too(
    cli: Cli, adopted: Receiver, server: PageServer, search: Search
) -> None:
    """A whole process, its key in the environment, with debug logs, pulling and failing to."""
    search.plant("private key", PRIVATE)
    search.plant("private key in hex", SEED.hex())
    search.plant("private key in plain base64", base64.b64encode(SEED).decode())
    env = {
        "STIGMEM_FEDERATION_INSECURE": "true",
        "STIGMEM_FEDERATION_PRIVKEY": PRIVATE,
        "STIGMEM_FEDERATION_PUBKEY": PUBLIC,
    }
    server.origin.add_many(3)
    words = ("--log-level", "debug", "pull", "--all", "--wait", "0")
    before = set(adopted.dump())
    refused = cli(*words, db=adopted.database, env=env, check=False)
    assert "invalid_signature" in refused.stderr
    server.know(Reader(adopted.meta("node_id"), PUBLIC, frozenset(SCOPES)))
    for result in (
        refused,
        cli(*words, db=adopted.database, env=env),
        cli("config", "show", "--json", db=adopted.database, env=env),
    ):
        search.add("output", f"{result.stdout}\n{result.stderr}")
    assert len(adopted.fact_ids(server)) == 3
    search.add("the database", "\n".join(set(adopted.dump()) - before))
    for number, request in enumerate(server.requests):
        search.plant(f"token {number}", request.headers["Authorization"].split(".")[-1])
    search.assert_nothing_found()


def secret_values(search: Search) -> dict[str, str]:
    """Return for each setting that can hold a secret a value that holds one and does not fit."""
    return {
        "database": f"postgresql://node:{search.plant('database')}@127.0.0.1:port/x",
        "pg_dsn": f"password={search.plant('pg-dsn')} host",
        "node_url": f"http://node:{search.plant('node-url')}@[::1",
        "federation_privkey": search.plant("privkey"),
    }


def test_secrets_are_planted_in_every_setting_that_can_hold_one(search: Search) -> None:
    kinds = (Address, Database, OptionalDsn, OptionalKey)
    able = {name for name, item in DEFINITIONS.items() if isinstance(item.kind, kinds)}
    assert able - NO_SECRET == set(secret_values(search))


def test_a_value_that_is_refused_is_not_repeated(
    here: Here, search: Search, tmp_path: Path
) -> None:
    """Wherever it is written: in the environment, a .env file or our TOML file."""
    values = secret_values(search)
    config, env_file = tmp_path / "a.toml", tmp_path / "a.env"
    for name, value in values.items():
        variable = f"STIGMEM_REPLICATOR_{name.upper()}"
        config.write_text(f"{name} = {json.dumps(value)}\n")
        env_file.write_text(f"{variable}='{value}'\n")
        for options, env in (
            ((), {variable: value}),
            (("--env-file", str(env_file)), {}),
            (("--config", str(config)), {}),
        ):
            for words in (("config", "show"), ("config", "check"), ("peers", "list")):
                result = here(*options, "--log-level", "debug", *words, env=env)
                assert result.code == 3
                search.add(f"{name} {words}", f"{result.stdout}\n{result.stderr}")
    config.write_text(f'federation_privkey = "{values["federation_privkey"]}')
    result = here("--config", str(config), "config", "check")
    assert "is not valid TOML" in result.stdout
    search.add("broken TOML", result.stdout)
    search.assert_nothing_found()


def test_the_password_of_postgresql_stays_secret(
    here: Here,
    node_environment: NodeEnvironment,
    postgres_server: PostgresServer,
    search: Search,
    tmp_path: Path,
) -> None:
    """With a server that lets us in, one that does not, and none."""
    url = postgres_server.node_database(node_environment)
    right = search.plant("right password", postgres_server.password)
    wrong = search.plant("wrong password")
    config = tmp_path / "a.toml"
    config.write_text(f'database = "{url}"\n')
    settings = (
        ({"STIGMEM_STORAGE_BACKEND": "postgres", "STIGMEM_PG_DSN": url}, True),
        ({"STIGMEM_REPLICATOR_DATABASE": url}, True),
        ({"STIGMEM_REPLICATOR_DATABASE": url.replace(right, wrong)}, False),
        ({"STIGMEM_REPLICATOR_DATABASE": url.replace(right, f"{wrong}@{right}")}, False),
        ({"STIGMEM_REPLICATOR_DATABASE": f"postgresql://u:{wrong}@127.0.0.1:1/x"}, False),
        ({"STIGMEM_REPLICATOR_DATABASE": f"postgresql://u@127.0.0.1:1/x?password={wrong}"}, False),
        ({"STIGMEM_REPLICATOR_DATABASE": url, "STIGMEM_PG_SCHEMA": "nowhere"}, False),
    )
    for env, lets_in in settings:
        for words in (
            ("config", "show"),
            ("config", "check"),
            ("status",),
            ("peers", "list"),
            ("db", "upgrade"),
        ):
            result = here("--log-level", "debug", *words, env=env)
            assert result.code != 1, result.stderr
            if words[0] != "config":
                assert result.code == (0 if lets_in else 3), result.stderr
            search.add(f"{words}", f"{result.stdout}\n{result.stderr}")
    search.add("toml", here("--config", str(config), "peers", "list").stdout)
    dump = PostgresDatabase(url).dump()
    assert "replicator_peers" in dump
    search.add("the database", json.dumps(dump))
    search.assert_nothing_found()
