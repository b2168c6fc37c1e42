"""The ordered checks on one tombstone or revocation: from a decoded entry to a verdict.

The order is the node's, and the first check that fails decides.  Every check fails closed.
Nothing here looks anything up: keys, manifests, known rows come in as values.

In wire version 1 an entry has no origin and no signature of one; its issuer's signature is
verified all the same, which a node of that version leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import signatures
from stigmem_replicator.protocol.fact import SCOPES
from stigmem_replicator.protocol.origin import Origin
from stigmem_replicator.protocol.tombstone import (
    RecordEntry,
    Revocation,
    RevocationEntry,
    Tombstone,
    TombstoneEntry,
)
from stigmem_replicator.trust.keys import Manifest, issuer_key
from stigmem_replicator.trust.origins import refuse_relayed
from stigmem_replicator.trust.tenants import DEFAULT_TENANT, Denied, TenantPolicy, ingest_tenant
from stigmem_replicator.trust.verdicts import BlockPeer, Duplicate, Reject

JUDGEMENT_VERSION: Final = 1
"""Raised when a check changes, so that what was refused before is judged again."""

EVERY_SCOPE: Final = "*"

MENDED_BY_TIME: Final = frozenset(
    {Reason.WAITING_FOR_KEY, Reason.WAITING_FOR_TOMBSTONE, Reason.ORIGIN_SIG_INVALID}
)
"""Why a record waits in the dead letters for what may come by itself: a key, or its tombstone.

