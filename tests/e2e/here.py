"""The command line run in this process: many short commands in the time of one subprocess.

A test module takes the fixture with `pytest_plugins`.  It is for what a command prints and how it
ends; signals, crashes and what several processes do are for the fixtures `cli` and `start`.

Unless `env` says itself how peers are called, plain loopback is allowed, and the warning that
this earns is kept apart from the rest of standard error, in `Result.warned`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
import structlog

from stigmem_replicator.cli.app import run as run_app
from tests.loopback import allowed, apart


class Result:
    """What a command printed and how it ended."""

    def __init__(self, stdout: str, stderr: str, code: int, warned: str = "") -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.code = code
        self.warned = warned

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
            for name, value in allowed(env).items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = run_app()
        said = capsys.readouterr()
        stderr, warned = apart(said.err, env)
        return Result(said.out, stderr, code, warned)

    yield run
    structlog.reset_defaults()
