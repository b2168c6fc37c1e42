"""Which tombstones and revocations are admitted: tenants, keys, what is signed, what is known."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Final

import pytest

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact, RecordEntry
from stigmem_replicator.trust.keys import issuer_key
from stigmem_replicator.trust.tenants import TenantPolicy
from stigmem_replicator.trust.tombstones import (
    AdmitRecord,
    KnownRecord,
    is_duplicate,
    judge,
)
from stigmem_replicator.trust.verdicts import Duplicate
from tests.unit.judged_records import FOREIGN, TAKEN, UNSAFE, policy_of, reason, verdict
from tests.unit.signed import KEYS, NOW, ORGANISATION, Document, Key, rotation
from tests.unit.signed_records import (
    ISSUER_KEY,
    decoded_record,
    issuer_manifest,
    plain_policy,
    raw_record,
    record,
    record_policy,
    wrapped,
)

TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION
V1, V2 = Dialect.V1, Dialect.V2
BOTH: Final = tuple(Artifact)
WIRES: Final = [(artifact, dialect) for artifact in Artifact for dialect in Dialect]

# what passes


@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
def test_a_good_record_is_admitted(artifact: Artifact, dialect: Dialect) -> None:
    """A record that passes every check is admitted as it came, for the default tenant."""
    raw = raw_record(artifact, dialect)
    got = verdict(raw, artifact, dialect)
    assert got == AdmitRecord(decoded_record(raw, artifact, dialect), "default")


@pytest.mark.parametrize("scope", ["*", "local", "team", "company", "public"])
def test_a_tombstone_is_for_one_scope_or_every_one(scope: str) -> None:
    """Also what is never replicated as a fact may be forgotten."""
    for dialect in Dialect:
        raw = raw_record(TOMBSTONE, dialect, scope=scope)
        assert reason(verdict(raw, TOMBSTONE, dialect)) is None


def test_a_tombstone_goes_into_the_peers_one_tenant() -> None:
    """A tombstone goes by the peer's single tenant, and not by the map from origin tenants."""
    mapped = TenantPolicy({"default": "mapped"}, "acme", hosts_tenants=True, plugin_active=True)
    got = verdict(raw_record(TOMBSTONE), TOMBSTONE, given=record_policy(tenants=mapped))
    assert isinstance(got, AdmitRecord)
    assert got.tenant == "acme"


def test_version_1_knows_one_tenant() -> None:
    """Whatever the peer's tenants are said to be, its tombstones are the default tenant's."""
    unsafe = TenantPolicy({}, "acme", hosts_tenants=True, plugin_active=False)
    for artifact in Artifact:
        got = verdict(raw_record(artifact, V1), artifact, V1, plain_policy(tenants=unsafe))
        assert isinstance(got, AdmitRecord)
        assert got.tenant == "default"


def test_legal_hold_is_signed() -> None:
    """Both values pass as they were signed, and neither after the other was."""
    for dialect, held in itertools.product(Dialect, (True, False)):
        raw = raw_record(TOMBSTONE, dialect, legal_hold=held)
        assert reason(verdict(raw, TOMBSTONE, dialect)) is None
        (raw if dialect is V1 else raw["tombstone"])["legal_hold"] = not held
        assert reason(verdict(raw, TOMBSTONE, dialect)) is Reason.ISSUER_SIG_INVALID


def test_the_reason_is_not_signed() -> None:
    """It may change on the way, and a tombstone's may be missing."""
    for artifact, dialect in WIRES:
        raw = raw_record(artifact, dialect)
        (raw if dialect is V1 else raw[artifact.value])["reason"] = "another"
        assert reason(verdict(raw, artifact, dialect)) is None


SIGNED_BY_ISSUER: Final[dict[Artifact, Document]] = {
    TOMBSTONE: {"id": "x", "entity_uri": "x", "scope": "team", "created_at": "2026-01-01"},
    REVOCATION: {"id": "x", "tombstone_id": "x", "created_at": "2026-01-01"},
}


@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
def test_what_the_issuer_signed_cannot_be_changed(artifact: Artifact, dialect: Dialect) -> None:
    """Not even by an origin that signs the changed record."""
    for key, item in SIGNED_BY_ISSUER[artifact].items():
        said = {**record(artifact), key: item}
        raw = said if dialect is V1 else wrapped(artifact, said)
        assert reason(verdict(raw, artifact, dialect)) is Reason.ISSUER_SIG_INVALID, key


@pytest.mark.parametrize("artifact", BOTH)
def test_what_the_origin_signed_cannot_be_changed(artifact: Artifact) -> None:
    """Neither the block nor what it is the block of, also where the issuer signed that."""
    for key, item in {
        "tenant": "acme",
        "entity_uri": "https://other.example",
        "allowed_scopes": ["public", "team"],
        "allowed_tenants": ["default", "acme"],
    }.items():
        raw = raw_record(artifact)
        raw["origin"][key] = item
        assert reason(verdict(raw, artifact)) is Reason.ORIGIN_SIG_INVALID, key
    for key, item in SIGNED_BY_ISSUER[artifact].items():
        if key != "created_at":
            raw = {**raw_record(artifact), artifact.value: record(artifact, **{key: item})}
            assert reason(verdict(raw, artifact)) is Reason.ORIGIN_SIG_INVALID, key


