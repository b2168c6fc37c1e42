"""The rows that a page of tombstones or revocations writes, column for column as a node's."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any, Final

import pytest

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import BYTES_MAX, Batch, Counts, plan_batch
from stigmem_replicator.replication.rows import Judged, PageContext
from stigmem_replicator.trust.tombstones import AdmitRecord
from stigmem_replicator.trust.verdicts import Duplicate, Reject
from tests.unit.judged_records import verdict
from tests.unit.signed import NOW, NOW_MS, ORGANISATION, SENDER, Document
from tests.unit.signed_records import (
    ALICE,
    CREATED,
    ISSUER_KEY,
    REVOCATION_ID,
    TOMBSTONE_ID,
    decoded_record,
    raw_record,
)

TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION
IDS: Final = {TOMBSTONE: TOMBSTONE_ID, REVOCATION: REVOCATION_ID}
NO_BUDGET: Final = 10**9


def context(artifact: Artifact) -> PageContext:
    numbers = itertools.count(1)
    return PageContext(
        peer_id="peer-1",
        sender_node_id=SENDER,
        stream=f"{artifact}s",
        generation="g1",
        now_iso=NOW.isoformat(),
        now_ms=NOW_MS,
        max_conflicts=100,
        new_id=lambda: f"id-{next(numbers)}",
        artifact=artifact,
    )


def admitted(
    artifact: Artifact,
    dialect: Dialect = Dialect.V2,
    **changes: Any,  # noqa: ANN401 - fields of any type
) -> Judged:
    raw = raw_record(artifact, dialect, **changes)
    got = verdict(raw, artifact, dialect)
    assert isinstance(got, AdmitRecord), got
    return Judged(got.entry.record.id, got)


def refused(artifact: Artifact, reject: Reject, *, audited: bool = False) -> Judged:
    payload = document.payload(raw_record(artifact))
    digest = document.payload_hash(payload)
    return Judged(IDS[artifact], reject, payload, digest, audited=audited)


def planned(
    artifact: Artifact, *judged: Judged, open_letters: tuple[str, ...] = (), budget: int = NO_BUDGET
) -> Batch:
    return plan_batch(judged, {}, open_letters, context(artifact), budget)


def audit(row: dict[str, Any]) -> Document:
    """Return an audit row with its detail as JSON, without what all have."""
    shown = {**row, "detail": json.loads(row["detail"])}
    assert shown.pop("id") == "id-1"
    assert shown.pop("source") == "federation"
    assert shown.pop("tenant_id") == "default"
    assert shown.pop("ts") == NOW.isoformat()
    return shown


# what is admitted


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(("held", "stored"), [(False, 0), (True, 1)])
def test_a_tombstone_is_stored_as_it_was_signed(
    dialect: Dialect, stored: int, *, held: bool
) -> None:
    """With its legal hold, for the tenant, and without an origin: the sender made it itself."""
    batch = planned(TOMBSTONE, admitted(TOMBSTONE, dialect, legal_hold=held, scope="*"))
    (row,) = batch.tombstones
    assert row == {
        "id": TOMBSTONE_ID,
        "entity_uri": ALICE,
        "scope": "*",
        "reason": "asked for",
        "signed_by": ORGANISATION,
        "key_id": ISSUER_KEY.id,
        "signature": raw_record(TOMBSTONE, Dialect.V1, legal_hold=held, scope="*")["signature"],
        "created_at": CREATED,
        "legal_hold": stored,
        "tenant_id": "default",
    }
    assert (batch.revocations, batch.facts, batch.dead_letters) == ([], [], [])
    assert batch.admitted_ids == [TOMBSTONE_ID]
    assert batch.counts == Counts(admitted=1)


def test_a_tombstone_goes_into_the_tenant_that_it_is_for() -> None:
    """Its tenant is decided with its verdict; its audit row is the node's own all the same."""
    entry = decoded_record(raw_record(TOMBSTONE, reason=None), TOMBSTONE)
    batch = planned(TOMBSTONE, Judged(TOMBSTONE_ID, AdmitRecord(entry, "acme")))
    assert batch.tombstones[0]["tenant_id"] == "acme"
    assert batch.tombstones[0]["reason"] is None
    assert batch.fact_audit[0]["tenant_id"] == "default"


@pytest.mark.parametrize("dialect", Dialect)
def test_a_revocation_is_stored_without_a_tenant(dialect: Dialect) -> None:
    """Its tombstone has one."""
    batch = planned(REVOCATION, admitted(REVOCATION, dialect))
    (row,) = batch.revocations
    assert row == {
        "id": REVOCATION_ID,
        "tombstone_id": TOMBSTONE_ID,
        "reason": "taken back",
        "signed_by": ORGANISATION,
        "key_id": ISSUER_KEY.id,
        "signature": raw_record(REVOCATION, Dialect.V1)["signature"],
        "created_at": CREATED,
    }
    assert (batch.tombstones, batch.facts) == ([], [])


