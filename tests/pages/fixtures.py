"""Fixtures around the page server; a test module takes them with `pytest_plugins`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from stigmem_replicator.store import migrations
from stigmem_replicator.store.engine import open_database
from tests.forked import COMMAND, Forked
from tests.loopback import allowed, apart
from tests.nodes.certificates import Authority, TlsFiles
from tests.nodes.environment import REPOSITORY, node_environment
from tests.nodes.node import Node
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

_END_S = 60.0


@pytest.fixture(scope="session")
def bare_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a node that was prepared and has no peers; no node ever ran on it."""
    folder = tmp_path_factory.mktemp("receiver")
    node = Node(node_environment(), folder / "node", name="receiver")
    try:
        node.prepare()
        return node.copy_database(folder / "bare.db")
    finally:
        node.close()


@pytest.fixture(scope="session")
def template(bare_template: Path) -> Path:
    """The same with the replicator's own tables, which take a while to make."""
    copy = _copy(bare_template, bare_template.with_name("upgraded.db"))
    database = open_database(copy, timeout_s=5.0)
    migrations.upgrade(database)
    database.close()
    return copy


def _copy(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    target.chmod(0o600)
    return target


@pytest.fixture
def bare_receiver(bare_template: Path, tmp_path: Path) -> Receiver:
    """A receiver that was never replicated to."""
    return Receiver(_copy(bare_template, tmp_path / "bare.db"))


@pytest.fixture
def receiver(template: Path, tmp_path: Path) -> Receiver:
    """A receiver with the replicator's tables, no peers and no facts."""
    return Receiver(_copy(template, tmp_path / "receiver.db"))


@pytest.fixture
def server() -> Iterator[PageServer]:
    """A page server, honest until told otherwise."""
    with PageServer() as pages:
        yield pages


@pytest.fixture
def second_server() -> Iterator[PageServer]:
    """Another one."""
    with PageServer() as pages:
        yield pages


@pytest.fixture
def adopted(receiver: Receiver, server: PageServer) -> Receiver:
    """A receiver whose one peer is the page server."""
    receiver.adopt(server)
    return receiver


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority whose certificates page servers and receivers trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def certificate(receiver: Receiver, authority: Authority) -> TlsFiles:
    """The receiver's own certificate."""
    return authority.issue(receiver.meta("node_id"))


@pytest.fixture
def mutual(certificate: TlsFiles) -> dict[str, str]:
    """The settings of a receiver that speaks mutual TLS, to peers on loopback too."""
    return {**certificate.environ, "STIGMEM_REPLICATOR_ALLOWED_NETWORKS": "127.0.0.0/8"}


@pytest.fixture
def tls_server(authority: Authority) -> Iterator[PageServer]:
    """A page server over TLS that demands a certificate."""
    with PageServer(authority) as pages:
        yield pages


class Running:
    """A command that runs in the background."""

    def __init__(
        self, process: Forked | subprocess.Popen[str], env: Mapping[str, str] | None = None
    ) -> None:
        self._process = process
        self._env = env

    @property
    def pid(self) -> int:
        return self._process.pid

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()

    def end(self) -> tuple[str, str, int]:
        """Wait for its end; what it printed on both streams, and its exit code."""
        stdout, stderr = self._process.communicate(timeout=_END_S)
        return stdout, apart(stderr, self._env)[0], self._process.wait()


class Start(Protocol):
    def __call__(
        self,
        *arguments: str,
        db: Path,
        env: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> Running: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `stigmem-replicate` without waiting for its end; none outlives the test.

    `under` is a command that runs the rest of its line, such as one that takes rights away.
    """
    processes: list[Forked | subprocess.Popen[str]] = []

    def run(
        *arguments: str,
        db: Path,
        env: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> Running:
        words = ["--db", str(db), *arguments]
        environ = {
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPOSITORY),
            **allowed(env),
        }
        process: Forked | subprocess.Popen[str]
        if under:
            process = subprocess.Popen(
                [*under, sys.executable, "-m", COMMAND, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                cwd=tmp_path,
                env=environ,
            )
        else:
            process = Forked(words, folder=tmp_path, environ=environ)
        processes.append(process)
        return Running(process, env)

    yield run
    for process in processes:
        with process:
            process.kill()
