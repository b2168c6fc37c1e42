"""Who is at the other end: every connection is made and identified here, and nowhere else.

A network backend of httpcore.  A name is resolved once, every answer is judged, and the
connection goes to one of exactly these addresses.  After the TLS handshake the certificate must
name the peer before a byte of ours is sent.  What is sent and what an answer means is not known
here.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.lowlevel
import httpcore

from stigmem_replicator.errors import PeerRefusedError, Reason, ReplicatorError, TransientPeerError
from stigmem_replicator.observe.log import printable
from stigmem_replicator.settings.transport_values import Network
from stigmem_replicator.transport import addresses
from stigmem_replicator.transport.framing import HEAD_BYTES_MAX, AnswerBytes
from stigmem_replicator.transport.handshake import is_end, refusal_of, refusal_of_ours
from stigmem_replicator.transport.resolving import Resolver

ADDRESSES_MAX: Final = 16
_CHECKPOINTS: Final = 4
"""Turns of the event loop in which what is already here is handed over."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a connection must fulfil.

    ``node_id`` is whom the certificate must name, None where any certificate for the host's name
    will do.  ``pinned`` is False where any address and plain http are accepted.
    """

    url: str
    node_id: str | None
    pinned: bool
    allowed: Collection[Network]


class Guard(httpcore.AsyncNetworkBackend):
    """Makes the connections to one peer.

    ``not_after_ms`` is until when the certificate is good that the peer showed last.
    """

    def __init__(self, rules: Rules, resolver: Resolver) -> None:
        self._rules = rules
        self._resolver = resolver
        self._sockets = httpcore.AnyIOBackend()
        self.not_after_ms: int | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> GuardedStream:
        """Connect to a host by one of its addresses, all of which must be safe.

        Raises :class:`PeerRefusedError` with ``unsafe_address``, ``httpcore.ConnectError`` and
        ``httpcore.ConnectTimeout``.
        """
        try:
            with anyio.fail_after(timeout) as limit:
                found = await self._addresses(host, port)
                stream = await self._first(found, port, limit, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout from error
        return GuardedStream(stream, self)

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = await self._resolver.addresses(host, port)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "the name is no name"
            raise httpcore.ConnectError(f"{host} does not resolve: {why}") from error
        if not found:
            raise httpcore.ConnectError(f"{host} has no address")
        if self._rules.pinned:
            for address in found:
                why = addresses.why_unsafe(address, self._rules.allowed)
                if why is not None:
                    raise self._unsafe(host, why)
        return found[:ADDRESSES_MAX]

    def _unsafe(self, host: str, why: str) -> PeerRefusedError:
        resolved = "" if why.startswith(host) else f"{host} resolves to it, and "
        return addresses.refused(
            self._rules.url,
            f"{resolved}{why}",
            hint="nothing was sent to it; if the peer is meant to be there, "
            "add its network to allowed_networks",
        )

    async def _first(
        self,
        found: list[str],
        port: int,
        limit: anyio.CancelScope,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        """Return the first connection that can be had; each address gets its share of the time."""
        for number, address in enumerate(found, 1):
            left = max(limit.deadline - anyio.current_time(), 0.001)
            share = left / (len(found) - number + 1)
            try:
                return await self._sockets.connect_tcp(
                    address,
                    port,
                    timeout=None if share == float("inf") else share,
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(found):
                    raise
        raise AssertionError  # there is at least one address

    async def sleep(self, seconds: float) -> None:
        """Wait; only httpcore's own retries do, which are off."""
        await self._sockets.sleep(seconds)

    def identify(self, stream: httpcore.AsyncNetworkStream) -> None:
        """Check whom the certificate of a finished handshake names.

        Raises :class:`PeerRefusedError` with ``certificate_invalid`` or ``san_mismatch``.
        """
        ssl_object = stream.get_extra_info("ssl_object")
        try:
            certificate = ssl_object.getpeercert() if ssl_object is not None else None
        except ValueError:
            certificate = None  # names in it are no text
        if not certificate:
            raise PeerRefusedError(
                Reason.CERTIFICATE_INVALID,
                f"{self._rules.url} showed no certificate that can be read",
                hint="nothing was sent to it",
            )
        wanted = self._rules.node_id
        if wanted is not None:
            uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
            if wanted not in uris:
                raise self._mismatch(wanted, uris)
        self.not_after_ms = round(ssl.cert_time_to_seconds(certificate["notAfter"]) * 1000)

    def _mismatch(self, wanted: str, uris: list[str]) -> PeerRefusedError:
        named = printable(", ".join(uris), 200) if uris else "no node"
        return PeerRefusedError(
            Reason.SAN_MISMATCH,
            f"the certificate at {self._rules.url} names {named}, not the peer {wanted}",
            hint="nothing was sent to it; the peer's operator must give its certificate the URI "
            "of the node as a subject alternative name, or the peer's address is wrong",
        )

    def refused_in_handshake(self, error: ssl.SSLError) -> ReplicatorError:
        """Return what a failed handshake means for the peer."""
        return refusal_of(error, self._rules.url)

    def failed_later(self, error: ssl.SSLError) -> Exception:
        """Return what a TLS failure after the handshake means.

        Only what the peer said itself is held against it: anybody on the wire can break a record.
        """
        return refusal_of_ours(error, self._rules.url) or httpcore.ReadError(
            f"the TLS connection broke ({printable(error.reason or str(error), 80)})"
        )

    def may_send(self, *, identified: bool) -> bool:
        """Tell whether a byte of ours may be sent."""
        return identified or not self._rules.pinned

    @property
    def url(self) -> str:
        """The address that is connected to, for messages."""
        return self._rules.url


