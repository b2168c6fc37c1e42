"""The ordered checks on one tombstone or revocation, each by itself and each before the next."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.trust.tenants import TenantPolicy
from stigmem_replicator.trust.tombstones import (
    KnownRecord,
)
from stigmem_replicator.trust.verdicts import BlockPeer, Reject
from tests.unit.judged_records import FOREIGN, HELD, TAKEN, UNSAFE, policy_of, reason, verdict
from tests.unit.signed import KEYS, Document, Key
from tests.unit.signed_records import (
    ALICE,
    ISSUER_KEY,
    TOMBSTONE_ID,
    issuer_manifest,
    record,
    record_policy,
    wrapped,
)

TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION
V1, V2 = Dialect.V1, Dialect.V2
BOTH: Final = tuple(Artifact)

# each check, and their order


@dataclass(frozen=True, slots=True)
class Flaw:
    """One check failed: what differs from a good entry and a good policy, and what comes out.

    ``forged`` is what is changed after the issuer signed; ``kinds`` of which kind it can be.
    """

    reason: Reason
    record: Document = field(default_factory=dict)
    forged: Document = field(default_factory=dict)
    origin: Document = field(default_factory=dict)
    policy: Document = field(default_factory=dict)
    known: KnownRecord | None = None
    target: KnownRecord | None = HELD
    issuer: Key = ISSUER_KEY
    key: Key = KEYS[0]
    blocks: bool = False
    kinds: tuple[Artifact, ...] = BOTH


NO_PLUGIN: Final = TenantPolicy({}, "acme", hosts_tenants=False, plugin_active=False)
FAR: Final = {"node_id": "stigmem:node:far"}

BLOCKED: Final = [
    Flaw(Reason.TENANT_POLICY_UNSAFE, policy={"tenants": UNSAFE}, blocks=True),
    Flaw(Reason.TENANT_POLICY_UNSAFE, policy={"tenants": NO_PLUGIN}, blocks=True),
]
RELAYED: Final = [
    Flaw(Reason.ORIGIN_NOT_SENDER, origin=FAR),
    Flaw(Reason.ORIGIN_NOT_SENDER, origin={"node_id": ""}),
    Flaw(Reason.ORIGIN_NOT_SENDER, origin=FAR, policy={"relay_trusted": True}),
    Flaw(Reason.RELAY_SENDER_NOT_TRUSTED, origin=FAR, policy={"relay_enabled": True}),
    Flaw(
        Reason.RELAY_UNSUPPORTED,
        origin=FAR,
        policy={"relay_enabled": True, "relay_trusted": True},
    ),
]
ORIGIN: Final = [
    Flaw(Reason.ORIGIN_SIG_INVALID, key=KEYS[1]),
    Flaw(Reason.ORIGIN_SIG_INVALID, policy={"keys": frozenset[str]()}),
    Flaw(Reason.ORIGIN_SIG_INVALID, origin={"entity_uri": ""}),
]
ISSUER: Final = [
    Flaw(Reason.ISSUER_SIG_INVALID, record={"key_id": ""}),
    Flaw(Reason.ISSUER_SIG_INVALID, forged={"signature": "AAAA"}),
    Flaw(Reason.ISSUER_SIG_INVALID, forged={"signature": ""}),
    Flaw(Reason.ISSUER_SIG_INVALID, forged={"created_at": "2026-01-02T03:00:05Z"}),
    Flaw(Reason.ISSUER_SIG_INVALID, forged={"key_id": ISSUER_KEY.id}, issuer=KEYS[3]),
    Flaw(Reason.WAITING_FOR_KEY, policy={"issuers": {}}),
    Flaw(Reason.WAITING_FOR_KEY, policy={"issuers": {FOREIGN: issuer_manifest()}}),
    Flaw(Reason.WAITING_FOR_KEY, issuer=KEYS[3]),
    Flaw(Reason.WAITING_FOR_KEY, record={"key_id": "0" * 16}),
    Flaw(Reason.WAITING_FOR_KEY, record={"signed_by": ""}),
]
SCOPE: Final = [
    Flaw(Reason.SCOPE_NOT_IN_ORIGIN_GRANT, origin={"allowed_scopes": scopes}, kinds=(TOMBSTONE,))
    for scopes in ([], ["team"], ["*"])
]
TENANT: Final = [
    Flaw(Reason.TENANT_NOT_IN_ORIGIN_GRANT, origin={"allowed_tenants": []}),
    Flaw(Reason.TENANT_NOT_IN_ORIGIN_GRANT, origin={"tenant": "acme"}),
]
NO_SCOPE: Final = [
    Flaw(
        Reason.INVALID_SCOPE,
        record={"scope": scope},
        origin={"allowed_scopes": [scope, "public"]},
        kinds=(TOMBSTONE,),
    )
    for scope in ("galaxy", "", "PUBLIC", "**")
]
COLLISION: Final = [
    Flaw(Reason.WIRE_ID_COLLISION, known=TAKEN),
    Flaw(Reason.WIRE_ID_COLLISION, known=KnownRecord(FOREIGN, "x")),
]
AUTHORITY: Final = [
    Flaw(Reason.WAITING_FOR_TOMBSTONE, target=None, kinds=(REVOCATION,)),
    Flaw(
        Reason.REVOCATION_AUTHORITY_MISMATCH,
        target=KnownRecord(FOREIGN, "x"),
        kinds=(REVOCATION,),
    ),
    Flaw(
        Reason.REVOCATION_AUTHORITY_MISMATCH,
        target=KnownRecord("", HELD.signature),
        kinds=(REVOCATION,),
    ),
]

# In the order in which they are made.  Those of one list exclude each other.
STEPS: Final = [BLOCKED, RELAYED, ORIGIN, ISSUER, SCOPE, TENANT, NO_SCOPE, COLLISION, AUTHORITY]
STEPS_V1: Final = [ISSUER, NO_SCOPE, COLLISION, AUTHORITY]


def outcome(artifact: Artifact, dialect: Dialect, *flaws: Flaw) -> tuple[Reason | None, bool]:
    """Judge an entry that has all these flaws; of two that set one thing the first does."""
    good = Flaw(Reason.UNREACHABLE)

    def merged(name: str) -> Document:
        return {key: item for flaw in reversed(flaws) for key, item in getattr(flaw, name).items()}

    def first(name: str) -> Any:  # noqa: ANN401 - a field of any type
        usual = getattr(good, name)
        return next((it for flaw in flaws if (it := getattr(flaw, name)) != usual), usual)

    said = {**record(artifact, first("issuer"), **merged("record")), **merged("forged")}
    raw = said
    if dialect is V2:
        raw = wrapped(artifact, said, origin=merged("origin"), key=first("key"))
    got = verdict(
        raw,
        artifact,
        dialect,
        policy_of(dialect, **merged("policy")),
        first("known"),
        first("target"),
    )
    return reason(got), isinstance(got, BlockPeer)


def cases(steps: list[list[Flaw]]) -> list[tuple[Artifact, Flaw]]:
    return [(kind, flaw) for step in steps for flaw in step for kind in flaw.kinds]


def told(item: object) -> str:
    return str(item.reason) if isinstance(item, Flaw) else str(item)


@pytest.mark.parametrize(("artifact", "flaw"), cases(STEPS), ids=told)
def test_each_check_refuses_by_itself(artifact: Artifact, flaw: Flaw) -> None:
    """One violated rule is enough, and its reason says which."""
    assert outcome(artifact, V2, flaw) == (flaw.reason, flaw.blocks)


@pytest.mark.parametrize(("artifact", "flaw"), cases(STEPS_V1), ids=told)
def test_version_1_refuses_for_the_same(artifact: Artifact, flaw: Flaw) -> None:
    """There the issuer's signature is the only one, and it is checked."""
    assert outcome(artifact, V1, flaw) == (flaw.reason, flaw.blocks)