A bad signature of the sender may be one of a newer key, whose manifest could not be had."""


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """What the database holds under the id of a tombstone or revocation."""

    signed_by: str
    signature: str


@dataclass(frozen=True, slots=True)
class RecordPolicy:
    """What the checks compare an entry with; one per peer and page.

    ``signed`` says that this node speaks wire version 2; ``keys`` are those that the sender may
    sign with.  ``issuers`` are the manifests that hold now, by organisation: verified and not
    expired.
    """

    sender_node_id: str
    keys: frozenset[str]
    issuers: Mapping[str, Manifest]
    tenants: TenantPolicy
    relay_enabled: bool
    relay_trusted: bool
    signed: bool = True


@dataclass(frozen=True, slots=True)
class AdmitRecord:
    """Every check passed: the record may be written, a tombstone for this local tenant."""

    entry: RecordEntry
    tenant: str


RecordVerdict = AdmitRecord | Duplicate | Reject | BlockPeer


def judge(
    entry: RecordEntry,
    policy: RecordPolicy,
    known: KnownRecord | None,
    target: KnownRecord | None = None,
) -> RecordVerdict:
    """Judge one decoded entry against the policy and what is known under its id.

    ``target`` is the tombstone that a revocation names, None where it is not here.
    """
    record = entry.record
    if is_duplicate(record, known):
        return Duplicate(record.id)
    tenant = _tenant(policy)
    if isinstance(tenant, Denied):
        return BlockPeer(Reason.TENANT_POLICY_UNSAFE, tenant.detail)
    refused = (
        _check_origin(entry, policy)
        or _check_issuer(record, policy)
        or _check_grant(entry)
        or _check_scope(record)
    )
    if refused is None and known is not None:
        # Whoever took an id first must not keep the order that it stands for from being seen.
        detail = "the id is known with another signature: nothing was changed"
        refused = Reject(Reason.WIRE_ID_COLLISION, detail, _shown(record))
    if refused is None and isinstance(record, Revocation):
        refused = _check_authority(record, target)
    return refused or AdmitRecord(entry, tenant)


def is_duplicate(record: Tombstone | Revocation, known: KnownRecord | None) -> bool:
    """Say whether a known row is this very record, by what its issuer signed."""
    return known == KnownRecord(record.signed_by, record.signature)


def _tenant(policy: RecordPolicy) -> str | Denied:
    """Return the local tenant; a node of wire version 1 knows only one."""
    return ingest_tenant(policy.tenants) if policy.signed else DEFAULT_TENANT


def _check_origin(entry: RecordEntry, policy: RecordPolicy) -> Reject | None:
    origin = entry.origin
    if not policy.signed:
        if origin is None:
            return None
        return Reject(Reason.MALFORMED_ENTRY, "the entry is not of this node's wire version")
    if origin is None:
        return Reject(Reason.MISSING_ORIGIN_BLOCK, "the entry carries no origin and no signature")
    shown = _shown(entry.record)
    if origin.node_id != policy.sender_node_id:
        relay = {"enabled": policy.relay_enabled, "trusted": policy.relay_trusted}
        refused = refuse_relayed(_kind(entry.record), origin, **relay)
        return Reject(refused.reason, refused.detail, shown)
    if not origin.entity_uri:
        detail = "the origin block names no organisation"
        return Reject(Reason.ORIGIN_SIG_INVALID, detail, shown)
    if not signatures.verifies(entry.origin_sig, _origin_tuple(entry, origin), policy.keys):
        detail = "no key of the origin made this signature"
        return Reject(Reason.ORIGIN_SIG_INVALID, detail, shown)
    return None


def _origin_tuple(entry: RecordEntry, origin: Origin) -> bytes:
    match entry:
        case TombstoneEntry(record=tombstone):
            return signatures.tombstone_tuple(
                tombstone_id=tombstone.id,
                entity_uri=tombstone.entity_uri,
                scope=tombstone.scope,
                origin=origin,
            )
        case RevocationEntry(record=revocation):
            return signatures.revocation_tuple(
                revocation_id=revocation.id,
                tombstone_id=revocation.tombstone_id,
                origin=origin,
            )


def _check_issuer(record: Tombstone | Revocation, policy: RecordPolicy) -> Reject | None:
    """Check the signature of the organisation that issued the record against its manifest."""
    shown = _shown(record)
    if not record.key_id:
        return Reject(Reason.ISSUER_SIG_INVALID, "the record names no key of its issuer", shown)
    issuer = record.signed_by[:120]
    manifest = policy.issuers.get(record.signed_by)
    if manifest is None:
        detail = f"no manifest of its issuer {issuer} that holds now is stored"
        return Reject(Reason.WAITING_FOR_KEY, detail, shown)
    key = issuer_key(manifest, record.key_id)
    if key is None:
        detail = f"the manifest of its issuer {issuer} names no key {record.key_id[:40]!r}"
        return Reject(Reason.WAITING_FOR_KEY, detail, shown)
    if not signatures.verifies(record.signature, record.signed_body(), [key]):
        detail = f"key {record.key_id[:40]!r} of its issuer {issuer} did not make this signature"
        return Reject(Reason.ISSUER_SIG_INVALID, detail, shown)
    return None


def _check_grant(entry: RecordEntry) -> Reject | None:
    origin, record = entry.origin, entry.record
    if origin is None:
        return None
    shown = _shown(record)
    if isinstance(record, Tombstone) and record.scope not in origin.allowed_scopes:
        detail = f"the origin did not grant {record.scope[:40]!r}"
        return Reject(Reason.SCOPE_NOT_IN_ORIGIN_GRANT, detail, shown)
    if origin.tenant not in origin.allowed_tenants:
        detail = f"the origin did not grant {origin.tenant[:60]!r}"
        return Reject(Reason.TENANT_NOT_IN_ORIGIN_GRANT, detail, shown)
    return None


def _check_scope(record: Tombstone | Revocation) -> Reject | None:
    if isinstance(record, Revocation) or record.scope in SCOPES | {EVERY_SCOPE}:
        return None
    # A node would keep it and suppress nothing by it; here somebody gets to see it.
    return Reject(Reason.INVALID_SCOPE, f"{record.scope[:40]!r} is no scope", _shown(record))


def _check_authority(record: Revocation, target: KnownRecord | None) -> Reject | None:
    """Check that who takes a tombstone back is who issued it."""
    shown = _shown(record)
    if target is None:
        detail = f"its tombstone {record.tombstone_id[:60]} is not here yet"
        return Reject(Reason.WAITING_FOR_TOMBSTONE, detail, shown)
    if target.signed_by != record.signed_by:
        detail = f"its tombstone was issued by {target.signed_by[:120]}"
        return Reject(Reason.REVOCATION_AUTHORITY_MISMATCH, detail, shown)
    return None


def _kind(record: Tombstone | Revocation) -> str:
    return "tombstone" if isinstance(record, Tombstone) else "revocation"


def _shown(record: Tombstone | Revocation) -> dict[str, object]:
    """Return what the audit row of a rejection tells of a record."""
    about = record.entity_uri if isinstance(record, Tombstone) else record.tombstone_id
    return {
        "signed_by": record.signed_by[:256],
        "target_entity_uri": about[:256],
        "key_id": record.key_id[:64],
    }
