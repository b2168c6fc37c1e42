"""A way to PostgreSQL that breaks at the worst moment: around a COMMIT.

It passes bytes between clients and a server on loopback, and cuts one connection when it sees the
COMMIT of a transaction in which a given word was said.  It understands no more of PostgreSQL's
protocol than that: connections without TLS, whose messages show their SQL as text.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_COMMIT: Final = b"COMMIT"
_COMMITTED: Final = b"COMMIT\x00"  # the server says that it is done
_CHUNK_BYTES: Final = 65_536
_JOIN_TIMEOUT_S: Final = 10.0


class Cut(Enum):
    """Where the connection ends."""

    BEFORE_COMMIT = "the server never hears the COMMIT"
    AFTER_COMMIT = "the client never hears that it happened"


class CuttingProxy:
    """Cuts the first connection that commits what said `word`, and no other.

    A context manager.  `port` is where clients connect; `cuts` is how many were cut.
    """

    def __init__(self, server_port: int, cut: Cut, *, word: bytes) -> None:
        self.cut = cut
        self.word = word
        self.cuts = 0
        self._server_port = server_port
        self._lock = threading.Lock()
        self._passages: list[_Passage] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _end(self._listener)
        for passage in self._passages:
            passage.end()
        for thread in self._threads:
            thread.join(_JOIN_TIMEOUT_S)

    def take_turn(self) -> bool:
        """Say whether the caller is the one to be cut."""
        with self._lock:
            first = self.cuts == 0
            self.cuts = 1
            return first

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the listener was closed
            server = socket.create_connection(("127.0.0.1", self._server_port))
            passage = _Passage(self, client, server)
            self._passages.append(passage)
            self._start(passage.to_server)
            self._start(passage.to_client)


class _Passage:
    """One client's connection, and the connection to the server behind it."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._said = False
        self._losing_answer = False

    def to_server(self) -> None:
        while chunk := _received(self._client):
            self._said = self._said or self._proxy.word in chunk
            if self._said and _COMMIT in chunk and self._proxy.take_turn():
                if self._proxy.cut is Cut.BEFORE_COMMIT:
                    break
                self._losing_answer = True
            if not _sent(self._server, chunk):
                break
        self.end()

    def to_client(self) -> None:
        while chunk := _received(self._server):
            if self._losing_answer:
                if _COMMITTED in chunk:
                    break
                continue
            if not _sent(self._client, chunk):
                break
        self.end()

    def end(self) -> None:
        _end(self._client)
        _end(self._server)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_CHUNK_BYTES)
    except OSError:
        return b""


def _sent(connection: socket.socket, chunk: bytes) -> bool:
    try:
        connection.sendall(chunk)
    except OSError:
        return False
    return True


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