def no_contradiction(first: Flaw, then: Flaw) -> bool:
    """Say whether an entry can have both: not where both change one thing to different ends."""
    names = ("record", "forged", "origin", "policy")
    ours = {(name, key) for name in names for key in getattr(first, name)}
    theirs = {(name, key) for name in names for key in getattr(then, name)}
    return not ours & theirs


def pairs(steps: list[list[Flaw]]) -> list[tuple[Artifact, Flaw, Flaw]]:
    return [
        (artifact, first, then)
        for one, other in itertools.combinations(steps, 2)
        for first in one
        for then in other
        for artifact in first.kinds
        if artifact in then.kinds and no_contradiction(first, then)
    ]


@pytest.mark.parametrize(("dialect", "steps"), [(V1, STEPS_V1), (V2, STEPS)])
def test_the_first_violated_check_gives_the_reason(
    dialect: Dialect, steps: list[list[Flaw]]
) -> None:
    """A record that violates two rules is refused for the earlier one."""
    tried = pairs(steps)
    assert len(tried) > (90 if dialect is V1 else 400)
    for artifact, first, then in tried:
        got = outcome(artifact, dialect, first, then)
        assert got == (first.reason, first.blocks), (artifact, first, then)


def test_the_table_of_checks_names_every_reason_of_a_record() -> None:
    """A reason without a row would be a check that no test makes."""
    named = {flaw.reason for step in STEPS for flaw in step}
    assert named >= {
        Reason.ISSUER_SIG_INVALID,
        Reason.REVOCATION_AUTHORITY_MISMATCH,
        Reason.WAITING_FOR_KEY,
        Reason.WAITING_FOR_TOMBSTONE,
    }


