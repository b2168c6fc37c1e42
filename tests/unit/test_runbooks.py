"""The runbooks: one for each reason code, with all its sections, and nothing in them made up.

What they quote, the program says; the commands, options, settings, states, tables and links that
they name exist.  Names of the node and of the system are listed here, one by one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from stigmem_replicator.cli.app import app
from stigmem_replicator.errors import (
    ExitCode,
    PeerBlockedError,
    PeerRefusedError,
    Reason,
    TransientPeerError,
)
from stigmem_replicator.replication import states
from stigmem_replicator.replication.states import Paces, PeerState, Standing
from stigmem_replicator.settings import DEFINITIONS
from stigmem_replicator.settings.values import own_variable
from stigmem_replicator.store.node_models import NodeBase
from tests import spoken
from tests.nodes.environment import REPOSITORY

FOLDER: Final = REPOSITORY / "docs" / "runbooks"
INDEX: Final = FOLDER / "README.md"
SECTIONS: Final = ["What it means", "What you see", "What to do", "What it does by itself"]
HEADINGS: Final = {
    "one entry": "One entry",
    "one request": "One request",
    "one peer": "One peer",
    "this command or this machine": "This machine",
}
"""The headings of the index, by the comments in the enumeration of the reasons."""
LINES: Final = range(15, 46)

ROOT: Final[Any] = typer.main.get_command(app)

NEVER_AN_END: Final = {Reason.PAGE_TOO_LARGE}
"""Reasons that are met by asking for less: no command ends with them, no peer stands so."""

FOREIGN: Final = frozenset(
    {
        "All connection attempts failed",
        "Expected '=' after a key in a key/value pair (at line 3, column 5)",
        "Expecting value: line 1 column 1 (char 0)",
        "Name or service not known",
        "No module named 'psycopg'",
        "No space left on device",
        "No such file or directory",
        "database disk image is malformed",
        "index row size 3000 exceeds btree version 4 maximum 2704",
        "the connection is closed",
        "token expired at 2026-01-31T00:00:00+00:00",
        "unable to get local issuer certificate",
    }
)
"""Words in quoted messages that are a peer's, a server's, a library's or the system's."""

ELSEWHERE: Final = frozenset(
    {
        # of the node
        "PATCH /v1/federation/peers/{id}",
        "POST /v1/federation/peers/{id}/approve",
        "PUT /v1/federation/manifest",
        "iat_in_future",
        "iat_too_old",
        "invalid_signature",
        "invalid_sub",
        "origin.allowed_scopes",
        "origin.allowed_tenants",
        "peer not registered",
        "peer_not_approved",
        "peers.federation_pubkey",
        "rejected_token",
        "stigmem backfill-cids",
        "stigmem federation cursor-export",
        "token_expired",
        # of the system
        "-shm",
        "-wal",
        "BEGIN",
        "T",
        "df -h /backup",
        "file /var/lib/stigmem/stigmem.db",
        "kill -CONT PID",
        "kill PID",
        "ls -ld /backup",
        "ps -o pid,stat,cmd -p PID",
        "ps -o pid,stat,etime,cmd -p PID",
        "psql",
        'sqlite3 FILE ".backup OUT"',
        "timedatectl",
        # what stands for a peer and for a dead letter
        "ID",
        "X",
        # of certificates
        "URI:",
    }
)
"""Names of others that the runbooks use; they are not looked up."""

reasons = pytest.mark.parametrize("reason", list(Reason))
pages = pytest.mark.parametrize(
    "page", sorted(FOLDER.glob("*.md")), ids=lambda page: str(page.stem)
)


def runbook(reason: Reason) -> str:
    return (FOLDER / f"{reason}.md").read_text("utf-8")


def blocks(text: str, kind: str) -> Iterator[str]:
    """Yield the lines in fenced blocks of one kind."""
    for block in re.findall(rf"^ *```{kind}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        yield from (line.strip() for line in block.splitlines())


def names(text: str) -> Iterator[str]:
    """Yield what is set as code within sentences."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`]+)`", prose)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", item).lower().replace(" ", "-") for item in headings}


