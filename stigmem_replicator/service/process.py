"""The daemon as a process: how it starts, and what signals do.

Which peers run and what they do is the engine's.  A first signal ends everything in good order;
a second one, or a deadline, ends the process where it stands, which is safe at any moment.
SIGHUP reads the settings again: good ones are swapped in, bad ones change nothing.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NoReturn, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from stigmem_replicator import __version__
from stigmem_replicator.clock import Clock, SystemClock, system_sleep
from stigmem_replicator.engine.supervisor import Supervisor
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import (
    DATABASE_TROUBLE,
    ExitCode,
    LocalError,
    ReplicatorError,
    first_of,
)
from stigmem_replicator.observe import log
from stigmem_replicator.observe.board import Board, Picture
from stigmem_replicator.observe.log import logger
from stigmem_replicator.observe.metrics import Metrics
from stigmem_replicator.service import notify, preparing, reloading
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.http import Endpoint
from stigmem_replicator.service.manager import Manager
from stigmem_replicator.service.notify import Notifier
from stigmem_replicator.service.opening import OpenDatabase, Opening
from stigmem_replicator.service.site import Application, Site
from stigmem_replicator.settings import Settings, listening_warning

STOPPING_SECONDS: Final = 4.5
"""How long a process that was told to stop may take."""

LoadSettings: TypeAlias = Callable[[], Settings]
"""Reads all settings again.  Raises :class:`LocalError`."""


def serve(
    load: LoadSettings, open_database: OpenDatabase, settings: Settings, *, migrate: bool
) -> None:
    """Replicate until told to stop by SIGTERM or SIGINT.

    Its words are its log, which is set up here.  ``migrate`` lets our own tables be created and
    upgraded.  Raises :class:`LocalError` when it cannot start.
    """
    _log_by(settings)
    _raise_descriptors()
    # Until it is listened to, and again at the end: there is nothing to reload yet or any more.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    clock = SystemClock()
    now_ms = clock.now_ms()
    board = Board(Picture(__version__, os.getpid(), now_ms, now_ms, settings.location_shown))
    metrics = Metrics(board, clock)

    def taken_back(settings: Settings) -> None:
        metrics.reloaded(successful=False)
        _log_by(settings)

    opening = Opening(
        open_database, settings, board, metrics, migrate=migrate, on_taken_back=taken_back
    )
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
            application = Application(site, local=settings.http_listen.is_loopback)
            stack.enter_context(Endpoint(settings.http_listen, application, clock, origin=origin))
        logger().info("replicator.started", database=around.database.name, pid=os.getpid())
        watchdog_s = notify.patience_s(os.environ, os.getpid())
        manager = Manager(notifier, board, patience, watchdog_s, clock, system_sleep)
        daemon = _Daemon(load, opening, around, notifier, manager, metrics, clock)
        anyio.run(daemon.run)
    logger().info("replicator.stopped")


class _Daemon:
    """What runs until a signal ends it."""

    def __init__(
        self,
        load: LoadSettings,
        opening: Opening,
        around: Surroundings,
        notifier: Notifier,
        manager: Manager,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._load = load
        self._opening = opening
        self._around = around
        self._notifier = notifier
        self._manager = manager
        self._metrics = metrics
        self._clock = clock
        # Cancelled when the settings changed: then all that rests on them begins anew.
        self._working: anyio.CancelScope | None = None
        self._one_reload = anyio.Lock()

    async def run(self) -> None:
        """Replicate until a signal ends it."""
        # Raised after the group is done with: what is raised inside `except*` is grouped again.
        failure: ReplicatorError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._heed_signals, tasks)
                tasks.start_soon(self._manager.keep_told)
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
                if self._around.settings is not self._opening.settings:
                    working.cancel()  # they changed while these were opened
                cause = await Supervisor(self._around).run()
            self._around = await self._opening.open_anew(cause, self._clock, system_sleep)

    async def _heed_signals(self, tasks: TaskGroup) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGHUP:
                    name = signal.Signals(number).name
                    logger().info("replicator.stopping", signal=name)
                    break
                # Not waited for: the file may be one that keeps its reader waiting.
                tasks.start_soon(self._reload)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._notifier.stopping("stopping")
        deadline = threading.Timer(STOPPING_SECONDS, _end_where_it_stands)
        deadline.daemon = True
        deadline.start()
        tasks.cancel_scope.cancel()

    async def _reload(self) -> None:
        """Read the settings again, and begin anew with those that are good."""
        async with self._one_reload:
            await self._reload_now()

    async def _reload_now(self) -> None:
        if self._manager.is_up:
            self._notifier.reloading(self._clock.monotonic())
        changed = False
        try:
            settings = await anyio.to_thread.run_sync(self._read_again, abandon_on_cancel=True)
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
            changed = self._swap(settings)
        if changed:
            self._manager.begins_anew()
        else:
            self._manager.goes_on()

    def _read_again(self) -> Settings:
        settings = self._load()
        try:
            preparing.check(self._around.database, settings, self._clock)
        except LocalError as error:
            # That the database cannot be used just now says nothing of the settings.
            if error.reason not in DATABASE_TROUBLE:
                raise
        return settings

    def _swap(self, settings: Settings) -> bool:
        """Take other settings into use; says whether anything is different."""
        before = self._opening.settings
        change = reloading.change(before, settings)
        # Told at the more talkative of both levels, so that it is told.
        _log_by(min(before, change.settings, key=_severity))
        logger().info(
            "replicator.reload",
            result="applied" if change.applied else "nothing changed",
            changed=change.applied,
            **({"needs_restart": change.restart} if change.restart else {}),
        )
        _log_by(change.settings)
        if change.applied:
            self._opening.settings = change.settings
            if self._working is not None:
                self._working.cancel()
        return bool(change.applied)


def _raise_descriptors() -> None:
    """Take as many descriptors as we may have: each peer that is asked needs one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_by(settings: Settings) -> None:
    log.configure(settings.log_level, terminal=sys.stderr.isatty())


def _severity(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]


def _end_where_it_stands() -> None:
    """End the process: a transaction that is open is rolled back, and every lock falls."""
    logger().warning("replicator.stopped", detail="not everything had ended in time")
    os._exit(ExitCode.DONE)
