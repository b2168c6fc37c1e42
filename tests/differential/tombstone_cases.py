"""One tombstone or revocation for both sides, and what becomes of it in each wire version.

Why the two may part over one is a sentence of tombstone_differences.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact, entry_id
from tests.differential.tombstone_sides import Served

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.pages.origin import Notice

TOMBSTONES, REVOCATIONS = "tombstones", "revocations"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a record.

    `ours` is the reason of its dead letter, empty where it has none; `node` is what the node's
    function says, empty where it has no objection. `stored` is whether the node has a record of
    that id in the end, and `here` whether we do. Where the two part, `why` says why that is right.
    """

    ours: str = ""
    node: str = ""
    stored: bool = True
    here: bool = True
    why: str = ""


GOOD = Outcome()


def refused(ours: str, node: str | None = None, why: str = "") -> Outcome:
    """Neither side has it."""
    return Outcome(ours, ours if node is None else node, stored=False, here=False, why=why)


def node_alone(ours: str, why: str) -> Outcome:
    """The node stores what we refuse."""
    return Outcome(ours, here=False, why=why)


@dataclass(frozen=True, slots=True)
class Case:
    """One record as both dialects serve it, and what becomes of it in each (None: not served)."""

    name: str
    stream: str
    notice: Notice
    v2: Outcome | None
    v1: Outcome | None

    def outcome(self, version: int) -> Outcome | None:
        return self.v2 if version == 2 else self.v1

    def raw(self, version: int) -> object:
        raw: object = self.notice.entry if version == 2 else self.notice.record
        return raw

    @property
    def record_id(self) -> str | None:
        """The id, where it is a text."""
        record = self.notice.record
        found = record.get("id") if isinstance(record, dict) else None
        return found if isinstance(found, str) else None

    def letter_id(self, version: int) -> str:
        """The id of its dead letter: its own, or a name made of its content."""
        artifact = Artifact(self.stream.removesuffix("s"))
        return entry_id(self.raw(version), artifact, Dialect.V2 if version == 2 else Dialect.V1)


def page_of(cases: Iterable[Case], version: int) -> Served:
    """The page that holds these records, in their order."""
    lists: dict[str, list[object]] = {TOMBSTONES: [], REVOCATIONS: []}
    for case in cases:
        lists[case.stream].append(case.raw(version))
    return Served(tuple(lists[TOMBSTONES]), tuple(lists[REVOCATIONS]))
