"""Log lines: structlog on standard error, JSON when that is not a terminal.

Event names and reason codes are the field's own words (``federation.pull.ok``); nobody else
formats a line.  Text that a peer sent passes through :func:`printable` first, so that it cannot
speak to a terminal or fill a disk.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog


def configure(level: str, *, terminal: bool) -> None:
    """Set up logging for this process; ``level`` is a name such as ``info``."""
    # A plain traceback: structlog's own for terminals shows the values of variables, keys included.
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _clean_traceback,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _LastingStream(sys.stderr))),
    )


class _LastingStream(io.TextIOBase):
    """A stream that outlives its reader and a full disk: a line that cannot be written is lost.

    It writes past the stream's buffer, so that nothing is left in there to fail at the end.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        try:
            self._descriptor: int | None = stream.fileno()
        except OSError:
            self._descriptor = None

    def write(self, text: str, /) -> int:
        """Write a text, or lose what of it cannot be written."""
        with suppress(OSError):
            if self._descriptor is None:
                return self._stream.write(text)
            rest = memoryview(text.encode(errors="backslashreplace"))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        return len(text)


def _clean_traceback(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Take from a traceback what an exception's message may hold of a peer."""
    if "exception" in event:
        event["exception"] = printable_lines(event["exception"])
    return event


def logger(**bound: object) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose lines all carry ``bound``."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(**bound)
    return log


def printable(text: str, characters: int = 120) -> str:
    """Return a text of foreign origin without control characters, cut to a length."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    return clean if len(clean) <= characters else clean[: characters - 1] + "…"


def printable_lines(text: str) -> str:
    """Return a text of several lines, such as a traceback, without control characters in them."""
    return "\n".join(printable(line, len(line)) for line in text.split("\n"))
