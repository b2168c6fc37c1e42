"""Signatures: the published vectors, and that nothing foreign makes a verification raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.protocol import signatures
from stigmem_replicator.protocol.signatures import KeyFormatError
from tests.unit.signed import KEYS

PRIVATE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
PUBLIC = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"
TUPLE = (
    b'{"cid":"sha256:abababababababababababababababababababababababababababababababab",'
    b'"entity_uri":"https://origin.example","fact_id":"11111111-2222-4333-8444-555555555555",'
    b'"origin_allowed_scopes":["company","public"],"origin_allowed_tenants":["default"],'
    b'"origin_node_id":"stigmem:node:origin-1","origin_tenant":"default","tv":"2.1",'
    b'"valid_until":null}'
)
SIGNATURE = "R2ha-_CNi50jVvjOUP1KuXHUW3jj6y1BBlDyVuwmoc4TP2KaMlVlFrCNV4-lhsHJHDDA0rA-Pux-RSrKVu-uBg"


def test_the_fact_tuple_is_the_published_one() -> None:
    """An origin signs nine fields in canonical JSON, its grants sorted."""
    body = signatures.fact_tuple(
        fact_id="11111111-2222-4333-8444-555555555555",
        cid="sha256:" + "ab" * 32,
        valid_until=None,
        origin_node_id="stigmem:node:origin-1",
        origin_tenant="default",
        origin_entity_uri="https://origin.example",
        allowed_scopes=["public", "company"],
        allowed_tenants=["default"],
    )
    assert body == TUPLE


def test_the_published_signature_verifies() -> None:
    """A signature made by a node verifies with the node's public key."""
    assert signatures.verifies(SIGNATURE, TUPLE, [PUBLIC])


def test_we_sign_as_the_published_vector_does() -> None:
    """The private key's text gives the published public key and the published signature."""
    key = signatures.private_key(PRIVATE)
    public = signatures.encode_base64url(key.public_key().public_bytes_raw())
    assert public == PUBLIC
    assert signatures.encode_base64url(key.sign(TUPLE)) == SIGNATURE


def test_key_id_and_fingerprint_are_the_published_ones() -> None:
    """The key id digests the raw key, the fingerprint its text."""
    assert signatures.key_id(PUBLIC) == "56475aa75463474c"
    assert signatures.fingerprint(PUBLIC) == (
        "sha256:b43cdfe1bf180ef4e22bb93ea9cc8f0ef23b762de714053b3bf0acdda2d7470d"
    )


def test_one_changed_byte_does_not_verify() -> None:
    """A signature fits exactly the bytes that it was made over."""
    assert not signatures.verifies(SIGNATURE, TUPLE.replace(b"default", b"Default"), [PUBLIC])


def test_any_key_of_the_set_may_have_signed() -> None:
    """One fitting key is enough, and keys that do not decode are passed over."""
    keys = ["", "not a key!", KEYS[1].public, PUBLIC + "=", PUBLIC]
    assert signatures.verifies(SIGNATURE, TUPLE, keys)
    assert not signatures.verifies(SIGNATURE, TUPLE, keys[:3])
    assert not signatures.verifies(SIGNATURE, TUPLE, [])


@pytest.mark.parametrize(
    "signature",
    ["", "=", "A", "AA", "é" * 86, "\ud800", SIGNATURE[:-2], SIGNATURE + "AA", "!" * 86, "A" * 86],
)
def test_a_bad_signature_is_false_and_no_exception(signature: str) -> None:
    """What is not base64url of 64 fitting bytes verifies nothing."""
    assert signatures.verifies(signature, TUPLE, [PUBLIC]) is False


@given(st.text(), st.binary(), st.lists(st.text(), max_size=3))
def test_verifies_never_raises(signature: str, body: bytes, keys: list[str]) -> None:
    """Arbitrary text as signature or key is refused, never an error."""
    assert signatures.verifies(signature, body, [*keys, PUBLIC]) is False


@pytest.mark.parametrize("text", ["", "AAAA", "A" * 44, "A" * 42, "\ud800", "ключ", "A" * 41])
def test_a_key_that_is_not_32_bytes_is_refused(text: str) -> None:
    """Keys of another length or alphabet are refused by one kind of error."""
    with pytest.raises(KeyFormatError):
        signatures.public_key(text)
    with pytest.raises(KeyFormatError):
        signatures.private_key(text)


@given(st.binary())
def test_base64url_reads_back_with_and_without_padding(raw: bytes) -> None:
    """Encoding drops the padding, decoding does not miss it."""
    text = signatures.encode_base64url(raw)
    assert "=" not in text
    assert signatures.decode_base64url(text) == raw
    assert signatures.decode_base64url(text + "=" * (-len(text) % 4)) == raw
