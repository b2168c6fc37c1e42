"""The database and what goes with it, opened and closed together, and opened anew.

A database that was replaced or migrated while it was open is closed and opened again as soon as
that is possible.  Who works in it is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Final, TypeAlias

import anyio
import anyio.to_thread

from stigmem_replicator.clock import Clock, Sleep
from stigmem_replicator.engine.gate import tell_closed, tell_open
from stigmem_replicator.engine.picture import let_go
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import LocalError, PeerHeldError, Reason, ReplicatorError
from stigmem_replicator.observe.board import Board, Trouble
from stigmem_replicator.observe.counting import Counting
from stigmem_replicator.observe.log import logger
from stigmem_replicator.service import preparing, upgrading
from stigmem_replicator.settings import Settings
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.guard import FileGuard, Files

COMMAND: Final = "run"
"""How the daemon names itself as the holder of a peer."""

OPEN_AGAIN_SECONDS: Final = 2.0
TOLD_AGAIN_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 10.0

OpenDatabase: TypeAlias = Callable[[Settings, Files | None], AbstractContextManager[Database]]
"""Opens the database; takes the files that were open under its name before."""


class Opening:
    """Opens and closes; ``settings`` may be replaced between the two.

    ``on_taken_back`` hears of it when those that were put in their place are no good after all,
    with the ones that are used again.
    """

    def __init__(
        self,
        open_database: OpenDatabase,
        settings: Settings,
        board: Board,
        counting: Counting,
        *,
        migrate: bool,
        on_taken_back: Callable[[Settings], None],
    ) -> None:
        self.settings = settings
        self._open_database = open_database
        self._board = board
        self._counting = counting
        self._migrate = migrate
        self._on_taken_back = on_taken_back
        self._stack = ExitStack()
        self._good = settings
        self._guard: FileGuard | None = None
        self._before: Files | None = None

    def open(self) -> Surroundings:
        """Open all of it.  Raises :class:`LocalError`."""
        # They may be replaced while this goes on, in another thread.
        settings = self.settings
        with ExitStack() as stack:
            database = stack.enter_context(self._open_database(settings, self._before))

            def make_tables() -> None:
                if self._migrate:
                    upgrading.upgrade(database, PATIENCE_SECONDS, _tell)
                else:
                    preparing.require_tables(database)

            around = stack.enter_context(
                preparing.prepared(
                    database,
                    settings,
                    COMMAND,
                    make_tables,
                    counting=self._counting,
                    board=self._board,
                )
            )
            self._stack = stack.pop_all()
            self._guard = database.guard
        self._good = settings
        return around

    def close(self) -> None:
        """Free every peer and close the database."""
        if self._guard is not None:
            self._before, self._guard = self._guard.files, None
        self._stack.close()

    async def open_anew(
        self, cause: ReplicatorError | None, clock: Clock, sleep: Sleep
    ) -> Surroundings:
        """Close all and open it as soon as that is possible.

        ``cause`` is why it has to be, None when only the settings changed.  Why it is not
        possible is told once a minute at most.  Raises :class:`LocalError` when our own tables
        are of a newer version, which no wait mends.
        """
        await anyio.to_thread.run_sync(self.close)
        began = told_at = clock.monotonic()
        while True:
            self._show(cause, clock)
            try:
                around = await anyio.to_thread.run_sync(self.open, abandon_on_cancel=True)
            except (LocalError, PeerHeldError) as error:
                if error.reason is Reason.OWN_SCHEMA_OUTDATED:
                    raise
                if error.reason is Reason.CONFIGURATION_INVALID and self._fall_back(error):
                    continue
                now = clock.monotonic()
                again = now - told_at > TOLD_AGAIN_SECONDS
                if cause is None or error.reason is not cause.reason or again:
                    told_at = now
                    tell_closed(error)
                cause = error
            else:
                if cause is not None:
                    schema = around.database.schema
                    tell_open(
                        cause.reason,
                        clock.monotonic() - began,
                        wire_version=schema.dialect,
                        newest_migration=schema.newest,
                    )
                return around
            await sleep(OPEN_AGAIN_SECONDS)

    def _fall_back(self, error: ReplicatorError) -> bool:
        """Go back to the settings that work began with last; False where there are no others.

        They were checked when they were read, but a file that they name may be gone since.
        """
        if self.settings is self._good:
            return False
        self.settings = self._good
        self._on_taken_back(self._good)
        logger().error(
            "replicator.reload",
            result="taken back",
            reason=error.reason,
            detail=error.message,
            hint=error.hint,
        )
        return True

    def _show(self, cause: ReplicatorError | None, clock: Clock) -> None:
        """Show on the board that this is under way, and what holds it up."""
        before, now_ms = self._board.picture, clock.now_ms()
        self._board.looked_at = clock.monotonic()
        trouble = None
        if cause is not None:
            since_ms = now_ms if before.trouble is None else before.trouble.since_ms
            trouble = Trouble(cause.reason.value, cause.message, cause.hint, since_ms)
        self._board.picture = replace(
            before,
            at_ms=now_ms,
            ready=False,
            trouble=trouble,
            peers={node_id: let_go(peer) for node_id, peer in before.peers.items()},
        )


def _tell(words: str) -> None:
    logger().info("replicator.waiting", detail=words)
