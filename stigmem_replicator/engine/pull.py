"""One peer pulled by hand: locked, caught up, its end noted, let go.

A pull waits for three things, each up to its patience: for another process to let go of the
peer, for the time before which the peer asked not to be asked, and between attempts after a
transient failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import anyio

from stigmem_replicator.clock import Clock
from stigmem_replicator.engine.fetching import FactSource
from stigmem_replicator.engine.judging import Judge
from stigmem_replicator.engine.manifests import SenderKeys
from stigmem_replicator.engine.pages import DryRun, PageWriter
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.worker import Worker
from stigmem_replicator.errors import (
    PeerBlockedError,
    PeerHeldError,
    PeerRefusedError,
    Reason,
    ReplicatorError,
    TransientPeerError,
)
from stigmem_replicator.replication.pacing import Backoff
from stigmem_replicator.replication.session import CaughtUp, PagingLimits, Session, Stopped
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import reads, records
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import PeerRow, StoredPosition
from stigmem_replicator.store.records import Ending, Holder, Observed, PeerState
from stigmem_replicator.transport.client import Limits, PeerClient, Seen
from stigmem_replicator.transport.network import Destination

RETRIES: Final = 2
"""Attempts after a transient failure before a pull by hand gives up."""

LOCK_LOOK_SECONDS: Final = 0.2
LETTING_GO_SECONDS: Final = 10.0
FUTURE_CURSOR_MS: Final = 300_000


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the one who pulls asked for; ``patience_s`` bounds each wait, in seconds."""

    max_pages: int | None = None
    dry_run: bool = False
    backfill: bool = False
    patience_s: float = 10.0