# the wire versions do not mix


@pytest.mark.parametrize("artifact", BOTH)
def test_an_entry_of_the_other_version_is_not_admitted(artifact: Artifact) -> None:
    """A node of version 2 takes nothing without an origin, one of version 1 nothing with one."""
    plain, signed = raw_record(artifact, V1), raw_record(artifact, V2)
    got = verdict(plain, artifact, V1, record_policy())
    assert reason(got) is Reason.MISSING_ORIGIN_BLOCK
    assert reason(verdict(signed, artifact, V2, plain_policy())) is Reason.MALFORMED_ENTRY


# the issuer's keys


def rotated() -> Document:
    """Return the changes by which a manifest says that key 2 became 3, and 3 became 4."""
    long_ago = NOW - timedelta(days=600)
    steps = [rotation(KEYS[2], KEYS[3], long_ago), rotation(KEYS[3], KEYS[4], NOW)]
    return {"issuers": {ORGANISATION: issuer_manifest(KEYS[4], rotations=steps)}}


@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
@pytest.mark.parametrize(
    ("key", "expected"),
    [(KEYS[4], None), (KEYS[3], None), (KEYS[2], Reason.WAITING_FOR_KEY)],
    ids=["the current one", "one rotated to", "the very first"],
)
def test_a_rotated_key_verifies_for_good_unless_it_was_the_first(
    artifact: Artifact, dialect: Dialect, key: Key, expected: Reason | None
) -> None:
    """A manifest names the keys that it rotated to; the first one is named by nothing."""
    raw = raw_record(artifact, dialect, key)
    assert reason(verdict(raw, artifact, dialect, policy_of(dialect, **rotated()))) is expected


def test_a_key_is_found_by_its_name_alone() -> None:
    """The name is the issuer's word, and one that is current wins over one rotated to."""
    steps = [rotation(KEYS[2], KEYS[3]), rotation(KEYS[3], KEYS[4])]
    manifest = issuer_manifest(KEYS[4], rotations=steps)
    assert issuer_key(manifest, KEYS[4].id) == KEYS[4].public
    assert issuer_key(manifest, KEYS[3].id) == KEYS[3].public
    assert issuer_key(manifest, KEYS[2].id) is None
    assert issuer_key(manifest, "") is None


def test_the_name_of_another_key_does_not_verify() -> None:
    """Which key signed is what the record says, not whichever fits."""
    raw = raw_record(TOMBSTONE, V2, KEYS[3], key_id=KEYS[4].id)
    got = verdict(raw, TOMBSTONE, given=record_policy(**rotated()))
    assert reason(got) is Reason.ISSUER_SIG_INVALID


def test_the_senders_keys_are_not_the_issuers() -> None:
    """A node cannot issue in the name of an organisation, not even of its own."""
    for artifact, dialect in WIRES:
        raw = raw_record(artifact, dialect, KEYS[0])
        assert reason(verdict(raw, artifact, dialect)) is Reason.WAITING_FOR_KEY
        raw = raw_record(artifact, dialect, KEYS[0], key_id=ISSUER_KEY.id)
        assert reason(verdict(raw, artifact, dialect)) is Reason.ISSUER_SIG_INVALID


@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
def test_another_organisation_may_issue_what_the_sender_made_known(
    artifact: Artifact, dialect: Dialect
) -> None:
    """Who sends and who issues are two things; each is held to its own keys."""
    raw = raw_record(artifact, dialect, KEYS[5], signed_by=FOREIGN)
    target = KnownRecord(FOREIGN, "x")
    got = verdict(raw, artifact, dialect, target=target)
    assert reason(got) is Reason.WAITING_FOR_KEY
    issuers = {FOREIGN: issuer_manifest(KEYS[5], entity_uri=FOREIGN)}
    got = verdict(raw, artifact, dialect, policy_of(dialect, issuers=issuers), target=target)
    assert reason(got) is None


# what is known already


@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
def test_a_known_record_is_a_duplicate_before_any_check(
    artifact: Artifact, dialect: Dialect
) -> None:
    """What stands here unchanged costs no check, so that no lost key makes it a dead letter."""
    raw = raw_record(artifact, dialect)
    entry: RecordEntry = decoded_record(raw, artifact, dialect)
    known = KnownRecord(entry.record.signed_by, entry.record.signature)
    assert is_duplicate(entry.record, known)
    closed = policy_of(dialect, keys=frozenset(), issuers={}, tenants=UNSAFE)
    assert judge(entry, closed, known, None) == Duplicate(entry.record.id)


@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
def test_a_forgery_under_a_known_id_is_no_collision(artifact: Artifact, dialect: Dialect) -> None:
    """Only what would have been admitted collides; what stands here is kept either way."""
    said = {**record(artifact), "signature": "AAAA"}
    raw = said if dialect is V1 else wrapped(artifact, said)
    got = verdict(raw, artifact, dialect, known=TAKEN)
    assert reason(got) is Reason.ISSUER_SIG_INVALID
    assert not is_duplicate(decoded_record(raw, artifact, dialect).record, TAKEN)
