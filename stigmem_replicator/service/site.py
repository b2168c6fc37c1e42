"""What the HTTP endpoint answers: metrics, health, status and the page.

It only reads the board, so the answers are true also when the engine is stuck or the database is
gone.  There is no way to change anything, no user and no secret; GET and HEAD alone are taken.
How connections are kept is in ``http``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from prometheus_client import make_wsgi_app

from stigmem_replicator.clock import Clock
from stigmem_replicator.observe import words
from stigmem_replicator.observe.board import Board
from stigmem_replicator.observe.log import logger, printable
from stigmem_replicator.observe.metrics import Metrics
from stigmem_replicator.service import health, status
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.page import View, page
from stigmem_replicator.service.page_style import STYLE_HASH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NAME: Final = "stigmem-replicate"

_QUERY_CHARACTERS: Final = 1_000

_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Server", NAME),
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: a status, a kind of content, and the content."""

    status: HTTPStatus
    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def text(cls, status: HTTPStatus, text: str) -> Answer:
        """Return an answer in plain words."""
        return cls(status, "text/plain; charset=utf-8", f"{text}\n".encode())


@dataclass(frozen=True, slots=True)
class Site:
    """Makes the answers; ``began_s`` is when the engine was started, by ``clock.monotonic``."""

    board: Board
    metrics: Metrics
    clock: Clock
    patience: Patience
    began_s: float

    def answer(self, path: str, query: str) -> Answer:
        """Return what there is at a path, other than the metrics."""
        match path:
            case "/":
                return self._page(query)
            case "/healthz":
                return _verdict(self._stuck())
            case "/readyz":
                return self._readyz(query)
            case "/status":
                return self._status()
            case _:
                known = "there are / /status /metrics /healthz /readyz"
                return Answer.text(HTTPStatus.NOT_FOUND, f"not found; {known}")

    def _stuck(self) -> tuple[str, ...]:
        now_s = self.clock.monotonic()
        return health.engine_problems(self.board, now_s, self.began_s, self.patience)

    def _readyz(self, query: str) -> Answer:
        asked = _asked(query).get("max_lag", [])
        max_lag_ms = None
        if asked:
            max_lag_ms = words.span_ms(asked[-1])
            if max_lag_ms is None:
                return Answer.text(
                    HTTPStatus.BAD_REQUEST, "max_lag is no time; say 90s, 5m, 1h or 2d"
                )
        now_ms = self.clock.now_ms()
        unready = health.readiness_problems(self.board.picture, now_ms, max_lag_ms)
        return _verdict((*self._stuck(), *unready))

    def _status(self) -> Answer:
        picture, now_ms = self.board.picture, self.clock.now_ms()
        unready = health.readiness_problems(picture, now_ms)
        document = status.document(picture, now_ms, self._stuck(), unready)
        body = json.dumps(document, indent=1).encode() + b"\n"
        return Answer(HTTPStatus.OK, "application/json", body)

    def _page(self, query: str) -> Answer:
        asked = _asked(query)
        everyone = asked.get("peers") == ["all"]
        # A thousand peers are megabytes: nobody wants those every few seconds.
        view = View(refresh=asked.get("refresh") != ["off"] and not everyone, everyone=everyone)
        text = page(self.board.picture, self.clock.now_ms(), self._stuck(), view)
        return Answer(HTTPStatus.OK, "text/html; charset=utf-8", text.encode())


def _asked(query: str) -> dict[str, list[str]]:
    return parse_qs(query[:_QUERY_CHARACTERS], keep_blank_values=True)


def is_local_name(host: str) -> bool:
    """Say whether a Host header names this machine as itself: by an address, or ``localhost``.

    A web page elsewhere may give a name of its own our address, and have a browser here read what
    we answer; the name is what gives it away.  No header at all is no browser.
    """
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").lower()
    if not host or name == "localhost":
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _verdict(problems: Iterable[str]) -> Answer:
    said = "\n".join(problems)
    if not said:
        return Answer.text(HTTPStatus.OK, "ok")
    return Answer.text(HTTPStatus.SERVICE_UNAVAILABLE, said)


@dataclass(slots=True)
class Application:
    """The site as a WSGI application; no request can end in more than an answer of 500."""

    site: Site
    local: bool = False
    """Whether it is only for this machine: then a name of elsewhere that leads here is refused."""
    _metrics: Callable[..., Iterable[bytes]] = field(init=False)

    def __post_init__(self) -> None:
        """Put the metrics beside the site."""
        self._metrics = make_wsgi_app(self.site.metrics.registry)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer one request."""
        method = environ["REQUEST_METHOD"]
        if self.local and not is_local_name(environ.get("HTTP_HOST", "")):
            answer = Answer.text(HTTPStatus.MISDIRECTED_REQUEST, "this is not that host")
        elif method in ("GET", "HEAD"):
            answer = self._answer(environ)
        else:
            answer = Answer.text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are taken")
            answer = replace(answer, headers=(("Allow", "GET, HEAD"),))
        headers = [
            ("Content-Type", answer.kind),
            ("Content-Length", str(len(answer.body))),
            *_HEADERS,
            *answer.headers,
        ]
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [] if method == "HEAD" else [answer.body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        path: str = environ["PATH_INFO"]
        try:
            if path == "/metrics":
                return self._measured(environ)
            return self.site.answer(path, environ.get("QUERY_STRING", ""))
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not end in silence
            logger().error("replicator.unexpected", path=printable(path), exc_info=error)
            return Answer.text(HTTPStatus.INTERNAL_SERVER_ERROR, "failed; the log shows where")

    def _measured(self, environ: WSGIEnvironment) -> Answer:
        """Return what the library's own application answers."""
        sent: list[tuple[str, str]] = []

        def keep(_status: str, headers: list[tuple[str, str]]) -> None:
            sent.extend(headers)

        body = b"".join(self._metrics({**environ, "REQUEST_METHOD": "GET"}, keep))
        headers = dict(sent)
        kind = headers.pop("Content-Type")
        return Answer(HTTPStatus.OK, kind, body, tuple(headers.items()))
