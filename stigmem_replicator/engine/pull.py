"""One peer pulled by hand: locked, caught up, its end noted, let go.

A pull waits for three things, each up to its patience: for another process to let go of the
peer, for the time before which the peer asked not to be asked, and between attempts after a
transient failure.  A running daemon lets go when it sees who wants the peer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import anyio

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.pacing import paces_of
from stigmem_replicator.engine.report import PullReport, TombstoneReport
from stigmem_replicator.engine.stream import FactStream, Watcher
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.tombstone_pull import RETRIES, TombstonePull
from stigmem_replicator.errors import (
    PeerHeldError,
    Reason,
    ReplicatorError,
    TransientPeerError,
    first_of,
)
from stigmem_replicator.replication import states
from stigmem_replicator.replication.session import CaughtUp
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store import hlc_clock, reads, records, standings, streams
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.standings import Holder, Note, Turn

LOCK_LOOK_SECONDS: Final = 0.2
WANTED_AGAIN_SECONDS: Final = 1.0
"""How often the wish for a peer is repeated: whoever took the peer meanwhile has not seen it."""

LETTING_GO_SECONDS: Final = 10.0


class Streams(StrEnum):
    """What of a peer is pulled; the word is the one of the command line."""

    FACTS = "facts"
    TOMBSTONES = "tombstones"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the one who pulls asked for; ``patience_s`` bounds each wait, in seconds."""

    streams: Streams = Streams.ALL
    max_pages: int | None = None
    dry_run: bool = False
    backfill: bool = False
    patience_s: float = 10.0


