"""The rows that a page of wire version 1 writes: the columns that such a node's table has."""

from __future__ import annotations

import itertools
import json

import pytest

from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.replication.plan import (
    Batch,
    ConflictKey,
    Judged,
    PageContext,
    Siblings,
    plan_batch,
)
from stigmem_replicator.store.schema import NodeSchema
from stigmem_replicator.trust.facts import Admit, judge
from tests.unit.signed import NOW, NOW_MS, SENDER, Document, decoded_plain, policy, raw_plain

LACKING = NodeSchema(Dialect.V1, "038_peer_approval_flow").lacking("facts")
KEY = ConflictKey("default", "stigmem://acme.example/user/alice", "memory:role", "public")


def planned(*raws: Document, siblings: dict[ConflictKey, Siblings] | None = None) -> Batch:
    plain = policy(signed=False, keys=frozenset(), scopes=frozenset({"public", "company", "team"}))
    judged = []
    for raw in raws:
        verdict = judge(decoded_plain(raw), plain, None, NOW_MS)
        assert isinstance(verdict, Admit), verdict
        judged.append(Judged(raw["id"], verdict))
    numbers = itertools.count(1)
    context = PageContext(
        peer_id="peer-1",
        sender_node_id=SENDER,
        stream="facts",
        generation="g1",
        now_iso=NOW.isoformat(),
        now_ms=NOW_MS,
        max_conflicts=100,
        new_id=lambda: f"id-{next(numbers)}",
        lacking=LACKING,
    )
    return plan_batch(judged, siblings or {}, (), context, 10**9)


def test_a_fact_is_the_senders_own_under_what_was_agreed() -> None:
    """Nobody signed an origin, so it is the sender, and its grant what this node agreed to."""
    raw = raw_plain("f-1", fact={"confidence": 0.75, "garden_id": "g", "received_from": "x"})
    row, _ = planned(raw).facts
    assert row.remote_hlc == raw["hlc"]
    assert row.values == {
        "id": "f-1",
        "entity": raw["entity"],
        "relation": raw["relation"],
        "value_type": "string",
        "value_v": "CEO",
        "source": raw["source"],
        "timestamp": raw["timestamp"],
        "valid_until": None,
        "confidence": 0.75,
        "scope": "public",
        "received_from": SENDER,
        "origin_node_id": SENDER,
        "origin_allowed_scopes": json.dumps(["company", "public", "team"]),
        "re_federation_blocked": 0,
        "source_trust": None,
        "interpret_as": "content",
        "cid": raw["cid"],
        "tenant_id": "default",
    }


def test_a_missing_content_id_stays_missing() -> None:
    """Nothing is made up for a fact that came without one."""
    row, _ = planned(raw_plain(fact={"cid": None})).facts
    assert row.values["cid"] is None


@pytest.mark.parametrize(("scope", "blocked"), [("public", 0), ("company", 1), ("team", 0)])
def test_company_facts_are_not_federated_further(scope: str, blocked: int) -> None:
    """As in wire version 2."""
    row, _ = planned(raw_plain(fact={"scope": scope})).facts
    assert row.values["re_federation_blocked"] == blocked


def test_all_rows_of_a_batch_have_the_same_columns() -> None:
    """The fact, its meta fact and both facts of a conflict go into one statement."""
    batch = planned(raw_plain("f-1"), siblings={KEY: Siblings(("f-0",), 1)})
    assert len(batch.facts) == 4
    assert len({frozenset(row.values) for row in batch.facts}) == 1
    assert not LACKING & set(batch.facts[0].values)
    assert {
        "origin_tenant",
        "origin_allowed_tenants",
        "origin_sig",
        "origin_entity_uri",
    } == LACKING


def test_two_facts_of_one_page_contradict_each_other() -> None:
    """Conflicts are the same in both wire versions."""
    batch = planned(raw_plain("f-1"), raw_plain("f-2"))
    (row,) = batch.conflicts
    assert (row["fact_a_id"], row["fact_b_id"]) == ("f-2", "f-1")
