"""The ordered checks on one fact, each by itself and each before the ones after it."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import cid
from stigmem_replicator.trust.facts import (
    Admit,
    FactPolicy,
    KnownFact,
    Verdict,
    is_duplicate,
    judge,
)
from stigmem_replicator.trust.tenants import TenantPolicy
from stigmem_replicator.trust.verdicts import BlockPeer, Duplicate, Reject
from tests.unit.signed import KEYS, NOW_MS, Document, decoded, policy, raw_entry

FUTURE_MS = 300_000
PAST_MS = 30 * 86_400_000


def verdict(
    raw: Document, given: FactPolicy | None = None, known: KnownFact | None = None
) -> Verdict:
    return judge(decoded(raw), given or policy(), known, NOW_MS)


def rejected(
    raw: Document, given: FactPolicy | None = None, known: KnownFact | None = None
) -> Reject:
    got = verdict(raw, given, known)
    assert isinstance(got, Reject), got
    assert got.detail
    return got


# what passes


def test_a_good_fact_is_admitted() -> None:
    """A fact that passes every check goes into the default tenant with the text it stands for."""
    got = verdict(raw_entry())
    assert isinstance(got, Admit)
    assert (got.value_text, got.tenant, got.source_trust) == ("CEO", "default", None)


def test_trust_is_scored_per_source_and_scope() -> None:
    """The score of an admitted fact is that of its source in its scope."""
    seen: list[tuple[str, str]] = []

    def trust(source: str, scope: str) -> float:
        seen.append((source, scope))
        return 0.25

    got = verdict(raw_entry(fact={"scope": "company", "source": "agent:x"}), policy(trust=trust))
    assert isinstance(got, Admit)
    assert got.source_trust == 0.25
    assert seen == [("agent:x", "company")]


def test_a_refused_fact_is_not_scored() -> None:
    """Nothing is looked up for a fact that is not admitted."""

    def trust(_source: str, _scope: str) -> float:
        raise AssertionError

    rejected(raw_entry(key=KEYS[1]), policy(trust=trust))


def test_a_mapped_tenant_is_where_the_fact_goes() -> None:
    """The peer's map from origin tenant to local tenant decides."""
    raw = raw_entry(origin={"tenant": "acme", "allowed_tenants": ["acme"]})
    mapped = TenantPolicy({"acme": "here"}, None, hosts_tenants=True, plugin_active=True)
    got = verdict(raw, policy(tenants=mapped))
    assert isinstance(got, Admit)
    assert got.tenant == "here"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"type": "number", "v": 42.0}, "42"),
        ({"type": "number", "v": 42.0}, "42.0"),
        ({"type": "number", "v": 0.5}, "0.5"),
        ({"type": "number", "v": 1e21}, "1000000000000000000000"),
        ({"type": "boolean", "v": True}, "true"),
        ({"type": "null", "v": None}, "null"),
        ({"type": "text", "v": "a\nb"}, "a\nb"),
    ],
)
def test_the_stored_text_is_the_one_that_the_content_id_names(value: Document, text: str) -> None:
    """A whole number is stored as the origin stored it, with or without its point."""
    got = verdict(raw_entry(value=value, value_text=text))
    assert isinstance(got, Admit)
    assert got.value_text == text


# each check


@dataclass(frozen=True, slots=True)
class Violation:
    """One check failed: what an entry and a policy must say for it, and what comes out."""

    reason: Reason
    fact: Document = field(default_factory=dict)
    value: Document = field(default_factory=dict)
    origin: Document = field(default_factory=dict)
    policy: Document = field(default_factory=dict)
    known: KnownFact | None = None
    blocks: bool = False

    def entry(self, **others: Any) -> Document:  # noqa: ANN401 - parts of any type
        return raw_entry(fact=self.fact, value=self.value, origin=self.origin, **others)


OTHER_KEYS = {"keys": frozenset({KEYS[1].public})}
OLD_HLC = {"hlc": f"{NOW_MS - PAST_MS - 1}.0"}
NO_TENANT = TenantPolicy({"a": "b"}, None, hosts_tenants=False, plugin_active=False)
UNSAFE = TenantPolicy({}, None, hosts_tenants=True, plugin_active=False)

