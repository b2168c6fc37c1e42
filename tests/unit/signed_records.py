"""Tombstones and revocations as a made-up origin would send them, good or bad in a chosen place.

The organisation that issues a record and the node that sends it are the same one here, each with
a key of its own; for version 1 an entry is the record alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stigmem_replicator.protocol import signatures
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.origin import Origin
from stigmem_replicator.protocol.tombstone import (
    Artifact,
    RecordEntry,
    Revocation,
    Tombstone,
    decode_entry,
)
from stigmem_replicator.trust.keys import Manifest, parse_manifest
from stigmem_replicator.trust.tenants import TenantPolicy
from stigmem_replicator.trust.tombstones import RecordPolicy
from tests.unit.signed import KEYS, ORGANISATION, SENDER, Document, Key, manifest_document

ORIGIN_KEY: Final = KEYS[0]
ISSUER_KEY: Final = KEYS[2]

TOMBSTONE_ID: Final = "tomb_aaaaaaaa-0000-4000-8000-000000000001"
REVOCATION_ID: Final = "tombrevoke_bbbbbbbb-0000-4000-8000-000000000002"
ALICE: Final = "stigmem://acme.example/user/alice"
CREATED: Final = "2026-01-02T03:00:05.678901+00:00"


def tombstone_record(key: Key = ISSUER_KEY, **changes: object) -> Document:
    """Return a tombstone's record, signed with its fields changed.

    A ``signature`` given stays as it is.
    """
    said: Document = {
        "id": TOMBSTONE_ID,
        "entity_uri": ALICE,
        "scope": "public",
        "reason": "asked for",
        "signed_by": ORGANISATION,
        "key_id": key.id,
        "created_at": CREATED,
        "legal_hold": False,
        **changes,
    }
    body = Tombstone(**{**said, "signature": ""}).signed_body()
    return {"signature": key.sign(body), **said}


def revocation_record(key: Key = ISSUER_KEY, **changes: object) -> Document:
    """Return a revocation's record; as :func:`tombstone_record`."""
    said: Document = {
        "id": REVOCATION_ID,
        "tombstone_id": TOMBSTONE_ID,
        "reason": "taken back",
        "signed_by": ORGANISATION,
        "key_id": key.id,
        "created_at": CREATED,
        **changes,
    }
    body = Revocation(**{**said, "signature": ""}).signed_body()
    return {"signature": key.sign(body), **said}


def record(artifact: Artifact, key: Key = ISSUER_KEY, **changes: object) -> Document:
    """Return a record of either kind."""
    make = tombstone_record if artifact is Artifact.TOMBSTONE else revocation_record
    return make(key, **changes)


def wrapped(
    artifact: Artifact,
    said: Document,
    *,
    origin: Mapping[str, object] | None = None,
    key: Key = ORIGIN_KEY,
) -> Document:
    """Return the entry of version 2 that carries a record, its origin block changed and signed."""
    scopes = [said["scope"]] if artifact is Artifact.TOMBSTONE else []
    block: Document = {
        "node_id": SENDER,
        "tenant": "default",
        "entity_uri": ORGANISATION,
        "allowed_scopes": scopes,
        "allowed_tenants": ["default"],
        **(origin or {}),
    }
    return {
        artifact.value: said,
        "origin": block,
        "origin_sig": key.sign(origin_tuple(artifact, said, block)),
        "origin_manifest": None,
    }


def origin_tuple(artifact: Artifact, said: Document, block: Document) -> bytes:
    """Return what the origin of an entry signs."""
    lists = {name: tuple(block[name]) for name in ("allowed_scopes", "allowed_tenants")}
    origin = Origin(**{**block, **lists})
    if artifact is Artifact.TOMBSTONE:
        return signatures.tombstone_tuple(
            tombstone_id=said["id"],
            entity_uri=said["entity_uri"],
            scope=said["scope"],
            origin=origin,
        )
    return signatures.revocation_tuple(
        revocation_id=said["id"], tombstone_id=said["tombstone_id"], origin=origin
    )


def raw_record(
    artifact: Artifact, dialect: Dialect = Dialect.V2, key: Key = ISSUER_KEY, **changes: object
) -> Document:
    """Return a good entry in either version, with fields of its record changed before signing."""
    said = record(artifact, key, **changes)
    return said if dialect is Dialect.V1 else wrapped(artifact, said)


def decoded_record(raw: object, artifact: Artifact, dialect: Dialect = Dialect.V2) -> RecordEntry:
    """Decode an entry that is well-formed."""
    entry = decode_entry(raw, artifact, dialect)
    assert isinstance(entry, RecordEntry), entry
    return entry


def issuer_manifest(key: Key = ISSUER_KEY, **changes: Any) -> Manifest:  # noqa: ANN401 - any field
    """Return the issuer's manifest, with fields changed."""
    manifest = parse_manifest(manifest_document(key, **changes))
    manifest.verify()
    return manifest


def record_policy(**changes: Any) -> RecordPolicy:  # noqa: ANN401 - fields of any type
    """Return a policy under which :func:`raw_record` is admitted, with fields changed."""
    fields: Document = {
        "sender_node_id": SENDER,
        "keys": frozenset({ORIGIN_KEY.public}),
        "issuers": {ORGANISATION: issuer_manifest()},
        "tenants": TenantPolicy({}, None, hosts_tenants=False, plugin_active=False),
        "relay_enabled": False,
        "relay_trusted": False,
        **changes,
    }
    return RecordPolicy(**fields)


def plain_policy(**changes: Any) -> RecordPolicy:  # noqa: ANN401 - fields of any type
    """Return the policy of a node of version 1, which has no keys of origins."""
    return record_policy(**{"signed": False, "keys": frozenset[str](), **changes})


def iso(at_ms: int) -> str:
    """Return a time as a node writes it: without a fraction where that is zero."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat()
