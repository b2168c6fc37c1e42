"""The node's tables that we touch, with the columns that we read or write.

The schema is the node's: these models are never created, altered or migrated from here.
``replication_cursors``, ``facts``, ``conflicts``, ``tombstones``, ``tombstone_revocations``,
``fact_audit_log``, ``federation_audit`` and ``federation_manifests`` are written, the rest is
only read.

The models are those of a node that speaks wire version 2; what an older one lacks of them is
named below.  Whether a database fits them is judged in ``schema``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Float, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class NodeBase(DeclarativeBase):
    """Models of the node's own schema."""

    type_annotation_map = {str: Text, int: Integer, float: Float}  # noqa: RUF012 - SQLAlchemy's form


class Peer(NodeBase):
    """A registered peer; only ``status = 'active'`` is pulled."""

    __tablename__ = "peers"

    id: Mapped[str] = mapped_column(primary_key=True)
    node_id: Mapped[str]
    node_url: Mapped[str]
    allowed_scopes: Mapped[str]
    status: Mapped[str]
    ingest_tenant: Mapped[str | None]
    entity_uri: Mapped[str | None]
    relay_trusted: Mapped[int]


class PeerTenantMap(NodeBase):
    """Local tenant of a peer's origin tenant."""

    __tablename__ = "peer_tenant_map"

    peer_id: Mapped[str] = mapped_column(primary_key=True)
    origin_tenant: Mapped[str] = mapped_column(primary_key=True)
    local_tenant: Mapped[str]


class ReplicationCursor(NodeBase):
    """The cursor of a peer's facts (direction ``inbound``), shared with the node's own loop."""

    __tablename__ = "replication_cursors"

    peer_id: Mapped[str] = mapped_column(primary_key=True)
    direction: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[str | None]
    updated_at: Mapped[str]


class Fact(NodeBase):
    """A fact; the table is append-only."""

    __tablename__ = "facts"

    id: Mapped[str] = mapped_column(primary_key=True)
    entity: Mapped[str]
    relation: Mapped[str]
    value_type: Mapped[str]
    value_v: Mapped[str]
    source: Mapped[str]
    timestamp: Mapped[str]
    valid_until: Mapped[str | None]
    confidence: Mapped[float]
    scope: Mapped[str]
    hlc: Mapped[str | None]
    received_from: Mapped[str | None]
    origin_node_id: Mapped[str | None]
    origin_allowed_scopes: Mapped[str | None]
    re_federation_blocked: Mapped[int]
    attested: Mapped[int | None]
    tenant_id: Mapped[str]
    source_trust: Mapped[float | None]
    cid: Mapped[str | None]
    interpret_as: Mapped[str]
    origin_tenant: Mapped[str | None]
    origin_allowed_tenants: Mapped[str | None]
    origin_sig: Mapped[str | None]
    origin_entity_uri: Mapped[str | None]


class Conflict(NodeBase):
    """A pair of facts that contradict each other."""

    __tablename__ = "conflicts"

    id: Mapped[str] = mapped_column(primary_key=True)
    fact_a_id: Mapped[str]
    fact_b_id: Mapped[str]
    status: Mapped[str]
    detected_at: Mapped[str]


class Tombstone(NodeBase):
    """An order to suppress the facts about an entity."""

    __tablename__ = "tombstones"

    id: Mapped[str] = mapped_column(primary_key=True)
    entity_uri: Mapped[str]
    scope: Mapped[str]
    reason: Mapped[str | None]
    signed_by: Mapped[str]
    key_id: Mapped[str | None]
    signature: Mapped[str]
    created_at: Mapped[str]
    legal_hold: Mapped[int]
    tenant_id: Mapped[str]


class TombstoneRevocation(NodeBase):
    """The reversal of one tombstone."""

    __tablename__ = "tombstone_revocations"

    id: Mapped[str] = mapped_column(primary_key=True)
    tombstone_id: Mapped[str]
    reason: Mapped[str]
    signed_by: Mapped[str]
    key_id: Mapped[str | None]
    signature: Mapped[str]
    created_at: Mapped[str]


