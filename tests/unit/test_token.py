"""Peer tokens: what a peer finds in them."""

from __future__ import annotations

import json
from typing import Any

from stigmem_replicator.protocol import signatures, token
from tests.unit.signed import KEYS, NOW_MS


def mint(nonce: str = "n-1", issuer: str = "stigmem:node:we") -> str:
    return token.mint(
        KEYS[0].private,
        issuer=issuer,
        audience="stigmem:node:they",
        scopes=["company", "public"],
        nonce=nonce,
        now_ms=NOW_MS,
        lifetime_ms=120_000,
    )


def part(text: str, index: int) -> Any:  # noqa: ANN401 - decoded JSON
    return json.loads(signatures.decode_base64url(text.split(".")[index]))


def test_the_header_names_the_only_algorithm() -> None:
    """A peer accepts EdDSA and nothing else."""
    assert part(mint(), 0) == {"alg": "EdDSA", "typ": "JWT"}


def test_the_claims_are_who_for_whom_and_when_in_milliseconds() -> None:
    """Times are whole milliseconds; the audience is in the claim ``sub``."""
    assert part(mint(), 1) == {
        "iss": "stigmem:node:we",
        "sub": "stigmem:node:they",
        "iat": NOW_MS,
        "exp": NOW_MS + 120_000,
        "nonce": "n-1",
        "scopes": ["company", "public"],
    }


def test_the_signature_verifies_with_the_public_key() -> None:
    """The signature covers header and claims, and fits our public key and no other."""
    signed, _, signature = mint().rpartition(".")
    assert signatures.verifies(signature, signed.encode(), [KEYS[0].public])
    assert not signatures.verifies(signature, signed.encode(), [KEYS[1].public])


def test_another_nonce_is_another_token() -> None:
    """Two requests never carry the same token."""
    assert mint("n-1") != mint("n-2")


def test_a_token_is_a_header_value() -> None:
    """Names outside ASCII do not end up raw in an HTTP header."""
    text = mint(issuer="stigmem:node:zoë")
    assert text.isascii()
    assert part(text, 1)["iss"] == "stigmem:node:zoë"
