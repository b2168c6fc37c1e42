"""The page server: an origin on loopback that answers as a real node does, or as it is told to.

It checks the token of every request the way a node does, nonces included, and writes down what
it was asked and over which connection. Without a script it is honest; test_contract.py holds it
to what a real node answers. Misbehaviours are in misbehaviour.py and hostility.py, the path of
tombstones is in tombstone_endpoint.py.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

from tests.nodes.certificates import Authority
from tests.pages.origin import Origin, Raw
from tests.pages.tokens import Reader, TokenError, Tokens, audience_of
from tests.pages.tombstone_endpoint import (
    LIMIT_DEFAULT,
    TOMBSTONES,
    TombstoneEndpoint,
    bearer_of,
)
from tests.pages.wire import HOLD_S, Call, Connection, Greeting, Handler, Identity, Wire

__all__ = [
    "FACTS",
    "HOLD_S",
    "MANIFEST",
    "TOMBSTONES",
    "Behaviour",
    "Exchange",
    "Held",
    "PageServer",
    "Reader",
    "Request",
    "honestly",
    "limits_of",
]

FACTS = "/v1/federation/facts"
MANIFEST = "/.well-known/stigmem-manifest.json"

_LIMIT_MAX = 500
_LIMIT_DEFAULT = 100


@dataclass(slots=True)
class Request:
    """One request as it came; `refused` is what was wrong with its token, empty if nothing."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    at: float
    connection: Connection
    claims: Raw = field(default_factory=dict)
    refused: str = ""
    flaw: str = ""
    """What is wrong with a token that is taken all the same."""
    broken: bool = False
    """Whether a node fails over its token."""
    status: int = 0
    attacked: bool = False
    """Whether it was answered in a hostile way."""

    @property
    def cursor(self) -> str | None:
        return self.query.get("cursor")

    @property
    def since(self) -> str | None:
        return self.query.get("since")

    @property
    def limit(self) -> int:
        default = LIMIT_DEFAULT if self.path == TOMBSTONES else _LIMIT_DEFAULT
        return int(self.query.get("limit", default))

    @property
    def bearer(self) -> str:
        """The kind of its bearer value, by the names of tombstone_endpoint.py."""
        return bearer_of(self.headers.get("Authorization", ""))

    @property
    def audience(self) -> str | None:
        """For whom its token is, good or bad; None where it carries none."""
        return audience_of(self.headers.get("Authorization", ""))


