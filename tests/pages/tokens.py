"""The tokens of requests, checked the way a node checks them, nonces included.

It says what is wrong with one; what a request without a good token is answered is the server's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.pages.origin import Raw, from_base64url, now_ms

_LEEWAY_MS = 30_000
_TOKEN_AGE_MS = 24 * 3_600_000
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Reader:
    """A node that may read from the origin, as its registry has it."""

    node_id: str
    public_key: str
    scopes: frozenset[str]
    status: str = "active"


class TokenError(Exception):
    """The token is refused; the text is what the peer is told."""


class Tokens:
    """The nodes that may read, and the nonces that they have used."""

    def __init__(self) -> None:
        self.readers: dict[str, Reader] = {}
        self._nonces: set[str] = set()

    def check(self, header: str, audience: str) -> Raw:
        """The claims of a good token for the audience.  Raises `TokenError`."""
        if not header.lower().startswith(_BEARER):
            raise TokenError("peer token required")
        token = _Token.read(header[len(_BEARER) :])
        claims = token.claims
        reader = self.readers.get(claims.get("iss", ""))
        if reader is None:
            raise TokenError("peer not registered")
        if reader.status != "active":
            raise TokenError("peer_not_approved")
        key = Ed25519PublicKey.from_public_bytes(from_base64url(reader.public_key))
        if token.algorithm != "EdDSA":
            raise TokenError("invalid_token")
        try:
            key.verify(token.signature, token.signed)
        except InvalidSignature:
            raise TokenError("invalid_signature") from None
        _check_claims(claims, audience)
        nonce = claims.get("nonce")
        if not nonce:
            raise TokenError("missing_nonce")
        if nonce in self._nonces:
            raise TokenError("nonce_already_seen")
        self._nonces.add(nonce)
        return claims


def audience_of(header: str) -> str | None:
    """For whom a token is, whatever else is wrong with it; None where there is none."""
    if not header.lower().startswith(_BEARER):
        return None
    try:
        claims = _Token.read(header[len(_BEARER) :]).claims
    except TokenError:
        return ""
    return str(claims.get("sub", ""))


def _check_claims(claims: Raw, audience: str) -> None:
    now = now_ms()
    if now > int(claims.get("exp", 0)) + _LEEWAY_MS:
        raise TokenError("token_expired")
    if claims.get("sub") != audience:
        raise TokenError("invalid_sub")
    issued = int(claims.get("iat", 0))
    if issued > now + _LEEWAY_MS:
        raise TokenError("iat_in_future")
    if issued < now - _TOKEN_AGE_MS:
        raise TokenError("iat_too_old")
    if claims.get("nbf") is not None and int(claims["nbf"]) > now + _LEEWAY_MS:
        raise TokenError("nbf_in_future")


@dataclass(frozen=True, slots=True)
class _Token:
    algorithm: object
    claims: Raw
    signed: bytes
    signature: bytes

    @classmethod
    def read(cls, text: str) -> Self:
        try:
            header, payload, signature = text.split(".")
            algorithm = json.loads(from_base64url(header)).get("alg")
            claims = json.loads(from_base64url(payload))
            raw = from_base64url(signature)
        except (ValueError, AttributeError):
            raise TokenError("malformed token") from None
        if not isinstance(claims, dict):
            raise TokenError("malformed token")
        return cls(algorithm, claims, f"{header}.{payload}".encode(), raw)
