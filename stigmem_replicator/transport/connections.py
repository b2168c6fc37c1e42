"""The connections to one peer, as a transport for httpx over httpcore's pool.

A pool belongs to one peer and one state of our certificate.  When that changes, or the peer's
certificate runs out, the next request gets a new pool, and the old one is closed once its
requests are done.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.lowlevel
import httpcore
import httpx

from stigmem_replicator.clock import Clock
from stigmem_replicator.transport.certificates import Certificates
from stigmem_replicator.transport.guard import Guard, GuardedStream

CONNECTIONS_MAX: Final = 4
KEEP_ALIVE_S: Final = 4.0
"""How long an idle connection is kept; a node drops one after 5 seconds."""

CLOSING_S: Final = 5.0

_UNUSED: Final = frozenset({b"set-cookie", b"location"})
"""Headers that httpx would act on by itself: keep and send back, or parse as a URL."""

_PARTS_A_TURN: Final = 16

_AS_HTTPX: Final = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}


class PeerTransport(httpx.AsyncBaseTransport):
    """Carries requests to one peer.

    ``certificates`` are shown to it; without them ``context`` decides whom we trust.
    """

    def __init__(
        self,
        guard: Guard,
        clock: Clock,
        *,
        certificates: Certificates | None,
        context: ssl.SSLContext | None,
    ) -> None:
        self._guard = guard
        self._clock = clock
        self._certificates = certificates
        self._context = context
        self._pool: _Pool | None = None
        self._ended_ms: int | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the answer, its body still to be read."""
        pool = await self._current()
        pool.users += 1
        try:
            with _errors_of_httpx():
                answer = await pool.connections.handle_async_request(_request(request))
        except BaseException:
            await pool.released()
            raise
        return httpx.Response(
            answer.status,
            headers=[pair for pair in answer.headers if pair[0].lower() not in _UNUSED],
            stream=_Body(answer, pool),
            extensions=answer.extensions,
        )

    async def _current(self) -> _Pool:
        loaded = None if self._certificates is None else await self._certificates.current()
        generation = 0 if loaded is None else loaded.generation
        pool = self._pool
        if pool is None or pool.generation != generation or self._peer_certificate_ended():
            context = self._context if loaded is None else loaded.context
            old, self._pool = pool, _Pool(generation, self._guard, context)
            pool = self._pool
            if old is not None:
                await old.retire()
        return pool

    def _peer_certificate_ended(self) -> bool:
        """Tell whether the certificate that the open connections rest on has run out since."""
        ends_ms = self._guard.not_after_ms
        if ends_ms is None or ends_ms == self._ended_ms or ends_ms > self._clock.now_ms():
            return False
        self._ended_ms = ends_ms
        return True

    async def hang_up(self) -> None:
        """Close connections that nobody uses now; the next request opens one anew."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.retire()

    async def aclose(self) -> None:
        """Close every connection."""
        if self._pool is not None:
            await self._pool.connections.aclose()


class _Pool:
    """httpcore's pool, closed when it is retired and nobody uses it."""

    def __init__(self, generation: int, guard: Guard, context: ssl.SSLContext | None) -> None:
        self.generation = generation
        self.connections = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=CONNECTIONS_MAX,
            max_keepalive_connections=CONNECTIONS_MAX,
            keepalive_expiry=KEEP_ALIVE_S,
            http1=True,
            http2=False,
            retries=0,
            network_backend=guard,
        )
        self.users = 0
        self._retired = False

    async def released(self) -> None:
        """Note that a request is done, its body included."""
        self.users -= 1
        await self._close_if_done()

    async def retire(self) -> None:
        """Take no more requests."""
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self.users:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSING_S):
                await self.connections.aclose()


class _Body(httpx.AsyncByteStream):
    """An answer's body; whoever reads it to its end learns whether more came than that."""

    def __init__(self, answer: httpcore.Response, pool: _Pool) -> None:
        self._answer = answer
        self._pool = pool
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream = self._answer.extensions.get("network_stream")
        parts = read = 0
        with _errors_of_httpx():
            async for part in self._answer.aiter_stream():
                parts, read = parts + 1, read + len(part)
                if parts % _PARTS_A_TURN == 0:
                    # Thousands of tiny ones come without a wait: others must have their turn too.
                    await anyio.lowlevel.checkpoint()
                if isinstance(stream, GuardedStream) and stream.answer.mostly_framing(read):
                    raise httpx.RemoteProtocolError("its chunks are mostly framing")
                yield part
        self._look_behind(stream)

    def _look_behind(self, stream: object) -> None:
        if not isinstance(stream, GuardedStream):
            return
        length = _length(self._answer.headers)
        excess = None if length is None else stream.answer.excess(length)
        stream.spent = excess != 0
        if excess:
            raise httpx.RemoteProtocolError(f"{excess} bytes follow the answer")

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with _errors_of_httpx():
                await self._answer.aclose()
        finally:
            await self._pool.released()


def _request(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return the length that an answer gives its body, None when it ends in another way."""
    found = {name.lower(): value for name, value in headers}
    text = found.get(b"content-length", b"")
    return int(text) if text.isdigit() and b"transfer-encoding" not in found else None


@contextmanager
def _errors_of_httpx() -> Iterator[None]:
    try:
        yield
    except tuple(_AS_HTTPX) as error:
        raise _AS_HTTPX[type(error)](str(error)) from error
