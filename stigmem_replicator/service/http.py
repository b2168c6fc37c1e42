"""The thread that serves HTTP, and how it keeps connections: few, short and quiet.

A client that sends or takes nothing, or does so slowly, holds up nobody else, and whoever comes
when there are too many takes the place of the oldest.  What is answered is in ``site``.
"""

from __future__ import annotations

import errno
import io
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.observe.log import logger
from stigmem_replicator.service.site import NAME, Application
from stigmem_replicator.settings import Listen

CONNECTIONS_MAX: Final = 32
"""Connections at a time; one more, and the oldest is closed, which is the slowest."""

SILENCE_SECONDS: Final = 15.0
"""How long a client may send nothing, or take to read an answer."""

CONNECTION_SECONDS: Final = 60.0
"""How long a connection may last, however busy it is kept."""

_LOOK_SECONDS: Final = 0.25

_HINTS: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "another process listens there, maybe another daemon; end it, or set "
    "http_listen to another port, or to nothing to do without",
    errno.EADDRNOTAVAIL: "set http_listen to an address that this machine has",
    errno.EACCES: "ports below 1024 are root's; set http_listen to a greater one",
}


class Endpoint:
    """Serves an application at an address from :meth:`start` to :meth:`stop`.

    ``origin`` says where the setting comes from, for the message when it cannot be served there.
    """

    def __init__(
        self, listen: Listen, application: Application, clock: Clock, *, origin: str = "default"
    ) -> None:
        self._listen = listen
        self._application = application
        self._clock = clock
        self._origin = origin
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> Listen:
        """Where it serves; a port that was 0 is known once it has started."""
        if self._server is None:
            return self._listen
        return Listen(self._listen.host, self._server.server_port)

    def start(self) -> None:
        """Listen, and serve in a thread of its own.  Raises :class:`LocalError`."""
        try:
            self._server = _Server(self._listen, self._clock)
        except OSError as error:
            raise _cannot_listen(self._listen, self._origin, error) from error
        self._server.set_app(self._application)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_SECONDS,), name="http", daemon=True
        )
        self._thread.start()
        logger().info("replicator.http", address=f"http://{self.address}/")

    def stop(self) -> None:
        """Stop listening and close every connection; nothing is done when it does not serve."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._server = self._thread = None
        server.shutdown()
        thread.join()
        server.server_close()
        server.close_all()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


def _cannot_listen(listen: Listen, origin: str, error: OSError) -> LocalError:
    why = error.strerror or str(error)
    return LocalError(
        Reason.CONFIGURATION_INVALID,
        f"http_listen is {listen} (from {origin}), which cannot be listened on: {why}",
        hint=_HINTS.get(error.errno or 0, "set http_listen to another address, or to nothing"),
    )


class _Handler(WSGIRequestHandler):
    """One connection, which has one request; nothing of it is logged."""

    timeout = SILENCE_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's own name
        """Log nothing: whoever watches us asks every few seconds."""

    def get_stderr(self) -> io.StringIO:
        """Return where the library may complain of clients that went away: nowhere."""
        return io.StringIO()

    def version_string(self) -> str:
        """Return who answers requests that cannot be read."""
        return NAME


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, within bounds."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * CONNECTIONS_MAX

    def __init__(self, listen: Listen, clock: Clock) -> None:
        self.address_family = socket.AF_INET6 if listen.is_ipv6 else socket.AF_INET
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[Any, float] = {}
        """When each open connection began, the oldest first."""
        super().__init__((listen.host, listen.port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking anybody for the name of this machine."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        """Take a connection; when that fails, wait a little instead of trying at full speed."""
        try:
            return super().get_request()
        except OSError:
            threading.Event().wait(_LOOK_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - base's
        """Serve a connection in a thread; too many of them end the oldest."""
        with self._lock:
            oldest = next(iter(self._since)) if len(self._since) >= CONNECTIONS_MAX else None
            if oldest is not None:
                del self._since[oldest]
            self._since[request] = self._clock.monotonic()
        if oldest is not None:
            _end(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - the base's types
        """Close a connection."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what has lasted too long; the server calls this several times a second."""
        before = self._clock.monotonic() - CONNECTION_SECONDS
        with self._lock:
            overdue = [request for request, since in self._since.items() if since < before]
        for request in overdue:
            _end(request)

    def close_all(self) -> None:
        """End every connection."""
        with self._lock:
            open_ones = list(self._since)
        for request in open_ones:
            _end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Pass over clients that went away or took too long; anything else is ours."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logger().error("replicator.unexpected", exc_info=error)


def _end(request: socket.socket) -> None:
    """End a connection under the hands of its thread, which then closes it."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