# In the order in which they are made.  Those of one list exclude each other.
STEPS: list[list[Violation]] = [
    [
        Violation(Reason.ORIGIN_NOT_SENDER, origin={"node_id": "stigmem:node:far"}),
        Violation(
            Reason.RELAY_SENDER_NOT_TRUSTED,
            origin={"node_id": "stigmem:node:far"},
            policy={"relay_enabled": True},
        ),
        Violation(
            Reason.RELAY_UNSUPPORTED,
            origin={"node_id": "stigmem:node:far"},
            policy={"relay_enabled": True, "relay_trusted": True},
        ),
        Violation(Reason.ORIGIN_NOT_SENDER, origin={"node_id": ""}),
    ],
    [
        Violation(Reason.ORIGIN_SIG_INVALID, policy=OTHER_KEYS),
        Violation(Reason.ORIGIN_SIG_INVALID, policy={"keys": frozenset[str]()}),
        Violation(Reason.ORIGIN_SIG_INVALID, origin={"entity_uri": ""}),
    ],
    [
        Violation(Reason.SCOPE_NOT_IN_ORIGIN_GRANT, origin={"allowed_scopes": []}),
        Violation(Reason.SCOPE_NOT_IN_ORIGIN_GRANT, origin={"allowed_scopes": ["team"]}),
    ],
    [
        Violation(
            Reason.INVALID_SCOPE,
            fact={"scope": "galaxy"},
            origin={"allowed_scopes": ["galaxy"]},
            policy={"scopes": frozenset({"galaxy"})},
        )
    ],
    [
        Violation(Reason.TENANT_NOT_IN_ORIGIN_GRANT, origin={"allowed_tenants": []}),
        Violation(Reason.TENANT_NOT_IN_ORIGIN_GRANT, origin={"allowed_tenants": ["acme"]}),
    ],
    [
        Violation(Reason.SCOPE_NOT_PERMITTED, policy={"scopes": frozenset({"team"})}),
        Violation(Reason.SCOPE_NOT_PERMITTED, policy={"scopes": frozenset[str]()}),
        Violation(
            Reason.SCOPE_NOT_PERMITTED,
            fact={"scope": "local"},
            origin={"allowed_scopes": ["local"]},
            policy={"scopes": frozenset({"local"})},
        ),
    ],
    [
        Violation(Reason.TENANT_POLICY_UNSAFE, policy={"tenants": NO_TENANT}),
        Violation(Reason.TENANT_POLICY_UNSAFE, policy={"tenants": UNSAFE}, blocks=True),
    ],
    [
        Violation(Reason.CID_MISMATCH, fact={"cid": "sha256:" + "0" * 64}),
        Violation(Reason.CID_MISMATCH, fact={"cid": "x"}),
    ],
    [Violation(Reason.INVALID_INTERPRET_AS, value={"interpret_as": "command"})],
    [
        Violation(Reason.QUARANTINE_GARDEN_REQUIRED, value={"interpret_as": "instruction"}),
        Violation(Reason.QUARANTINE_GARDEN_REQUIRED, fact={"entity": "instruction:agent:x"}),
        Violation(Reason.QUARANTINE_GARDEN_REQUIRED, fact={"relation": "instruction:do"}),
    ],
    [
        Violation(
            Reason.VALID_UNTIL_EXTENSION,
            fact={"valid_until": "2027-01-02"},
            known=KnownFact("sha256:other", "2027-01-01"),
        ),
        Violation(Reason.VALID_UNTIL_EXTENSION, known=KnownFact(None, "2027-01-01")),
    ],
    [Violation(Reason.WIRE_ID_COLLISION, known=KnownFact("sha256:other", None))],
    [
        Violation(Reason.HLC_SKEW, fact=OLD_HLC),
        Violation(Reason.HLC_SKEW, fact={"hlc": f"{NOW_MS + FUTURE_MS + 1}.0"}),
    ],
]
EACH = [violation for step in STEPS for violation in step]
LAST = len(STEPS) - 1


