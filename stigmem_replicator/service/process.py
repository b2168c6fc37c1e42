"""The daemon as a process: how it starts, what signals do, and a database opened anew.

Which peers run and what they do is the engine's.  A first signal ends everything in good order;
a second one, or a deadline, ends the process where it stands, which is safe at any moment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Final, NoReturn, TypeAlias

import anyio
import anyio.to_thread

from stigmem_replicator.engine.supervisor import Supervisor
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import (
    ExitCode,
    LocalError,
    PeerHeldError,
    Reason,
    ReplicatorError,
    first_of,
)
from stigmem_replicator.observe.log import logger
from stigmem_replicator.service import preparing, upgrading
from stigmem_replicator.settings import Settings
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.guard import FileGuard, Files

COMMAND: Final = "run"
"""How the daemon names itself as the holder of a peer."""

STOPPING_SECONDS: Final = 4.5
"""How long a process that was told to stop may take."""

OPEN_AGAIN_SECONDS: Final = 2.0
TOLD_AGAIN_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 10.0

OpenDatabase: TypeAlias = Callable[[Files | None], AbstractContextManager[Database]]
"""Opens the database; takes the files that were open under its name before."""


class _Opening:
    """The database and what goes with it, opened and closed together."""

    def __init__(self, open_database: OpenDatabase, settings: Settings, *, migrate: bool) -> None:
        self._open_database = open_database
        self._settings = settings
        self._migrate = migrate
        self._stack = ExitStack()
        self._guard: FileGuard | None = None
        self._before: Files | None = None

    def open(self) -> Surroundings:
        """Open all of it.  Raises :class:`LocalError`."""
        with ExitStack() as stack:
            database = stack.enter_context(self._open_database(self._before))

            def make_tables() -> None:
                if self._migrate:
                    upgrading.upgrade(database, PATIENCE_SECONDS, _tell)
                else:
                    preparing.require_tables(database)

            around = stack.enter_context(
                preparing.prepared(database, self._settings, COMMAND, make_tables)
            )
            self._stack = stack.pop_all()
            self._guard = database.guard
        return around

    def close(self) -> None:
        """Free every peer and close the database."""
        if self._guard is not None:
            self._before, self._guard = self._guard.files, None
        self._stack.close()


def serve(open_database: OpenDatabase, settings: Settings, *, migrate: bool) -> None:
    """Replicate until told to stop by SIGTERM or SIGINT.

    ``migrate`` lets our own tables be created and upgraded.  Raises :class:`LocalError` when it
    cannot start.
    """
    opening = _Opening(open_database, settings, migrate=migrate)
    around = opening.open()
    try:
        logger().info("replicator.started", database=around.database.name, pid=os.getpid())
        anyio.run(_run, opening, around)
    finally:
        opening.close()
    logger().info("replicator.stopped")


async def _run(opening: _Opening, around: Surroundings) -> None:
    # Raised after the group is done with: what is raised inside `except*` is grouped again.
    failure: ReplicatorError | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
            await _supervise(opening, around)
    except* ReplicatorError as group:
        failure = first_of(group)
    if failure is not None:
        raise failure


async def _supervise(opening: _Opening, around: Surroundings) -> NoReturn:
    """Run the peers of the database, and of the one that takes its place, until cancelled."""
    while True:
        cause = await Supervisor(around).run()
        await anyio.to_thread.run_sync(opening.close)
        around = await _open_again(opening, cause)


async def _open_again(opening: _Opening, cause: ReplicatorError) -> Surroundings:
    """Open the database as soon as that is possible; says why it is not, once a minute at most.

    Raises :class:`LocalError` when our own tables are of a newer version, which no wait mends.
    """
    told_at = anyio.current_time()
    while True:
        try:
            around = await anyio.to_thread.run_sync(opening.open, abandon_on_cancel=True)
        except (LocalError, PeerHeldError) as error:
            if error.reason is Reason.OWN_SCHEMA_OUTDATED:
                raise
            if error.reason is not cause.reason or (
                anyio.current_time() - told_at > TOLD_AGAIN_SECONDS
            ):
                cause, told_at = error, anyio.current_time()
                logger().error(
                    "replicator.local_db",
                    gate="closed",
                    reason=Reason.LOCAL_DB,
                    cause=error.reason,
                    detail=error.message,
                    hint=error.hint,
                )
            await anyio.sleep(OPEN_AGAIN_SECONDS)
            continue
        schema = around.database.schema
        logger().info(
            "replicator.local_db",
            gate="open",
            reason=Reason.LOCAL_DB,
            cause=cause.reason,
            wire_version=schema.dialect,
            newest_migration=schema.newest,
        )
        return around


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            logger().info("replicator.stopping", signal=signal.Signals(number).name)
            break
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    deadline = threading.Timer(STOPPING_SECONDS, _end_where_it_stands)
    deadline.daemon = True
    deadline.start()
    scope.cancel()


def _end_where_it_stands() -> None:
    """End the process: a transaction that is open is rolled back, and every lock falls."""
    logger().warning("replicator.stopped", detail="not everything had ended in time")
    sys.stderr.flush()
    os._exit(ExitCode.DONE)


def _tell(words: str) -> None:
    logger().info("replicator.waiting", detail=words)
