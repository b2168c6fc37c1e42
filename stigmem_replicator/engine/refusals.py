"""The entries of a page, set aside, admitted or refused: with what their dead letters tell.

What an entry's verdict is is decided in ``trust``; this is the same for whatever a stream carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.replication.plan import Judged, RefusedBefore
from stigmem_replicator.store.reads import KnownLetter
from stigmem_replicator.trust.facts import Admit
from stigmem_replicator.trust.tombstones import AdmitRecord
from stigmem_replicator.trust.verdicts import BlockPeer, Duplicate, Reject

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)

TOUCH_AFTER_MS: Final = 3_600_000
"""A dead letter that is seen again is counted in its row at most once an hour."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """The verdicts on a page's entries, in order.

    ``generation`` names what they were judged by, ``open_letters`` are the ids whose open dead
    letter is settled because the entry is here or is admitted now, and ``blocked`` says why the
    peer as a whole cannot be admitted.
    """

    generation: str
    judged: tuple[Judged, ...]
    open_letters: frozenset[str]
    blocked: BlockPeer | None

    def count(self, reason: Reason) -> int:
        """Return how many entries were rejected for ``reason``."""
        return sum(
            isinstance(item.verdict, Reject) and item.verdict.reason is reason
            for item in self.judged
        )

    def refuses(self, reason: Reason) -> bool:
        """Say whether an entry is refused for ``reason``, now or as it was before."""
        return any(
            isinstance(item.verdict, Reject | RefusedBefore) and item.verdict.reason is reason
            for item in self.judged
        )


class Judging(Protocol[Item_contra]):
    """What the entries of one stream are judged by, with what is known and what a page adds."""

    def is_duplicate(self, entry_id: str, item: Item_contra) -> bool:
        """Say whether an entry is known, without any check of it."""

    def judge(
        self, entry_id: str, item: Item_contra
    ) -> Admit | AdmitRecord | Duplicate | Reject | BlockPeer:
        """Judge one decoded entry."""

    def take(self, verdict: Admit | AdmitRecord) -> None:
        """Count an entry that is admitted as known from here on."""


@dataclass(frozen=True, slots=True)
class Letters:
    """The dead letters under the ids of a page, and what the page is judged by and when.

    What was refused for a reason that is ``mended`` by time is judged each time it is served.
    With ``steady`` a letter is replaced by one of another form of its entry once an hour at most.
    """

    known: Mapping[str, KnownLetter]
    generation: str
    now_ms: int
    mended: AbstractSet[Reason] = frozenset()
    steady: bool = False

    def settles(self, entry_id: str, raw: object) -> bool:
        """Say whether this very entry has a dead letter, which is settled once it is here."""
        letter = self.known.get(entry_id)
        return letter is not None and letter.payload_hash == _digest(raw)

    def refused_before(self, entry_id: str, raw: object) -> Judged | None:
        """Return the verdict on an entry that need not be judged again, else None."""
        letter = self.known.get(entry_id)
        if letter is None or letter.reason in self.mended or not self._unchanged(letter, raw):
            return None
        return Judged(entry_id, self._before(letter))

    def rejected(self, entry_id: str, raw: object, verdict: Reject) -> Judged:
        """Return the verdict on an entry that is refused now, as it may have been before."""
        letter = self.known.get(entry_id)
        if letter is not None and self._is_another_form(letter, raw):
            return Judged(entry_id, RefusedBefore(verdict.reason, touch=False))
        same = letter is not None and letter.reason == verdict.reason
        if letter is not None and same and self._unchanged(letter, raw):
            return Judged(entry_id, self._before(letter))
        payload = document.payload(raw)
        return Judged(entry_id, verdict, payload, document.payload_hash(payload), audited=same)

    def open_ones(self) -> frozenset[str]:
        """Return the ids whose dead letter nobody has dealt with."""
        return frozenset(
            entry_id for entry_id, letter in self.known.items() if letter.status == "open"
        )

    def _unchanged(self, letter: KnownLetter, raw: object) -> bool:
        """Say whether this very entry was refused under the same policy and keys."""
        if letter.status == "resolved" or letter.generation != self.generation:
            return False
        return letter.payload_hash == _digest(raw)

    def _is_another_form(self, letter: KnownLetter, raw: object) -> bool:
        """Say whether an id that is refused in one form is refused in another soon after.

        Where entries are read again and again, several forms of one would take turns for good.
        """
        lately = self.now_ms - letter.last_seen_at_ms < TOUCH_AFTER_MS
        is_open = letter.status == "open" and letter.payload_hash != _digest(raw)
        return self.steady and lately and is_open

    def _before(self, letter: KnownLetter) -> RefusedBefore:
        touch = self.now_ms - letter.last_seen_at_ms >= TOUCH_AFTER_MS
        return RefusedBefore(Reason(letter.reason), touch)


def inspect_each(
    entries: Iterable[tuple[object, str, Item]], letters: Letters, judging: Judging[Item]
) -> Inspected:
    """Judge the entries of a page in order: each as it was served, with its id, and decoded.

    A known one is set aside, and so is one that was refused before; when one says that the whole
    peer is blocked, what follows is not looked at.
    """
    judged: list[Judged] = []
    settled: set[str] = set()
    for raw, entry_id, item in entries:
        if judging.is_duplicate(entry_id, item):
            judged.append(Judged(entry_id, Duplicate(entry_id)))
            if letters.settles(entry_id, raw):
                settled.add(entry_id)
            continue
        before = letters.refused_before(entry_id, raw)
        if before is not None:
            judged.append(before)
            continue
        verdict = judging.judge(entry_id, item)
        if isinstance(verdict, BlockPeer):
            return Inspected(letters.generation, tuple(judged), frozenset(), verdict)
        if isinstance(verdict, Reject):
            judged.append(letters.rejected(entry_id, raw, verdict))
            continue
        if not isinstance(verdict, Duplicate):
            # The same id again on this page is judged against what the page brought first.
            judging.take(verdict)
            settled.add(entry_id)
        judged.append(Judged(entry_id, verdict))
    open_letters = letters.open_ones() & settled
    return Inspected(letters.generation, tuple(judged), open_letters, None)


def refused_by_database(
    inspected: Inspected, place: int, entries: Sequence[object], reason: Reason, why: str
) -> Inspected:
    """Return the verdicts with the entry at ``place`` refused, for what the database says of it.

    What follows under the same id was judged as if it were here, and is refused with it.
    """
    judged = list(inspected.judged)
    entry_id = judged[place].entry_id
    verdict = Reject(reason, f"the node's database refuses it: {why}")
    nothing_known = Letters({}, inspected.generation, 0)
    for later in range(place, len(judged)):
        if judged[later].entry_id == entry_id:
            judged[later] = nothing_known.rejected(entry_id, entries[later], verdict)
    return replace(
        inspected, judged=tuple(judged), open_letters=inspected.open_letters - {entry_id}
    )


def _digest(raw: object) -> str:
    return document.payload_hash(document.payload(raw))
