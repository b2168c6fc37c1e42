"""The tables of a node of wire version 1: what is read from them, and what is written into them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from stigmem_replicator.engine.inspection import inspect
from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.envelope import ENVELOPES
from stigmem_replicator.replication.plan import PageContext, Siblings, plan_batch
from stigmem_replicator.store import hlc_clock, migrations, reads, standings
from stigmem_replicator.store.apply import BatchWrite, Committed, apply
from stigmem_replicator.store.engine import Database, open_database, reading, writing
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.siblings import siblings
from tests.integration.world import KEY, PEER, FakeClock, add_fact, new_id
from tests.nodes.database import NodeDatabase
from tests.unit.signed import Document, policy, raw_plain

PLAIN = policy(signed=False, keys=frozenset())
OTHER_TENANT = replace(KEY, tenant="other")


@pytest.fixture
def old(old_node: NodeDatabase, clock: FakeClock) -> Iterator[Database]:
    """The database opened, with a peer, our tables and a seeded clock."""
    old_node.insert(
        "peers",
        id=PEER.id,
        node_id=PEER.node_id,
        node_url=PEER.node_url,
        federation_pubkey="",
        allowed_scopes='["public", "company"]',
        status="active",
        declaration_sig="",
        signed_at="",
    )
    database = open_database(old_node.location, timeout_s=1.0)
    migrations.upgrade(database)
    with writing(database) as connection:
        hlc_clock.seed(connection)
        standings.enlist(connection, PEER.node_id, clock)
    yield database
    database.close()


def the_peer(database: Database) -> PeerRow:
    with reading(database) as connection:
        (found,) = reads.peers(connection)
        assert reads.peer(connection, PEER.id) == found
    return found


def pulled(database: Database, clock: FakeClock, *raws: Document) -> Committed:
    """Judge and write a page, as a pull does."""
    peer = the_peer(database)
    inspected = inspect(
        database,
        peer.node_id,
        FACTS,
        raws,
        ENVELOPES[database.schema.dialect],
        PLAIN,
        clock.now_ms(),
    )
    context = PageContext(
        peer_id=peer.id,
        sender_node_id=peer.node_id,
        stream=FACTS,
        generation=inspected.generation,
        now_iso=clock.now_iso(),
        now_ms=clock.now_ms(),
        max_conflicts=100,
        new_id=new_id,
        lacking=database.schema.lacking("facts"),
    )
    with reading(database) as connection:
        found = siblings(connection, [KEY], 100)
    batch = plan_batch(inspected.judged, found, inspected.open_letters, context, 10**9)
    with writing(database) as connection:
        process = standings.Holder("here", 1, "pull", 1)
        standings.take(connection, [peer.node_id], process)
    outcome = apply(database, BatchWrite(peer, FACTS, None, batch, None), clock)
    assert isinstance(outcome, Committed)
    return outcome


def test_a_peer_has_no_organisation_and_no_tenants(old: Database) -> None:
    """The columns that are not there read as if nothing had been set."""
    peer = the_peer(old)
    assert peer.scopes == {"public", "company"}
    assert (peer.ingest_tenant, peer.entity_uri, peer.relay_trusted) == (None, None, False)
    with reading(old) as connection:
        tenants = reads.tenant_policy(connection, peer, plugin_active=False)
    assert tenants.tenant_map == {}


def test_a_fact_is_written_into_the_columns_that_are_there(
    old: Database, old_node: NodeDatabase, clock: FakeClock
) -> None:
    """The fact and its meta fact, in the default tenant, which the table fills in by itself too."""
    raw = raw_plain("f-1")
    pulled(old, clock, raw)
    fact, meta = old_node.rows("facts")
    assert (fact["id"], fact["cid"], fact["tenant_id"]) == ("f-1", raw["cid"], "default")
    assert (fact["received_from"], fact["origin_node_id"]) == (PEER.node_id, PEER.node_id)
    assert json.loads(fact["origin_allowed_scopes"]) == ["company", "public"]
    assert (meta["entity"], meta["value_v"], meta["scope"]) == ("f-1", PEER.node_id, "local")
    assert meta["tenant_id"] == "default"


def test_a_fact_without_a_content_id_is_stored_without_one(
    old: Database, old_node: NodeDatabase, clock: FakeClock
) -> None:
    """NULL, and it is known again when it is served once more."""
    raw = raw_plain("f-1", fact={"cid": None})
    pulled(old, clock, raw)
    pulled(old, clock, raw)
    assert [row["cid"] for row in old_node.rows("facts")] == [None, None]


def test_conflicts_are_written_as_by_a_newer_node(
    old: Database, old_node: NodeDatabase, clock: FakeClock
) -> None:
    """The table has a tenant already, so siblings are found and counted by the same key."""
    add_fact(old_node, "f-0")
    with reading(old) as connection:
        assert siblings(connection, [KEY], 0) == {KEY: Siblings(("f-0",), 1)}
        assert siblings(connection, [OTHER_TENANT], 0) == {}
    pulled(old, clock, raw_plain("f-1"))
    (row,) = old_node.rows("conflicts")
    assert (row["fact_a_id"], row["fact_b_id"]) == ("f-1", "f-0")
    assert len(old_node.rows("facts")) == 1 + 2 + 2


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (raw_plain("f-1", fact={"scope": "team"}), Reason.SCOPE_NOT_PERMITTED),
        (raw_plain("f-1", fact={"cid": "sha256:forged"}), Reason.CID_MISMATCH),
        (raw_plain("f-1", fact={"hlc": "1.0"}), Reason.HLC_SKEW),
    ],
)
def test_a_refusal_is_audited_with_events_that_the_node_allows(
    old: Database, old_node: NodeDatabase, clock: FakeClock, raw: Document, reason: Reason
) -> None:
    """The audit table of the older node has a closed list too, and a refusal stays within it."""
    pulled(old, clock, raw)
    assert old_node.rows("facts") == []
    (audit,) = old_node.rows("federation_audit")
    assert json.loads(audit["detail"])["reason"] == reason
    (letter,) = old_node.rows("replicator_dead_letters", "entry_id")
    assert (letter["entry_id"], letter["reason"]) == ("f-1", reason)
