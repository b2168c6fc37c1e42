"""Times as an operator writes them: a span such as 30m, or a moment in ISO 8601.

How times are shown is ``render``'s.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from stigmem_replicator.errors import Reason, UsageError
from stigmem_replicator.observe import words


def span_ms(text: str, option: str) -> int:
    """Return a span such as 90s, 30m, 1h or 2d in milliseconds.

    Raises :class:`UsageError`, naming the option, for anything else.
    """
    found = words.span_ms(text)
    if found is None:
        raise UsageError(
            Reason.USAGE, f"{option} {text!r} is no time", hint="say 90s, 30m, 1h or 2d"
        )
    return found


def future_ms(text: str, option: str, now_ms: int) -> int:
    """Return a moment to come in milliseconds since 1970: a span from now, or one in ISO 8601.

    A moment without a zone is UTC.  Raises :class:`UsageError`, naming the option, for anything
    else and for what is over.
    """
    span = words.span_ms(text)
    moment = _moment_ms(text) if span is None else now_ms + span
    if moment is None:
        raise UsageError(
            Reason.USAGE,
            f"{option} {text!r} is no time",
            hint="say a span such as 90s, 30m, 2h or 1d, or a moment such as 2030-01-31T06:00Z",
        )
    if moment <= now_ms:
        raise UsageError(
            Reason.USAGE,
            f"{option} {text!r} is not in the future",
            hint="say a moment to come; one without a zone is UTC",
        )
    return moment


def _moment_ms(text: str) -> int | None:
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    return None
