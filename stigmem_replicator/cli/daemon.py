"""What commands that only look say of the daemon: that it is down, or what holds it up.

They show what was written last, which is old where nobody writes.  Starting and stopping it is
for other modules.
"""

from __future__ import annotations

import sys

from stigmem_replicator.cli import render
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import presence
from stigmem_replicator.store.engine import Database

DOWN = "the daemon is not running; this is what was written last"


def runs(database: Database) -> bool | LocalError:
    """Say whether a daemon runs on a database, or why that cannot be told."""
    try:
        return presence.daemon_runs(database)
    except LocalError as error:
        return error


def tell(found: bool | LocalError) -> None:
    """Say on standard error that no daemon runs, where none does."""
    if isinstance(found, LocalError):
        print(render.failure(found), file=sys.stderr)
    elif not found:
        print(f"stigmem-replicate: {DOWN}", file=sys.stderr)


def hindrance(database: Database, settings: Settings) -> LocalError | None:
    """Return why a database cannot be written now, as far as looking shows; None when it can."""
    try:
        database.backend.check_room(settings.free_space_min_mb)
        if database.guard is not None:
            database.guard.check()
    except LocalError as error:
        return error
    return None


def tell_hindrance(error: LocalError) -> None:
    """Say on standard error what holds the daemon up, and every pull."""
    words = render.clean(f"{error.message} ({Reason.LOCAL_DB}: {error.reason})")
    print(f"stigmem-replicate: the daemon is held up by its database: {words}", file=sys.stderr)
