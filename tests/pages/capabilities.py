"""Capability tokens of an origin: issued, revoked, and checked the way a node checks them.

It says what is wrong with one in the node's own words; what a request without a good one is
answered is for tombstone_endpoint.py. A peer token is another thing, see tokens.py.

    token = capabilities.issue(server.origin)                # good for tombstones, an hour
    old = capabilities.issue(server.origin, ttl_s=-1)        # has expired
    capabilities.revoke(token)
"""

from __future__ import annotations

import json
import secrets
import uuid
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.pages.origin import Origin, Raw, base64url, canonical, from_base64url

TOMBSTONE_READ = "tombstone:read"

_VERBS = frozenset({TOMBSTONE_READ, "admin"})
_REQUIRED = ("issuer", "subject", "expiry", "token_id", "signature")
_OLD_KEYS = timedelta(days=90)


class CapabilityError(Exception):
    """The token is refused; the text is what the client is told."""


class Capabilities:
    """The tokens that a server has issued, and which of them it has taken back."""

    def __init__(self) -> None:
        self._issued: set[str] = set()
        self._revoked: set[str] = set()

    def issue(
        self,
        origin: Origin,
        *,
        verb: str = TOMBSTONE_READ,
        ttl_s: float = 3600.0,
        subject: str | None = None,
        key: Ed25519PrivateKey | None = None,
    ) -> str:
        """A token of the origin as one line of JSON; `key` signs in its key's place."""
        now = datetime.now(UTC)
        body: Raw = {
            "token_id": str(uuid.uuid4()),
            "token_version": 1,
            "issuer": origin.entity_uri,
            "subject": subject or origin.entity_uri,
            "verb": verb,
            "object": "stigmem://tombstones",
            "issued_at": now.isoformat(),
            "expiry": (now + timedelta(seconds=ttl_s)).isoformat(),
            "nonce": secrets.token_hex(32),
        }
        self._issued.add(body["token_id"])
        signature = base64url((key or origin.key).sign(canonical(body)))
        return canonical({**body, "signature": signature}).decode()

    def revoke(self, token: str) -> None:
        """Take a token back."""
        self._revoked.add(json.loads(token)["token_id"])

    def check(self, text: str, origin: Origin) -> None:
        """Let a good token for tombstones pass.

        Raises `CapabilityError`, and `ValueError` for broken JSON, over which a node stumbles.
        """
        token: Raw = json.loads(text) if text.startswith("{") else {}
        verbs = token.get("verbs", token.get("verb", ""))
        if isinstance(verbs, str):
            verbs = [verb.strip() for verb in verbs.split(",")]
        if not any(verb in _VERBS for verb in verbs or []):
            raise CapabilityError("tombstone:read capability required")
        version = token.get("token_version")
        if version != 1:
            raise CapabilityError(f"unsupported token_version: {version!r} (expected 1)")
        if not all(token.get(key) for key in _REQUIRED):
            raise CapabilityError("token missing required fields")
        self._check_issuer(token, origin)
        self._check_life(token)

    def _check_issuer(self, token: Raw, origin: Origin) -> None:
        issuer, subject, manifest = token["issuer"], token["subject"], origin.manifest
        ended = datetime.fromisoformat(manifest["expires_at"]) <= datetime.now(UTC)
        if issuer != origin.entity_uri or ended:
            raise CapabilityError(f"issuer manifest not found or expired: {issuer!r}")
        body = {key: value for key, value in token.items() if key != "signature"}
        signature = from_base64url(token["signature"])
        if not any(_made(signature, canonical(body), key) for key in _keys(manifest)):
            raise CapabilityError("token signature verification failed")
        if subject not in manifest["entities"]:
            raise CapabilityError(
                f"subject {subject!r} not in issuer {issuer!r} entities list (C1)"
            )

    def _check_life(self, token: Raw) -> None:
        expiry, token_id = token["expiry"], token["token_id"]
        try:
            ends = datetime.fromisoformat(expiry)
        except ValueError as error:
            raise CapabilityError(f"invalid expiry format: {error}") from error
        if ends <= datetime.now(UTC):
            raise CapabilityError(f"token expired at {expiry}")
        if token_id not in self._issued:
            raise CapabilityError(f"token {token_id!r} not found in store")
        if token_id in self._revoked:
            raise CapabilityError(f"token {token_id!r} has been revoked")


def _keys(manifest: Raw) -> list[str]:
    """The key of a manifest, and those that it has replaced in the last ninety days."""
    since = datetime.now(UTC) - _OLD_KEYS
    return [
        manifest["public_key"],
        *(
            step["previous_public_key"]
            for step in manifest["rotation_events"]
            if datetime.fromisoformat(step["rotated_at"]) > since
        ),
    ]


def _made(signature: bytes, body: bytes, key: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(from_base64url(key)).verify(signature, body)
    except InvalidSignature:
        return False
    return True
