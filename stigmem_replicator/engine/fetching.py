"""Asking a peer for one page: the token, the request, the decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import PeerBlockedError, Reason, TransientPeerError
from stigmem_replicator.protocol import token
from stigmem_replicator.protocol.envelope import Page, PageError
from stigmem_replicator.replication.session import Answer, Fetch
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.transport.client import HttpAnswer, PeerClient

FACTS_PATH: Final = "/v1/federation/facts"


@dataclass(frozen=True, slots=True)
class Fetched:
    """One page and what paging must know of it."""

    page: Page
    answer: Answer


class FactSource:
    """A peer's stream of facts, page by page."""

    def __init__(self, client: PeerClient, peer: PeerRow, around: Surroundings) -> None:
        self._client = client
        self._peer = peer
        self._around = around
        self.waited_s = 0.0
        """How long the peer was waited for altogether, in seconds."""
        self.asking_since: float | None = None
        """Since when it is waited for, in seconds; None while nothing was asked."""

    async def page(self, fetch: Fetch) -> Fetched:
        """Ask for one page.

        Raises what :meth:`PeerClient.get` raises, :class:`TransientPeerError` with
        ``malformed_page`` and :class:`PeerBlockedError` with ``wrong_dialect``.
        """
        clock = self._around.clock
        began = clock.monotonic()
        query = {"limit": str(fetch.limit)}
        if fetch.cursor is not None:
            query["cursor"] = fetch.cursor
        self.asking_since = began
        try:
            got = await self._client.get(FACTS_PATH, query=query, mint=self._token)
        finally:
            self.asking_since = None
            self.waited_s += clock.monotonic() - began
        page = await self._around.threads.check(self._decode, got, fetch.limit)
        answer = Answer(
            cursor=page.cursor,
            has_more=page.has_more,
            hlcs=tuple(self._around.envelope.raw_hlc(raw) for raw in page.entries),
            date_ms=got.date_ms,
            sent_at_ms=got.sent_at_ms,
            duration_ms=got.duration_ms,
        )
        self._around.counting.page_fetched(clock.monotonic() - began)
        return Fetched(page, answer)

    def _token(self) -> str:
        # A nonce is good for one request, so each gets a token of its own.
        return token.mint(
            self._around.identity.key,
            issuer=self._around.identity.node_id,
            audience=self._peer.node_id,
            scopes=sorted(self._peer.scopes),
            nonce=self._around.new_id(),
            now_ms=self._around.clock.now_ms(),
            lifetime_ms=self._around.identity.token_lifetime_ms,
        )

    def _decode(self, got: HttpAnswer, limit: int) -> Page:
        try:
            page = self._around.envelope.decode_page(got.body, limit)
        except PageError as error:
            message = f"peer {self._peer.node_id} sent no usable page: {error}"
            if error.reason is Reason.WRONG_DIALECT:
                raise PeerBlockedError(
                    error.reason,
                    message,
                    hint="upgrade the older node; the cursor is kept and the pull then goes on",
                ) from error
            raise TransientPeerError(error.reason, message) from error
        if len(page.entries) > limit:
            message = (
                f"peer {self._peer.node_id} sent no usable page: "
                f"{len(page.entries)} entries, {limit} were asked for"
            )
            raise TransientPeerError(Reason.MALFORMED_PAGE, message)
        return page
