"""Tenants: into which local one a peer's facts go, or why into none."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from stigmem_replicator.trust.tenants import Denied, TenantPolicy, local_tenant


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the policy; ``expected`` is a tenant, "peer" or "entry" for what is denied."""

    says: str
    expected: str
    origin: str = "default"
    mapped: dict[str, str] = field(default_factory=dict)
    ingest: str | None = None
    hosts: bool = False
    plugin: bool = False


CASES = [
    Case("one tenant here and nothing said", "default"),
    Case("an empty ingest tenant is none", "default", ingest=""),
    Case("several tenants here and nothing said", "deny peer", hosts=True),
    Case("an empty ingest tenant with several tenants", "deny peer", ingest="", hosts=True),
    Case("the default tenant by name", "default", ingest="default"),
    Case("the default tenant by name, several here", "default", ingest="default", hosts=True),
    Case("another tenant without the plugin", "deny peer", ingest="acme"),
    Case("another tenant without the plugin, several here", "deny peer", ingest="acme", hosts=True),
    Case("the plugin and no map", "deny peer", plugin=True),
    Case("the plugin and no map, whatever the peer's tenant", "deny peer", ingest="x", plugin=True),
    Case("the plugin and no map, the default tenant", "deny peer", ingest="default", plugin=True),
    Case("another origin tenant without a map", "deny entry", origin="acme"),
    Case("another origin tenant without a map, the plugin", "deny entry", "acme", plugin=True),
    Case("a map decides", "local", mapped={"default": "local"}),
    Case("a map decides before the peer's tenant", "b", mapped={"default": "b"}, ingest="c"),
    Case("a map decides with several tenants here", "b", mapped={"default": "b"}, hosts=True),
    Case("a map decides with the plugin", "b", "a", mapped={"a": "b"}, plugin=True),
    Case("a map without this tenant", "deny entry", "c", mapped={"a": "b"}),
    Case("a map without the default tenant", "deny entry", mapped={"a": "b"}, ingest="default"),
    Case("an origin tenant without a name", "deny entry", ""),
    Case("the default tenant is written small", "deny entry", "Default"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.says))
def test_the_tenant_policy(case: Case) -> None:
    """The peer's map decides, else its ingest tenant, and whatever is unclear is denied."""
    policy = TenantPolicy(
        case.mapped, case.ingest, hosts_tenants=case.hosts, plugin_active=case.plugin
    )
    got = local_tenant(policy, case.origin)
    if case.expected.startswith("deny"):
        assert isinstance(got, Denied)
        assert got.whole_peer == (case.expected == "deny peer")
        assert got.detail
    else:
        assert got == case.expected


def test_a_denial_does_not_repeat_an_endless_name() -> None:
    """A peer cannot fill the dead letters through the name of a tenant."""
    got = local_tenant(
        TenantPolicy({}, None, hosts_tenants=False, plugin_active=False), "x" * 10_000
    )
    assert isinstance(got, Denied)
    assert len(got.detail) < 150
