"""The manual page is made from the commands, and says what they and the README say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from stigmem_replicator.cli import manual
from stigmem_replicator.cli.app import app
from stigmem_replicator.errors import ExitCode
from tests.nodes.environment import REPOSITORY

PAGE = REPOSITORY / "docs" / "stigmem-replicate.1"


def commands(
    command: Any,  # noqa: ANN401 - typer's own kind of click's
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from commands(child, (*path, name))


def test_the_page_is_as_the_commands_are() -> None:
    """The page in docs/ is what the commands make of it today."""
    assert PAGE.read_text("utf-8") == manual.page(), "run: make man"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_page_is_sound() -> None:
    """Groff has nothing to say against it, and sets every command and option."""
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou", str(PAGE)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    shown = done.stdout
    for path, command in commands(typer.main.get_command(app)):
        assert f"\n   {' '.join(path)}\n" in shown
        for parameter in command.params:
            assert re.search(
                rf"^ +{re.escape(parameter.opts[0])}\b", shown, re.MULTILINE | re.IGNORECASE
            )


def test_exit_codes_are_those_of_the_readme() -> None:
    """Every exit code is explained, in the README and in the manual in the same words."""
    assert list(manual.EXIT_CODES) == list(ExitCode)
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    _, table = readme.split("## Exit codes\n")
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE)
    assert rows == [(str(code.value), meaning) for code, meaning in manual.EXIT_CODES.items()]


@pytest.mark.parametrize(
    ("words", "set_"),
    [
        (".env", r"\&.env"),
        ("'quoted'", r"\&'quoted'"),
        ("a\\b", r"a\eb"),
        ("one-two", r"one\-two"),
        ("see `db drop`", r"see \fBdb drop\fR"),
        ("caf\u00e9", r"caf\[u00E9]"),
    ],
)
def test_words_are_not_taken_for_requests(words: str, set_: str) -> None:
    """What troff would read as its own is escaped."""
    assert manual.page_text(words) == set_
