"""What tests of `run` share: the daemon as a process, what it logged, how its peers stand.

It is for running one and waiting for what it should do by itself; what that is, is for the tests
to say.  A daemon never outlives its test.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import psycopg

from tests.e2e.conftest import cli_environ
from tests.e2e.page_pulls import settings
from tests.forked import COMMAND, Forked
from tests.nodes.database import NodeDatabase, PostgresDatabase, SqliteDatabase
from tests.pages.receiver import Receiver

if TYPE_CHECKING:
    from tests.pages.fixtures import Running

POLL_S: Final = 1.0
STOP_S: Final = 5.0
"""A daemon that is asked to end has ended by then."""
SOON_S: Final = 4.0
"""What is promised within two seconds, on a machine with other things to do."""

_PATIENCE_S: Final = 20.0
_LOG_TAIL_LINES: Final = 40
_LOCK_SUFFIX: Final = ".replicator-lock"


Process: TypeAlias = Forked | subprocess.Popen[bytes]


class HasNodeId(Protocol):
    """A page server, a node, or an origin."""

    @property
    def node_id(self) -> str: ...


@dataclass(slots=True)
class Daemon:
    """A process of `stigmem-replicate run`, its database and its log."""

    process: Process
    store: NodeDatabase
    log: Path
    _seen: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    # --- what it says

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line of its log; each must be one JSON object."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                assert line.startswith(b"{"), f"no JSON in the log: {line!r}\n{self.tail()}"
                self._seen.append(json.loads(line))
        return list(self._seen)

    def said(self, event: str, **values: object) -> list[dict[str, Any]]:
        """The lines of an event that carry these values."""
        return [
            line
            for line in self.lines()
            if line["event"] == event
            and all(line.get(key) == value for key, value in values.items())
        ]

    def _told(self) -> str:
        with suppress(sqlite3.OperationalError, psycopg.Error):
            rows = self.store.records("SELECT * FROM replicator_peers")
            return "\n".join([self.tail(), *map(str, rows)])
        return self.tail()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])

    def get(self, path: str) -> tuple[int, str]:
        """What its endpoint answers: a status and a text.  It must listen."""
        (line,) = self.said("replicator.http")
        host = line["address"].removeprefix("http://").rstrip("/")
        with closing(HTTPConnection(host, timeout=_PATIENCE_S)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metrics(self) -> dict[str, float]:
        """Its metrics, by name with labels as they are written."""
        lines = self.get("/metrics")[1].splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    # --- how its peers stand

    def row(self, peer: HasNodeId) -> dict[str, Any]:
        """What the table says of a peer, empty where it says nothing yet."""
        with suppress(sqlite3.OperationalError, psycopg.Error):
            found = self.store.records(
                "SELECT * FROM replicator_peers WHERE node_id = ?", [peer.node_id]
            )
            return found[0] if found else {}
        return {}

    def state(self, peer: HasNodeId) -> tuple[str | None, str | None]:
        """State word and reason code of a peer."""
        row = self.row(peer)
        return row.get("state"), row.get("reason")

    def holds(self, peer: HasNodeId) -> bool:
        """Whether the table names this process as the one that works on a peer."""
        row = self.row(peer)
        return (row.get("holder_pid"), row.get("holder_command")) == (self.pid, "run")

    # --- waiting

    def wait(
        self, condition: Callable[[], object], what: str, seconds: float = _PATIENCE_S
    ) -> float:
        """Wait for something while the daemon runs; the seconds that it took."""
        began = time.monotonic()
        while not condition():
            assert self.running, f"the daemon ended while waiting for {what}\n{self.tail()}"
            waited = time.monotonic() - began
            assert waited < seconds, f"{what}: not after {waited:.1f} s\n{self._told()}"
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_for_state(
        self, peer: HasNodeId, state: str, reason: str | None = None, seconds: float = _PATIENCE_S
    ) -> float:
        return self.wait(
            lambda: self.state(peer) == (state, reason),
            f"{peer.node_id} to be {state} ({reason})",
            seconds,
        )

    def wait_until_held(self, peer: HasNodeId, seconds: float = _PATIENCE_S) -> float:
        return self.wait(lambda: self.holds(peer), f"the daemon to hold {peer.node_id}", seconds)

    def wait_for_line(self, event: str, seconds: float = _PATIENCE_S, **values: object) -> float:
        return self.wait(lambda: self.said(event, **values), f"{event} {values}", seconds)

    # --- its end

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = STOP_S) -> int:
        """Wait for its end; its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds} s\n{self.tail()}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Ask it to end and expect that it does, well and in time; the seconds that it took."""
        began = time.monotonic()
        self.send(number)
        assert self.ended() == 0, self.tail()
        assert self.said("replicator.stopped"), self.tail()
        return time.monotonic() - began

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it stand still, its locks kept."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)


@contextmanager
def daemon(
    folder: Path,
    store: NodeDatabase | Path,
    *,
    env: Mapping[str, str] | None = None,
    config: Path | None = None,
    under: Sequence[str] = (),
    **values: object,
) -> Iterator[Daemon]:
    """Run a daemon on a database; `values` are settings of the replicator.

    It looks at its peers every second unless told otherwise; a value of None leaves a setting
    to the `config` file.  `env` are other settings, `under` is a command that runs the rest of
    its line.
    """
    database = SqliteDatabase(store) if isinstance(store, Path) else store
    given = {"poll_interval_s": POLL_S, **values}
    own = settings(**{name: value for name, value in given.items() if value is not None})
    number = len(list(folder.glob("daemon-*.log")))
    log = folder / f"daemon-{number}.log"
    environ = cli_environ(folder, {**_where(database), **own, **(env or {})})
    # A session of its own: a signal to the tests is not one to it.
    with log.open("ab") as output, Path(os.devnull).open("wb") as nowhere:
        process: Process
        if under:
            process = subprocess.Popen(
                [*under, sys.executable, "-m", COMMAND, *_words(database, config)],
                stdin=subprocess.DEVNULL,
                stdout=nowhere,
                stderr=output,
                cwd=folder,
                env=environ,
                start_new_session=True,
            )
        else:
            process = Forked(
                _words(database, config),
                folder=folder,
                environ=environ,
                stdout=nowhere,
                stderr=output,
                new_session=True,
            )
    running = Daemon(process, database, log)
    try:
        yield running
    finally:
        if running.running:
            running.send(signal.SIGCONT)
            running.kill()


def _words(store: NodeDatabase, config: Path | None) -> list[str]:
    words = [] if config is None else ["--config", str(config)]
    if isinstance(store, SqliteDatabase):
        words += ["--db", str(store.location)]
    return [*words, "run"]


def _where(store: NodeDatabase) -> dict[str, str]:
    return store.settings if isinstance(store, PostgresDatabase) else {}


# --- beside it


def receiver_of(template: Path, folder: Path) -> Receiver:
    """A receiver of a module's own, like the fixture `receiver`."""
    path = folder / "receiver.db"
    shutil.copyfile(template, path)
    path.chmod(0o600)
    return Receiver(path)


def wait_until_taken(daemon: Daemon, peer: HasNodeId, taker: Running) -> None:
    """Wait until another command works on a peer that the daemon held, as soon as was promised."""

    def asks_or_has() -> bool:
        row = daemon.row(peer)
        return f"process {taker.pid} " in (row["wanted_by"] or "") or has()

    def has() -> bool:
        return bool(daemon.row(peer)["holder_pid"] == taker.pid)

    loaded = daemon.wait(asks_or_has, f"process {taker.pid} to ask for {peer.node_id}")
    took = daemon.wait(has, f"process {taker.pid} to work on {peer.node_id}", SOON_S)
    print(f"asked for after {loaded:.2f} s, handed over {took:.2f} s later")


def is_free(database: Path, number: int) -> bool:
    """Whether nobody holds a peer's lock, as the operating system has it."""
    with database.with_name(database.name + _LOCK_SUFFIX).open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except BlockingIOError:
            return False
    return True