def outcome(got: Verdict) -> tuple[Reason, bool]:
    assert isinstance(got, Reject | BlockPeer), got
    return got.reason, isinstance(got, BlockPeer)


@pytest.mark.parametrize("violation", EACH, ids=lambda item: str(item.reason))
def test_each_check_refuses_by_itself(violation: Violation) -> None:
    """One violated rule is enough, and its reason says which."""
    got = verdict(violation.entry(), policy(**violation.policy), violation.known)
    assert outcome(got) == (violation.reason, violation.blocks)


def combined(first: Violation, then: Violation) -> tuple[Document, FactPolicy, KnownFact | None]:
    """Return an entry and a policy that violate both rules."""
    raw = raw_entry(
        fact={**then.fact, **first.fact},
        value={**then.value, **first.value},
        origin={**then.origin, **first.origin},
    )
    return raw, policy(**{**then.policy, **first.policy}), first.known or then.known


PAIRS = [
    (first, then)
    for (i, one), (j, other) in itertools.combinations(enumerate(STEPS), 2)
    for first in one
    for then in other
    if (i, j) != (LAST - 1, LAST) and (i, j) != (LAST - 2, LAST)  # a known id has no skew
]


@pytest.mark.parametrize(("first", "then"), PAIRS, ids=lambda item: str(item.reason))
def test_the_first_violated_check_gives_the_reason(first: Violation, then: Violation) -> None:
    """An entry that violates two rules is refused for the earlier one."""
    got = verdict(*combined(first, then))
    assert outcome(got) == (first.reason, first.blocks)


LONG = "x" * 100_000
ENDLESS: list[tuple[Document, FactPolicy, KnownFact | None]] = [
    (raw_entry(origin={"node_id": LONG}), policy(), None),
    (raw_entry(fact={"scope": LONG}), policy(), None),
    (raw_entry(fact={"scope": LONG}, origin={"allowed_scopes": [LONG]}), policy(), None),
    (raw_entry(origin={"tenant": LONG}), policy(), None),
    (raw_entry(origin={"tenant": LONG, "allowed_tenants": [LONG]}), policy(), None),
    (raw_entry(fact={"cid": LONG}), policy(), None),
    (raw_entry(value={"type": "number", "v": 10**399}, value_text="x"), policy(), None),
    (raw_entry(value={"interpret_as": LONG}), policy(), None),
    (raw_entry(fact={"valid_until": LONG}), policy(), KnownFact(None, "2027-01-01")),
    (raw_entry(), policy(), KnownFact(LONG, LONG)),
    (raw_entry(), policy(), KnownFact(LONG, None)),
]


@pytest.mark.parametrize(("raw", "given", "known"), ENDLESS)
def test_no_refusal_repeats_endless_text(
    raw: Document, given: FactPolicy, known: KnownFact | None
) -> None:
    """Details and audit rows are bounded, whatever the peer wrote."""
    got = rejected(raw, given, known)
    assert len(got.detail) < 300
    assert len(json.dumps(dict(got.facts))) < 400


# what the audit rows are made of


@pytest.mark.parametrize(
    "violation",
    [
        item
        for item in EACH
        if item.reason
        in (Reason.SCOPE_NOT_IN_ORIGIN_GRANT, Reason.INVALID_SCOPE, Reason.SCOPE_NOT_PERMITTED)
    ],
    ids=lambda item: str(item.reason),
)
def test_a_scope_that_is_refused_is_named(violation: Violation) -> None:
    """The audit of a scope violation says which scope it was."""
    raw = violation.entry()
    assert rejected(raw, policy(**violation.policy)).facts == {"scope": raw["fact"]["scope"]}


def test_a_content_id_that_does_not_fit_is_shown_beside_the_one_that_would() -> None:
    """The audit of a mismatch holds the id that was sent and the one computed here."""
    good = raw_entry()["fact"]["cid"]
    wrong = "sha256:" + "0" * 64
    got = rejected(raw_entry(fact={"cid": wrong}))
    assert got.facts == {"stored_cid": wrong, "computed_cid": good}


