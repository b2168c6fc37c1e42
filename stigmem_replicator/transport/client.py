"""One peer's HTTP client: bounded answers, and every failure with its reason.

Bodies are streamed and counted; one that grows over the cap is dropped unread.  Each wait has a
limit: for a connection, for the next bytes, and for the whole answer.  Redirects are not
followed and proxies not used.  Who answers is made sure of in ``guard``; what a body means is
not known here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, NoReturn, Self, cast

import anyio
import httpx

from stigmem_replicator import __version__
from stigmem_replicator.errors import PeerRefusedError, Reason, ReplicatorError, TransientPeerError
from stigmem_replicator.observe.log import printable
from stigmem_replicator.replication.pacing import (
    back_pressure,
    http_date_ms,
    retry_after_s,
    upstream_lag_ms,
)
from stigmem_replicator.settings.values import HIDDEN
from stigmem_replicator.transport import addresses
from stigmem_replicator.transport.connections import PeerTransport
from stigmem_replicator.transport.guard import Guard, Rules
from stigmem_replicator.transport.network import Destination, Network, public_context
from stigmem_replicator.transport.rates import BothRates, Rates

_ERROR_BODY_BYTES: Final = 4096
_ERROR_BODY_SECONDS: Final = 1.0
_MISDIRECTED: Final = 421
_LAG_HEADER: Final = "X-Stigmem-Replication-Lag"
_BROKEN_OFF: Final = ("disconnected", "closed connection")
"""Words of the HTTP library for a connection that ended before the answer did."""

_TOO_EARLY: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request, in seconds and bytes, and of how many there are in a second.

    A rate of 0 is no bound.
    """

    connect_s: float
    read_s: float
    answer_s: float
    body_bytes: int
    retry_after_cap_s: float
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a peer let us know beside its answers; milliseconds, since 1970 where a time.

    ``upstream_lag_ms`` is how far it said to be behind its own origins, None where it said
    nothing; ``lag_at_ms`` is when it last had the chance, None when it never had.
    """

    certificate_not_after_ms: int | None = None
    upstream_lag_ms: int | None = None
    lag_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A good answer: its body, when it was asked for, and its own Date.

    ``duration_ms`` runs from sending to the response's headers.  ``upstream_lag_ms`` is how far
    the peer says to be behind its own origins, None where it says nothing.
    """

    body: bytes
    sent_at_ms: int
    duration_ms: int
    date_ms: int | None
    upstream_lag_ms: int | None = None


