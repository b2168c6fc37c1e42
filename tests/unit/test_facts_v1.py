"""The checks on one fact of wire version 1: no signature, an older content id, the rest alike."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.envelope import SignedEntry
from stigmem_replicator.trust.facts import Admit, FactPolicy, KnownFact, Verdict, judge, origin_fits
from stigmem_replicator.trust.tenants import TenantPolicy
from stigmem_replicator.trust.verdicts import Duplicate, Reject
from tests.unit.signed import (
    NOW_MS,
    Document,
    decoded,
    decoded_plain,
    legacy_cid,
    policy,
    raw_entry,
    raw_plain,
)

PLAIN = policy(signed=False, keys=frozenset())
LATER, SOONER = "2027-01-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00"


def verdict(raw: Document, given: FactPolicy = PLAIN, known: KnownFact | None = None) -> Verdict:
    return judge(decoded_plain(raw), given, known, NOW_MS)


def admitted(raw: Document, given: FactPolicy = PLAIN) -> Admit:
    got = verdict(raw, given)
    assert isinstance(got, Admit), got
    return got


def rejected(raw: Document, given: FactPolicy = PLAIN, known: KnownFact | None = None) -> Reject:
    got = verdict(raw, given, known)
    assert isinstance(got, Reject), got
    assert got.detail
    return got


# what passes


def test_a_good_fact_is_admitted_without_any_key() -> None:
    """It goes into the default tenant, under the scopes that were agreed with its sender."""
    got = admitted(raw_plain(), replace(PLAIN, trust=lambda *_: 0.25))
    assert (got.value_text, got.tenant, got.source_trust) == ("CEO", "default", 0.25)
    assert got.agreed_scopes == PLAIN.scopes


def test_tenants_do_not_matter() -> None:
    """Such a node knows no tenant policy and writes every fact to its default tenant."""
    unsafe = TenantPolicy({}, None, hosts_tenants=True, plugin_active=True)
    assert admitted(raw_plain(), replace(PLAIN, tenants=unsafe)).tenant == "default"


@pytest.mark.parametrize("text", ["42", "42.0"])
def test_a_whole_number_is_stored_as_its_content_id_says(text: str) -> None:
    """The wire gives 42.0 for both; the id tells which was meant."""
    raw = raw_plain(value={"type": "number", "v": 42.0}, value_text=text)
    assert admitted(raw).value_text == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"type": "number", "v": 42.0}, "42.0"),
        ({"type": "boolean", "v": False}, "false"),
        ({"type": "null", "v": None}, "null"),
        ({"type": "text", "v": "a\nb"}, "a\nb"),
    ],
)
def test_without_a_content_id_the_wires_own_text_is_stored(value: Document, text: str) -> None:
    """Nothing says what was meant, so it is what the node itself would store."""
    assert admitted(raw_plain(value=value, fact={"cid": None})).value_text == text


# each check


@pytest.mark.parametrize("scope", ["team", "local"])
def test_a_scope_that_was_not_agreed_is_refused(scope: str) -> None:
    """The node itself would take any scope that a peer claims."""
    got = rejected(raw_plain(fact={"scope": scope}))
    assert (got.reason, got.facts) == (Reason.SCOPE_NOT_PERMITTED, {"scope": scope})


def test_local_is_refused_even_when_it_was_agreed() -> None:
    """A local fact never leaves its node."""
    agreed = replace(PLAIN, scopes=frozenset({"local", "public"}))
    got = rejected(raw_plain(fact={"scope": "local"}), agreed)
    assert got.reason is Reason.SCOPE_NOT_PERMITTED


def test_a_scope_that_is_none_is_refused() -> None:
    """The table knows four scopes."""
    agreed = replace(PLAIN, scopes=frozenset({"galaxy"}))
    assert rejected(raw_plain(fact={"scope": "galaxy"}), agreed).reason is Reason.INVALID_SCOPE


@pytest.mark.parametrize(
    "change",
    [
        {"entity": "x"},
        {"relation": "x"},
        {"source": "x"},
        {"scope": "company"},
        {"confidence": 0.5},
    ],
)
def test_a_fact_beside_its_content_id_is_refused(change: Document) -> None:
    """Each field that the id covers is held to it."""
    raw = {**raw_plain(), **change}
    got = rejected(raw)
    assert got.reason is Reason.CID_MISMATCH
    assert got.facts == {"stored_cid": raw["cid"], "computed_cid": legacy_cid(raw)}


@pytest.mark.parametrize("claimed", ["", "sha256:", "x", raw_entry()["fact"]["cid"]])
def test_another_text_is_no_content_id(claimed: str) -> None:
    """An empty id is not a missing one, and one of wire version 2 does not fit here."""
    assert rejected(raw_plain(fact={"cid": claimed})).reason is Reason.CID_MISMATCH


def test_a_missing_content_id_can_be_refused() -> None:
    """With require_cid a fact that nothing holds to its content is not admitted."""
    strict = replace(PLAIN, require_cid=True)
    assert rejected(raw_plain(fact={"cid": None}), strict).reason is Reason.CID_REQUIRED
    admitted(raw_plain(), strict)


@pytest.mark.parametrize("value", [None, math.inf, -math.inf])
@pytest.mark.parametrize("fact", [{}, {"cid": None}])
def test_a_number_without_a_value_is_refused(value: object, fact: Document) -> None:
    """The node could not serve such a row again, whether it has a content id or none."""
    got = rejected(raw_plain(value={"type": "number", "v": value}, fact=fact))
    assert got.reason is Reason.NUMBER_NOT_REPRODUCIBLE


def test_a_number_that_the_wire_changed_has_a_reason_of_its_own() -> None:
    """An integer that a float cannot carry fits no text."""
    raw = raw_plain(value={"type": "number", "v": 2.0**53}, value_text=str(2**53 + 1))
    assert rejected(raw).reason is Reason.NUMBER_NOT_REPRODUCIBLE


def test_an_unknown_interpretation_is_refused() -> None:
    """The content id does not cover it, so this check stands alone."""
    assert rejected(raw_plain(value={"interpret_as": "x"})).reason is Reason.INVALID_INTERPRET_AS


@pytest.mark.parametrize(
    "raw",
    [
        raw_plain(value={"interpret_as": "instruction"}),
        raw_plain(fact={"entity": "instruction:x"}),
        raw_plain(fact={"relation": "instruction:x"}),
    ],
)
def test_an_instruction_needs_a_quarantine_garden(raw: Document) -> None:
    """As in wire version 2."""
    assert rejected(raw).reason is Reason.QUARANTINE_GARDEN_REQUIRED


@pytest.mark.parametrize(
    ("ahead_ms", "direction"), [(300_001, "future"), (-30 * 86_400_000 - 1, "past")]
)
def test_a_clock_too_far_off_is_refused(ahead_ms: int, direction: str) -> None:
    """As in wire version 2."""
    got = rejected(raw_plain(fact={"hlc": f"{NOW_MS + ahead_ms}.0"}))
    assert (got.reason, got.facts["direction"]) == (Reason.HLC_SKEW, direction)


# what is known


def known(raw: Document, **changes: str | None) -> KnownFact:
    fields: dict[str, str | None] = {"cid": raw["cid"], "valid_until": raw["valid_until"]}
    return KnownFact(**{**fields, **changes})


def test_a_known_fact_is_set_aside_before_any_check() -> None:
    """What was replicated stays a duplicate, whatever the policy has become."""
    raw = raw_plain()
    assert verdict(raw, replace(PLAIN, scopes=frozenset()), known(raw)) == Duplicate(raw["id"])
    none = raw_plain(fact={"cid": None})
    assert verdict(none, replace(PLAIN, require_cid=True), known(none)) == Duplicate(none["id"])


@pytest.mark.parametrize("stored", [None, "sha256:other"])
def test_a_known_id_with_another_content_id_is_a_duplicate(stored: str | None) -> None:
    """Such a node does not tell a collision: it keeps what it has, and says nothing."""
    raw = raw_plain()
    assert verdict(raw, known=known(raw, cid=stored)) == Duplicate(raw["id"])


def test_a_known_id_does_not_excuse_a_bad_content_id() -> None:
    """The content id is checked before what is stored is looked at."""
    raw = raw_plain(fact={"cid": "sha256:forged"})
    assert rejected(raw, known=known(raw, cid="sha256:x")).reason is Reason.CID_MISMATCH


@pytest.mark.parametrize("incoming", [None, LATER])
def test_a_known_fact_is_not_extended(incoming: str | None) -> None:
    """A sender may not make a fact last longer than it was."""
    raw = raw_plain(fact={"valid_until": incoming})
    got = rejected(raw, known=known(raw, valid_until=SOONER))
    assert got.reason is Reason.VALID_UNTIL_EXTENSION


@pytest.mark.parametrize(("stored", "incoming"), [(None, SOONER), (LATER, SOONER)])
def test_a_known_fact_is_not_shortened_either(stored: str | None, incoming: str) -> None:
    """Shortening is no extension, and changes nothing."""
    raw = raw_plain(fact={"valid_until": incoming})
    assert verdict(raw, known=known(raw, valid_until=stored)) == Duplicate(raw["id"])


# never across wire versions


def test_a_fact_without_a_signature_is_refused_by_a_node_that_signs() -> None:
    """Should one ever get this far at a node of wire version 2, it is not admitted."""
    assert rejected(raw_plain(), policy()).reason is Reason.MISSING_ORIGIN_BLOCK


def test_a_signed_entry_is_refused_by_a_node_that_does_not_sign() -> None:
    """Nor is an entry of wire version 2 by a node of version 1."""
    got = judge(decoded(raw_entry()), PLAIN, None, NOW_MS)
    assert isinstance(got, Reject)
    assert got.reason is Reason.MALFORMED_ENTRY


def test_nothing_unsigned_proves_a_key() -> None:
    """Only a signature shows that the sender's keys are the right ones."""
    assert not origin_fits(decoded_plain(raw_plain()), policy())