def test_a_skew_is_measured() -> None:
    """The audit of an anomaly says how far, in which direction, and what the bounds were."""
    got = rejected(raw_entry(fact={"hlc": f"{NOW_MS + FUTURE_MS + 7}.3"}))
    assert got.facts == {
        "direction": "future",
        "skew_ms": FUTURE_MS + 7,
        "remote_wall_ms": NOW_MS + FUTURE_MS + 7,
        "local_wall_ms": NOW_MS,
        "max_future_skew_ms": FUTURE_MS,
        "max_past_skew_ms": PAST_MS,
    }
    assert rejected(raw_entry(fact=OLD_HLC)).facts["direction"] == "past"


# content ids that need a second look


def legacy_cid(raw: Document, text: str) -> str:
    fact = raw["fact"]
    return cid.legacy_content_id(
        entity=fact["entity"],
        relation=fact["relation"],
        value_type=fact["value"]["type"],
        value_text=text,
        source=fact["source"],
        scope=fact["scope"],
        confidence=fact["confidence"],
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [({}, "CEO"), ({"type": "number", "v": 42.0}, "42"), ({"type": "number", "v": 0.5}, "0.5")],
)
def test_a_content_id_of_the_older_wire_has_a_reason_of_its_own(value: Document, text: str) -> None:
    """A fact asserted before its origin was upgraded is told apart from a forged one."""
    raw = raw_entry(value=value)
    raw = raw_entry(value=value, fact={"cid": legacy_cid(raw, text)})
    assert rejected(raw).reason is Reason.CID_LEGACY


@pytest.mark.parametrize("value", [None, math.inf, -math.inf, 0.1, 42.0])
def test_a_number_without_a_fitting_text_has_a_reason_of_its_own(value: object) -> None:
    """What a number was before the wire cannot always be told; then nothing is guessed."""
    raw = raw_entry(value={"type": "number", "v": value}, value_text="4.2e1")
    got = rejected(raw)
    assert got.reason is Reason.NUMBER_NOT_REPRODUCIBLE
    assert len(got.detail) < 150


def test_a_changed_field_does_not_fit_its_content_id() -> None:
    """The origin signs the content id, and the content id covers what the fact says."""
    for name, item in {
        "entity": "stigmem://acme.example/user/bob",
        "relation": "memory:other",
        "source": "agent:other",
        "confidence": 0.5,
        "scope": "company",
    }.items():
        raw = raw_entry()
        raw["fact"][name] = item
        assert rejected(raw).reason is Reason.CID_MISMATCH


def test_fields_under_the_signature_cannot_be_changed() -> None:
    """Id, content id, end, and the whole origin block are signed."""
    for part, name, item in [
        ("fact", "id", "another"),
        ("fact", "cid", "sha256:" + "0" * 64),
        ("fact", "valid_until", "2027-01-01"),
        ("origin", "tenant", "acme"),
        ("origin", "entity_uri", "https://other.example"),
        ("origin", "allowed_scopes", ["public"]),
        ("origin", "allowed_tenants", ["default", "acme"]),
    ]:
        raw = raw_entry()
        raw[part][name] = item
        assert rejected(raw).reason is Reason.ORIGIN_SIG_INVALID, name


def test_the_order_of_grants_is_not_signed() -> None:
    """Scopes and tenants are sorted before they are signed."""
    raw = raw_entry()
    raw["origin"]["allowed_scopes"].reverse()
    assert isinstance(verdict(raw), Admit)


# what is known already


def test_a_known_fact_is_a_duplicate_before_any_check() -> None:
    """What stands here unchanged costs no check, so a lost key or a changed policy hides nothing.

    It is a duplicate although its signature, scope and tenant would be refused today.
    """
    raw = raw_entry(fact={"valid_until": "2027-01-01", **OLD_HLC}, key=KEYS[1])
    known = KnownFact(raw["fact"]["cid"], "2027-01-01")
    closed = policy(keys=frozenset(), scopes=frozenset(), tenants=UNSAFE)
    assert verdict(raw, closed, known) == Duplicate(raw["fact"]["id"])
    assert is_duplicate(decoded(raw).fact, known)
    assert not is_duplicate(decoded(raw).fact, None)


