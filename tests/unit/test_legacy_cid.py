"""Content ids of wire version 1 at a node of version 2: told apart, and admitted when wished."""

from __future__ import annotations

import pytest

from stigmem_replicator.engine.inspection import generation
from stigmem_replicator.errors import Reason
from stigmem_replicator.replication.pacing import RejectWindow
from stigmem_replicator.trust.facts import Admit, FactPolicy, KnownFact, judge
from stigmem_replicator.trust.verdicts import Duplicate, Reject
from tests.unit.signed import KEYS, NOW_MS, Document, decoded, legacy_cid, policy, raw_entry

ADMITTING = policy(admit_legacy_cid=True)


def old(value: Document | None = None, text: str | None = None, **fact: object) -> Document:
    """Return an entry that its upgraded origin signs with the content id that it has stored."""
    said = raw_entry(value=value, fact=fact)["fact"]
    return raw_entry(value=value, fact={**fact, "cid": legacy_cid(said, text)})


def rejected(raw: Document, **changes: object) -> Reject:
    got = judge(decoded(raw), policy(**changes), None, NOW_MS)
    assert isinstance(got, Reject), got
    return got


def test_an_old_content_id_is_refused_and_told_apart() -> None:
    """It is not a forgery, and nothing but the operator's wish lets it in."""
    assert rejected(old()).reason is Reason.CID_LEGACY


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "CEO"),
        ({"type": "number", "v": 42.0}, "42"),
        ({"type": "number", "v": 42.0}, "42.0"),
        ({"type": "boolean", "v": True}, "true"),
    ],
)
def test_an_old_content_id_is_admitted_when_wished(value: Document, text: str) -> None:
    """The text that it stands for is stored, and the id as it is."""
    raw = old(value, text)
    got = judge(decoded(raw), ADMITTING, None, NOW_MS)
    assert isinstance(got, Admit)
    assert got.value_text == text
    assert got.entry.fact.cid == raw["fact"]["cid"]


def test_an_instruction_is_never_admitted_under_an_old_content_id() -> None:
    """The old id does not cover how a fact is meant, so it could have been turned into one."""
    raw = old({"interpret_as": "instruction"})
    assert rejected(raw, admit_legacy_cid=True).reason is Reason.CID_LEGACY


def test_all_other_checks_stand() -> None:
    """The wish is about the content id only."""
    assert rejected(old(scope="team"), admit_legacy_cid=True).reason is (
        Reason.SCOPE_NOT_IN_ORIGIN_GRANT
    )
    other = raw_entry(fact=old()["fact"], key=KEYS[1])
    assert rejected(other, admit_legacy_cid=True).reason is Reason.ORIGIN_SIG_INVALID
    forged = raw_entry(fact={"cid": "sha256:forged"})
    assert rejected(forged, admit_legacy_cid=True).reason is Reason.CID_MISMATCH


@pytest.mark.parametrize("given", [policy(), ADMITTING])
def test_what_was_replicated_before_the_upgrade_stays_a_duplicate(given: FactPolicy) -> None:
    """What is known by its id is set aside before its content id is looked at."""
    raw = old()
    known = KnownFact(raw["fact"]["cid"], None)
    got = judge(decoded(raw), given, known, NOW_MS)
    assert got == Duplicate(raw["fact"]["id"])


def test_a_fact_stored_without_a_content_id_stays_a_duplicate() -> None:
    """An upgraded origin may have given it one since."""
    raw = raw_entry()
    got = judge(decoded(raw), policy(), KnownFact(None, None), NOW_MS)
    assert got == Duplicate(raw["fact"]["id"])


def test_old_content_ids_are_never_a_burst() -> None:
    """A whole history of them does not block the peer, and does not hide a burst of others."""
    window = RejectWindow(run=50, percent=90)
    assert not any(window.add(Reason.CID_LEGACY) for _ in range(2_000))
    assert any(window.add(Reason.CID_MISMATCH) for _ in range(50))


def test_what_was_refused_is_judged_again_once_it_is_wished() -> None:
    """A dead letter of another policy is not a verdict."""
    assert generation(ADMITTING) != generation(policy())
    assert generation(policy(require_cid=True)) != generation(policy())
    assert generation(policy(signed=False)) != generation(policy())