class RefusedError(Exception):
    """The request is refused with a status and a detail."""

    def __init__(self, status: int, detail: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Exchange:
    """One request under way and the means to answer it, well or badly."""

    def __init__(self, server: PageServer, handler: Handler, request: Request) -> None:
        self.server = server
        self.request = request
        self._handler = handler

    @property
    def stopped(self) -> threading.Event:
        """Set when the server ends: nothing may wait past that."""
        return self.server.stopped

    @property
    def connection(self) -> socket.socket:
        connection: socket.socket = self._handler.connection
        return connection

    def write(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers."""
        self.request.status = status
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def send(
        self, status: int, body: bytes | Raw, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        kind = "text/html" if isinstance(body, bytes) else "application/json"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = dict(headers or {})
        self.head(status, {"Content-Type": kind, "Content-Length": str(len(data)), **given})
        self.write(data)

    def hang_up(self) -> None:
        """End the connection after this answer."""
        self._handler.close_connection = True

    def honest(self) -> tuple[int, bytes | Raw]:
        """What a node would answer: a status and a body."""
        return self.server.honest(self.request)

    def page(self) -> Raw:
        """The page that a node would answer with."""
        status, body = self.honest()
        if status != 200 or isinstance(body, bytes):
            raise AssertionError(f"expected to serve a page, not {status} {body!r}")
        return body


Behaviour: TypeAlias = Callable[[Exchange], None]


def honestly(exchange: Exchange) -> None:
    """Answer as a node does."""
    exchange.send(*exchange.honest())


class PageServer:
    """An origin that serves its pages on loopback, for the length of a `with`.

    `script` says how the next requests for facts are answered, one behaviour each; when it is
    used up, `always` answers, which is honest unless set. The same with `manifest_script` for
    the manifest, and for tombstones with `tombstone_endpoint`.

    With an authority it speaks TLS and demands a client's certificate; its own is issued to its
    node id, and `show` has connections meet somebody else. A `greeting` takes the place of
    everything that it would do with a connection.
    """

    def __init__(
        self, authority: Authority | None = None, address: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.stopped = threading.Event()
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self.greeting: Greeting | None = None
        self.manifest_requests: list[Request] = []
        self.always: Behaviour = honestly
        self.problems: list[BaseException] = []
        self._script: deque[Behaviour] = deque()
        self._manifest_script: deque[Behaviour] = deque()
        self._tokens = Tokens()
        self.tombstone_endpoint = TombstoneEndpoint(self._tokens, honestly)
        self._turn = threading.Lock()
        self._http = Wire(self, address)
        self.host, self.port = address[0], int(self._http.server_address[1])
        self.url = self.url_at(self.host, tls=authority is not None)
        self.origin = Origin(self.url)
        self._own = None if authority is None else self.identity(authority)
        self._shown: tuple[Identity, ...] = ()
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None and self.problems:
            raise AssertionError("the page server failed") from self.problems[0]

    def close(self) -> None:
        """Stop listening and end every connection; the address then refuses."""
        if not self.stopped.is_set():
            self.stopped.set()
            self._http.shutdown()
            self._http.end_connections()
            self._http.server_close()
            self._thread.join()

    @property
    def node_id(self) -> str:
        return self.origin.node_id

    def url_at(self, name: str, *, tls: bool = True) -> str:
        """The server's URL under another name of its host."""
        return f"{'https' if tls else 'http'}://{name}:{self.port}"

    def identity(self, authority: Authority, origin: Origin | None = None) -> Identity:
        """An origin, this server's own unless given, with a certificate that names it."""
        origin = origin or self.origin
        return Identity(origin, authority.issue(origin.node_id))

    def show(self, *identities: Identity) -> None:
        """Say whom the connections to come meet, in turn and over again; nobody: the own."""
        with self._turn:
            self._shown = identities

    def know(self, reader: Reader) -> None:
        """Register a node that may read."""
        self._tokens.readers[reader.node_id] = reader

    def script(self, *behaviours: Behaviour) -> None:
        """Say how the next requests for facts are answered."""
        self._script.extend(behaviours)

    def script_manifest(self, *behaviours: Behaviour) -> None:
        """Say how the next requests for the manifest are answered."""
        self._manifest_script.extend(behaviours)

    def hold(self, then: Behaviour = honestly) -> Held:
        """Hold back the next scripted answer until the test lets it go."""
        held = Held(then)
        self.script(held)
        return held

    def hold_tombstones(self, then: Behaviour = honestly) -> Held:
        """The same for the next scripted answer on the tombstones path."""
        held = Held(then)
        self.tombstone_endpoint.script(held)
        return held

    # --- answering

    def meet(self) -> tuple[Connection, Identity | None]:
        """Write down a connection that has come; returns it and whom it meets."""
        with self._turn:
            number = len(self.connections)
            identity = self._shown[number % len(self._shown)] if self._shown else self._own
            origin = self.origin if identity is None else identity.origin
            connection = Connection(number, origin)
            self.connections.append(connection)
        return connection, identity

    def answer(self, call: Call, handler: Handler) -> None:
        request = Request(call.path, call.query, call.headers, call.at, call.connection)
        exchange = Exchange(self, handler, request)
        if request.path == MANIFEST:
            with self._turn:
                self.manifest_requests.append(request)
                scripted = self._manifest_script.popleft() if self._manifest_script else None
            if scripted is None:
                exchange.send(200, request.connection.origin.manifest)
            else:
                scripted(exchange)
        elif request.path == FACTS:
            with self._turn:
                self._check_token(request)
                self.requests.append(request)
                behaviour = self._script.popleft() if self._script else self.always
            behaviour(exchange)
        elif request.path == TOMBSTONES:
            with self._turn:
                behaviour = self.tombstone_endpoint.take(request)
            behaviour(exchange)
        else:
            exchange.send(404, {"detail": "Not Found"})

    def honest(self, request: Request) -> tuple[int, bytes | Raw]:
        """Answer a request for a page as a node does: a status and a body."""
        if request.path == TOMBSTONES:
            return self.tombstone_endpoint.honest(request)
        if request.refused:
            return 401, {"detail": request.refused}
        try:
            limit = self._limit(request)
            scopes = self._scopes(request)
        except RefusedError as refused:
            return refused.status, {"detail": refused.detail}
        origin = request.connection.origin
        return 200, origin.page(cursor=request.cursor, limit=limit, scopes=scopes)

    def _limit(self, request: Request) -> int:
        text = request.query.get("limit", str(_LIMIT_DEFAULT))
        try:
            limit = int(text)
        except ValueError:
            limit = 0
        if not 1 <= limit <= _LIMIT_MAX:
            raise RefusedError(422, [{"loc": ["query", "limit"], "input": text}])
        return limit

    def _scopes(self, request: Request) -> frozenset[str]:
        agreed = self._tokens.readers[request.claims["iss"]].scopes
        permitted = (agreed & set(request.claims.get("scopes", []))) - {"local", "team"}
        if not permitted:
            raise RefusedError(403, "no permitted scopes")
        wanted = request.query.get("scope")
        if wanted is None:
            return permitted
        if wanted not in permitted:
            raise RefusedError(403, "scope not permitted for this peer")
        return frozenset({wanted})

    def _check_token(self, request: Request) -> None:
        header, audience = request.headers.get("Authorization", ""), request.connection.origin
        try:
            request.claims = self._tokens.check(header, audience.node_id)
        except TokenError as error:
            request.refused = str(error)


class Held:
    """An answer that is held back: `reached` is set when the request has come."""

    def __init__(self, then: Behaviour) -> None:
        self.reached = threading.Event()
        self._let_go = threading.Event()
        self._then = then

    def __call__(self, exchange: Exchange) -> None:
        self.reached.set()
        until = time.monotonic() + HOLD_S
        while not self._let_go.wait(0.02):
            if exchange.stopped.is_set() or time.monotonic() > until:
                return
        self._then(exchange)

    def wait(self) -> None:
        """Wait until the request has come."""
        if not self.reached.wait(HOLD_S):
            raise AssertionError("the request that was to be held never came")

    def let_go(self) -> None:
        self._let_go.set()


def limits_of(requests: Sequence[Request]) -> list[int]:
    """How many entries each request asked for."""
    return [request.limit for request in requests]
