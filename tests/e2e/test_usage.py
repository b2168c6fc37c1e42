"""The command line as words: what it refuses, how it says so, and what the quiet commands show.

What only reads words and a database runs inside the test's own process, through the same entry
point; what needs another process, or none of ours, is a subprocess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from stigmem_replicator import __version__
from stigmem_replicator.cli.app import app
from stigmem_replicator.settings import DEFINITIONS
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


WIDTH = 80


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
        "STIGMEM_LOCAL_DEV_ALLOW_INSECURE_NON_LOOPBACK": "1",
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
