"""When next and how much: backoff, Retry-After, transaction size, write share, reject bursts.

Pure arithmetic.  Randomness comes in as a number between 0 and 1, time as a value.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from stigmem_replicator.errors import Reason

ROWS_MIN: Final = 20
ROWS_MAX: Final = 2_000
ROWS_START: Final = 200
WAIT_MIN_S: Final = 0.1
_SECONDS_DIGITS: Final = 12
_LAG_MS_END: Final = 10**_SECONDS_DIGITS
UNCOUNTED_IN_BURSTS: Final = frozenset(
    {Reason.CID_LEGACY, Reason.HLC_SKEW, Reason.SCOPE_NOT_PERMITTED}
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter; seconds."""

    base_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 300.0

    def wait_s(self, failures: int, chance: float) -> float:
        """Return the wait after ``failures`` failures in a row (1 for the first).

        Uniform between 0 and the bound as ``chance`` goes from 0 to 1, never under 100 ms.
        """
        exponent = min(max(failures, 1) - 1, 64)
        return max(WAIT_MIN_S, min(self.cap_s, self.base_s * self.factor**exponent) * chance)


def poll_wait_s(interval_s: float, chance: float) -> float:
    """Return the wait until the next poll: the interval, a fifth more or less.

    So many peers of one interval do not stay in step; ``chance`` is between 0 and 1.
    """
    return interval_s * (0.8 + 0.4 * chance)


def retry_after_s(header: str | None, date_ms: int | None, now_ms: int, cap_s: float) -> float:
    """Read a Retry-After header (RFC 9110 section 10.2.3) as seconds from now, at most ``cap_s``.

    A date counts from the response's own Date where it has one, so that two clocks that differ
    do not lengthen or shorten the wait.  No header, or one that does not read, is 0.0.
    """
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0") or "0"
        return cap_s if len(digits) > _SECONDS_DIGITS else min(float(digits), cap_s)
    until = http_date_ms(text)
    if until is None:
        return 0.0
    return min(max(0.0, (until - (date_ms if date_ms is not None else now_ms)) / 1000), cap_s)


@dataclass(frozen=True, slots=True)
class BackPressure:
    """What a peer that lags behind itself asks for: its lag in milliseconds, a wait in seconds."""

    lag_ms: int | None = None
    wait_s: float = 0.0


def back_pressure(document: object, cap_s: float) -> BackPressure:
    """Read the body of a 503 as the node documents it: ``lag_ms`` and ``retry_after_s``.

    The wait is at most ``cap_s``; what does not read counts as not said.
    """
    if not isinstance(document, dict):
        return BackPressure()
    wait = document.get("retry_after_s")
    wait_s = 0.0
    if isinstance(wait, int | float) and not isinstance(wait, bool) and wait > 0:
        wait_s = float(min(wait, cap_s))
    lag = document.get("lag_ms")
    whole = isinstance(lag, int) and not isinstance(lag, bool) and 0 <= lag < _LAG_MS_END
    return BackPressure(lag if whole else None, wait_s)


def upstream_lag_ms(header: str | None) -> int | None:
    """Read ``X-Stigmem-Replication-Lag``, how far a peer is behind its own origins, or None."""
    text = (header or "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _SECONDS_DIGITS):
        return None
    return int(text)


def http_date_ms(header: str | None) -> int | None:
    """Read an HTTP date (RFC 9110 section 5.6.7) as milliseconds since 1970, or None."""
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
        # Two of the three forms name no zone; all of them are in UTC.
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None


def next_row_budget(budget: int, held_s: float, target_s: float) -> int:
    """Return how many rows the next transaction may write after one that held the lock so long."""
    if held_s > target_s:
        return max(ROWS_MIN, budget // 2)
    return min(ROWS_MAX, budget + max(1, budget // 10))


def pause_s(held_s: float, share: float, chance: float) -> float:
    """Return how long the writer stays away after holding the lock for ``held_s``.

    On average the lock is held for ``share`` of the time; ``chance`` spreads the pause by 40 %
    to either side, so that two writers never fall into step.
    """
    return held_s * (1.0 / share - 1.0) * (0.6 + 0.8 * chance)


@dataclass(slots=True)
class RejectWindow:
    """Watches for a peer whose entries are refused one after the other.

    ``run`` refusals in a row, or ``percent`` of the last ``size`` judged entries, are a burst;
    0 turns a bound off.  Duplicates and entries that were refused before are not judged anew
    and do not count.
    """

    run: int = 50
    size: int = 500
    percent: int = 90
    _in_a_row: int = 0
    _recent: deque[Reason | None] = field(default_factory=deque)

    def add(self, reason: Reason | None) -> bool:
        """Note one judged entry (None: admitted) and say whether this is a burst."""
        if reason in UNCOUNTED_IN_BURSTS:
            return False
        self._in_a_row = 0 if reason is None else self._in_a_row + 1
        self._recent.append(reason)
        if len(self._recent) > self.size:
            self._recent.popleft()
        if self.run and self._in_a_row >= self.run:
            return True
        refused = sum(1 for item in self._recent if item is not None)
        full = len(self._recent) == self.size
        return bool(self.percent) and full and refused * 100 >= self.percent * self.size

    def commonest(self) -> Reason | None:
        """Return the reason seen most often in the window."""
        reasons = [item for item in self._recent if item is not None]
        return max(set(reasons), key=reasons.count) if reasons else None