def options_of_all(command: Any = ROOT) -> set[str]:  # noqa: ANN401 - click has no public type
    """Return the options of a command and of those under it."""
    found = {option for param in command.params for option in param.opts}
    return found.union(*map(options_of_all, getattr(command, "commands", {}).values()))


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words name, and the words after its name."""
    command = ROOT
    options = {option: param for param in command.params for option in param.opts}
    rest = list(words)
    while rest and getattr(command, "commands", None):
        word = rest.pop(0)
        if word in options:
            # An option before the command, with its value unless it is a flag.
            rest = rest if options[word].is_flag else rest[1:]
            continue
        assert word in command.commands, f"no command {word!r}: {words}"
        command = command.commands[word]
    return command, rest


def check_command(words: list[str]) -> None:
    """Check that a command, its options and the number of its arguments exist."""
    command, rest = leaf(words)
    options = {option: param for param in command.params for option in param.opts}
    arguments = 0
    while rest:
        word = rest.pop(0)
        if word == "--help":
            continue
        if not word.startswith("-"):
            arguments += 1
            continue
        assert word in options, f"no option {word}: {words}"
        if word == "--reason" and command.name in {"list", "export"}:
            assert rest[0] in set(Reason), f"no reason {rest[0]}: {words}"
        if not options[word].is_flag and rest:
            del rest[0]
    most = sum(param.param_type_name == "argument" for param in command.params)
    assert arguments <= most, f"too many arguments: {words}"


def check_line(line: str) -> None:
    """Check what of a line is ours: variables before a command, the command, files."""
    words = shlex.split(line)
    if words[0] == "export":
        del words[0]
    while words and (setting := re.fullmatch(r"([A-Z_]+)=(\S+)", words[0])):
        assert is_variable(setting[1]), f"no variable {setting[1]}"
        del words[0]
    for word in words:
        if word.startswith("docs/"):
            assert (REPOSITORY / word).is_file(), f"no file {word}"
    if words and words[0] == "stigmem-replicate":
        pipe = words.index("|") if "|" in words else len(words)
        check_command(words[1:pipe])


def is_variable(name: str) -> bool:
    ours = {own_variable(setting) for setting in DEFINITIONS}
    return name in ours or name in spoken.source()


def is_known(name: str) -> bool:
    """Tell whether what is set as code is a name of ours, or one that the list has."""
    words = name.split()
    if name in {*Reason, *PeerState, *DEFINITIONS, *ELSEWHERE}:
        return True
    if stands := re.fullmatch(r"(\w+) \((\w+)\)", name):
        return stands[1] in set(PeerState) and stands[2] in set(Reason)
    if words[0] == "stigmem-replicate" or re.match(r"[A-Z_]+=", words[0]):
        check_line(name)
        return True
    if words[0] in ROOT.commands:
        check_command(words)
        return True
    if words[0].startswith("--"):
        return words[0] in {*options_of_all(), "--help"}
    if column := re.fullmatch(r"(\w+)\.(\w+)", name):
        table = NodeBase.metadata.tables.get(column[1])
        if table is not None:
            return column[2] in table.columns
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", spoken.source()) is not None


def test_each_reason_has_a_runbook_and_each_runbook_a_reason() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} - {INDEX.stem} == set(Reason)
    others = {path.name for path in FOLDER.iterdir() if path.suffix != ".md"}
    assert others == {"alerts"}, "pages of alarms that are about no single reason, and nothing else"


@reasons
def test_a_runbook_has_all_its_sections(reason: Reason) -> None:
    """Title, whether it can wait, and four sections, none of them empty; a page, not a book."""
    text = runbook(reason)
    assert text.startswith(f"# `{reason}`\n\n**Tonight:** ")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(part.strip() for part in parts)
    assert re.search(r"^1\. ", parts[6], re.MULTILINE), "what to do is not numbered"
    assert len(text.splitlines()) in LINES


def test_the_index_has_each_reason_once_in_its_group() -> None:
    """The index has a row a reason, in the order and under the headings of the enumeration."""
    parts = re.split(r"^## (.+)\n", INDEX.read_text("utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = {
        heading: re.findall(r"^\| \[`(\w+)`\]\(\1\.md\) \| .+ \|$", sections[heading], re.MULTILINE)
        for heading in HEADINGS.values()
    }
    assert found == {HEADINGS[name]: members for name, members in spoken.groups().items()}
    assert sum(map(len, found.values())) == len(Reason)


@reasons
def test_a_runbook_quotes_what_the_program_says(reason: Reason) -> None:
    """Each quoted message is one of the code's, also in what is put into it."""
    unsaid = [line for line in blocks(runbook(reason), "text") if not spoken.is_said(line, FOREIGN)]
    assert not unsaid


