"""Whether a daemon runs on a database: seen by whoever only reads.

Every running daemon holds a lock that it shares with the others (see ``locks``); here it is
looked for, without taking one.  Which process works on which peer is in ``standings``.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from sqlalchemy import text

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.store.locks import DAEMON, lock_file
from stigmem_replicator.store.postgres import PostgresSchema

# The system's `struct flock`: type, whence, start, length, process; padded to whole words.
_FLOCK: Final = "hhqqi0q"
# The server keeps both numbers without a sign.
_HELD: Final = text("""
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock' AND objsubid = 2
      AND classid::bigint = :space AND objid::bigint = :number
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")


def daemon_runs(database: Database) -> bool:
    """Say whether a daemon runs on a database; takes no lock and changes nothing.

    Never call it in a process that holds locks of peers on SQLite: it opens and closes the lock
    file, and with any descriptor of a file the system drops all locks that the process has on it.
    Such a process would not see its own lock either.

    Raises :class:`LocalError` when it cannot be told, as where the lock file is another user's.
    """
    if database.path is not None:
        return _daemon_of_file(database.path)
    assert isinstance(database.backend, PostgresSchema)  # noqa: S101 - there are two kinds
    lock = {"space": database.backend.lock_space % 2**32, "number": DAEMON}
    with reading(database) as connection:
        return bool(connection.scalar(_HELD, lock))


def _daemon_of_file(database: Path) -> bool:
    path = lock_file(database)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, DAEMON, 1, 0)
            found = fcntl.fcntl(file, fcntl.F_GETLK, asked)
        finally:
            os.close(file)
    except FileNotFoundError:
        return False  # nobody ever locked anything
    except OSError as error:
        raise LocalError(
            Reason.DATABASE_FAILED,
            f"the lock file {path} cannot be read, so whether the daemon runs is not known: "
            f"{error.strerror}",
            hint="run as the user that runs the daemon",
        ) from error
    # A lock that is not shared is held by whoever changes our tables.
    kind: int = struct.unpack(_FLOCK, found)[0]
    return kind == fcntl.F_RDLCK
