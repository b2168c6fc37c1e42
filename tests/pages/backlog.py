"""A great many facts that wait at an origin, made and signed only when a page of them is read.

For tests that need a peer with a million facts and do not drain it. Each fact is the same every
time that it is served. They are beside the origin's ledger, which would have to know them all:
count the receiver's rows, do not judge them with `assert_clean`.

    waiting = add_backlog(server.origin, 1_000_000)
"""

from __future__ import annotations

import uuid
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.pages.origin import HOUR_MS, Origin, Row, now_ms

_SCOPE = "public"


@dataclass(frozen=True, slots=True)
class Backlog:
    """The facts that wait; number n of them has the n-th millisecond from the start as its HLC."""

    origin: Origin
    count: int
    start_ms: int

    def rows(self, cursor: str | None, count: int) -> list[Row]:
        """The first so many after a cursor, compared as text."""
        numbers = range(self.count)
        first = bisect_right(numbers, cursor, key=self.hlc) if cursor else 0
        return [self._row(number) for number in numbers[first : first + count]]

    def hlc(self, number: int) -> str:
        """The HLC of one."""
        return f"{self.start_ms + number}.0"

    def fact_id(self, number: int) -> str:
        """The id of one."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.origin.node_id}/{number}"))

    def _row(self, number: int) -> Row:
        fact = self.origin.fact(
            entity=f"waiting:{number}",
            value=f"waiting {number}",
            scope=_SCOPE,
            hlc=self.hlc(number),
            fact_id=self.fact_id(number),
        )
        asserted = datetime.fromtimestamp((self.start_ms + number) / 1000, UTC)
        fact["timestamp"] = asserted.isoformat()
        return Row(fact["hlc"], _SCOPE, self.origin.entry(fact))


def add_backlog(origin: Origin, count: int) -> Backlog:
    """Have so many facts wait, a millisecond apart, the last of them more than an hour ago."""
    backlog = Backlog(origin, count, now_ms() - HOUR_MS - count)
    origin.more_rows = backlog.rows
    return backlog
