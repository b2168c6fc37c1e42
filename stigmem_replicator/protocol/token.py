"""Peer tokens: the signed, single-use credential of one request.

A peer token is a JWT (RFC 7519) signed with EdDSA (RFC 8037) whose times are in milliseconds,
which the RFC does not know and stock libraries refuse.  The peer consumes its nonce before it
looks at anything else, so every request, also a retry, needs a token of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from stigmem_replicator.protocol.signatures import encode_base64url

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_HEADER: Final = encode_base64url(b'{"alg":"EdDSA","typ":"JWT"}')


def mint(
    key: Ed25519PrivateKey,
    *,
    issuer: str,
    audience: str,
    scopes: Sequence[str],
    nonce: str,
    now_ms: int,
    lifetime_ms: int,
) -> str:
    """Return a token for one request.

    ``issuer`` is our node id, ``audience`` the peer's (claim ``sub``), ``scopes`` what we ask
    to be served, ``nonce`` a text never used before.
    """
    claims = {
        "iss": issuer,
        "sub": audience,
        "iat": now_ms,
        "exp": now_ms + lifetime_ms,
        "nonce": nonce,
        "scopes": list(scopes),
    }
    payload = encode_base64url(json.dumps(claims, separators=(",", ":")).encode())
    signed = f"{_HEADER}.{payload}"
    return f"{signed}.{encode_base64url(key.sign(signed.encode('ascii')))}"
