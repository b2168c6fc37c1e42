"""`config`, and databases that cannot be shared: what an operator is told, and the exit code."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.nodes.certificates import Authority
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, limits_of

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


def config_file(folder: Path, text: str) -> str:
    path = folder / "replicator.toml"
    path.write_text(text)
    return str(path)


# --- databases that cannot be shared


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"STIGMEM_STORAGE_BACKEND": "libsql"}, "libsql"),
        ({"STIGMEM_AT_REST_ENCRYPTION": "on"}, "encrypts"),
    ],
)
def test_what_the_node_says_it_keeps_is_refused(
    here: Here, adopted: Receiver, env: dict[str, str], word: str
) -> None:
    """LibSQL and encryption are refused by every command that opens the database."""
    for words in (["pull", "--all"], ["peers", "list"], ["db", "upgrade"]):
        line = here(*words, db=adopted.database, env=env).failed("database_unsupported", 3)
        assert word in line
        assert "the node's own loop" in line


def test_the_node_s_env_file_says_it_too(here: Here, adopted: Receiver) -> None:
    adopted.database.with_name(".env").write_text("STIGMEM_STORAGE_BACKEND=libsql\n")
    here("peers", "list", db=adopted.database).failed("database_unsupported", 3)


def test_a_libsql_url_is_refused_without_its_token(here: Here) -> None:
    result = here("--db", "libsql://db.example?authToken=hush", "peers", "list")
    assert "hush" not in result.failed("database_unsupported", 3)


def test_an_encrypted_file_is_refused(here: Here, tmp_path: Path) -> None:
    """It is known by its first bytes, whatever the settings say."""
    path = tmp_path / "stigmem.db"
    path.write_bytes(random.Random(1).randbytes(8192))
    assert "encrypted" in here("pull", "--all", db=path).failed("database_unsupported", 3)


# --- config check


def test_check_of_a_node_that_can_be_pulled_for(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """Nothing wrong is exit 0 and a sentence; a peer's table that fits is no warning."""
    config = config_file(tmp_path, f'[peer."{server.node_id}"]\npage_size = 3\n')
    result = here("--config", config, "config", "check", db=adopted.database)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout == (
        f"all settings fit, and the database can be used: {adopted.database}\n"
    )


def test_check_lists_everything_that_is_wrong(
    here: Here, adopted: Receiver, tmp_path: Path
) -> None:
    """Settings, the node's key, the rules file: one line each with its reason, exit 3."""
    adopted.execute("UPDATE node_meta SET value = 'x' WHERE key = 'federation_privkey'")
    config = config_file(tmp_path, 'page_sise = 5\noverlap_s = "x"\n[peer.nobody]\npage_size = 5\n')
    env = {
        "STIGMEM_TRUST_RULES_FILE": str(tmp_path / "missing.yml"),
        "STIGMEM_TRUST_MODE": "strict",
        "STIGMEM_REPLICATOR_ZZZ": "1",
    }
    words = ("--config", config, "config", "check")
    result = here(*words, db=adopted.database, env=env)
    assert (result.code, result.stderr) == (3, "")
    assert "can be used" not in result.stdout
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["problem"] * 5 + ["warning"] * 2
    for word, reason in (
        ("did you mean 'page_size'", "configuration_invalid"),
        ("overlap_s", "configuration_invalid"),
        ("federation_privkey", "node_not_initialised"),
        ("missing.yml", "configuration_invalid"),
        ("strict", "trust_mode_unsupported"),
    ):
        assert any(word in line and f"({reason})" in line for line in lines), word
    assert lines[-2] == "warning: environment STIGMEM_REPLICATOR_ZZZ is no setting"
    assert lines[-1] == f'warning: [peer."nobody"] of {config} names no peer of this node'

    document = json.loads(here(*words, "--json", db=adopted.database, env=env).stdout)
    assert (document["usable"], document["database_opened"]) == (False, True)
    assert len(document["problems"]) == 5
    assert {frozenset(item) for item in document["problems"]} == {
        frozenset({"reason", "message", "hint"})
    }
    assert len(document["warnings"]) == 2


def test_warnings_alone_are_no_failure(here: Here, adopted: Receiver) -> None:
    env = {"STIGMEM_REPLICATOR_ZZZ": "1"}
    result = here("config", "check", db=adopted.database, env=env)
    assert result.code == 0
    assert "warning: " in result.stdout
    document = json.loads(here("config", "check", "--json", db=adopted.database, env=env).stdout)
    assert document["usable"]


