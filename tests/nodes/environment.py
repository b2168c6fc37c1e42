"""One virtual environment per node version, installed once and kept between runs.

It is for getting a published node onto this machine in a form that can run: two versions cannot
share an environment, and only the source distribution carries the SQL migrations, which the node
looks for beside its source tree. It is not for starting nodes (see node.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_VERSION = "0.9.0a12"

_EXTRAS = "postgres,observability"
# Left to itself, a resolver that allows pre-releases picks an httpx the node cannot use.
_HTTPX = "httpx>=0.28,<0.29"
_STEP_TIMEOUT_S = 600.0
_SDIST_SHA256 = {
    "0.9.0a10": "c44a9f852ed1da0c8ac3cb20f1a5c42a8b4dd0c499f44928e63df908006bdff5",
    "0.9.0a12": "5ff259a71c66d98867dd9d1bd7e66104faa4bb0fdfee108f9fbae9339e0f1054",
}


class NodeInstallError(RuntimeError):
    """The node could not be installed; the message ends with what the installer said."""


@dataclass(frozen=True, slots=True)
class NodeEnvironment:
    """A virtual environment in which one version of the node is installed."""

    version: str
    root: Path

    @property
    def bin(self) -> Path:
        """The folder of the console scripts."""
        return self.root / "venv" / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def source(self) -> Path:
        """The unpacked source tree, from which the node is installed editable."""
        return self.root / "source" / f"stigmem_node-{self.version}"


def node_environment(
    version: str = DEFAULT_VERSION, *, tell: Callable[[str], None] | None = None
) -> NodeEnvironment:
    """Return the environment of a node version, installing it first if need be.

    Two processes that ask at once do not meet: the second waits for the first. The completion
    marker is written last, so an interrupted installation is started anew. `tell` hears about an
    installation, not about a hit in the cache.
    """
    cache = _cache_folder()
    environment = NodeEnvironment(version, cache / version)
    with locked(cache / f"{version}.lock") as lock:
        marker = environment.root / "complete.json"
        expected = _fingerprint(environment)
        if not _is_complete(marker, expected):
            if tell is not None:
                tell(f"installing stigmem-node {version} (once, about a minute)")
            shutil.rmtree(environment.root, ignore_errors=True)
            environment.root.mkdir(parents=True)
            _Installation(environment, lock).run()
            unfinished = marker.with_suffix(".tmp")
            unfinished.write_text(json.dumps(expected, indent=2) + "\n")
            unfinished.replace(marker)
    return environment


def known_versions() -> list[str]:
    """The versions whose source distributions and dependencies are known by heart."""
    return list(_SDIST_SHA256)


def constraints_file(version: str) -> Path:
    """Where the exact versions of the node's dependencies are written down."""
    return REPOSITORY / "requirements" / f"node-{version}.txt"


def _cache_folder() -> Path:
    override = os.environ.get("STIGMEM_TEST_CACHE")
    cache = (Path(override) if override else REPOSITORY / ".cache").resolve()
    nodes = cache / "nodes"
    nodes.mkdir(parents=True, exist_ok=True)
    ignore = nodes / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return nodes


@contextmanager
def locked(path: Path) -> Iterator[int]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _fingerprint(environment: NodeEnvironment) -> dict[str, str]:
    """What an installation depends on; another value means it must be done again."""
    constraints = constraints_file(environment.version)
    pinned = constraints.read_bytes() if constraints.exists() else b""
    return {
        "version": environment.version,
        "root": str(environment.root),  # editable installs hold absolute paths
        "python": sys.version,
        "constraints": hashlib.sha256(pinned).hexdigest(),
    }


def _is_complete(marker: Path, expected: dict[str, str]) -> bool:
    try:
        return bool(json.loads(marker.read_text()) == expected)
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class _Installation:
    environment: NodeEnvironment
    lock: int
    """Handed to every step, so that one whose parent was killed keeps others out until it ends."""

    def run(self) -> None:
        environment = self.environment
        constraints = constraints_file(environment.version)
        pins = ["--constraint", str(constraints)] if constraints.exists() else []
        python, sdist = str(environment.python), str(environment.root / "sdist")
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        requirement = f"stigmem-node=={environment.version}"
        editable = f"{environment.source}[{_EXTRAS}]"

        self._step([sys.executable, "-m", "venv", str(environment.root / "venv")])
        source_only = ["--no-deps", "--no-binary", "stigmem-node"]
        self._step([*pip, "download", *source_only, "--dest", sdist, requirement])
        _unpack(environment)
        self._step([*pip, "install", *pins, "--editable", editable, _HTTPX])
        self._step([python, "-c", "import stigmem_node.main"])

    def _step(self, command: list[str]) -> None:
        environment = self.environment
        log = environment.root / "install.log"
        with log.open("a") as output:
            output.write(f"$ {' '.join(command)}\n")
            output.flush()
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=environment.root,
                    pass_fds=[self.lock],
                    timeout=_STEP_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NodeInstallError(
                    f"installing stigmem-node {environment.version} took too long; see {log}"
                ) from None
        if done.returncode != 0:
            said = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise NodeInstallError(f"installing stigmem-node {environment.version} failed:\n{said}")


def _unpack(environment: NodeEnvironment) -> None:
    archive = environment.root / "sdist" / f"stigmem_node-{environment.version}.tar.gz"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    known = _SDIST_SHA256.get(environment.version)
    if known is not None and digest != known:
        raise NodeInstallError(f"{archive.name} has SHA-256 {digest}, expected {known}")
    with tarfile.open(archive) as opened:
        if hasattr(tarfile, "data_filter"):
            opened.extractall(environment.root / "source", filter="data")
        else:
            # Debian 12's Python has no filter yet; the archive is known by its digest.
            opened.extractall(environment.root / "source")  # noqa: S202 - checked above
    if not any((environment.source / "migrations").glob("*.sql")):
        raise NodeInstallError(f"{archive.name} carries no SQL migrations")
