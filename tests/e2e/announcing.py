"""A process that only says that a daemon runs, for tests of what is said where one does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.nodes.environment import REPOSITORY

_ANNOUNCE = """
import sys
from pathlib import Path
from stigmem_replicator.store.locks import FileLocks
with FileLocks(Path(sys.argv[1])) as locks:
    locks.announce()
    print("announced", flush=True)
    sys.stdin.read()
"""


@contextmanager
def announced(database: Path) -> Iterator[None]:
    """Have it seen, for the length of a `with`, that a daemon runs on a SQLite database."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ANNOUNCE, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "announced\n"
            yield
        finally:
            process.kill()