# what a refusal tells


LONG: Final = "x" * 60_000
ENDLESS: Final = [
    Flaw(Reason.ORIGIN_NOT_SENDER, origin={"node_id": LONG}),
    Flaw(Reason.WAITING_FOR_KEY, record={"signed_by": LONG}),
    Flaw(Reason.WAITING_FOR_KEY, record={"key_id": LONG}),
    Flaw(Reason.ISSUER_SIG_INVALID, forged={"signature": LONG}),
    Flaw(Reason.TENANT_NOT_IN_ORIGIN_GRANT, origin={"tenant": LONG}),
    Flaw(Reason.REVOCATION_AUTHORITY_MISMATCH, target=KnownRecord(LONG, LONG), kinds=(REVOCATION,)),
    Flaw(
        Reason.SCOPE_NOT_IN_ORIGIN_GRANT,
        record={"scope": LONG, "entity_uri": LONG},
        origin={"allowed_scopes": []},
        kinds=(TOMBSTONE,),
    ),
    Flaw(Reason.INVALID_SCOPE, record={"scope": LONG}, kinds=(TOMBSTONE,)),
]


@pytest.mark.parametrize(("artifact", "flaw"), cases([ENDLESS]), ids=told)
def test_no_refusal_repeats_endless_text(artifact: Artifact, flaw: Flaw) -> None:
    """Details and audit rows are bounded, whatever the peer wrote."""
    said = {**record(artifact, **flaw.record), **flaw.forged}
    raw = wrapped(artifact, said, origin=flaw.origin)
    got = verdict(raw, artifact, target=flaw.target)
    assert isinstance(got, Reject)
    assert got.reason is flaw.reason
    assert len(got.detail) < 300
    assert len(json.dumps(dict(got.facts))) < 700


@pytest.mark.parametrize(
    ("artifact", "flaw"),
    [(kind, flaw) for kind, flaw in cases(STEPS) if not flaw.blocks],
    ids=told,
)
def test_a_refusal_says_whose_record_about_what(artifact: Artifact, flaw: Flaw) -> None:
    """The audit names issuer, key and subject: the entity, or the tombstone taken back."""
    said = {**record(artifact, flaw.issuer, **flaw.record), **flaw.forged}
    raw = wrapped(artifact, said, origin=flaw.origin, key=flaw.key)
    got = verdict(raw, artifact, V2, record_policy(**flaw.policy), flaw.known, flaw.target)
    assert isinstance(got, Reject)
    assert got.facts == {
        "signed_by": said["signed_by"],
        "target_entity_uri": ALICE if artifact is TOMBSTONE else TOMBSTONE_ID,
        "key_id": said["key_id"],
    }