class Pull:
    """One pull of one peer.

    ``tell`` gets one plain sentence when something is waited for or noteworthy.
    """

    def __init__(
        self,
        peer: PeerRow,
        wishes: Wishes,
        around: Surroundings,
        report: PullReport,
        on_page: Callable[[PullReport], None],
        tell: Callable[[str], None],
    ) -> None:
        around = replace(around, settings=around.settings.for_peer(peer.node_id))
        self._peer = peer
        self._wishes = wishes
        self._around = around
        self._report = report
        self._on_page = on_page
        self._tell = tell
        self._keys = (
            SenderKeys(peer, around, read_only=wishes.dry_run) if around.envelope.signed else None
        )
        self._number = 0
        self._seen = Seen()
        # What the peer could bear last; None before the first page.
        self._page_size: int | None = None

    async def run(self) -> None:
        """Pull until the peer has no more, or as many pages as were wished.

        Raises :class:`ReplicatorError` with the reason for stopping earlier.  However it ends,
        the report tells what was committed.
        """
        if self._wishes.dry_run:
            await self._wait_until_welcome()
            await self._attempts(commit_number=0)
            return
        async with self._peer_held() as commit_number:
            await self._pull_noting_end(commit_number)

    async def _pull_noting_end(self, commit_number: int) -> None:
        await self._wait_until_welcome()
        try:
            end = await self._attempts(commit_number=commit_number)
        except ReplicatorError as error:
            ending = ending_of(error, self._around.clock)
            if error.reason is Reason.SAN_MISMATCH:
                await self._audit_mismatch()
            if ending is not None:
                await self._note(ending)
            raise
        state = PeerState.IDLE if isinstance(end, CaughtUp) else PeerState.CATCHING_UP
        await self._note(Ending(state, caught_up_ms=self._report.caught_up_ms))

    async def _note_wait(self, error: TransientPeerError) -> None:
        """Note what the peer asked for before waiting: it holds for whoever comes after us."""
        ending = ending_of(error, self._around.clock)
        if ending is not None and not self._wishes.dry_run:
            await self._note(ending)

    async def _note(self, ending: Ending) -> None:
        seen = self._seen
        observed = Observed(seen.certificate_not_after_ms, seen.upstream_lag_ms, seen.lag_at_ms)
        await self._around.writer.run(
            records.ended,
            self._peer.node_id,
            replace(ending, observed=observed),
            self._around.clock,
        )

    async def _audit_mismatch(self) -> None:
        await self._around.writer.run(
            records.audit_san_mismatch, self._peer, self._around.new_id, self._around.clock
        )

    @asynccontextmanager
    async def _peer_held(self) -> AsyncIterator[int]:
        """Work on the peer alone; yields its commit number."""
        around, node_id = self._around, self._peer.node_id
        await around.writer.run(records.enlist, node_id, around.clock)
        self._number = number = await around.writer.run(records.peer_number, node_id)
        await self._lock(number)
        try:
            await around.writer.run(records.seed_clock)
            yield await around.writer.run(records.take, node_id, around.process)
        finally:
            with anyio.move_on_after(LETTING_GO_SECONDS, shield=True):
                try:
                    # A name left behind decides nothing: how the pull ended is told instead.
                    with suppress(ReplicatorError):
                        await around.writer.run(records.let_go, node_id)
                finally:
                    with suppress(ReplicatorError):
                        await around.writer.call(around.locks.free, number)

    async def _lock(self, number: int) -> None:
        around, patience = self._around, self._wishes.patience_s
        until = around.clock.monotonic() + patience
        told = False
        while not await around.writer.call(around.locks.take, number):
            holder = await around.threads.look_up(self._holder)
            name = str(holder) if holder else "another process"
            if around.clock.monotonic() >= until:
                raise PeerHeldError(
                    Reason.PEER_HELD,
                    f"{name} works on peer {self._peer.node_id} and did not let go "
                    f"within {patience:g} s",
                    hint="wait for it to end, or wait longer with --wait",
                )
            if not told:
                self._tell(f"waiting for {name} to let go of the peer")
                told = True
            await around.sleep(LOCK_LOOK_SECONDS)

    def _holds_peer(self) -> bool:
        return self._around.locks.holds(self._number)

    def _holder(self) -> Holder | None:
        with reading(self._around.database) as connection:
            return records.holder(connection, self._peer.node_id)

    async def _wait_until_welcome(self) -> None:
        not_before = await self._around.threads.look_up(self._not_before_ms)
        wait = ((not_before or 0) - self._around.clock.now_ms()) / 1000
        if wait <= 0:
            return
        # A clock that was set back must not lengthen the wait beyond what a peer may ask for.
        wait = min(wait, float(self._around.settings.retry_after_cap_s))
        message = f"peer {self._peer.node_id} asked not to be asked for another {wait:.0f} s"
        if wait > self._wishes.patience_s:
            raise TransientPeerError(
                Reason.THROTTLED, message, hint=_wait_hint(wait), retry_after_s=wait
            )
        self._tell(message)
        await self._around.sleep(wait)

    def _not_before_ms(self) -> int | None:
        with reading(self._around.database) as connection:
            if not reads.has_own_tables(connection):
                return None
            return records.not_before_ms(connection, self._peer.node_id)

    async def _attempts(self, *, commit_number: int) -> CaughtUp | Stopped:
        around, peer = self._around, self._peer
        there = Destination(peer.node_url, peer.node_id, around.settings.allowed_networks)
        async with PeerClient(there, around.network, client_limits(around.settings)) as client:
            try:
                return await self._passes(client, commit_number)
            finally:
                self._seen = client.seen
                self._report.upstream_lag_ms = client.seen.upstream_lag_ms

    async def _passes(self, client: PeerClient, commit_number: int) -> CaughtUp | Stopped:
        """Make a pass; after a transient failure, another, as patience allows."""
        settings, around = self._around.settings, self._around
        backoff = Backoff(settings.backoff_base_s, settings.backoff_factor, settings.backoff_cap_s)
        failures = 0
        while True:
            before = self._report.pages
            try:
                return await self._pass(client, commit_number)
            except TransientPeerError as error:
                failures = 1 if self._report.pages > before else failures + 1
                wait = max(
                    error.retry_after_s, backoff.wait_s(failures, around.random.uniform(0.0, 1.0))
                )
                if wait > self._wishes.patience_s:
                    if error.retry_after_s:
                        error.hint = _wait_hint(error.retry_after_s)
                    raise
                if failures > RETRIES:
                    raise
                self._tell(f"{error.message}; trying again in {wait:.1f} s")
                if error.retry_after_s:
                    self._seen = client.seen
                    await self._note_wait(error)
            await around.sleep(wait)
            if not self._wishes.dry_run:
                commit_number = await around.writer.run(
                    records.take, self._peer.node_id, around.process
                )

    async def _pass(self, client: PeerClient, commit_number: int) -> CaughtUp | Stopped:
        around, peer = self._around, self._peer
        stored = await around.threads.look_up(self._stored)
        await self._note_changes(stored)
        if not self._report.pages:
            self._report.cursor_before = self._report.cursor = stored.position.frontier
        judge = Judge(peer, FACTS, around, self._keys, backfill=self._wishes.backfill)
        writer = (
            DryRun(self._report.tally)
            if self._wishes.dry_run
            else PageWriter(
                peer,
                FACTS,
                around,
                judge,
                tally=self._report.tally,
                row=stored.row,
                commit_number=commit_number,
                still_held=self._holds_peer,
            )
        )
        session = Session(stored.position, self._paging(), limit=self._page_size)
        source = FactSource(client, peer, around)
        worker = Worker(session, source, judge, writer, self._report, self._on_page, self._tell)
        try:
            return await worker.run()
        finally:
            self._page_size = session.limit

    def _paging(self) -> PagingLimits:
        settings, wished = self._around.settings, self._wishes.max_pages
        skew_ms = settings.hlc_max_future_skew_s * 1000
        return PagingLimits(
            page_size=settings.page_size,
            overlap_ms=round(settings.overlap_s * 1000),
            future_bound_ms=min(skew_ms or FUTURE_CURSOR_MS, FUTURE_CURSOR_MS),
            max_pages=None if wished is None else max(wished - self._report.pages, 1),
        )

    def _stored(self) -> StoredPosition:
        with reading(self._around.database) as connection:
            return reads.stored_position(connection, self._peer, FACTS)

    async def _note_changes(self, stored: StoredPosition) -> None:
        """Say what happened to the cursor while this replicator did not look."""
        frontier = stored.position.frontier
        if stored.first_contact and frontier is not None:
            event = records.FIRST_CONTACT
            self._tell(
                f"going on from the node's own cursor {frontier}; what was committed late before "
                "it is only found by `cursor reset`, which reads everything once more"
            )
        elif not stored.first_contact and stored.own_frontier != frontier:
            event = records.CURSOR_MOVED
            self._tell(f"the cursor was changed by somebody else, to {frontier or 'the beginning'}")
        else:
            return
        if not self._wishes.dry_run:
            detail = {"before": stored.own_frontier, "after": frontier}
            await self._around.writer.run(
                records.note,
                self._peer.node_id,
                event,
                records.REPLICATOR,
                detail,
                self._around.clock,
            )


def client_limits(settings: Settings) -> Limits:
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


def ending_of(error: ReplicatorError, clock: Clock) -> Ending | None:
    """Return what a failure makes of the peer; None when it is not the peer's doing."""
    if isinstance(error, TransientPeerError):
        state = PeerState.THROTTLED if error.reason is Reason.THROTTLED else PeerState.BACKING_OFF
        not_before = clock.now_ms() + round(error.retry_after_s * 1000)
        return Ending(
            state,
            error.reason.value,
            error.message,
            not_before_ms=not_before if error.retry_after_s else None,
        )
    if isinstance(error, PeerRefusedError | PeerBlockedError):
        return Ending(PeerState.BLOCKED, error.reason.value, error.message)
    return None


def _wait_hint(wait: float) -> str:
    return f"run it again after that, or wait with --wait {wait + 1:.0f}"
