"""Judging made-up tombstones and revocations: what their tests share."""

from __future__ import annotations

from typing import Any, Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.trust.tenants import TenantPolicy
from stigmem_replicator.trust.tombstones import (
    AdmitRecord,
    KnownRecord,
    RecordPolicy,
    RecordVerdict,
    judge,
)
from stigmem_replicator.trust.verdicts import BlockPeer, Reject
from tests.unit.signed import ORGANISATION, Document
from tests.unit.signed_records import (
    decoded_record,
    plain_policy,
    record_policy,
)

UNSAFE: Final = TenantPolicy({}, None, hosts_tenants=True, plugin_active=False)
"""Under which no tombstone has a tenant."""

FOREIGN: Final = "https://foreign.example"

HELD: Final = KnownRecord(ORGANISATION, "whatever it was signed with")
"""The tombstone that the revocations of these tests take back."""

TAKEN: Final = KnownRecord(ORGANISATION, "another signature")
"""What stands under the id of a record that was not the first."""


def policy_of(dialect: Dialect, **changes: Any) -> RecordPolicy:  # noqa: ANN401 - any field
    return plain_policy(**changes) if dialect is Dialect.V1 else record_policy(**changes)


def verdict(
    raw: Document,
    artifact: Artifact,
    dialect: Dialect = Dialect.V2,
    given: RecordPolicy | None = None,
    known: KnownRecord | None = None,
    target: KnownRecord | None = HELD,
) -> RecordVerdict:
    entry = decoded_record(raw, artifact, dialect)
    return judge(entry, given or policy_of(dialect), known, target)


def reason(got: RecordVerdict) -> Reason | None:
    if isinstance(got, AdmitRecord):
        return None
    assert isinstance(got, Reject | BlockPeer), got
    assert got.detail
    return got.reason