class PeerClient:
    """The connections to one peer.

    Raises :class:`PeerRefusedError` with ``unsafe_address`` for a URL that is never asked.
    """

    def __init__(self, destination: Destination, network: Network, limits: Limits) -> None:
        addresses.check_url(destination.url, plain=network.insecure)
        try:
            url = httpx.URL(destination.url)
            scheme, _ = url.scheme, url.host
        except (httpx.InvalidURL, UnicodeError):
            raise addresses.refused(destination.url, "its host is no name") from None
        self._base_url = destination.url.rstrip("/")
        self._origin = f"{scheme}://{url.netloc.decode('ascii')}"
        self._limits = limits
        self._clock = network.clock
        self._rates = BothRates(
            Rates(limits.requests_per_s, limits.bytes_per_s, network.clock, network.sleep),
            network.rates,
        )
        mutual = network.certificates is not None and destination.node_id is not None
        self._guard = Guard(
            Rules(
                url=self._base_url,
                node_id=destination.node_id if mutual else None,
                pinned=not network.insecure,
                allowed=destination.allowed,
            ),
            network.resolver,
        )
        self._lag: tuple[int | None, int | None] = (None, None)
        self._transport = PeerTransport(
            self._guard,
            network.clock,
            certificates=network.certificates if mutual else None,
            context=public_context() if scheme == "https" and not mutual else None,
        )
        self._http = httpx.AsyncClient(
            transport=self._transport,
            timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s),
            headers={
                "User-Agent": f"stigmem-replicate/{__version__}",
                "Accept": "application/json",
                # A compressed body would have to be bounded twice.
                "Accept-Encoding": "identity",
            },
            follow_redirects=False,
            trust_env=False,
        )

    @property
    def seen(self) -> Seen:
        """What the peer let us know so far."""
        return Seen(self._guard.not_after_ms, *self._lag)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close the connections, also when cancelled."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(self._limits.connect_s):
            await self._http.aclose()

    async def hang_up(self) -> None:
        """Close the connections until the next request: it will be a while."""
        await self._transport.hang_up()

    async def get(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        mint: Callable[[], str] | None = None,
    ) -> HttpAnswer:
        """Ask for ``path`` and return the answer if it is a good one (status 200).

        ``mint`` makes the token when the request may be sent.  Raises
        :class:`TransientPeerError` when asking again may help, else :class:`PeerRefusedError`.
        """
        await self._rates.request()
        url = f"{self._base_url}{path}"
        token = None if mint is None else mint()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        sent_at_ms, began = self._clock.now_ms(), self._clock.monotonic()
        try:
            with anyio.fail_after(self._limits.answer_s) as limit:
                async with self._http.stream(
                    "GET", url, params=dict(query or {}), headers=headers
                ) as response:
                    answered = self._clock.monotonic()
                    lag_ms = upstream_lag_ms(response.headers.get(_LAG_HEADER))
                    self._lag = (lag_ms, sent_at_ms)
                    if response.status_code != HTTPStatus.OK:
                        # Its own, shorter limit must be the one that ends the error's body.
                        limit.deadline += 2 * _ERROR_BODY_SECONDS
                        await self._refuse(response, token)
                    body = await self._body(response, limit)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self._failure(url, error, token) from error
        return HttpAnswer(
            body=body,
            sent_at_ms=sent_at_ms,
            duration_ms=round((answered - began) * 1000),
            date_ms=http_date_ms(response.headers.get("Date")),
            upstream_lag_ms=lag_ms,
        )

    def _failure(self, url: str, error: Exception, token: str | None) -> TransientPeerError:
        said = printable(_without(token, str(error))) or type(error).__name__
        reason, hint = Reason.UNREACHABLE, "check that the peer's node is up"
        match error:
            case httpx.ConnectTimeout():
                # Not a timeout of the page: asking for a smaller one would not help.
                message = f"{url} took no connection within {self._limits.connect_s:g} s"
            case httpx.TimeoutException():
                reason, hint = Reason.TIMEOUT, ""
                message = f"{url} kept us waiting ({type(error).__name__})"
            case TimeoutError():
                reason, hint = Reason.TIMEOUT, ""
                message = f"{url} did not answer within {self._limits.answer_s:g} s"
            case httpx.RemoteProtocolError() if not any(words in said for words in _BROKEN_OFF):
                reason, hint = Reason.MALFORMED_PAGE, "check what stands before the peer's node"
                message = f"{url} does not answer in proper HTTP: {said}"
            case _:
                message = f"{url} cannot be reached: {said}"
        return TransientPeerError(reason, message, hint=hint)

    async def _body(self, response: httpx.Response, limit: anyio.CancelScope) -> bytes:
        encoding = response.headers.get("Content-Encoding", "")
        if encoding.lower() not in ("", "identity"):
            url = f"{self._origin}{response.url.path}"
            message = f"{url} came encoded as {printable(encoding, 20)}, unasked"
            raise TransientPeerError(Reason.MALFORMED_PAGE, message)
        cap = self._limits.body_bytes
        body = bytearray()
        async with aclosing(_parts(response)) as parts:
            async for part in parts:
                body += part
                if len(body) > cap:
                    message = f"the answer of {self._base_url} is larger than {cap} bytes"
                    raise TransientPeerError(Reason.PAGE_TOO_LARGE, message)
                await self._rates.received(len(part), limit)
        return bytes(body)

    async def _refuse(self, response: httpx.Response, token: str | None) -> NoReturn:
        body = b""
        # The status says it all; a body that is slow or breaks off must not change the reason.
        ignored = (httpx.HTTPError, ReplicatorError)
        with suppress(*ignored), anyio.move_on_after(_ERROR_BODY_SECONDS):
            async with aclosing(_parts(response)) as parts:
                async for part in parts:
                    body += part[: _ERROR_BODY_BYTES - len(body)]
                    if len(body) >= _ERROR_BODY_BYTES:
                        break
        document = _document(body)
        wait_s = retry_after_s(
            response.headers.get("Retry-After"),
            http_date_ms(response.headers.get("Date")),
            self._clock.now_ms(),
            self._limits.retry_after_cap_s,
        )
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            asked = back_pressure(document, self._limits.retry_after_cap_s)
            wait_s = max(wait_s, asked.wait_s)
            if asked.lag_ms is not None:
                self._lag = (asked.lag_ms, self._lag[1])
        url = f"{self._origin}{response.url.path}"
        raise failure_of_status(response.status_code, url, _detail(document, token), wait_s)


def _parts(response: httpx.Response) -> AsyncGenerator[bytes]:
    """Return the parts of a body as they come, to be closed also where not all are read."""
    # It is one, though its type does not say so.
    return cast("AsyncGenerator[bytes]", response.aiter_raw())


def _document(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _detail(document: object, token: str | None) -> str:
    """Return what the peer says about a refusal, without the token if it repeats that."""
    said = document if isinstance(document, dict) else {}
    detail = said.get("detail", said.get("error"))
    if not isinstance(detail, str):
        return ""
    return printable(_without(token, detail))


def _without(token: str | None, text: str) -> str:
    return text.replace(token, HIDDEN) if token else text


def failure_of_status(status: int, url: str, detail: str, wait_s: float) -> ReplicatorError:
    """Return the failure that an HTTP status other than 200 stands for."""
    said = f": {detail}" if detail else ""
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return TransientPeerError(
            Reason.THROTTLED,
            f"{url} asked us to wait (HTTP {status}{said})",
            retry_after_s=wait_s,
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TOO_EARLY:
        return TransientPeerError(
            Reason.SERVER_ERROR, f"{url} failed (HTTP {status}{said})", retry_after_s=wait_s
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return PeerRefusedError(
            Reason.UNAUTHORIZED,
            f"{url} refused our token (HTTP 401{said})",
            hint="check that the peer registered and approved this node, and both clocks",
        )
    if status == HTTPStatus.FORBIDDEN:
        return PeerRefusedError(
            Reason.FORBIDDEN,
            f"{url} permits us nothing (HTTP 403{said})",
            hint="the peer's operator must grant this node a scope",
        )
    if status == _MISDIRECTED:
        return PeerRefusedError(
            Reason.UNEXPECTED_ANSWER,
            f"{url} demands mutual TLS (HTTP 421)",
            hint="the peer's address must begin with https, and this node needs its TLS settings",
        )
    return PeerRefusedError(
        Reason.UNEXPECTED_ANSWER,
        f"{url} answered HTTP {status}{said}",
        hint="check that the peer's URL is that of a Stigmem node",
    )
