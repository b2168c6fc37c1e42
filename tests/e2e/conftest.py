"""Fixtures of the end-to-end tests: real nodes as processes, our command as another."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.forked import Forked
from tests.loopback import allowed, apart
from tests.nodes.environment import REPOSITORY, NodeEnvironment
from tests.nodes.environment import node_environment as installed_environment
from tests.nodes.federation import Pair, pair_of_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLI_TIMEOUT_S = 120.0

# The first test of a session also installs the node, from a network that may be slow.
TEST_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class CliResult:
    stdout: str
    stderr: str
    returncode: int
    warned: str = ""


class Cli(Protocol):
    def __call__(
        self,
        *arguments: str,
        db: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = CLI_TIMEOUT_S,
    ) -> CliResult: ...


@dataclass(frozen=True, slots=True)
class SharedPair:
    """The session's pair, and the receiver's database as it was before anything was pulled."""

    pair: Pair
    receiver_snapshot: Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, so that no test can forget to say that it is slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def node_environment() -> NodeEnvironment:
    """The environment of the node version that we test against, installed on first use."""
    return installed_environment("0.9.0a12")


@pytest.fixture(scope="session")
def shared_pair(
    node_environment: NodeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedPair]:
    folder = tmp_path_factory.mktemp("pair")
    with pair_of_nodes(node_environment, folder) as nodes:
        yield SharedPair(nodes, nodes.receiver.copy_database(folder / "receiver-snapshot.db"))


@pytest.fixture(scope="session")
def pair(shared_pair: SharedPair) -> Pair:
    """An origin and a receiver, peers of each other, for the whole session.

    Facts that one test asserts are there for the next: give each a namespace of its own, and see
    `Ledger.adopt`. A test that stops a node or changes a setting takes `fresh_pair`.
    """
    return shared_pair.pair


@pytest.fixture
def fresh_pair(node_environment: NodeEnvironment, tmp_path: Path) -> Iterator[Pair]:
    """A pair for one test alone; costs some seconds."""
    with pair_of_nodes(node_environment, tmp_path / "nodes") as nodes:
        yield nodes


@pytest.fixture
def fresh_receiver_db(shared_pair: SharedPair, tmp_path: Path) -> Path:
    """A copy of the session receiver's database, just peered and empty of facts.

    Pull into it from the session's origin; no node runs on it.
    """
    copy = tmp_path / "receiver.db"
    shutil.copyfile(shared_pair.receiver_snapshot, copy)
    copy.chmod(0o600)
    return copy


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `stigmem-replicate` as a process that sees nothing of this one's environment.

    Unless `env` says how peers are called, plain loopback is allowed. With `check` a failure of the
    command fails the test with what it printed.
    """
    return make_cli(tmp_path)


def make_cli(folder: Path) -> Cli:
    """Return what the fixture `cli` gives, for fixtures of a wider scope."""
    home = folder / "cli-home"
    home.mkdir()

    def run(
        *arguments: str,
        db: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = CLI_TIMEOUT_S,
    ) -> CliResult:
        database = [] if db is None else ["--db", str(db)]
        command = [*database, *arguments]
        with Forked(command, folder=home, environ=cli_environ(home, env)) as process:
            try:
                stdout, said = process.communicate(timeout)
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        if check and code != 0:
            pytest.fail(f"{' '.join(command)} ended with {code}:\n{stdout}{said}")
        stderr, warned = apart(said, env)
        return CliResult(stdout, stderr, code, warned)

    return run


def cli_environ(home: Path, env: Mapping[str, str] | None) -> dict[str, str]:
    """The whole environment of a command: `env` and the little that it needs besides."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY),
        **allowed(env),
    }
