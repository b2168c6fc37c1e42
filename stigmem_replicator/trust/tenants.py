"""Into which local tenant a peer's facts and tombstones go, or why into none.

The rules are the node's and deny by default: a tenant is only kept apart when the node's
multi-tenant plugin is active, and a separate process cannot see that, so it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DEFAULT_TENANT: Final = "default"


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What the node's tables and settings say about one peer's tenants.

    ``tenant_map`` is the peer's own map from origin tenant to local tenant, ``ingest_tenant``
    its single tenant, ``hosts_tenants`` whether the node has keys of other tenants, and
    ``plugin_active`` whether the operator declared the multi-tenant plugin active.
    """

    tenant_map: Mapping[str, str]
    ingest_tenant: str | None
    hosts_tenants: bool
    plugin_active: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """No tenant; ``whole_peer`` when no entry of this peer could have one."""

    detail: str
    whole_peer: bool


def local_tenant(policy: TenantPolicy, origin_tenant: str) -> str | Denied:
    """Return the local tenant of an entry from ``origin_tenant``."""
    mapped = policy.tenant_map.get(origin_tenant)
    if mapped is not None:
        return mapped
    if policy.tenant_map or origin_tenant != DEFAULT_TENANT:
        detail = f"origin tenant {origin_tenant[:60]!r} has no row in peer_tenant_map"
        return Denied(detail, whole_peer=False)
    if policy.plugin_active:
        return Denied("the node is multi-tenant and the peer has no tenant map", whole_peer=True)
    return ingest_tenant(policy)


def ingest_tenant(policy: TenantPolicy) -> str | Denied:
    """Return the one local tenant of a peer whose entries name none, as tombstones do not."""
    if not policy.ingest_tenant:
        if policy.hosts_tenants:
            detail = "the node hosts several tenants and the peer has no ingest_tenant"
            return Denied(detail, whole_peer=True)
        return DEFAULT_TENANT
    if policy.ingest_tenant != DEFAULT_TENANT and not policy.plugin_active:
        detail = f"ingest_tenant {policy.ingest_tenant[:60]!r} needs the multi-tenant plugin"
        return Denied(detail, whole_peer=True)
    return policy.ingest_tenant
