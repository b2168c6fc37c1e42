"""Asking a peer for one page of one of its streams: the token, the request, the decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.errors import (
    PeerBlockedError,
    Reason,
    ReplicatorError,
    TransientPeerError,
)
from stigmem_replicator.protocol import tombstone
from stigmem_replicator.protocol.document import PageError
from stigmem_replicator.protocol.envelope import Page
from stigmem_replicator.protocol.tombstone import Artifact, Stamp, TombstonePage
from stigmem_replicator.replication import tombstones
from stigmem_replicator.replication.session import Answer, Fetch
from stigmem_replicator.transport.client import HttpAnswer

FACTS_PATH: Final = "/v1/federation/facts"
TOMBSTONES_PATH: Final = "/v1/federation/tombstones"

P = TypeVar("P")

_Stamps = tuple[Stamp | None, ...]


class _Source:
    """One stream of a peer, page by page."""

    def __init__(self, connection: PeerConnection) -> None:
        self._connection = connection
        self._around = connection.around
        self.waited_s = 0.0
        """How long the peer was waited for altogether, in seconds."""
        self.asking_since: float | None = None
        """Since when it is waited for, in seconds; None while nothing was asked."""

    async def _ask(
        self,
        path: str,
        query: Mapping[str, str],
        mint: Callable[[], str],
        decode: Callable[[bytes], P],
    ) -> tuple[HttpAnswer, P]:
        clock = self._around.clock
        began = clock.monotonic()
        self.asking_since = began
        try:
            got = await self._connection.client.get(path, query=query, mint=mint)
        finally:
            self.asking_since = None
            self.waited_s += clock.monotonic() - began
        page = await self._around.threads.check(self._usable, got, decode)
        self._around.counting.page_fetched(clock.monotonic() - began)
        return got, page

    def _usable(self, got: HttpAnswer, decode: Callable[[bytes], P]) -> P:
        try:
            return decode(got.body)
        except PageError as error:
            raise self._no_page(error.reason, str(error)) from error

    def _no_page(self, reason: Reason, why: str) -> ReplicatorError:
        message = f"peer {self._connection.peer.node_id} sent no usable page: {why}"
        if reason is Reason.WRONG_DIALECT:
            hint = "upgrade the older node; the cursor is kept and the pull then goes on"
            return PeerBlockedError(reason, message, hint=hint)
        return TransientPeerError(reason, message)


@dataclass(frozen=True, slots=True)
class Fetched:
    """One page of facts and what paging must know of it."""

    page: Page
    answer: Answer


class FactSource(_Source):
    """A peer's stream of facts, page by page."""

    async def page(self, fetch: Fetch) -> Fetched:
        """Ask for one page.

        Raises what :meth:`PeerClient.get` raises, :class:`TransientPeerError` with
        ``malformed_page`` and :class:`PeerBlockedError` with ``wrong_dialect``.
        """
        query = {"limit": str(fetch.limit)}
        if fetch.cursor is not None:
            query["cursor"] = fetch.cursor
        envelope = self._around.envelope

        def decode(body: bytes) -> Page:
            page = envelope.decode_page(body, fetch.limit)
            if len(page.entries) > fetch.limit:
                message = f"{len(page.entries)} entries, {fetch.limit} were asked for"
                raise PageError(Reason.MALFORMED_PAGE, message)
            return page

        got, page = await self._ask(FACTS_PATH, query, self._connection.mint, decode)
        answer = Answer(
            cursor=page.cursor,
            has_more=page.has_more,
            hlcs=tuple(envelope.raw_hlc(raw) for raw in page.entries),
            date_ms=got.date_ms,
            sent_at_ms=got.sent_at_ms,
            duration_ms=got.duration_ms,
        )
        return Fetched(page, answer)


@dataclass(frozen=True, slots=True)
class FetchedRecords:
    """One page of tombstones and revocations and what paging must know of it."""

    page: TombstonePage
    answer: tombstones.Answer


class TombstoneSource(_Source):
    """A peer's tombstones and revocations, page by page; ``mint`` makes what it is asked with."""

    def __init__(self, connection: PeerConnection, mint: Callable[[], str]) -> None:
        super().__init__(connection)
        self._mint = mint

    async def page(self, fetch: tombstones.Fetch) -> FetchedRecords:
        """Ask for one page; raises as :meth:`FactSource.page`."""
        query = {"limit": str(fetch.limit)}
        if fetch.since is not None:
            query["since"] = fetch.since
        dialect = self._around.envelope.dialect

        def decode(body: bytes) -> tuple[TombstonePage, dict[Artifact, _Stamps]]:
            page = tombstone.decode_page(body, dialect, len(Artifact) * fetch.limit)
            created = {}
            for artifact in Artifact:
                entries = page.entries(artifact)
                if len(entries) > fetch.limit:
                    message = f"{len(entries)} {artifact}s, {fetch.limit} were asked for"
                    raise PageError(Reason.MALFORMED_PAGE, message)
                # They can be a great many, which are not read while others wait.
                created[artifact] = tuple(
                    tombstone.created_at(raw, artifact, dialect) for raw in entries
                )
            return page, created

        got, (page, created) = await self._ask(TOMBSTONES_PATH, query, self._mint, decode)
        answer = tombstones.Answer(
            created=created,
            cursor=page.cursor,
            has_more=page.has_more,
            sent_at_ms=got.sent_at_ms,
            date_ms=got.date_ms,
        )
        return FetchedRecords(page, answer)
