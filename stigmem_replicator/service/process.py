"""The daemon as a process: how it starts, and what signals do.

Which peers run and what they do is the engine's.  A first signal ends everything in good order;
a second one, or a deadline, ends the process where it stands, which is safe at any moment.
SIGHUP reads the settings again: good ones are swapped in, bad ones change nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NoReturn

import anyio
import anyio.to_thread

from stigmem_replicator import __version__
from stigmem_replicator.clock import Clock, SystemClock, system_sleep
from stigmem_replicator.engine.supervisor import Supervisor
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import ExitCode, ReplicatorError, first_of
from stigmem_replicator.observe.board import Board, Picture
from stigmem_replicator.observe.log import logger
from stigmem_replicator.observe.metrics import Metrics
from stigmem_replicator.service import notify, preparing, reloading
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.http import Endpoint
from stigmem_replicator.service.manager import Manager, status_words
from stigmem_replicator.service.notify import Notifier
from stigmem_replicator.service.opening import OpenDatabase, Opening
from stigmem_replicator.service.site import Application, Site
from stigmem_replicator.settings import Settings, listening_warning

STOPPING_SECONDS: Final = 4.5
"""How long a process that was told to stop may take."""

LoadSettings = Callable[[], Settings]
"""Reads all settings again.  Raises :class:`LocalError`."""


def serve(
    load: LoadSettings, open_database: OpenDatabase, settings: Settings, *, migrate: bool
) -> None:
    """Replicate until told to stop by SIGTERM or SIGINT.

    ``migrate`` lets our own tables be created and upgraded.  Raises :class:`LocalError` when it
    cannot start.
    """
    clock = SystemClock()
    now_ms = clock.now_ms()
    board = Board(Picture(__version__, os.getpid(), now_ms, now_ms, settings.location_shown))
    metrics = Metrics(board, clock)
    opening = Opening(open_database, settings, board, metrics, migrate=migrate)
    patience = Patience.with_database_timeout(settings.database_timeout_s)
    with ExitStack() as stack:
        notifier = notify.to_manager(os.environ)
        stack.callback(notifier.close)
        around = opening.open()
        stack.callback(opening.close)
        if (exposed := listening_warning(settings)) is not None:
            logger().warning("replicator.http.exposed", detail=exposed)
        if settings.http_listen is not None:
            site = Site(board, metrics, clock, patience, clock.monotonic())
            origin = settings.origin("http_listen")
            stack.enter_context(
                Endpoint(settings.http_listen, Application(site), clock, origin=origin)
            )
        logger().info("replicator.started", database=around.database.name, pid=os.getpid())
        daemon = _Daemon(load, opening, around, notifier, board, metrics, clock)
        anyio.run(daemon.run, patience)
    logger().info("replicator.stopped")


class _Daemon:
    """What runs until a signal ends it."""

    def __init__(
        self,
        load: LoadSettings,
        opening: Opening,
        around: Surroundings,
        notifier: Notifier,
        board: Board,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._load = load
        self._opening = opening
        self._around = around
        self._notifier = notifier
        self._board = board
        self._metrics = metrics
        self._clock = clock
        # Cancelled when the settings changed: then all that rests on them begins anew.
        self._working: anyio.CancelScope | None = None

    async def run(self, patience: Patience) -> None:
        """Replicate until a signal ends it."""
        watchdog_s = notify.patience_s(os.environ, os.getpid())
        manager = Manager(
            self._notifier, self._board, patience, watchdog_s, self._clock, system_sleep
        )
        # Raised after the group is done with: what is raised inside `except*` is grouped again.
        failure: ReplicatorError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._heed_signals, tasks.cancel_scope)
                tasks.start_soon(manager.keep_told)
                await self._supervise()
        except* ReplicatorError as group:
            failure = first_of(group)
        if failure is not None:
            raise failure

    async def _supervise(self) -> NoReturn:
        """Run the peers of the database, and of the one that takes its place, until cancelled."""
        while True:
            cause: ReplicatorError | None = None
            with anyio.CancelScope() as working:
                self._working = working
                cause = await Supervisor(self._around).run()
            self._around = await self._opening.open_anew(cause, self._clock, system_sleep)

    async def _heed_signals(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGHUP:
                    name = signal.Signals(number).name
                    logger().info("replicator.stopping", signal=name)
                    break
                await self._reload()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self._notifier.stopping("stopping")
        deadline = threading.Timer(STOPPING_SECONDS, _end_where_it_stands)
        deadline.daemon = True
        deadline.start()
        scope.cancel()

    async def _reload(self) -> None:
        """Read the settings again, and begin anew with those that are good."""
        # While it still starts there is nothing to reload, and nothing to be ready with.
        up = self._board.picture.ready
        if up:
            self._notifier.reloading(self._clock.monotonic())
        try:
            settings = await anyio.to_thread.run_sync(self._read_again)
        except ReplicatorError as error:
            self._metrics.reloaded(successful=False)
            logger().error(
                "replicator.reload",
                result="refused",
                reason=error.reason,
                detail=error.message,
                hint=error.hint,
            )
        else:
            self._metrics.reloaded(successful=True)
            self._swap(settings)
        if up:
            self._notifier.ready(status_words(self._board.picture))

    def _read_again(self) -> Settings:
        settings = self._load()
        preparing.check(self._around.database, settings, self._clock)
        return settings

    def _swap(self, settings: Settings) -> None:
        change = reloading.change(self._opening.settings, settings)
        logger().info(
            "replicator.reload",
            result="applied" if change.applied else "nothing changed",
            changed=change.applied,
            **({"needs_restart": change.restart} if change.restart else {}),
        )
        if change.applied:
            self._opening.settings = change.settings
            if self._working is not None:
                self._working.cancel()


def _end_where_it_stands() -> None:
    """End the process: a transaction that is open is rolled back, and every lock falls."""
    logger().warning("replicator.stopped", detail="not everything had ended in time")
    os._exit(ExitCode.DONE)
