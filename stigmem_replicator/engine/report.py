"""What a pull has done so far, as numbers for the one who watches."""

from __future__ import annotations

from dataclasses import dataclass, field

from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import Counts


@dataclass(slots=True)
class PullReport:
    """Running totals of one peer's pull.

    ``caught_up_ms`` is when the last answer was asked for that said there is no more, None while
    there was none; ``more`` is whether the last page said that there is.
    ``moved_elsewhere`` counts changes of the cursor row by somebody else.
    ``upstream_lag_ms`` is how far the peer last said to be behind its own origins.
    """

    cursor_before: str | None = None
    cursor: str | None = None
    pages: int = 0
    counts: Counts = field(default_factory=Counts)
    caught_up_ms: int | None = None
    more: bool = False
    moved_elsewhere: int = 0
    upstream_lag_ms: int | None = None

    def tally(self, counts: Counts) -> None:
        """Add what was committed."""
        self.counts += counts


@dataclass(slots=True)
class TombstoneReport(PullReport):
    """Running totals of one peer's tombstones and revocations, together and by kind.

    ``cursor`` is the settled time of the tombstones alone; the next pass begins after it, or
    earlier where that of the revocations is older.
    """

    of: dict[Artifact, Counts] = field(default_factory=lambda: dict.fromkeys(Artifact, Counts()))

    def tally_of(self, artifact: Artifact, counts: Counts) -> None:
        """Add what was committed of one kind."""
        self.tally(counts)
        self.of[artifact] += counts
