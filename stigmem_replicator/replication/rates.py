"""A token bucket: how long to wait so that no more than so much a second is spent.

Pure arithmetic: the time comes in as a value.  Who waits, and in which order, is decided in
``transport/rates.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """What may be spent at ``at_s``: ``level`` units, or a debt where it is below 0.

    ``rate`` is in units a second, finite and not negative; 0 is no limit.
    """

    rate: float
    level: float
    at_s: float

    @property
    def capacity(self) -> float:
        """What an idle bucket holds: one second's worth, at least one unit."""
        return max(self.rate, 1.0)


def full(rate: float, now_s: float) -> Bucket:
    """Return a bucket from which nothing was spent yet."""
    return Bucket(rate, max(rate, 1.0), now_s)


def spend(bucket: Bucket, amount: float, now_s: float) -> tuple[Bucket, float]:
    """Spend ``amount`` units, on credit if need be; return the bucket and the seconds to wait.

    After the wait the debt is paid: what is counted beforehand (a request) may then be done,
    and after what was counted afterwards (bytes) the next may be.  A clock that goes back
    fills nothing, nor does it when it comes to the same moment again.
    """
    if not bucket.rate:
        return bucket, 0.0
    passed_s = max(0.0, now_s - bucket.at_s)
    level = min(bucket.capacity, bucket.level + passed_s * bucket.rate) - amount
    spent = replace(bucket, level=level, at_s=max(bucket.at_s, now_s))
    return spent, max(0.0, -level / bucket.rate)
