"""The daemon as a process over a receiver's database: started, watched from outside, ended.

What it costs is read from /proc, what it wrote from the database and its log. What that should
be is for the measurements to say. Tests of what a daemon does and tells have e2e/daemon.py.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.loopback import allowed
from tests.nodes.environment import REPOSITORY
from tests.pages.receiver import Receiver

_END_S = 20.0
_LOOK_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


class DaemonError(RuntimeError):
    """The daemon did not do what is needed; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used until now: MiB, processor seconds, open descriptors, log bytes."""

    rss_mib: float
    peak_mib: float
    cpu_s: float
    descriptors: int
    log_bytes: int


class MeasuredDaemon:
    """`stigmem-replicate run` over one database, for the length of a `with`.

    At its end it is asked to stop, and must. `settings` are the replicator's own, by name;
    `environ` is more of its environment.
    """

    def __init__(
        self,
        receiver: Receiver,
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self._receiver = receiver
        self._folder = folder
        self._settings = settings
        self._environ = environ or {}
        self.log = folder / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is None and self.running:
            code = self.stop()
            if code != 0:
                raise self.error(f"ended with {code}")
        elif self.running:
            self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DaemonError("the daemon was not started")
        return self._process.pid

    def start(self) -> None:
        """Start it, again if need be; the log goes on."""
        own = {
            f"STIGMEM_REPLICATOR_{name.upper()}": str(value)
            for name, value in self._settings.items()
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "stigmem_replicator"),
                    *("--db", str(self._receiver.database), "run"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**_environ(self._folder), **allowed({}), **own, **self._environ},
            )

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END_S)

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        if self._process is None:
            raise DaemonError("the daemon was not started")
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self.error(f"did not stop within {_END_S:g} s") from None

    def error(self, what: str) -> DaemonError:
        """A failure with the end of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-30:]
        return DaemonError("\n".join([f"the daemon {what}", *lines]))

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition while it runs."""
        until = time.monotonic() + seconds
        while not condition():
            if not self.running:
                raise self.error(f"ended before {what}")
            if time.monotonic() > until:
                raise self.error(f"ran for {seconds:g} s and not {what}")
            time.sleep(_LOOK_S)

    def cost(self) -> Cost:
        """What it has used until now."""
        process = Path("/proc") / str(self.pid)
        status = dict(
            line.split(":", 1) for line in (process / "status").read_text().splitlines() if line
        )
        # The fields after the name, which stands in parentheses and may hold blanks.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return Cost(
            rss_mib=int(status["VmRSS"].split()[0]) / 1024,
            peak_mib=int(status["VmHWM"].split()[0]) / 1024,
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
            descriptors=sum(1 for _ in (process / "fd").iterdir()),
            log_bytes=self.log.stat().st_size,
        )


def _environ(home: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY),
    }


@dataclass(frozen=True, slots=True)
class Share:
    """What one peer got until now."""

    pages: int
    facts: int


def shares(receiver: Receiver) -> dict[str, Share]:
    """What each peer got until now, by node id, all of one moment."""
    rows = receiver.query("SELECT node_id, pages, admitted FROM replicator_peers")
    return {row["node_id"]: Share(row["pages"], row["admitted"]) for row in rows}


def admitted(receiver: Receiver) -> int:
    """How many facts came from all peers together; 0 as long as there are no tables."""
    with suppress(sqlite3.OperationalError):
        rows = receiver.query("SELECT COALESCE(SUM(admitted), 0) AS n FROM replicator_peers")
        return int(rows[0]["n"])
    return 0


class Commits:
    """Counts the transactions that anybody commits to a database: those it sees at each look."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        """When each was seen, in seconds of the monotonic clock."""


@contextmanager
def commits(database: Path, look_s: float = 0.05) -> Iterator[Commits]:
    """Watch for commits; those that follow each other within one look count as one."""
    counted = Commits()
    stop = threading.Event()

    def watch() -> None:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            before = _version(connection)
            while not stop.wait(look_s):
                now = _version(connection)
                if now != before:
                    counted.seen.append(time.monotonic())
                before = now

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield counted
    finally:
        stop.set()
        watching.join()


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])