@reasons
def test_a_runbook_tells_how_it_is_met(reason: Reason) -> None:
    """It names the exit code, the peer's state or the list of dead letters, as the code has it."""
    text = runbook(reason)
    if reason in spoken.groups()["one entry"]:
        assert "dead letter" in text
        assert re.search(rf"dead-letters list .*--reason {reason}\b", text)
    codes = set(re.findall(r"\bexit\s+(\d+)", text))
    assert codes <= {str(code.value) for code in ExitCode}
    if reason in NEVER_AN_END:
        return
    for kind in spoken.raised().get(reason, ()):
        assert str(kind.exit_code.value) in codes, f"exit {kind.exit_code.value} is not told"
        if issubclass(kind, TransientPeerError | PeerRefusedError | PeerBlockedError):
            stands = states.failed(Standing(), kind(reason, ""), 0, Paces(), 0.5)
            assert f"`{stands.state} ({reason})`" in text


@pages
def test_commands_exist(page: Path) -> None:
    """Commands, options, variables and files in the blocks to type exist."""
    for line in blocks(page.read_text("utf-8"), "console"):
        assert line.startswith("$ "), line
        check_line(line[2:])


@pages
def test_names_exist(page: Path) -> None:
    """Whatever is set as code is a name of the program's, or one of others that is listed here."""
    unknown = [name for name in names(page.read_text("utf-8")) if not is_known(name)]
    assert not unknown


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), target
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), target


def test_the_list_of_others_names_is_in_use() -> None:
    """Nothing stays in the lists of foreign names and words that no runbook uses."""
    texts = [page.read_text("utf-8") for page in FOLDER.glob("*.md")]
    assert {name for text in texts for name in names(text)} >= ELSEWHERE
    assert not [words for words in FOREIGN if not any(words in text for text in texts)]


@pytest.mark.parametrize(
    "made_up",
    [
        "the database is on holiday today",
        "the disk of /var has 3 MiB free, less than some of free_space_min_mb",
        "https://peer.example cannot be spoken to: it dislikes our certificate a lot",
    ],
)
def test_a_made_up_message_is_found(made_up: str) -> None:
    assert not spoken.is_said(made_up, FOREIGN)


@pytest.mark.parametrize(
    "made_up", ["peer_sleeps", "idle (tired)", "peers.mood", "replicator.local_database"]
)
def test_a_made_up_name_is_found(made_up: str) -> None:
    assert not is_known(made_up)


@pytest.mark.parametrize(
    "made_up",
    [
        "stigmem-replicate peers forget X",
        "stigmem-replicate pull --soon",
        "stigmem-replicate dead-letters list --reason bad_mood",
        "stigmem-replicate peers show X Y",
        "STIGMEM_REPLICATOR_MOOD=1 stigmem-replicate pull --all",
        "man docs/mood.1",
    ],
)
def test_a_made_up_command_is_found(made_up: str) -> None:
    with pytest.raises(AssertionError):
        check_line(made_up)
