"""The command as a process of its own that need not load first: the side of the tests.

It takes a tenth of the processor time that `python -m stigmem_replicator` does.  It is not for
tests of how the command is started; those of the package, of systemd and of a daemon that is
killed while it starts start it themselves.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from tests.nodes.environment import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND: Final = "stigmem_replicator"

_SERVER: Final = "tests.fork_server"
_REPLY_BYTES: Final = 64

PATIENCE_S: Final = 120.0
"""How long is waited for what comes by itself, and soon; then it is killed, or is a failure."""


class Forked:
    """A process that runs a module, with what tests use of `subprocess.Popen`.

    There is nothing to read on its standard input.  What it prints is kept for `communicate`,
    unless a file was named for it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        module: str = COMMAND,
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
        new_session: bool = False,
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        order = (module, list(arguments), dict(environ), str(folder), new_session)
        with ExitStack() as files:
            self._stdout = stdout or files.enter_context(tempfile.TemporaryFile())
            self._stderr = stderr or files.enter_context(tempfile.TemporaryFile())
            with Path(os.devnull).open("rb") as nothing:
                streams = [each.fileno() for each in (nothing, self._stdout, self._stderr)]
                self._reply = _ordered(json.dumps(order).encode(), streams)
            files.callback(self._reply.close)
            self._reply.settimeout(PATIENCE_S)
            self.pid = self._told()
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with self._files:
            try:
                self.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
                self.wait(PATIENCE_S)
                raise

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait so many seconds for its end; the exit code, or `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self._reply.settimeout(timeout)
            try:
                self.returncode = self._told()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._reply.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it printed on both streams."""
        self.wait(timeout)
        with self._files:
            return _text(self._stdout), _text(self._stderr)

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _told(self) -> int:
        told = self._reply.recv(_REPLY_BYTES)
        if not told:
            raise RuntimeError("the fork server is not there")
        return int(told)


def _text(stream: BinaryIO) -> str:
    stream.seek(0)
    return stream.read().decode()


def _ordered(order: bytes, streams: list[int]) -> socket.socket:
    """Give an order; the socket on which the process is reported."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(_server(), [order], [*streams, theirs.fileno()])
    return ours


@cache
def _server() -> socket.socket:
    """Start the server; it ends when nobody is left at this end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", _SERVER, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            cwd=os.sep,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(REPOSITORY)},
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        try:
            server.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    atexit.register(end)
    return ours
