"""Log lines: structlog on standard error, JSON when that is not a terminal.

Event names and reason codes are the field's own words (``federation.pull.ok``); nobody else
formats a line.  Text that a peer sent passes through :func:`printable` first, so that it cannot
speak to a terminal or fill a disk.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure(level: str, *, terminal: bool) -> None:
    """Set up logging for this process; ``level`` is a name such as ``info``."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def logger(**bound: object) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose lines all carry ``bound``."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(**bound)
    return log


def printable(text: str, characters: int = 120) -> str:
    """Return a text of foreign origin without control characters, cut to a length."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    return clean if len(clean) <= characters else clean[: characters - 1] + "…"
