"""Any order converges: whatever comes first, the same rows and dead letters are there at the end.

An entity has facts, is forgotten, and remembered again; the issuer's key becomes known; others
forge a tombstone and a revocation.  Each of these may come at any time, and more than once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.trust.keys import Manifest
from tests.unit.model_receiver import Receiver
from tests.unit.signed import KEYS, ORGANISATION, Document, raw_entry, raw_plain
from tests.unit.signed_records import REVOCATION_ID, TOMBSTONE_ID, issuer_manifest, raw_record

TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION
FOREIGN: Final = "https://foreign.example"

Event: TypeAlias = str

GOOD: Final[tuple[Event, ...]] = (
    "a fact",
    "another fact",
    "the tombstone",
    "the revocation",
    "the key",
)
BAD: Final[tuple[Event, ...]] = (
    "a forged tombstone",
    "a foreign revocation",
    "the foreigner's key",
)
KEYS_COME: Final[dict[Event, str]] = {"the key": ORGANISATION, "the foreigner's key": FOREIGN}


@cache
def manifest(organisation: str) -> Manifest:
    if organisation == ORGANISATION:
        return issuer_manifest()
    return issuer_manifest(KEYS[5], entity_uri=FOREIGN)


@cache
def entry(event: Event, dialect: Dialect) -> tuple[Artifact | None, Document]:
    """Return the entry that an event is, and of which kind."""
    if event in ("a fact", "another fact"):
        make = raw_plain if dialect is Dialect.V1 else raw_entry
        return None, make(f"fact: {event}", value={"v": event})
    if event == "the tombstone":
        return TOMBSTONE, raw_record(TOMBSTONE, dialect)
    if event == "the revocation":
        return REVOCATION, raw_record(REVOCATION, dialect)
    if event == "a forged tombstone":
        return TOMBSTONE, raw_record(TOMBSTONE, dialect, id="tomb_forged", signature="AAAA")
    return REVOCATION, raw_record(
        REVOCATION, dialect, KEYS[5], id="tombrevoke_foreign", signed_by=FOREIGN
    )


def receive(receiver: Receiver, page: Sequence[Event]) -> None:
    """Take what is there at one look at the peer: of a page first tombstones, then revocations."""
    for event in page:
        if event in KEYS_COME:
            receiver.manifests[KEYS_COME[event]] = manifest(KEYS_COME[event])
    receiver.retry_waiting()
    entries = [entry(event, receiver.dialect) for event in page if event not in KEYS_COME]
    receiver.take_facts([raw for artifact, raw in entries if artifact is None])
    for kind in Artifact:
        receiver.take_records(kind, [raw for artifact, raw in entries if artifact is kind])
    receiver.retry_waiting()


def outcome(pages: Sequence[Sequence[Event]], dialect: Dialect) -> Receiver:
    receiver = Receiver(dialect)
    for page in pages:
        receive(receiver, page)
    return receiver


def rows(receiver: Receiver) -> object:
    return receiver.facts, receiver.records, receiver.open_letters()


@pytest.mark.parametrize("dialect", Dialect)
def test_every_order_of_facts_tombstone_revocation_and_key_ends_the_same(dialect: Dialect) -> None:
    """All are there, once, and nothing is left in the dead letters."""
    expected = rows(outcome([GOOD], dialect))
    for order in itertools.permutations(GOOD):
        got = outcome([[event] for event in order], dialect)
        assert rows(got) == expected, order
        assert sorted(got.facts) == ["fact: a fact", "fact: another fact"]
        assert list(got.records[TOMBSTONE]) == [TOMBSTONE_ID]
        assert list(got.records[REVOCATION]) == [REVOCATION_ID]
        assert got.open_letters() == {}
        ingested = [event for event, _ in got.audits if str(event).endswith("_ingested")]
        assert len(ingested) == 2, order


PAGES: Final = st.permutations([*GOOD, *GOOD, *BAD]).flatmap(
    lambda events: st.lists(
        st.integers(1, len(events) - 1), unique=True, max_size=len(events) - 1
    ).map(
        lambda cuts: [
            events[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(events)])
        ]
    )
)


@settings(max_examples=80, deadline=None)
@given(PAGES, st.sampled_from(list(Dialect)))
def test_duplicates_and_forgeries_change_no_end(pages: list[list[Event]], dialect: Dialect) -> None:
    """However it is cut into pages; the forged and the foreign are refused, each for its reason."""
    got = outcome(pages, dialect)
    expected = outcome([[*GOOD, *BAD]], dialect)
    assert rows(got) == rows(expected)
    assert got.open_letters() == {
        ("tombstones", "tomb_forged"): "issuer_sig_invalid",
        ("revocations", "tombrevoke_foreign"): "revocation_authority_mismatch",
    }


@pytest.mark.parametrize("dialect", Dialect)
def test_what_never_gets_what_it_waits_for_waits(dialect: Dialect) -> None:
    """Nothing is applied that could not be verified, and it is told apart from what is bad."""
    for order in itertools.permutations(("the tombstone", "the revocation", "a fact")):
        got = outcome([[event] for event in order], dialect)
        assert got.records == {TOMBSTONE: {}, REVOCATION: {}}
        assert got.open_letters() == {
            ("tombstones", TOMBSTONE_ID): "waiting_for_key",
            ("revocations", REVOCATION_ID): "waiting_for_key",
        }
    for order in itertools.permutations(("the key", "the revocation")):
        got = outcome([[event] for event in order], dialect)
        assert got.open_letters() == {("revocations", REVOCATION_ID): "waiting_for_tombstone"}
