"""The one way to the database's write side: one batch at a time, and time left for the node.

SQLite's write lock is not fair: who asks again soonest gets it.  So between two transactions the
writer stays away long enough for a waiting node, and it keeps its transactions short by writing
fewer rows after one that took too long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from stigmem_replicator.clock import Clock, Random, Sleep
from stigmem_replicator.engine.turns import Turns
from stigmem_replicator.errors import LocalError
from stigmem_replicator.observe.board import Board
from stigmem_replicator.observe.counting import Counting
from stigmem_replicator.replication import pacing
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import BatchWrite, Committed, NotWritten
from stigmem_replicator.store.engine import Database, tidy, writing

OTHERS_SECONDS: Final = 10.0
"""How long another writer counts as being about after it was noticed."""

WAIT_NOTICED_SECONDS: Final = 0.025
"""A wait that somebody else's transaction must have caused: our own threads wait a few of the 5 ms
that Python lets each of them run."""

PAUSE_MAX_SECONDS: Final = 1.0
"""The longest pause: who was stopped in a transaction did not hold the lock by himself."""

SMALL_ROWS: Final = 50
"""As how many rows one of the small transactions counts."""

TIDY_ROWS: Final = 2_000
"""Rows after which the database does what it does best between transactions."""

T = TypeVar("T")


def _never() -> None:
    """Say that nothing is in the way."""


class Writer:
    """Writes batches in the order in which they come; make one per database."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        clock: Clock,
        sleep: Sleep,
        random: Random,
        *,
        counting: Counting | None = None,
        board: Board | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._counting = counting or Counting()
        self._board = board
        self.hindered: Callable[[], LocalError | None] = _never
        """Says why nothing is to be written now, though a turn was waited for; None when it may."""
        self._turns = Turns()
        self._thread = CapacityLimiter(1)
        self._free_at = 0.0
        self._others_at: float | None = None
        self._data_version: int | None = None
        self._rows_since_tidy = 0
        self.row_budget = pacing.ROWS_START
        """How many rows the next batch may have."""

    async def commit(self, write: BatchWrite) -> Committed | NotWritten:
        """Write one batch.  A commit that has begun is not cancelled: it is waited for.

        Raises :class:`LocalError` as :func:`store.apply.apply` does, and at once when trouble was
        met meanwhile: whoever waited behind it need not wait for the same again.
        """
        async with self._turns.turn(small=False):
            self._check_hindrance()
            await self._stay_away()
            outcome = await self._in_thread(self._apply, write)
            if isinstance(outcome, NotWritten):
                # Somebody else just wrote: let them go on before the page is tried again.
                self._others_at = self._clock.monotonic()
                self._pause(outcome.held_s)
            if isinstance(outcome, Committed):
                self._pace(outcome)
                # Cancelled here, the caller would not learn that the batch is committed.
                with anyio.CancelScope(shield=True):
                    await self._tidy(write.batch.rows())
            return outcome

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Run one of the small transactions: ``work(connection, *args)``; see :meth:`commit`."""
        async with self._turns.turn(small=True):
            self._check_hindrance()
            await self._stay_away()
            result: T = await self._in_thread(self._transact, work, args)
            with anyio.CancelScope(shield=True):
                await self._tidy(SMALL_ROWS)
            return result

    async def try_out(self, work: Callable[..., T], *args: object) -> T:
        """Run a small transaction to see whether writing is possible again."""
        async with self._turns.turn(small=True):
            return await self._in_thread(self._transact, work, args)

    async def call(self, work: Callable[..., T], *args: object) -> T:
        """Run ``work(*args)``, which uses the writer's connection but writes nothing."""
        async with self._turns.turn(small=True):
            return await self._in_thread(work, *args)

    async def _tidy(self, rows: int) -> None:
        self._rows_since_tidy += rows
        if self._rows_since_tidy >= TIDY_ROWS:
            self._rows_since_tidy = 0
            await self._in_thread(tidy, self._database)

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run one piece of work in the writer's thread, and show since when it is busy."""
        if self._board is not None:
            self._board.writing_since = self._clock.monotonic()
        try:
            return await anyio.to_thread.run_sync(work, *args, limiter=self._thread)
        finally:
            if self._board is not None:
                self._board.writing_since = None

    def _apply(self, write: BatchWrite) -> Committed | NotWritten:
        self._check_room()
        return apply.apply(self._database, write, self._clock)

    def _transact(self, work: Callable[..., T], args: tuple[object, ...]) -> T:
        self._check_room()
        with writing(self._database) as connection:
            return work(connection, *args)

    def _check_hindrance(self) -> None:
        cause = self.hindered()
        if cause is not None:
            # One of its own for each, since each is raised in a task of its own.
            raise LocalError(cause.reason, cause.message, hint=cause.hint)

    def _check_room(self) -> None:
        self._database.backend.check_room(self._settings.free_space_min_mb)

    async def _stay_away(self) -> None:
        wait = self._free_at - self._clock.monotonic()
        if wait > 0:
            await self._sleep(wait)

    def _pace(self, outcome: Committed) -> None:
        self._counting.write_lock(held_s=outcome.held_s, waited_s=outcome.waited_s)
        now = self._clock.monotonic()
        noticed = outcome.waited_s > WAIT_NOTICED_SECONDS
        if self._data_version not in (None, outcome.data_version):
            noticed = True
        self._data_version = outcome.data_version
        if noticed:
            self._others_at = now
        self._pause(outcome.held_s)
        target_s = self._settings.transaction_target_ms / 1000
        self.row_budget = pacing.next_row_budget(self.row_budget, outcome.held_s, target_s)

    def _pause(self, held_s: float) -> None:
        now = self._clock.monotonic()
        others = self._others_at is not None and now - self._others_at < OTHERS_SECONDS
        share = self._settings.write_share_busy if others else self._settings.write_share_idle
        pause = pacing.pause_s(held_s, share, self._random.uniform(0.0, 1.0))
        self._free_at = now + min(pause, PAUSE_MAX_SECONDS)
