"""The page server: an origin on loopback that answers as a real node does, or as it is told to.

It checks the token of every request the way a node does, nonces included, and writes down what
it was asked. Without a script it is honest; test_contract.py holds it to what a real node
answers. Misbehaviours are in misbehaviour.py.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.pages.origin import Origin, Raw, from_base64url, now_ms

FACTS = "/v1/federation/facts"
MANIFEST = "/.well-known/stigmem-manifest.json"

HOLD_S = 30.0
"""No answer is held back for longer, whatever a test forgets."""

_LEEWAY_MS = 30_000
_TOKEN_AGE_MS = 24 * 3_600_000
_LIMIT_MAX = 500
_LIMIT_DEFAULT = 100


@dataclass(frozen=True, slots=True)
class Reader:
    """A node that may read from the origin, as its registry has it."""

    node_id: str
    public_key: str
    scopes: frozenset[str]
    status: str = "active"


@dataclass(slots=True)
class Request:
    """One request as it came; `refused` is what was wrong with its token, empty if nothing."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    at: float
    claims: Raw = field(default_factory=dict)
    refused: str = ""
    status: int = 0

    @property
    def cursor(self) -> str | None:
        return self.query.get("cursor")

    @property
    def limit(self) -> int:
        return int(self.query.get("limit", _LIMIT_DEFAULT))


class TokenError(Exception):
    """The token is refused; the text is what the peer is told."""


class RefusedError(Exception):
    """The request is refused with a status and a detail."""

    def __init__(self, status: int, detail: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Exchange:
    """One request under way and the means to answer it, well or badly."""

    def __init__(self, server: PageServer, handler: _Handler, request: Request) -> None:
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

    def honest(self) -> tuple[int, Raw]:
        """What a node would answer: a status and a body."""
        return self.server.honest(self.request)

    def page(self) -> Raw:
        """The page that a node would answer with."""
        status, body = self.honest()
        if status != 200:
            raise AssertionError(f"expected to serve a page, not {status} {body}")
        return body


Behaviour: TypeAlias = Callable[[Exchange], None]


def honestly(exchange: Exchange) -> None:
    """Answer as a node does."""
    exchange.send(*exchange.honest())


class PageServer:
    """An origin that serves its pages on loopback, for the length of a `with`.

    `script` says how the next requests for facts are answered, one behaviour each; when it is
    used up, `always` answers, which is honest unless set. The same with `manifest_script` for
    the manifest.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.requests: list[Request] = []
        self.manifest_requests: list[Request] = []
        self.always: Behaviour = honestly
        self.problems: list[BaseException] = []
        self._script: deque[Behaviour] = deque()
        self._manifest_script: deque[Behaviour] = deque()
        self._readers: dict[str, Reader] = {}
        self._nonces: set[str] = set()
        self._turn = threading.Lock()
        self._http = _Http(self)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.origin = Origin(self.url)
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

    def know(self, reader: Reader) -> None:
        """Register a node that may read."""
        self._readers[reader.node_id] = reader

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

    # --- answering

    def answer(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path == MANIFEST:
            with self._turn:
                self.manifest_requests.append(request)
                scripted = self._manifest_script.popleft() if self._manifest_script else None
            if scripted is None:
                exchange.send(200, self.origin.manifest)
            else:
                scripted(exchange)
        elif request.path == FACTS:
            with self._turn:
                self._check_token(request)
                self.requests.append(request)
                behaviour = self._script.popleft() if self._script else self.always
            behaviour(exchange)
        else:
            exchange.send(404, {"detail": "Not Found"})

    def honest(self, request: Request) -> tuple[int, Raw]:
        """Answer a request for facts as a node does: a status and a body."""
        if request.refused:
            return 401, {"detail": request.refused}
        try:
            limit = self._limit(request)
            scopes = self._scopes(request)
        except RefusedError as refused:
            return refused.status, {"detail": refused.detail}
        return 200, self.origin.page(cursor=request.cursor, limit=limit, scopes=scopes)

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
        agreed = self._readers[request.claims["iss"]].scopes
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
        try:
            request.claims = self._verified(request.headers.get("Authorization", ""))
        except TokenError as error:
            request.refused = str(error)

    def _verified(self, header: str) -> Raw:
        if not header.lower().startswith("bearer "):
            raise TokenError("peer token required")
        token = _Token.read(header[len("bearer ") :])
        claims = token.claims
        reader = self._readers.get(claims.get("iss", ""))
        if reader is None:
            raise TokenError("peer not registered")
        if reader.status != "active":
            raise TokenError("peer_not_approved")
        key = Ed25519PublicKey.from_public_bytes(from_base64url(reader.public_key))
        if token.algorithm != "EdDSA":
            raise TokenError("invalid_token")
        try:
            key.verify(token.signature, token.signed)
        except InvalidSignature:
            raise TokenError("invalid_signature") from None
        self._check_claims(claims)
        nonce = claims.get("nonce")
        if not nonce:
            raise TokenError("missing_nonce")
        if nonce in self._nonces:
            raise TokenError("nonce_already_seen")
        self._nonces.add(nonce)
        return claims

    def _check_claims(self, claims: Raw) -> None:
        now = now_ms()
        if now > int(claims.get("exp", 0)) + _LEEWAY_MS:
            raise TokenError("token_expired")
        if claims.get("sub") != self.node_id:
            raise TokenError("invalid_sub")
        issued = int(claims.get("iat", 0))
        if issued > now + _LEEWAY_MS:
            raise TokenError("iat_in_future")
        if issued < now - _TOKEN_AGE_MS:
            raise TokenError("iat_too_old")
        if claims.get("nbf") is not None and int(claims["nbf"]) > now + _LEEWAY_MS:
            raise TokenError("nbf_in_future")


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


@dataclass(frozen=True, slots=True)
class _Token:
    algorithm: object
    claims: Raw
    signed: bytes
    signature: bytes

    @classmethod
    def read(cls, text: str) -> Self:
        try:
            header, payload, signature = text.split(".")
            algorithm = json.loads(from_base64url(header)).get("alg")
            claims = json.loads(from_base64url(payload))
            raw = from_base64url(signature)
        except (ValueError, AttributeError):
            raise TokenError("malformed token") from None
        if not isinstance(claims, dict):
            raise TokenError("malformed token")
        return cls(algorithm, claims, f"{header}.{payload}".encode(), raw)


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # joined at the end, when their connections are closed
    block_on_close = True

    def __init__(self, pages: PageServer) -> None:
        self.pages = pages
        self._connections: set[socket.socket] = set()
        self._turn = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        with self._turn:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - the base's
        with self._turn:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        with self._turn:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Do not print; the handler writes down what is wrong."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = HOLD_S
    server: _Http

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = parse_qs(parts.query, keep_blank_values=True)
        query = {name: values[-1] for name, values in asked.items()}
        headers = {name.title(): value for name, value in self.headers.items()}
        request = Request(parts.path, query, headers, time.monotonic())
        exchange = Exchange(self.server.pages, self, request)
        try:
            self.server.pages.answer(exchange)
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


def limits_of(requests: Sequence[Request]) -> list[int]:
    """How many entries each request asked for."""
    return [request.limit for request in requests]