def test_what_is_admitted_is_audited_under_its_tombstone() -> None:
    """As a node does: by the issuer, under the tombstone's id also where that is taken back."""
    (row,) = planned(TOMBSTONE, admitted(TOMBSTONE)).fact_audit
    assert audit(row) == {
        "event_type": "tombstone_federation_ingested",
        "fact_id": TOMBSTONE_ID,
        "entity_uri": ORGANISATION,
        "detail": {"target_entity_uri": ALICE, "scope": "public", "legal_hold": False},
    }
    (row,) = planned(REVOCATION, admitted(REVOCATION)).fact_audit
    assert audit(row) == {
        "event_type": "tombstone_revocation_federation_ingested",
        "fact_id": TOMBSTONE_ID,
        "entity_uri": ORGANISATION,
        "detail": {
            "target_entity_uri": TOMBSTONE_ID,
            "scope": None,
            "revocation_id": REVOCATION_ID,
        },
    }


@pytest.mark.parametrize("artifact", Artifact)
def test_a_known_record_writes_nothing(artifact: Artifact) -> None:
    """But it settles the dead letter that it had."""
    known = Judged(IDS[artifact], Duplicate(IDS[artifact]))
    assert planned(artifact, known).rows() == 0
    batch = planned(artifact, known, open_letters=(IDS[artifact],))
    assert batch.settled_letters == [IDS[artifact]]
    assert batch.rows() == 1
    assert batch.counts == Counts(duplicates=1)


# what is refused


@pytest.mark.parametrize("artifact", Artifact)
def test_a_refused_record_is_kept_and_audited_in_the_log_of_facts(artifact: Artifact) -> None:
    """The audit of federation has a closed list of events, and none for these."""
    raw = raw_record(artifact, scope="galaxy") if artifact is TOMBSTONE else raw_record(artifact)
    got = verdict(raw, artifact, target=None)
    assert isinstance(got, Reject)
    reject = replace(got, reason=Reason.ISSUER_SIG_INVALID)
    batch = planned(artifact, refused(artifact, reject))
    (letter,) = batch.dead_letters
    assert (letter["stream"], letter["entry_id"]) == (f"{artifact}s", IDS[artifact])
    assert (letter["reason"], letter["status"]) == ("issuer_sig_invalid", "open")
    assert json.loads(str(letter["payload"])) == raw_record(artifact)
    (row,) = batch.fact_audit
    assert audit(row) == {
        "event_type": "tombstone_federation_rejected",
        "fact_id": IDS[artifact],
        "entity_uri": ORGANISATION,
        "detail": {
            "artifact": artifact.value,
            "artifact_id": IDS[artifact],
            "target_entity_uri": ALICE if artifact is TOMBSTONE else TOMBSTONE_ID,
            "key_id": ISSUER_KEY.id,
            "reason": "issuer_sig_invalid",
        },
    }
    assert batch.federation_audit == []
    assert batch.counts == Counts(rejected={Reason.ISSUER_SIG_INVALID: 1})


def test_who_signed_a_record_that_does_not_decode_is_not_known() -> None:
    """Then the audit is the federation's, about whatever the entry calls itself."""
    reject = Reject(Reason.MALFORMED_TOMBSTONE, "bad")
    (row,) = planned(TOMBSTONE, refused(TOMBSTONE, reject)).fact_audit
    shown = audit(row)
    assert shown["entity_uri"] == "system:federation"
    assert shown["detail"]["target_entity_uri"] == TOMBSTONE_ID
    assert shown["detail"]["key_id"] == ""


def test_what_only_waits_for_its_tombstone_is_not_audited_as_refused() -> None:
    """It came too early, which is nobody's fault; it is kept all the same."""
    got = verdict(raw_record(REVOCATION), REVOCATION, target=None)
    assert isinstance(got, Reject)
    assert got.reason is Reason.WAITING_FOR_TOMBSTONE
    batch = planned(REVOCATION, refused(REVOCATION, got))
    assert len(batch.dead_letters) == 1
    assert batch.fact_audit == []


def test_what_was_audited_before_is_not_audited_again() -> None:
    """The same refusal under another policy writes its dead letter anew, and no audit."""
    reject = Reject(Reason.WAITING_FOR_KEY, "no key")
    batch = planned(TOMBSTONE, refused(TOMBSTONE, reject, audited=True))
    assert len(batch.dead_letters) == 1
    assert batch.fact_audit == []


# how a page is cut


def test_a_batch_ends_by_its_rows_or_its_texts() -> None:
    """A record is its row and its audit row; long reasons end a batch before its rows do."""
    some = [admitted(TOMBSTONE, id=f"tomb_{number}") for number in range(5)]
    assert planned(TOMBSTONE, *some, budget=4).entries == 2
    assert planned(TOMBSTONE, *some).entries == 5
    long = "x" * 60_000
    for artifact, name in (
        (TOMBSTONE, "reason"),
        (TOMBSTONE, "entity_uri"),
        (REVOCATION, "reason"),
    ):
        changes: Document = {name: long}
        many = [admitted(artifact, id=f"id_{number}", **changes) for number in range(20)]
        assert planned(artifact, *many).entries <= BYTES_MAX // len(long) + 1, name
