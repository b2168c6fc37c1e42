"""The service manager kept up to date: that we are ready, how things stand, that we live.

How it is told is in ``notify``, whether the engine makes progress in ``health``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from stigmem_replicator.clock import Clock, Sleep
from stigmem_replicator.observe.board import Board, PeerPicture, Picture
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service import health
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.notify import Notifier

LOOK_SECONDS: Final = 1.0
EXTENDED_SECONDS: Final = 30.0
"""How much longer the manager is asked to wait for us while a start is held up."""

WATCHDOG_SHARE: Final = 3
"""A sign of life is given this often within the manager's patience."""


class Manager:
    """Tells the manager; ``watchdog_s`` is its patience, None when it does not watch us."""

    def __init__(
        self,
        notifier: Notifier,
        board: Board,
        patience: Patience,
        watchdog_s: float | None,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self._notifier = notifier
        self._board = board
        self._patience = patience
        self._watchdog_s = watchdog_s
        self._clock = clock
        self._sleep = sleep
        self._began_s = clock.monotonic()
        self._up = False
        self._refused = False

    async def keep_told(self) -> None:
        """Say when all is up, then how it stands and, while there is progress, that we live."""
        told = ""
        look_s = LOOK_SECONDS
        if self._watchdog_s is not None:
            look_s = min(look_s, self._watchdog_s / WATCHDOG_SHARE)
        while True:
            picture = self._board.picture
            words = status_words(picture)
            if (picture.ready and not self._up) or self._refused:
                self._up, self._refused = True, False
                self._notifier.ready(words)
            elif words != told:
                self._notifier.status(words)
            told = words
            if not self._is_stuck():
                if not self._up:
                    self._notifier.starting(EXTENDED_SECONDS)
                if self._watchdog_s is not None:
                    self._notifier.alive()
            await self._sleep(look_s)

    @property
    def is_up(self) -> bool:
        """Whether ready was told, and nothing begins anew."""
        return self._up

    def begins_anew(self) -> None:
        """Take note that all begins anew with other settings: ready is told when it is up again."""
        self._board.picture = replace(self._board.picture, ready=False)
        self._up = False

    def goes_on(self) -> None:
        """Have ready told again, however the database is: a reload is over that changed nothing."""
        self._refused = self._up

    def _is_stuck(self) -> bool:
        now = self._clock.monotonic()
        return bool(health.engine_problems(self._board, now, self._began_s, self._patience))


def status_words(picture: Picture) -> str:
    """Return how the daemon stands in one short line."""
    if picture.trouble is not None:
        return f"held up by the database: {picture.trouble.detail} ({picture.trouble.cause})"
    if not picture.ready:
        return "starting"
    return counts(picture.peers.values())


def counts(peers: Iterable[PeerPicture]) -> str:
    """Return how many active peers there are, and how many in each state."""
    active = [peer for peer in peers if peer.active]
    words = [f"{len(active)} active peer{'' if len(active) == 1 else 's'}"]
    for state in PeerState:
        count = sum(peer.state is state for peer in active)
        if count:
            words.append(f"{count} {state}")
    return ", ".join(words)