class FactAudit(NodeBase):
    """The node's audit log of facts; ``event_type`` is free text."""

    __tablename__ = "fact_audit_log"

    id: Mapped[str] = mapped_column(primary_key=True)
    fact_id: Mapped[str | None]
    event_type: Mapped[str]
    entity_uri: Mapped[str | None]
    source: Mapped[str]
    ts: Mapped[str]
    tenant_id: Mapped[str | None]
    detail: Mapped[str | None]
    seq: Mapped[int | None]


class FederationAudit(NodeBase):
    """The node's audit log of federation; ``event_type`` comes from a closed list."""

    __tablename__ = "federation_audit"

    id: Mapped[str] = mapped_column(primary_key=True)
    peer_id: Mapped[str]
    event_type: Mapped[str]
    detail: Mapped[str | None]
    ts: Mapped[str]


class FederationManifest(NodeBase):
    """The last accepted manifest of an organisation."""

    __tablename__ = "federation_manifests"

    id: Mapped[str] = mapped_column(primary_key=True)
    entity_uri: Mapped[str]
    manifest_json: Mapped[str]
    signature: Mapped[str]
    key_id: Mapped[str]
    issued_at: Mapped[str]
    expires_at: Mapped[str]
    log_entry_json: Mapped[str | None]
    updated_at: Mapped[str]


class NodeMeta(NodeBase):
    """The node's identity and keys."""

    __tablename__ = "node_meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class ApiKey(NodeBase):
    """The node's API keys, read only to learn whether it hosts several tenants."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]


class AgentKey(NodeBase):
    """Keys of agents; an active one raises the trust in its source."""

    __tablename__ = "agent_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    entity_uri: Mapped[str]
    status: Mapped[str]


class QuarantineRule(NodeBase):
    """An operator's rule to trust a source always or never."""

    __tablename__ = "quarantine_rules"

    id: Mapped[str] = mapped_column(primary_key=True)
    rule_type: Mapped[str]
    org_uri: Mapped[str]
    scope: Mapped[str | None]


WRITTEN: Final = (
    Fact,
    Conflict,
    Tombstone,
    TombstoneRevocation,
    FactAudit,
    FederationAudit,
    ReplicationCursor,
)
"""The tables into which we insert: a column there that must be filled must be ours."""

LACKING_V1: Final[Mapping[str, frozenset[str]]] = {
    "facts": frozenset(
        {"origin_tenant", "origin_allowed_tenants", "origin_sig", "origin_entity_uri"}
    ),
    "peers": frozenset({"ingest_tenant", "entity_uri", "relay_trusted"}),
    "peer_tenant_map": frozenset({"peer_id", "origin_tenant", "local_tenant"}),
}
"""Columns of these models that a node of wire version 1 does not have, by table."""

_OF_RELAYED: Final = frozenset(
    {
        "received_from",
        "origin_node_id",
        "origin_tenant",
        "origin_entity_uri",
        "origin_allowed_scopes",
        "origin_allowed_tenants",
        "origin_sig",
    }
)
"""What a node keeps of a tombstone or revocation that was relayed to it."""

UNTOUCHED: Final[Mapping[str, frozenset[str]]] = {
    "peers": frozenset(
        {
            "federation_pubkey",
            "established_at",
            "declaration_sig",
            "signed_at",
            "created_at",
            "pull_tenant",
            "allowed_tenants",
            "trust_tier",
        }
    ),
    "facts": frozenset(
        {
            "attested_key_id",
            "garden_id",
            "quarantine_status",
            "quarantine_garden_id",
            "quarantine_acted_by",
            "quarantine_acted_at",
            "quarantine_reason",
            "derived_from",
            "attestation_chain",
            "attestation_chain_issuers",
            "embedding_missing",
        }
    ),
    "conflicts": frozenset({"resolution_fact_id"}),
    "tombstones": _OF_RELAYED,
    "tombstone_revocations": _OF_RELAYED,
    "fact_audit_log": frozenset({"oidc_sub", "attested_key_id"}),
    "federation_manifests": frozenset({"created_at"}),
    "api_keys": frozenset(
        {
            "key_hash",
            "entity_uri",
            "permissions",
            "description",
            "created_at",
            "expires_at",
            "allowed_scopes",
            "oidc_sub",
        }
    ),
    "agent_keys": frozenset({"public_key", "description", "registered_at"}),
    "quarantine_rules": frozenset(
        {"entity_pat", "reason", "created_by", "created_at", "tenant_id"}
    ),
}
"""Columns that are known and left alone, by table."""