class GuardedStream(httpcore.AsyncNetworkStream):
    """One connection; ``spent`` says that no other request may use it."""

    def __init__(
        self, stream: httpcore.AsyncNetworkStream, guard: Guard, *, identified: bool = False
    ) -> None:
        self._stream = stream
        self._guard = guard
        self._identified = identified
        self._answered = False
        self.answer = AnswerBytes()
        self.spent = False

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
    ) -> GuardedStream:
        """Make the handshake and check who is there.

        Raises :class:`PeerRefusedError` and httpcore's connection errors.
        """
        stream = self._stream
        try:
            stream = await stream.start_tls(ssl_context, server_hostname, timeout)
            self._guard.identify(stream)
        except BaseException as error:
            # The library leaves the connection open when it is cancelled.
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            if not isinstance(error, httpcore.ConnectError):
                raise
            if isinstance(error.__cause__, ssl.SSLError) and not is_end(error.__cause__):
                raise self._guard.refused_in_handshake(error.__cause__) from error
            raise httpcore.ConnectError("the connection ended in the TLS handshake") from error
        return GuardedStream(stream, self._guard, identified=True)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send, but to nobody unknown, and no second request while the peer speaks unasked."""
        if not self._guard.may_send(identified=self._identified):
            raise addresses.refused(self._guard.url, "nobody was identified there")
        if self.answer.began:
            if self.spent or not await self._silent():
                # The pool then takes another connection for the request.
                raise httpcore.ConnectionNotAvailable
            self._answered, self.answer = True, AnswerBytes()
        await self._stream.write(buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Receive."""
        try:
            data = await self._stream.read(max_bytes, timeout)
        except (ssl.SSLError, httpcore.ReadError) as error:
            cause = error if isinstance(error, ssl.SSLError) else error.__cause__
            if isinstance(cause, ssl.SSLError) and not is_end(cause):
                raise self._guard.failed_later(cause) from error
            self._check_welcome()
            raise httpcore.ReadError("the connection broke off") from error
        # What is decrypted already comes without a wait: others must have their turn too.
        await anyio.lowlevel.checkpoint()
        if not data:
            self._check_welcome()
        self.answer.add(data)
        if self.answer.head_too_long:
            raise httpcore.RemoteProtocolError(
                f"there is no end to what comes before the body ({HEAD_BYTES_MAX} bytes)"
            )
        return data

    def _check_welcome(self) -> None:
        """Say what it may mean that a peer hangs up on a certificate instead of answering."""
        if self._identified and not self._answered and not self.answer.began:
            raise TransientPeerError(
                Reason.UNREACHABLE,
                f"{self._guard.url} closed the connection right after the TLS handshake",
                hint="so does a node that does not accept our certificate: if it goes on, check "
                "that the peer's CA bundle holds the issuer of this node's certificate",
            )

    async def _silent(self) -> bool:
        """Tell whether nothing came since the last answer, buffers between us included."""
        heard: list[bytes | None] = []

        async def listen() -> None:
            try:
                heard.append(await self._stream.read(1))
            except (httpcore.ReadError, ssl.SSLError):
                heard.append(None)

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            for _ in range(_CHECKPOINTS):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return not heard

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the signature is httpcore's
        """Return what is known of the connection.

        To httpcore an idle connection on which something waits to be read is one to close.
        """
        if info == "is_readable" and self.spent:
            return True
        return self._stream.get_extra_info(info)
