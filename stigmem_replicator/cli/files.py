"""Files that a command was asked to write: for their owner only, and whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from stigmem_replicator.errors import LocalError, Reason

STDOUT: Final = "-"
"""The file name that stands for standard output."""


@contextmanager
def output(name: str) -> Iterator[TextIO]:
    """Yield where to write UTF-8 text; a file appears under its name when all is written.

    Raises :class:`LocalError` when it cannot be written; a file that was there is then as it
    was.
    """
    if name == STDOUT:
        yield sys.stdout
        return
    path = Path(name)
    with suppress(OSError, RuntimeError):
        # Through a link the file itself is replaced.  One that leads nowhere fails below.
        path = path.resolve()
    try:
        # A device or a pipe is written into; there is nothing to replace.
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as file:
                yield file
        else:
            with _replacement(path) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalError(
            Reason.FILE_FAILED,
            f"{name} cannot be written: {error.strerror or error}",
            hint="name a file in a folder that may be written to, on a disk with space",
        ) from error


@contextmanager
def _replacement(path: Path) -> Iterator[TextIO]:
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(unfinished).unlink()
        raise
