"""The way to one peer that all its streams share: connections, keys, and what its answers told.

Connections are opened when something is asked and closed when it will be a while.  What is
asked, and when, is for the streams.
"""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Self

from stigmem_replicator.engine.manifests import SenderKeys
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.protocol import token
from stigmem_replicator.settings import Settings
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.standings import Observed
from stigmem_replicator.transport.client import Limits, PeerClient, Seen
from stigmem_replicator.transport.network import Destination


class PeerConnection:
    """The way to one peer, which nobody else in any process uses at the time.

    ``around`` has the peer's own settings.  ``keys`` are None where entries carry no signatures.
    A ``read_only`` one keeps no manifest that it fetched.
    """

    def __init__(self, peer: PeerRow, around: Surroundings, *, read_only: bool = False) -> None:
        self.peer = peer
        self.around = replace(around, settings=around.settings.for_peer(peer.node_id))
        self.read_only = read_only
        self.keys = (
            SenderKeys(peer, self.around, read_only=read_only) if around.envelope.signed else None
        )
        self._client: PeerClient | None = None

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections, also when cancelled."""
        if self._client is not None:
            await self._client.__aexit__(kind, error, trace)

    @property
    def client(self) -> PeerClient:
        """The peer's HTTP client; raises what :class:`PeerClient` raises."""
        if self._client is None:
            settings = self.around.settings
            there = Destination(self.peer.node_url, self.peer.node_id, settings.allowed_networks)
            self._client = PeerClient(there, self.around.network, _limits(settings))
        return self._client

    @property
    def seen(self) -> Observed:
        """What the peer's answers told of it so far."""
        seen = Seen() if self._client is None else self._client.seen
        return Observed(seen.certificate_not_after_ms, seen.upstream_lag_ms, seen.lag_at_ms)

    async def hang_up(self) -> None:
        """Close connections that nobody uses until the next request: it will be a while."""
        if self._client is not None:
            await self._client.hang_up()

    def mint(self) -> str:
        """Return a new token for the peer: a nonce is good for one request."""
        identity, clock = self.around.identity, self.around.clock
        return token.mint(
            identity.key,
            issuer=identity.node_id,
            audience=self.peer.node_id,
            scopes=sorted(self.peer.scopes),
            nonce=self.around.new_id(),
            now_ms=clock.now_ms(),
            lifetime_ms=identity.token_lifetime_ms,
        )


def _limits(settings: Settings) -> Limits:
    """Return the bounds of one request for a page."""
    return Limits(
        connect_s=settings.connect_timeout_s,
        read_s=settings.read_timeout_s,
        answer_s=settings.page_timeout_s,
        body_bytes=settings.page_bytes_max,
        retry_after_cap_s=float(settings.retry_after_cap_s),
        requests_per_s=settings.peer_requests_per_s,
        bytes_per_s=float(settings.peer_bytes_per_s),
    )