def test_a_status_page_that_others_reach_is_a_warning(here: Here, adopted: Receiver) -> None:
    env = {"STIGMEM_REPLICATOR_HTTP_LISTEN": "0.0.0.0:9765"}
    result = here("config", "check", db=adopted.database, env=env)
    assert result.code == 0
    assert "warning: http_listen is 0.0.0.0:9765 (from environment" in result.stdout


def test_check_of_a_database_that_cannot_be_opened(here: Here, tmp_path: Path) -> None:
    result = here("config", "check", db=tmp_path / "missing.db")
    assert result.code == 3
    assert "(database_missing)" in result.stdout
    document = json.loads(here("config", "check", "--json", db=tmp_path / "missing.db").stdout)
    assert document["database_opened"] is False


def test_check_does_not_open_a_database_that_may_be_another(
    here: Here, adopted: Receiver, tmp_path: Path
) -> None:
    """When a file of settings cannot be read, nobody knows which database is meant."""
    words = ("--config", str(tmp_path / "missing.toml"), "config", "check")
    result = here(*words, db=adopted.database)
    assert result.code == 3
    assert "the database was not looked at" in result.stdout
    document = json.loads(here(*words, "--json", db=adopted.database).stdout)
    assert document["database_opened"] is False


# --- single peers


def test_each_peer_is_asked_as_its_table_says(
    here: Here,
    receiver: Receiver,
    server: PageServer,
    second_server: PageServer,
    tmp_path: Path,
) -> None:
    """A peer's own page size and cap on conflicts hold for it and for nobody else."""
    for peer in (server, second_server):
        receiver.adopt(peer)
        peer.origin.add_many(5, entity=f"https://example.org/{peer.node_id}")
    own = "page_size = 2\nmax_conflicts_per_fact = 1\n"
    text = f'page_size = 4\n[peer."{server.node_id}"]\n{own}'
    words = ("--config", config_file(tmp_path, text), "pull", "--all", "--json")
    told = {item["peer"]: item for item in json.loads(here(*words, db=receiver.database).stdout)}
    assert set(limits_of(server.requests)) == {2}
    assert set(limits_of(second_server.requests)) == {4}
    for peer, conflicts in ((server, 4), (second_server, 10)):
        assert told[peer.node_id]["conflicts"] == conflicts
        assert told[peer.node_id]["conflicts"] + told[peer.node_id]["conflicts_left_out"] == 10


def test_show_lists_what_is_set_for_single_peers(here: Here, tmp_path: Path) -> None:
    config = config_file(tmp_path, '[peer."stigmem:node:a"]\npage_size = 2\n')
    text = here("--config", config, "config", "show").stdout
    assert "\nfor peer stigmem:node:a\n" in text
    assert f"peer table in {config}" in text
    document = json.loads(here("--config", config, "config", "show", "--json").stdout)
    (row,) = document["peers"]["stigmem:node:a"]
    assert (row["name"], row["value"], row["origin"]) == (
        "page_size",
        "2",
        f"peer table in {config}",
    )


def test_check_finds_what_keeps_a_pull_from_asking_any_peer(
    here: Here, receiver: Receiver, authority: Authority, tmp_path: Path
) -> None:
    """No word on how peers are known, TLS files that are none, and a certificate of another."""
    words = ("config", "check")
    neither = here(*words, db=receiver.database, env={"STIGMEM_FEDERATION_INSECURE": "false"})
    assert neither.code == 3
    assert "mutual TLS is not set up (configuration_invalid)" in neither.stdout
    pipe = tmp_path / "pipe.pem"
    os.mkfifo(pipe)
    good = authority.issue(receiver.meta("node_id")).environ
    for name in good:
        for path in (pipe, tmp_path, tmp_path / "nowhere.pem"):
            refused = here(*words, db=receiver.database, env={**good, name: str(path)})
            assert refused.code == 3
            assert f"{path} is no" in refused.stdout
    other = authority.issue("stigmem:node:other")
    doubted = here(*words, db=receiver.database, env=other.environ)
    assert doubted.code == 0
    assert "warning: the node's certificate does not name the node" in doubted.stdout


def test_check_warns_of_a_key_file_of_another_node(
    here: Here, receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "other.key"
    file.write_text("A" * 43)
    file.chmod(0o600)
    env = {"STIGMEM_REPLICATOR_FEDERATION_PRIVKEY_FILE": str(file)}
    said = here("config", "check", db=receiver.database, env=env)
    assert said.code == 0
    assert f"{file} holds another key than the node's database" in said.stdout
