"""What becomes of one entry, whatever it is: the verdicts that facts and tombstones share.

To admit one is the verdict of its own module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stigmem_replicator.errors import Reason


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The entry is here already, unchanged."""

    entry_id: str


@dataclass(frozen=True, slots=True)
class Reject:
    """One check failed: the entry becomes a dead letter.

    ``facts`` are the values that its audit rows record beside the reason.
    """

    reason: Reason
    detail: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockPeer:
    """No entry of this peer can be admitted before an operator decides."""

    reason: Reason
    detail: str
