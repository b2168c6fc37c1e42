"""Entries that a page shares with the page before it.

The next page starts before the last HLC of the page before, and it is judged while that page is
still being written, so the database does not show yet what became of the entries they share.
This is what does.  It knows committed pages only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stigmem_replicator.engine.refusals import Inspected
from stigmem_replicator.replication.plan import Judged, RefusedBefore
from stigmem_replicator.trust.facts import Admit, KnownFact, is_duplicate
from stigmem_replicator.trust.verdicts import Duplicate, Reject


class Repeats:
    """What became of the entries of the last committed page."""

    def __init__(self) -> None:
        self._last: dict[str, Judged] = {}

    def remember(self, judged: Sequence[Judged]) -> None:
        """Keep a page that is committed."""
        self._last = {item.entry_id: item for item in judged}

    def set_aside(self, inspected: Inspected) -> Inspected:
        """Return the verdicts with shared entries as duplicates, or as refused before."""
        if not self._last:
            return inspected
        return replace(inspected, judged=tuple(self._seen(item) for item in inspected.judged))

    def _seen(self, item: Judged) -> Judged:
        before = self._last.get(item.entry_id)
        if before is None:
            return item
        now, then = item.verdict, before.verdict
        if isinstance(now, Admit) and isinstance(then, Admit):
            known = KnownFact(then.entry.fact.cid, then.entry.fact.valid_until)
            if is_duplicate(now.entry.fact, known):
                return Judged(item.entry_id, Duplicate(item.entry_id))
        if isinstance(now, Reject) and isinstance(then, Reject):
            same = (before.payload_hash, then.reason) == (item.payload_hash, now.reason)
            if same:
                return Judged(item.entry_id, RefusedBefore(now.reason, touch=False))
        return item
