"""One peer's HTTP client: bounded answers, and every failure with its reason.

Bodies are streamed and counted; one that grows over the cap is dropped unread.  Each wait has a
limit: for a connection, for the next bytes, and for the whole answer.  Redirects are not
followed and proxies of the environment not used.  What a body means is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, NoReturn, Self

import anyio
import httpx

from stigmem_replicator import __version__
from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import PeerRefusedError, Reason, ReplicatorError, TransientPeerError
from stigmem_replicator.observe.log import printable
from stigmem_replicator.replication.pacing import http_date_ms, retry_after_s
from stigmem_replicator.settings.values import HIDDEN
from stigmem_replicator.transport import guard

_ERROR_BODY_BYTES: Final = 4096
_ERROR_BODY_SECONDS: Final = 1.0
_MISDIRECTED: Final = 421
_TOO_EARLY: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request: seconds and bytes."""

    connect_s: float
    read_s: float
    answer_s: float
    body_bytes: int
    retry_after_cap_s: float


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A good answer: its body, when it was asked for, and its own Date.

    ``duration_ms`` runs from sending to the response's headers.
    """

    body: bytes
    sent_at_ms: int
    duration_ms: int
    date_ms: int | None


class PeerClient:
    """The connections to one peer."""

    def __init__(self, base_url: str, limits: Limits, clock: Clock) -> None:
        guard.check(base_url)
        self._base_url = base_url.rstrip("/")
        self._limits = limits
        self._clock = clock
        self._http = httpx.AsyncClient(
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

    async def get(
        self, path: str, *, query: Mapping[str, str] | None = None, token: str | None = None
    ) -> HttpAnswer:
        """Ask for ``path`` and return the answer if it is a good one (status 200).

        Raises :class:`TransientPeerError` when asking again may help, else
        :class:`PeerRefusedError`.
        """
        url = f"{self._base_url}{path}"
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        sent_at_ms, began = self._clock.now_ms(), self._clock.monotonic()
        try:
            with anyio.fail_after(self._limits.answer_s) as limit:
                async with self._http.stream(
                    "GET", url, params=dict(query or {}), headers=headers
                ) as response:
                    answered = self._clock.monotonic()
                    if response.status_code != HTTPStatus.OK:
                        # Its own, shorter limit must be the one that ends the error's body.
                        limit.deadline += 2 * _ERROR_BODY_SECONDS
                        await self._refuse(response, token)
                    body = await self._body(response)
        except TimeoutError as error:
            message = f"{url} did not answer within {self._limits.answer_s:g} s"
            raise TransientPeerError(Reason.TIMEOUT, message) from error
        except httpx.ConnectTimeout as error:
            # Not a timeout of the page: asking for a smaller one would not help.
            message = f"{url} took no connection within {self._limits.connect_s:g} s"
            hint = "check that the peer's node is up"
            raise TransientPeerError(Reason.UNREACHABLE, message, hint=hint) from error
        except httpx.TimeoutException as error:
            message = f"{url} kept us waiting ({type(error).__name__})"
            raise TransientPeerError(Reason.TIMEOUT, message) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            message = f"{url} cannot be reached: {printable(str(error)) or type(error).__name__}"
            hint = "check that the peer's node is up"
            raise TransientPeerError(Reason.UNREACHABLE, message, hint=hint) from error
        return HttpAnswer(
            body=body,
            sent_at_ms=sent_at_ms,
            duration_ms=round((answered - began) * 1000),
            date_ms=http_date_ms(response.headers.get("Date")),
        )

    async def _body(self, response: httpx.Response) -> bytes:
        encoding = response.headers.get("Content-Encoding", "")
        if encoding.lower() not in ("", "identity"):
            url = f"{self._base_url}{response.url.path}"
            message = f"{url} came encoded as {printable(encoding, 20)}, unasked"
            raise TransientPeerError(Reason.MALFORMED_PAGE, message)
        cap = self._limits.body_bytes
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > cap:
                message = f"the answer of {self._base_url} is larger than {cap} bytes"
                raise TransientPeerError(Reason.PAGE_TOO_LARGE, message)
        return bytes(body)

    async def _refuse(self, response: httpx.Response, token: str | None) -> NoReturn:
        body = b""
        # The status says it all; a body that is slow or breaks off must not change the reason.
        with suppress(httpx.HTTPError), anyio.move_on_after(_ERROR_BODY_SECONDS):
            async for part in response.aiter_raw():
                body += part[: _ERROR_BODY_BYTES - len(body)]
                if len(body) >= _ERROR_BODY_BYTES:
                    break
        now_ms = self._clock.now_ms()
        wait_s = retry_after_s(
            response.headers.get("Retry-After"),
            http_date_ms(response.headers.get("Date")),
            now_ms,
            self._limits.retry_after_cap_s,
        )
        url = f"{self._base_url}{response.url.path}"
        raise failure_of_status(response.status_code, url, _detail(body, token), wait_s)


def _detail(body: bytes, token: str | None) -> str:
    """Return what the peer says about a refusal, without the token if it repeats that."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    detail = document.get("detail") if isinstance(document, dict) else None
    if not isinstance(detail, str):
        return ""
    return printable(detail.replace(token, HIDDEN) if token else detail)


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
            f"{url} demands mutual TLS (HTTP 421), which is not supported yet",
        )
    return PeerRefusedError(
        Reason.UNEXPECTED_ANSWER,
        f"{url} answered HTTP {status}{said}",
        hint="check that the peer's URL is that of a Stigmem node",
    )
