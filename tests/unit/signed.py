"""A made-up origin that signs what it says: keys, manifests and entries for tests.

It is for making what a peer would send, good or bad in one chosen place; it knows no database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stigmem_replicator.protocol import cid, envelope, signatures
from stigmem_replicator.trust.facts import FactPolicy
from stigmem_replicator.trust.tenants import TenantPolicy

NOW_MS: Final = 1_767_323_045_678
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """An Ed25519 key that is the same in every run."""

    private: Ed25519PrivateKey
    public: str

    @property
    def id(self) -> str:
        return signatures.key_id(self.public)

    def sign(self, body: Mapping[str, object] | bytes) -> str:
        raw = body if isinstance(body, bytes) else signatures.canonical_json(body)
        return signatures.encode_base64url(self.private.sign(raw))


def make_key(number: int) -> Key:
    """Return key number 0, 1, 2 ...; number 0 has the seed 00 01 02 ... 1f."""
    private = Ed25519PrivateKey.from_private_bytes(bytes((number + i) % 256 for i in range(32)))
    return Key(private, signatures.encode_base64url(private.public_key().public_bytes_raw()))


KEYS: Final = tuple(make_key(number) for number in range(6))
SENDER: Final = "stigmem:node:origin-1"
ORGANISATION: Final = "https://origin.example"


def raw_entry(
    fact_id: str = "11111111-2222-4333-8444-555555555555",
    *,
    fact: Mapping[str, object] | None = None,
    value: Mapping[str, object] | None = None,
    origin: Mapping[str, object] | None = None,
    value_text: str | None = None,
    key: Key = KEYS[0],
) -> Document:
    """Return a wire entry with the given fields changed, its content id and signature fitting.

    ``value_text`` is what the content id is made over, where that is not the wire value's text.
    A ``cid`` given in ``fact`` stays and is signed as it is.
    """
    said: Document = {
        "id": fact_id,
        "entity": "stigmem://acme.example/user/alice",
        "relation": "memory:role",
        "value": {"type": "string", "v": "CEO", "interpret_as": "content", **(value or {})},
        "timestamp": "2026-01-02T03:04:00+00:00",
        "hlc": f"{NOW_MS - 5_000}.0",
        "received_from": None,
        "valid_until": None,
        "confidence": 1.0,
        "scope": "public",
        "source": "stigmem://acme.example/agent/hr",
        "garden_id": None,
        "contradicted": False,
        **(fact or {}),
    }
    block: Document = {
        "node_id": SENDER,
        "tenant": "default",
        "entity_uri": ORGANISATION,
        "allowed_scopes": ["public", "company"],
        "allowed_tenants": ["default"],
        **(origin or {}),
    }
    if "cid" not in said:
        said["cid"] = _content_id(said, value_text)
    return {
        "fact": said,
        "origin": block,
        "origin_sig": sign_entry(said, block, key),
        "origin_manifest": None,
        "origin_key_proof": None,
    }


def sign_entry(fact: Document, origin: Document, key: Key = KEYS[0]) -> str:
    return key.sign(
        signatures.fact_tuple(
            fact_id=fact["id"],
            cid=fact["cid"],
            valid_until=fact["valid_until"],
            origin_node_id=origin["node_id"],
            origin_tenant=origin["tenant"],
            origin_entity_uri=origin["entity_uri"],
            allowed_scopes=origin["allowed_scopes"],
            allowed_tenants=origin["allowed_tenants"],
        )
    )


def _content_id(said: Document, value_text: str | None) -> str:
    value = said["value"]
    text = cid.value_texts(value["type"], value["v"])[0] if value_text is None else value_text
    return cid.content_id(
        entity=said["entity"],
        relation=said["relation"],
        value_type=value["type"],
        value_text=text,
        source=said["source"],
        scope=said["scope"],
        confidence=said["confidence"],
        interpret_as=value["interpret_as"],
    )


def raw_plain(
    fact_id: str = "11111111-2222-4333-8444-555555555555",
    *,
    fact: Mapping[str, object] | None = None,
    value: Mapping[str, object] | None = None,
    value_text: str | None = None,
) -> Document:
    """Return a wire entry of version 1 with the given fields changed, its content id fitting.

    A ``cid`` given in ``fact`` stays.
    """
    said: Document = raw_entry(fact_id, fact={"cid": "", **(fact or {})}, value=value)["fact"]
    if "cid" not in (fact or {}):
        said["cid"] = legacy_cid(said, value_text)
    return said


def legacy_cid(said: Document, value_text: str | None = None) -> str:
    """Return the content id of wire version 1 of a fact object."""
    value = said["value"]
    text = cid.value_texts(value["type"], value["v"])[0] if value_text is None else value_text
    return cid.legacy_content_id(
        entity=said["entity"],
        relation=said["relation"],
        value_type=value["type"],
        value_text=text,
        source=said["source"],
        scope=said["scope"],
        confidence=said["confidence"],
    )


def decoded_plain(raw: object) -> envelope.PlainEntry:
    entry = envelope.V1.decode_entry(raw)
    assert isinstance(entry, envelope.PlainEntry), entry
    return entry


def decoded(raw: object) -> envelope.SignedEntry:
    entry = envelope.V2.decode_entry(raw)
    assert isinstance(entry, envelope.SignedEntry), entry
    return entry


def policy(**changes: Any) -> FactPolicy:  # noqa: ANN401 - fields of any type
    """Return a policy under which :func:`raw_entry` is admitted, with fields changed."""
    fields: Document = {
        "sender_node_id": SENDER,
        "keys": frozenset({KEYS[0].public}),
        "scopes": frozenset({"public", "company"}),
        "tenants": TenantPolicy({}, None, hosts_tenants=False, plugin_active=False),
        "relay_enabled": False,
        "relay_trusted": False,
        "future_skew_ms": 300_000,
        "past_skew_ms": 30 * 86_400_000,
        "trust": None,
        **changes,
    }
    return FactPolicy(**fields)


def rotation(before: Key, after: Key, at: datetime = NOW, **changes: object) -> Document:
    """Return a signed step from one key to the next, with fields changed after signing."""
    body = {
        "previous_key_id": before.id,
        "new_key_id": after.id,
        "new_public_key": after.public,
        "rotated_at": at.isoformat(),
    }
    return {
        **body,
        "signature": before.sign(body),
        "previous_public_key": before.public,
        **changes,
    }


def manifest_document(
    key: Key = KEYS[0],
    *,
    rotations: Sequence[Mapping[str, object]] = (),
    **changes: object,
) -> Document:
    """Return an organisation's manifest, signed with its fields changed."""
    body: Document = {
        "entity_uri": ORGANISATION,
        "key_id": key.id,
        "public_key": key.public,
        "issued_at": (NOW - timedelta(days=10)).isoformat(),
        "expires_at": (NOW + timedelta(days=300)).isoformat(),
        "entities": [SENDER],
        "rotation_events": list(rotations),
        **changes,
    }
    return {**body, "signature": key.sign(body)}
