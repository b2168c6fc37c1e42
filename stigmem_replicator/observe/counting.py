"""What the engine says while it works, to whoever counts; counting nothing is the default.

The engine knows no metrics system.  ``metrics`` is the one that counts.
"""

from __future__ import annotations

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import Counts


class Counting:
    """Is told what happened, by any thread, and counts nothing; who counts is quick about it."""

    def entries_committed(self, node_id: str, counts: Counts) -> None:
        """What became of some entries of a peer is committed."""

    def records_committed(self, node_id: str, artifact: Artifact, counts: Counts) -> None:
        """What became of some tombstones or revocations of a peer is committed."""

    def page_committed(self, node_id: str) -> None:
        """All of a page of a peer is committed."""

    def attempt_failed(self, node_id: str, reason: Reason) -> None:
        """An attempt to pull from a peer failed."""

    def page_fetched(self, seconds: float) -> None:
        """A page was asked for and decoded in so many seconds."""

    def page_verified(self, seconds: float) -> None:
        """The entries of a page were judged in so many seconds."""

    def page_written(self, seconds: float) -> None:
        """A page was written in so many seconds, waiting for its turn included."""

    def write_lock(self, *, held_s: float, waited_s: float) -> None:
        """A transaction waited for the write lock and held it for so many seconds."""
