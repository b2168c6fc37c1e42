"""What is signed of tombstones and revocations: the published vectors, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import pytest

from stigmem_replicator.protocol import signatures
from stigmem_replicator.protocol.origin import Origin
from stigmem_replicator.protocol.tombstone import Revocation, Tombstone
from tests.unit.signed import KEYS

ORIGIN: Final = Origin(
    node_id="stigmem:node:origin-1",
    tenant="default",
    entity_uri="https://origin.example",
    allowed_scopes=("public",),
    allowed_tenants=("default",),
)
TOMBSTONE: Final = Tombstone(
    id="tomb_aaaaaaaa-0000-4000-8000-000000000001",
    entity_uri="stigmem://acme.example/user/bob",
    scope="public",
    reason="not signed",
    signed_by="https://origin.example",
    key_id="56475aa75463474c",
    signature="PPK0Vl7La2rBrE8aKTT3MMvweP6cSZD9DuDW7xeS47Ed1wt8V3R5d6vcR_ID9v48C1i22DO50q_eeURiywPOCw",
    created_at="2026-01-02T03:04:05.678901+00:00",
    legal_hold=False,
)
REVOCATION: Final = Revocation(
    id="tombrevoke_bbbbbbbb-0000-4000-8000-000000000002",
    tombstone_id="tomb_aaaaaaaa-0000-4000-8000-000000000001",
    reason="not signed",
    signed_by="https://origin.example",
    key_id="56475aa75463474c",
    signature="tzpcyzkD08Ilchr1UUxMYUFZgvl4OQ1MRFm3mgE4AZd08vO3NeESmIWUM_vddr4p80ZC1S4qutI6FzUn4KmIAA",
    created_at="2026-01-03T03:04:05.678901+00:00",
)


@dataclass(frozen=True, slots=True)
class Vector:
    """Bytes as we make them, bytes and signature as they were published."""

    says: str
    ours: bytes
    published: bytes
    signature: str


VECTORS: Final = [
    Vector(
        "the origin's tuple of a tombstone",
        signatures.tombstone_tuple(
            tombstone_id=TOMBSTONE.id,
            entity_uri=TOMBSTONE.entity_uri,
            scope=TOMBSTONE.scope,
            origin=ORIGIN,
        ),
        b'{"entity_uri":"stigmem://acme.example/user/bob","origin_allowed_scopes":["public"],'
        b'"origin_allowed_tenants":["default"],"origin_entity_uri":"https://origin.example",'
        b'"origin_node_id":"stigmem:node:origin-1","origin_tenant":"default","scope":"public",'
        b'"tid":"tomb_aaaaaaaa-0000-4000-8000-000000000001","tv":"t2.1"}',
        "bZQfwMhrrRf_27xWkrDACtkWdx_RRYV7vlPRgMzMF5KsOvwhzQwe83e48Q3ZPdGAYIztU3TfXZwiujwLW2TUCQ",
    ),
    Vector(
        "the origin's tuple of a revocation",
        signatures.revocation_tuple(
            revocation_id=REVOCATION.id,
            tombstone_id=REVOCATION.tombstone_id,
            origin=replace(ORIGIN, allowed_scopes=()),
        ),
        b'{"origin_allowed_scopes":[],"origin_allowed_tenants":["default"],'
        b'"origin_entity_uri":"https://origin.example","origin_node_id":"stigmem:node:origin-1",'
        b'"origin_tenant":"default","rid":"tombrevoke_bbbbbbbb-0000-4000-8000-000000000002",'
        b'"tombstone_id":"tomb_aaaaaaaa-0000-4000-8000-000000000001","tv":"r2.1"}',
        "M0b3TYNIQGuhSi3JwHJ4fRb1uDDJR1JNRspsmIPXcUqPjFcP3i0Bb_XJIGGqN60PnYKUwpOvZj_GxlNcKQwMCg",
    ),
    Vector(
        "the issuer's body of a tombstone",
        TOMBSTONE.signed_body(),
        b'{"created_at":"2026-01-02T03:04:05.678901+00:00",'
        b'"entity_uri":"stigmem://acme.example/user/bob",'
        b'"id":"tomb_aaaaaaaa-0000-4000-8000-000000000001","key_id":"56475aa75463474c",'
        b'"legal_hold":false,"scope":"public","signed_by":"https://origin.example"}',
        TOMBSTONE.signature,
    ),
    Vector(
        "the issuer's body of a revocation",
        REVOCATION.signed_body(),
        b'{"created_at":"2026-01-03T03:04:05.678901+00:00",'
        b'"id":"tombrevoke_bbbbbbbb-0000-4000-8000-000000000002","key_id":"56475aa75463474c",'
        b'"signed_by":"https://origin.example",'
        b'"tombstone_id":"tomb_aaaaaaaa-0000-4000-8000-000000000001"}',
        REVOCATION.signature,
    ),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.says)
def test_what_is_signed_is_as_published(vector: Vector) -> None:
    """We make the published bytes, the published key signed them, and we sign them so."""
    assert vector.ours == vector.published
    assert signatures.verifies(vector.signature, vector.ours, [KEYS[0].public])
    assert not signatures.verifies(vector.signature, vector.ours, [KEYS[1].public])
    assert KEYS[0].sign(vector.ours) == vector.signature


@pytest.mark.parametrize("record", [TOMBSTONE, REVOCATION], ids=["tombstone", "revocation"])
def test_the_issuer_signs_all_but_the_reason(record: Tombstone | Revocation) -> None:
    """Of a record only its reason, and the signature itself, may change on the way."""
    for item in fields(record):
        other: dict[str, Any] = {item.name: True if item.name == "legal_hold" else "other"}
        changed = replace(record, **other)
        unsigned = item.name in ("reason", "signature")
        assert (changed.signed_body() == record.signed_body()) is unsigned, item.name


def test_the_origin_signs_its_whole_block_and_what_it_is_for() -> None:
    """Whatever of the block, or of the record that it names, is changed, another tuple it is."""
    tuples: set[bytes] = set()
    blocks = [
        ORIGIN,
        replace(ORIGIN, node_id="other"),
        replace(ORIGIN, tenant="other"),
        replace(ORIGIN, entity_uri="other"),
        replace(ORIGIN, allowed_scopes=("public", "company")),
        replace(ORIGIN, allowed_tenants=()),
    ]
    for block in blocks:
        for one, two, three in (("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x")):
            tombstone = {"tombstone_id": one, "entity_uri": two, "scope": three}
            tuples.add(signatures.tombstone_tuple(**tombstone, origin=block))
        for one, two in (("a", "b"), ("x", "b"), ("a", "x")):
            revocation = {"revocation_id": one, "tombstone_id": two}
            tuples.add(signatures.revocation_tuple(**revocation, origin=block))
    assert len(tuples) == len(blocks) * 7


def test_the_order_of_grants_is_not_signed() -> None:
    """Scopes and tenants are sorted before they are signed."""
    one = replace(ORIGIN, allowed_scopes=("public", "company"), allowed_tenants=("b", "a"))
    other = replace(ORIGIN, allowed_scopes=("company", "public"), allowed_tenants=("a", "b"))
    record = {"tombstone_id": "t", "entity_uri": "e", "scope": "public"}
    assert signatures.tombstone_tuple(**record, origin=one) == signatures.tombstone_tuple(
        **record, origin=other
    )
    assert signatures.revocation_tuple(
        revocation_id="r", tombstone_id="t", origin=one
    ) == signatures.revocation_tuple(revocation_id="r", tombstone_id="t", origin=other)


def test_names_are_signed_as_utf_8() -> None:
    """What is not ASCII is not escaped in what is signed."""
    body = replace(TOMBSTONE, entity_uri="stigmem://zoë").signed_body()
    assert "zoë".encode() in body
