"""Under the page server: its socket, its connections, and TLS with mutual authentication.

Each connection is numbered and written down: whose certificate it was shown, what name it asked
for, whose certificate it presented.  What a request is answered is for server.py.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, TypeAlias
from urllib.parse import parse_qs, urlsplit

from cryptography import x509

from tests.nodes.certificates import TlsFiles
from tests.pages.origin import Origin

HOLD_S = 30.0
"""No answer is held back for longer, whatever a test forgets."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a connection meets: an origin, and the certificate that it is shown.

    The two need not fit: that is what a stolen or swapped certificate looks like.
    """

    origin: Origin
    files: TlsFiles
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3


@dataclass(slots=True)
class Connection:
    """One connection as it came; without TLS only the number and the origin say anything."""

    number: int
    origin: Origin
    server_name: str | None = None
    version: str | None = None
    client_serial: int | None = None
    """The serial number of the certificate that the client presented."""
    broken: str = ""
    """Why there was no handshake, empty if there was one or none was due."""


Greeting: TypeAlias = Callable[[socket.socket, threading.Event], None]
"""What a server does in place of a handshake, until the event tells it to stop."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came, before anybody looked at its token."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at: float
    connection: Connection


class Pages(Protocol):
    """What the wire needs of a page server."""

    stopped: threading.Event
    greeting: Greeting | None
    problems: list[BaseException]

    def meet(self) -> tuple[Connection, Identity | None]:
        """A new connection has come: write it down, and say whom it meets."""
        ...

    def answer(self, call: Call, handler: Handler) -> None:
        """Answer a request."""
        ...


class Wire(ThreadingHTTPServer):
    """The listening socket of one page server, and its connections."""

    daemon_threads = False  # joined at the end, when their connections are closed
    block_on_close = True

    def __init__(self, pages: Pages, address: tuple[str, int]) -> None:
        self.pages = pages
        self._connections: set[socket.socket] = set()
        self._turn = threading.Lock()
        super().__init__(address, BaseHTTPRequestHandler)  # not used: see finish_request

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        with self._turn:
            self._connections.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        connection, identity = self.pages.meet()
        if self.pages.greeting is not None:
            self.pages.greeting(request, self.pages.stopped)
        elif identity is None:
            Handler(request, client_address, self, connection)
        else:
            self._finish_over_tls(request, client_address, connection, identity)

    def _finish_over_tls(
        self,
        request: socket.socket,
        client_address: Any,  # noqa: ANN401 - the base's
        connection: Connection,
        identity: Identity,
    ) -> None:
        context = identity.files.server_context(identity.version)
        context.sni_callback = lambda _socket, name, _context: _note_name(connection, name)
        request.settimeout(HOLD_S)
        # The wrapped socket takes the other's place, down to the descriptor.
        secured = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        with self._turn:
            self._connections.add(secured)
        try:
            if not self.pages.stopped.is_set() and _shake_hands(secured, connection):
                Handler(secured, client_address, self, connection)
        finally:
            self.shutdown_request(secured)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - the base's
        with self._turn:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        with self._turn:
            for connection in self._connections:
                try:
                    # Over TLS its own shutdown would take the TLS away under the thread's hands.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Do not print; the handler writes down what is wrong."""


def _shake_hands(secured: ssl.SSLSocket, connection: Connection) -> bool:
    try:
        secured.do_handshake()
    except OSError as error:
        connection.broken = str(error)
        return False
    connection.version = secured.version()
    certificate = secured.getpeercert(binary_form=True)
    if certificate:
        connection.client_serial = x509.load_der_x509_certificate(certificate).serial_number
    return True


def _note_name(connection: Connection, name: str | None) -> None:
    connection.server_name = name


class Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    timeout = HOLD_S
    server: Wire

    def __init__(
        self,
        request: socket.socket,
        client_address: Any,  # noqa: ANN401 - the base's
        server: Wire,
        connection: Connection,
    ) -> None:
        self.came_over = connection
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = parse_qs(parts.query, keep_blank_values=True)
        call = Call(
            parts.path,
            {name: values[-1] for name, values in asked.items()},
            {name.title(): value for name, value in self.headers.items()},
            time.monotonic(),
            self.came_over,
        )
        try:
            self.server.pages.answer(call, self)
        except OSError:
            self.close_connection = True  # the client has gone, as it may
        except BaseException as error:
            self.server.pages.problems.append(error)
            self.close_connection = True
            raise
        if self.server.pages.stopped.is_set():
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:  # noqa: ANN401 - the base's
        """Print nothing."""