class Pull:
    """One pull of one peer.

    ``tell`` gets one plain sentence when something is waited for or noteworthy.  Its tombstones
    are read first, and again while its facts take long.
    """

    def __init__(
        self,
        peer: PeerRow,
        wishes: Wishes,
        around: Surroundings,
        report: PullReport,
        tombstone_report: TombstoneReport,
        on_page: Callable[[PullReport], None],
        tell: Callable[[str], None],
    ) -> None:
        self._peer = peer
        self._wishes = wishes
        self._around = replace(around, settings=around.settings.for_peer(peer.node_id))
        self._report = report
        self._tombstone_report = tombstone_report
        self.tombstone_failure: ReplicatorError | None = None
        """What its tombstones ended in; that is no end of its facts."""
        self._tell = tell
        self._watcher = Watcher(on_page, tell)
        self._paces = paces_of(self._around.settings)
        self._number = 0
        self._standing = Standing()
        self._attempted_ms: int | None = None

    async def run(self) -> None:
        """Pull until the peer has no more, or as many pages of each stream as were wished.

        Raises :class:`ReplicatorError` with the reason for stopping earlier; what is the peer's
        own doing with its tombstones is in ``tombstone_failure`` instead.  However it ends, the
        reports tell what was committed.
        """
        if self._wishes.dry_run:
            await self._wait_until_welcome()
            await self._pull()
            return
        async with self._peer_held():
            await self._wait_until_welcome()
            await self._pull()

    def _held(self) -> bool:
        return self._around.locks.holds(self._number)

    async def _pull(self) -> None:
        wishes = self._wishes
        # Raised after the group is done with: what is raised inside `except*` is grouped again.
        failure: ReplicatorError | None = None
        async with PeerConnection(self._peer, self._around, read_only=wishes.dry_run) as connection:
            beside = TombstonePull(
                connection,
                self._tombstone_report,
                self._tell,
                self._held,
                wishes.patience_s,
                goes_on=wishes.streams is Streams.ALL,
            )
            try:
                if wishes.streams is not Streams.FACTS:
                    await beside.run(max_pages=wishes.max_pages)
                if wishes.streams is not Streams.TOMBSTONES:
                    # They may have ended in a wish that holds for the facts too.
                    await self._wait_until_welcome()
                    async with anyio.create_task_group() as tasks:
                        bounded = wishes.dry_run or wishes.max_pages is not None
                        if wishes.streams is Streams.ALL and not bounded:
                            tasks.start_soon(self._keep, beside)
                        await self._pull_facts(connection)
                        tasks.cancel_scope.cancel()
            except* ReplicatorError as group:
                failure = first_of(group)
            await beside.close()
            self.tombstone_failure = beside.failure
            alone = wishes.streams is Streams.TOMBSTONES and not wishes.dry_run
            if alone and beside.failure and beside.failure.reason is Reason.SAN_MISMATCH:
                await self._audit_mismatch()
        if failure is not None:
            raise failure

    async def _keep(self, beside: TombstonePull) -> None:
        """Read the tombstones every so often, as the peer allows, while facts take long."""
        around = self._around
        while not beside.is_blocked:
            await around.sleep(around.settings.tombstone_interval_s)
            not_before_ms = await around.threads.look_up(self._not_before_ms)
            if (not_before_ms or 0) <= around.clock.now_ms():
                await beside.run()

    async def _pull_facts(self, connection: PeerConnection) -> None:
        stream = FactStream(
            connection,
            self._report,
            self._watcher,
            still_held=self._held,
            backfill=self._wishes.backfill,
        )
        if self._wishes.dry_run:
            await self._passes(connection, stream)
        else:
            await self._pull_noting_end(connection, stream)

    async def _pull_noting_end(self, connection: PeerConnection, stream: FactStream) -> None:
        clock = self._around.clock
        began = clock.monotonic()
        self._attempted_ms = clock.now_ms()
        try:
            end = await self._passes(connection, stream)
        except ReplicatorError as error:
            if error.reason is Reason.SAN_MISMATCH:
                await self._audit_mismatch()
            if states.is_peers_doing(error):
                await self._note_failure(connection, error)
            raise
        if end:
            self._standing = states.caught_up(self._standing, clock.now_ms(), 0.0)
        else:
            self._standing = states.more(self._standing, clock.now_ms())
        await self._note(connection, seconds=clock.monotonic() - began)

    async def _note_failure(self, connection: PeerConnection, error: ReplicatorError) -> None:
        chance = self._around.random.uniform(0.0, 1.0)
        now_ms = self._around.clock.now_ms()
        self._standing = states.failed(self._standing, error, now_ms, self._paces, chance)
        await self._note(connection)

    async def _note(self, connection: PeerConnection, *, seconds: float | None = None) -> None:
        report = self._report
        admitted = report.counts.admitted
        turn = Turn(admitted, round(seconds * 1000)) if seconds and admitted else None
        note = Note(
            self._peer.node_id,
            # Nobody comes back by himself: when the peer is asked next is not known here.
            replace(self._standing, next_attempt_ms=None),
            attempted_ms=self._attempted_ms,
            caught_up_ms=report.caught_up_ms,
            observed=connection.seen,
            turn=turn,
        )
        await self._around.writer.run(standings.write, [note], self._around.clock)

    async def _audit_mismatch(self) -> None:
        await self._around.writer.run(
            records.audit_san_mismatch, self._peer, self._around.new_id, self._around.clock
        )

    @asynccontextmanager
    async def _peer_held(self) -> AsyncIterator[None]:
        """Work on the peer alone."""
        around, node_id = self._around, self._peer.node_id
        numbers = await around.writer.run(standings.enlist_all, [node_id], around.clock)
        self._number = number = numbers[node_id]
        await self._lock_or_give_up(number)
        try:
            await around.writer.run(hlc_clock.seed)
            process = replace(around.process, since_ms=around.clock.now_ms())
            taken = await around.writer.run(standings.take, [node_id], process)
            self._standing = states.taken(
                taken[node_id],
                process.since_ms,
                float(around.settings.retry_after_cap_s),
            )
            yield
        finally:
            with anyio.move_on_after(LETTING_GO_SECONDS, shield=True):
                try:
                    # A name left behind decides nothing: how the pull ended is told instead.
                    with suppress(ReplicatorError):
                        await around.writer.run(standings.let_go, [node_id], {}, around.clock)
                finally:
                    with suppress(ReplicatorError):
                        await around.writer.call(around.locks.free, number)

    async def _lock_or_give_up(self, number: int) -> None:
        """Lock the peer; when that is not to be, nobody is to let go of it for us any more."""
        around = self._around
        try:
            await self._lock(number)
        except BaseException:
            with anyio.move_on_after(LETTING_GO_SECONDS, shield=True), suppress(ReplicatorError):
                await around.writer.run(standings.want_no_more, self._peer.node_id, around.process)
            raise

    async def _lock(self, number: int) -> None:
        around, patience = self._around, self._wishes.patience_s
        now = around.clock.monotonic()
        until, ask_at, told = now + patience, now, False
        while not await around.writer.call(around.locks.take, number):
            holder = await around.threads.look_up(self._holder)
            name = str(holder) if holder else "another process"
            now = around.clock.monotonic()
            if now >= until:
                raise PeerHeldError(
                    Reason.PEER_HELD,
                    f"{name} works on peer {self._peer.node_id} and did not let go "
                    f"within {patience:g} s",
                    hint="wait for it to end, or wait longer with --wait",
                )
            if not told:
                self._tell(f"waiting for {name} to let go of the peer")
                told = True
            if now >= ask_at:
                await around.writer.run(
                    standings.want, self._peer.node_id, around.process, around.clock
                )
                ask_at = now + WANTED_AGAIN_SECONDS
            await around.sleep(LOCK_LOOK_SECONDS)

    def _holder(self) -> Holder | None:
        with reading(self._around.database) as connection:
            return standings.holder(connection, self._peer.node_id)

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
            node_id = self._peer.node_id
            asked = [
                standings.standing(connection, node_id).not_before_ms,
                streams.standing(connection, node_id, TOMBSTONES).not_before_ms,
            ]
            return max((moment for moment in asked if moment is not None), default=None)

    async def _passes(self, connection: PeerConnection, stream: FactStream) -> bool:
        """Make a pass; after a transient failure, another, as patience allows.

        Returns whether the peer has no more.
        """
        around, wished = self._around, self._wishes.max_pages
        failures = 0
        while True:
            before = self._report.pages
            try:
                left = None if wished is None else max(wished - self._report.pages, 1)
                return isinstance(await stream.read(max_pages=left), CaughtUp)
            except TransientPeerError as error:
                failures = 1 if self._report.pages > before else failures + 1
                chance = around.random.uniform(0.0, 1.0)
                wait = max(error.retry_after_s, self._paces.transient.wait_s(failures, chance))
                if wait > self._wishes.patience_s:
                    if error.retry_after_s:
                        error.hint = _wait_hint(error.retry_after_s)
                    raise
                if failures > RETRIES:
                    raise
                self._tell(f"{error.message}; trying again in {wait:.1f} s")
                if error.retry_after_s and not self._wishes.dry_run:
                    # What the peer asked for holds for whoever comes after us.
                    await self._note_failure(connection, error)
            await around.sleep(wait)


def _wait_hint(wait: float) -> str:
    return f"run it again after that, or wait with --wait {wait + 1:.0f}"
