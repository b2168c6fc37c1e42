"""Our own tables brought to the revision that this version needs, before they are used.

Whether they may be changed now is decided in ``store``; this waits, and says what for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stigmem_replicator.clock import Clock, Pause, SystemClock, system_pause
from stigmem_replicator.errors import PeerHeldError
from stigmem_replicator.store import migrations
from stigmem_replicator.store.engine import Database

LOOK_SECONDS: Final = 0.2


def upgrade(
    database: Database,
    patience_s: float,
    tell: Callable[[str], None],
    *,
    clock: Clock | None = None,
    pause: Pause = system_pause,
) -> bool:
    """Create or upgrade our own tables; say whether anything changed.

    Tables of an earlier revision are changed while nobody works on a peer: that is waited for,
    ``patience_s`` seconds at most, and told in one sentence.  Call it before this process takes
    a peer's lock.  Raises :class:`LocalError`, and :class:`PeerHeldError` when the wait was in
    vain.
    """
    clock = clock or SystemClock()
    until = clock.monotonic() + patience_s
    told = False
    while True:
        try:
            return migrations.upgrade(database)
        except PeerHeldError as error:
            if clock.monotonic() >= until:
                raise
            if not told:
                tell(f"waiting, to upgrade the tables: {error.message}")
                told = True
        pause(LOOK_SECONDS)