def test_a_signed_entry_without_a_content_id_is_refused() -> None:
    """Decoding does not let one through; the checks do not rely on it."""
    entry = decoded(raw_entry())
    bare = SignedEntry(replace(entry.fact, cid=None), entry.origin, entry.origin_sig)
    got = judge(bare, policy(), None, NOW_MS)
    assert isinstance(got, Reject)
    assert got.reason is Reason.CID_REQUIRED


# any fact

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.one_of(
    texts.map(lambda text: {"type": "text", "v": text}),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda v: {"type": "number", "v": v}),
    st.booleans().map(lambda v: {"type": "boolean", "v": v}),
    st.just({"type": "null", "v": None}),
)
facts = st.fixed_dictionaries(
    {
        "entity": texts.map("e:{}".format),
        "relation": texts.map("r:{}".format),
        "source": texts,
        "confidence": st.floats(0.0, 1.0),
        "scope": st.sampled_from(["public", "company"]),
    }
)


@given(facts, values, st.sampled_from([{}, {"cid": None}]))
def test_every_good_fact_is_admitted_and_known_again(
    fact: Document, value: Document, claimed: Document
) -> None:
    """With its content id or without one; once stored it is a duplicate for good."""
    raw = raw_plain(fact={**fact, **claimed}, value=value)
    got = admitted(raw)
    if not claimed:
        assert legacy_cid(raw, got.value_text) == raw["cid"]
    assert verdict(raw, known=known(raw)) == Duplicate(raw["id"])


@given(facts, facts, values, values)
def test_a_content_id_holds_for_its_own_fact_only(
    fact: Document, other: Document, value: Document, other_value: Document
) -> None:
    """Two facts that differ in what the id covers do not pass under each other's."""
    one, two = raw_plain(fact=fact, value=value), raw_plain(fact=other, value=other_value)
    swapped = {**one, "cid": two["cid"]}
    got = verdict(swapped)
    same = one["cid"] == two["cid"] or (
        value["type"] == other_value["type"] == "number"
        and isinstance(got, Admit)
        and legacy_cid(one, got.value_text) == two["cid"]
    )
    assert isinstance(got, Admit) == same