@pytest.mark.parametrize(
    ("stored", "incoming", "extends"),
    [
        (None, None, False),
        (None, "2027-01-01", False),
        ("2027-01-01", None, True),
        ("2027-01-01", "2027-01-01", False),
        ("2027-01-01", "2026-12-31", False),
        ("2027-01-01", "2027-01-02", True),
        ("2027-01-01T00:00:00", "2027-01-01T00:00:00+00:00", False),
        ("2027-01-01T00:00:00+00:00", "2027-01-01T00:30:00+01:00", False),
        ("2027-01-01T00:00:00+00:00", "2027-01-01T00:00:00-01:00", True),
        ("soon", "2027-01-01", True),
        ("2027-01-01", "soon", True),
        ("soon", "soon", False),
    ],
)
def test_a_known_fact_may_end_earlier_but_not_later(
    stored: str | None, incoming: str | None, extends: object
) -> None:
    """An end that is later, gone or unreadable is an extension; an earlier one changes nothing."""
    raw = raw_entry(fact={"valid_until": incoming})
    got = verdict(raw, known=KnownFact(raw["fact"]["cid"], stored))
    if extends:
        assert isinstance(got, Reject)
        assert got.reason is Reason.VALID_UNTIL_EXTENSION
        assert got.facts == {"stored_valid_until": stored, "incoming_valid_until": incoming}
    else:
        assert got == Duplicate(raw["fact"]["id"])


def test_an_id_with_another_content_id_is_a_collision() -> None:
    """Two contents never share an id; the audit holds both content ids."""
    raw = raw_entry()
    got = rejected(raw, known=KnownFact("sha256:other", None))
    assert got.reason is Reason.WIRE_ID_COLLISION
    assert got.facts == {"stored_cid": "sha256:other", "computed_cid": raw["fact"]["cid"]}


def test_a_known_fact_without_a_content_id_is_a_duplicate() -> None:
    """A row from before content ids cannot collide."""
    raw = raw_entry()
    assert verdict(raw, known=KnownFact(None, None)) == Duplicate(raw["fact"]["id"])


def test_a_known_fact_is_not_judged_by_its_clock() -> None:
    """The skew of a fact that is here already no longer matters."""
    raw = raw_entry(fact={**OLD_HLC, "valid_until": "2026-12-31"})
    got = verdict(raw, known=KnownFact(raw["fact"]["cid"], "2027-01-01"))
    assert isinstance(got, Duplicate)


# skew


@pytest.mark.parametrize(
    ("offset", "future", "past", "admitted"),
    [
        (FUTURE_MS, FUTURE_MS, PAST_MS, True),
        (FUTURE_MS + 1, FUTURE_MS, PAST_MS, False),
        (-PAST_MS, FUTURE_MS, PAST_MS, True),
        (-PAST_MS - 1, FUTURE_MS, PAST_MS, False),
        (FUTURE_MS + 1, 0, PAST_MS, True),
        (-PAST_MS - 1, FUTURE_MS, 0, True),
        (10**15, 0, 0, True),
    ],
)
def test_skew_is_bounded_on_both_sides(
    offset: int, future: int, past: int, admitted: object
) -> None:
    """A fact at its bound is admitted, past it refused; a bound of 0 admits everything."""
    raw = raw_entry(fact={"hlc": f"{NOW_MS + offset}.0"})
    got = verdict(raw, policy(future_skew_ms=future, past_skew_ms=past))
    assert isinstance(got, Admit) is admitted


def test_a_fact_without_a_clock_has_no_skew() -> None:
    """An entry without an HLC is admitted; it is stamped as an event of our own."""
    assert isinstance(verdict(raw_entry(fact={"hlc": None})), Admit)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "None"), (math.inf, "inf"), (10**390, "1" + "0" * 390)],
    ids=["null", "infinity", "beyond a float"],
)
def test_a_number_that_no_node_can_serve_is_refused(value: float | None, text: str) -> None:
    """A number without a finite value is refused although its signed content id fits its text."""
    raw = raw_entry(value={"type": "number", "v": value}, value_text=text)
    assert rejected(raw).reason is Reason.NUMBER_NOT_REPRODUCIBLE
