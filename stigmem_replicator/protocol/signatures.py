"""Ed25519 over canonical JSON: what an origin signs, and how keys and signatures are written.

Keys and signatures travel as base64url without padding.  Every value signed here is a string,
null, true, false or a list of strings, for which RFC 8785 and Python's sorted compact JSON
agree.  This module checks one signature against one set of keys; which keys an origin may use
is decided in ``trust.keys``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stigmem_replicator.protocol.origin import Origin

FACT_TUPLE_VERSION: Final = "2.1"
TOMBSTONE_TUPLE_VERSION: Final = "t2.1"
REVOCATION_TUPLE_VERSION: Final = "r2.1"
_KEY_BYTES: Final = 32


class KeyFormatError(ValueError):
    """A key or signature is not base64url of the right length."""


def canonical_json(body: Mapping[str, object]) -> bytes:
    """Return the bytes that are signed for ``body``."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode_base64url(text: str) -> bytes:
    """Decode base64url with or without padding.  Raises :class:`KeyFormatError`."""
    try:
        raw = text.rstrip("=").encode("ascii")
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise KeyFormatError(str(error)) from error


def encode_base64url(raw: bytes) -> str:
    """Encode as base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def public_key(text: str) -> Ed25519PublicKey:
    """Return the key behind its wire text.  Raises :class:`KeyFormatError`."""
    raw = decode_base64url(text)
    if len(raw) != _KEY_BYTES:
        message = f"a public key has {_KEY_BYTES} bytes, this one has {len(raw)}"
        raise KeyFormatError(message)
    return Ed25519PublicKey.from_public_bytes(raw)


def private_key(text: str) -> Ed25519PrivateKey:
    """Return the key behind its base64url seed of 32 bytes.  Raises :class:`KeyFormatError`."""
    raw = decode_base64url(text)
    if len(raw) != _KEY_BYTES:
        message = f"a private key seed has {_KEY_BYTES} bytes, this one has {len(raw)}"
        raise KeyFormatError(message)
    return Ed25519PrivateKey.from_private_bytes(raw)


def key_id(text: str) -> str:
    """Return the key id of a public key: 16 hexadecimal digits of SHA-256 over its raw bytes."""
    return hashlib.sha256(decode_base64url(text)).hexdigest()[:16]


def fingerprint(text: str) -> str:
    """Return the fingerprint that operators compare: SHA-256 over the key's wire *text*."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def fact_tuple(
    *,
    fact_id: str,
    cid: str,
    valid_until: str | None,
    origin_node_id: str,
    origin_tenant: str,
    origin_entity_uri: str,
    allowed_scopes: Collection[str],
    allowed_tenants: Collection[str],
) -> bytes:
    """Return the bytes that an origin signs for one fact (tuple version 2.1)."""
    return canonical_json(
        {
            "cid": cid,
            "entity_uri": origin_entity_uri,
            "fact_id": fact_id,
            "origin_allowed_scopes": sorted(allowed_scopes),
            "origin_allowed_tenants": sorted(allowed_tenants),
            "origin_node_id": origin_node_id,
            "origin_tenant": origin_tenant,
            "tv": FACT_TUPLE_VERSION,
            "valid_until": valid_until,
        }
    )


def tombstone_tuple(*, tombstone_id: str, entity_uri: str, scope: str, origin: Origin) -> bytes:
    """Return the bytes that an origin signs for one tombstone (tuple version t2.1).

    ``entity_uri`` is the entity that is forgotten, not the origin's organisation.
    """
    return canonical_json(
        {
            **_grant(origin),
            "entity_uri": entity_uri,
            "scope": scope,
            "tid": tombstone_id,
            "tv": TOMBSTONE_TUPLE_VERSION,
        }
    )


def revocation_tuple(*, revocation_id: str, tombstone_id: str, origin: Origin) -> bytes:
    """Return the bytes that an origin signs for one revocation (tuple version r2.1)."""
    return canonical_json(
        {
            **_grant(origin),
            "rid": revocation_id,
            "tombstone_id": tombstone_id,
            "tv": REVOCATION_TUPLE_VERSION,
        }
    )


def _grant(origin: Origin) -> dict[str, object]:
    return {
        "origin_allowed_scopes": sorted(origin.allowed_scopes),
        "origin_allowed_tenants": sorted(origin.allowed_tenants),
        "origin_entity_uri": origin.entity_uri,
        "origin_node_id": origin.node_id,
        "origin_tenant": origin.tenant,
    }


def verifies(signature: str, body: bytes, keys: Collection[str]) -> bool:
    """Say whether any of ``keys`` made ``signature`` over ``body``.

    A key or signature that does not decode verifies nothing; it never raises.
    """
    try:
        raw = decode_base64url(signature)
    except KeyFormatError:
        return False
    for text in keys:
        try:
            public_key(text).verify(raw, body)
        except (InvalidSignature, KeyFormatError, ValueError):
            continue
        return True
    return False
