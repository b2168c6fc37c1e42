"""One page inspected: decoded, known entries set aside, the rest judged.

Runs in a worker thread: the lookups and the signature checks block.  The checks themselves are
in ``trust.facts``; here is what they are given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import envelope
from stigmem_replicator.protocol.envelope import Entry, Envelope, MalformedEntry
from stigmem_replicator.replication.plan import Judged, RefusedBefore
from stigmem_replicator.store import reads
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.store.reads import KnownLetter
from stigmem_replicator.trust.facts import (
    JUDGEMENT_VERSION,
    Admit,
    BlockPeer,
    Duplicate,
    FactPolicy,
    KnownFact,
    Reject,
    Verdict,
    is_duplicate,
    judge,
)

TOUCH_AFTER_MS: Final = 3_600_000
"""A dead letter that is seen again is counted in its row at most once an hour."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """The verdicts on a page's entries, in order.

    ``generation`` names what they were judged by, ``open_letters`` are the ids whose open dead
    letter is settled because the fact is here or is admitted now, and ``blocked`` says why the
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


def generation(policy: FactPolicy) -> str:
    """Return a name for everything that a verdict depends on beside the entry.

    A dead letter made under another generation is judged again.
    """
    tenants = policy.tenants
    facts = [
        JUDGEMENT_VERSION,
        sorted(policy.keys),
        sorted(policy.scopes),
        sorted(tenants.tenant_map.items()),
        tenants.ingest_tenant,
        tenants.hosts_tenants,
        tenants.plugin_active,
        policy.relay_enabled,
        policy.relay_trusted,
        policy.future_skew_ms,
        policy.past_skew_ms,
        policy.signed,
        policy.admit_legacy_cid,
        policy.require_cid,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def inspect(
    database: Database,
    node_id: str,
    stream: str,
    entries: Sequence[object],
    wrapped: Envelope,
    policy: FactPolicy,
    now_ms: int,
) -> Inspected:
    """Judge the raw entries of one page, which came in the envelope ``wrapped``.

    Raises ``LocalError`` when a lookup fails.
    """
    decoded = [_storable(wrapped.decode_entry(raw), database) for raw in entries]
    ids = [
        item.fact.id if isinstance(item, Entry) else wrapped.entry_id(raw)
        for raw, item in zip(entries, decoded, strict=True)
    ]
    with reading(database) as connection:
        known = reads.known_facts(connection, set(ids))
        letters = reads.known_letters(connection, node_id, stream, set(ids))
    name = generation(policy)
    judged: list[Judged] = []
    settled: set[str] = set()
    for raw, item, entry_id in zip(entries, decoded, ids, strict=True):
        letter, row = letters.get(entry_id), known.get(entry_id)
        if isinstance(item, Entry) and is_duplicate(item.fact, row):
            judged.append(Judged(entry_id, Duplicate(entry_id)))
            if letter is not None and letter.payload_hash == _digest(raw):
                settled.add(entry_id)
            continue
        unchanged = letter is not None and _unchanged(letter, name, raw)
        # Time alone mends a skew, so such an entry is judged each time it is served.
        if letter is not None and unchanged and letter.reason != Reason.HLC_SKEW:
            judged.append(Judged(entry_id, _refused_before(letter, now_ms)))
            continue
        verdict = _judge(item, policy, row, now_ms)
        if isinstance(verdict, BlockPeer):
            return Inspected(name, tuple(judged), frozenset(), verdict)
        if isinstance(verdict, Admit):
            fact = verdict.entry.fact
            # The same id again on this page is judged against what the page brought first.
            known[entry_id] = KnownFact(verdict.cid, fact.valid_until)
            settled.add(entry_id)
        if isinstance(verdict, Reject):
            judged.append(_rejected(entry_id, raw, verdict, letter, unchanged, now_ms))
        else:
            judged.append(Judged(entry_id, verdict))
    still_open = {entry_id for entry_id, letter in letters.items() if letter.status == "open"}
    return Inspected(name, tuple(judged), frozenset(settled & still_open), None)


def refused_by_database(
    inspected: Inspected, place: int, entries: Sequence[object], why: str, now_ms: int
) -> Inspected:
    """Return the verdicts with the entry at ``place`` refused, for what the database says of it.

    What follows under the same id was judged as if it were here, and is refused with it.
    """
    judged = list(inspected.judged)
    entry_id = judged[place].entry_id
    verdict = Reject(Reason.MALFORMED_FACT, f"the node's database refuses it: {why}")
    for later in range(place, len(judged)):
        if judged[later].entry_id == entry_id:
            raw = entries[later]
            judged[later] = _rejected(entry_id, raw, verdict, None, False, now_ms)  # noqa: FBT003
    return replace(
        inspected, judged=tuple(judged), open_letters=inspected.open_letters - {entry_id}
    )


def _storable(item: Entry | MalformedEntry, database: Database) -> Entry | MalformedEntry:
    """Return the entry, refused when it has what the database cannot hold."""
    if isinstance(item, Entry) and not database.backend.stores_nul and envelope.holds_nul(item):
        detail = "a text of the entry holds a NUL, which PostgreSQL cannot store"
        return MalformedEntry(Reason.MALFORMED_FACT, detail)
    return item


def _judge(
    item: Entry | MalformedEntry, policy: FactPolicy, known: KnownFact | None, now_ms: int
) -> Verdict:
    if isinstance(item, MalformedEntry):
        return Reject(item.reason, item.detail)
    return judge(item, policy, known, now_ms)


def _unchanged(letter: KnownLetter, name: str, raw: object) -> bool:
    """Say whether this very entry was refused under the same policy and keys."""
    if letter.status == "resolved" or letter.generation != name:
        return False
    return letter.payload_hash == _digest(raw)


def _digest(raw: object) -> str:
    return envelope.payload_hash(envelope.payload(raw))


def _rejected(
    entry_id: str,
    raw: object,
    verdict: Reject,
    letter: KnownLetter | None,
    unchanged: bool,  # noqa: FBT001 - of the letter
    now_ms: int,
) -> Judged:
    if letter is not None and unchanged and letter.reason == verdict.reason:
        return Judged(entry_id, _refused_before(letter, now_ms))
    payload = envelope.payload(raw)
    audited = letter is not None and letter.reason == verdict.reason
    return Judged(entry_id, verdict, payload, envelope.payload_hash(payload), audited)


def _refused_before(letter: KnownLetter, now_ms: int) -> RefusedBefore:
    touch = now_ms - letter.last_seen_at_ms >= TOUCH_AFTER_MS
    return RefusedBefore(Reason(letter.reason), touch)
