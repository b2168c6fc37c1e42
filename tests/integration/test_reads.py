"""What a pull looks up: in the node's own schema, before and after our tables exist."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.replication.plan import ConflictKey, Siblings
from stigmem_replicator.replication.session import Checkpoint
from stigmem_replicator.store import apply, positions, reads, siblings
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import CursorRow, KnownLetter
from stigmem_replicator.trust.facts import KnownFact
from stigmem_replicator.trust.source_trust import History, Rule
from tests.integration.world import (
    KEY,
    PEER,
    FakeClock,
    add_fact,
    add_peer,
    planned,
    progress,
    rejected,
    unstamp,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

WALL = NOW_MS - 1_000


def newest(database: Database, key: ConflictKey = KEY, count: int = 0) -> Siblings:
    with reading(database) as connection:
        return siblings.siblings(connection, [key], count).get(key, Siblings())


def counts(database: Database, *keys: ConflictKey) -> dict[ConflictKey, int]:
    with reading(database) as connection:
        return siblings.sibling_counts(connection, list(keys))


# siblings


def test_siblings_come_newest_first_by_the_numbers_of_their_clocks(
    bare: Database, node: NodeDatabase
) -> None:
    """Counters are compared as numbers: .10 is newer than .9, which text would turn round."""
    stamps = [f"{WALL}.9", f"{WALL + 1}.0", f"{WALL}.10", f"{WALL}.2", f"{WALL}.100", f"{WALL}"]
    for stamp in stamps:
        add_fact(node, f"f-{stamp}", stamp)
    expected = [f"{WALL + 1}.0", *(f"{WALL}.{counter}" for counter in (100, 10, 9, 2)), f"{WALL}"]
    assert newest(bare) == Siblings(tuple(f"f-{stamp}" for stamp in expected), 6)


def test_only_so_many_siblings_are_read_and_all_are_counted(
    bare: Database, node: NodeDatabase
) -> None:
    """The cap bounds the ids, not the count."""
    for counter in range(12):
        add_fact(node, f"f-{counter}", f"{WALL}.{counter}")
    assert newest(bare, count=3) == Siblings(("f-11", "f-10", "f-9"), 12)


def test_siblings_share_all_four_parts_of_the_key(bare: Database, node: NodeDatabase) -> None:
    """Another tenant, entity, relation or scope is another key; each key gets its own facts."""
    add_fact(node, "same")
    add_fact(node, "tenant", tenant_id="acme")
    add_fact(node, "entity", entity="other")
    add_fact(node, "relation", relation="other")
    add_fact(node, "scope", scope="company")
    other = ConflictKey("acme", KEY.entity, KEY.relation, KEY.scope)
    with reading(bare) as connection:
        found = siblings.siblings(connection, [KEY, other], 10)
    assert found == {KEY: Siblings(("same",), 1), other: Siblings(("tenant",), 1)}


def test_a_retraction_is_nobodys_sibling(bare: Database, node: NodeDatabase) -> None:
    """A fact of confidence zero is neither listed nor counted."""
    add_fact(node, "gone", confidence=0.0)
    assert newest(bare) == Siblings()
    assert counts(bare, KEY) == {}


def test_a_sibling_without_a_clock_is_the_oldest(bare: Database, node: NodeDatabase) -> None:
    """A fact that was never stamped stands, behind all that were."""
    add_fact(node, "stamped", f"{WALL}.0")
    add_fact(node, "unstamped")
    unstamp(node, "unstamped")
    assert newest(bare) == Siblings(("stamped", "unstamped"), 2)


def test_many_keys_are_looked_up_in_one_statement(bare: Database, node: NodeDatabase) -> None:
    """A page of five hundred different keys is one lookup."""
    keys = [ConflictKey("default", f"e-{n}", "r", "public") for n in range(500)]
    add_fact(node, "hit", entity="e-499", relation="r")
    with reading(bare) as connection:
        assert siblings.siblings(connection, keys, 10) == {keys[499]: Siblings(("hit",), 1)}
        assert siblings.sibling_counts(connection, keys) == {keys[499]: 1}
        assert siblings.siblings(connection, [], 10) == {}
        assert siblings.sibling_counts(connection, []) == {}


@pytest.mark.parametrize(
    "name", ["zoë ☕", "quo'te \" \\", "100%_", "[1,2]", "\U0001f600", "a\tb\n"]
)
def test_any_text_is_its_own_key(bare: Database, node: NodeDatabase, name: str) -> None:
    """Quotes, wildcards, JSON and characters outside the first plane are matched as they are."""
    key = ConflictKey("default", name, name, "public")
    add_fact(node, "hit", entity=name, relation=name)
    assert newest(bare, key) == Siblings(("hit",), 1)
    assert counts(bare, key, KEY) == {key: 1}


# known rows


def test_known_facts_are_those_that_exist(bare: Database, node: NodeDatabase) -> None:
    """What stands under an id: its content id and its end."""
    add_fact(node, "a", valid_until="2027-01-01")
    add_fact(node, "b", cid=None)
    with reading(bare) as connection:
        assert reads.known_facts(connection, ["a", "b", "c"]) == {
            "a": KnownFact("sha256:a", "2027-01-01"),
            "b": KnownFact(None, None),
        }
        assert reads.known_facts(connection, []) == {}


def test_known_letters_are_those_of_the_stream(database: Database, clock: FakeClock) -> None:
    """A dead letter says why, of what and under which policy an entry was refused."""
    item = rejected("f-1", Reason.CID_LEGACY)
    write = apply.BatchWrite(PEER, FACTS, None, planned([item]), None)
    apply.apply(database, write, clock)
    with reading(database) as connection:
        known = reads.known_letters(connection, PEER.node_id, FACTS, ["f-1", "f-2"])
        assert known == {"f-1": KnownLetter("cid_legacy", item.payload_hash, "g1", "open", NOW_MS)}
        assert reads.known_letters(connection, PEER.node_id, "tombstones", ["f-1"]) == {}
        assert reads.known_letters(connection, "stigmem:node:other", FACTS, ["f-1"]) == {}
        usage = reads.letter_usage(connection, PEER.node_id, FACTS, ["f-1", "f-2"])
        assert usage == reads.LetterUsage(1, len(item.payload), 1)
        assert reads.letter_usage(connection, "x", FACTS, []) == reads.LetterUsage(0, 0, 0)


def test_before_our_tables_exist_there_are_no_letters(bare: Database) -> None:
    """Reading works on a database that was never pulled into."""
    with reading(bare) as connection:
        assert not reads.has_own_tables(connection)
        assert reads.known_letters(connection, PEER.node_id, FACTS, ["f-1"]) == {}


# positions


def stored(database: Database) -> reads.StoredPosition:
    with reading(database) as connection:
        return reads.stored_position(connection, PEER, FACTS)


def test_without_anything_a_stream_begins_at_the_beginning(bare: Database) -> None:
    """A first contact without a cursor reads everything."""
    got = stored(bare)
    assert (got.position.frontier, got.position.settled) == (None, None)
    assert (got.row, got.own_frontier, got.first_contact) == (None, None, True)


@pytest.mark.parametrize("tables", ["without our tables", "with them"])
def test_the_nodes_own_cursor_is_taken_over(
    bare: Database, node: NodeDatabase, request: pytest.FixtureRequest, tables: str
) -> None:
    """At first contact the node's cursor counts as settled."""
    if tables == "with them":
        request.getfixturevalue("database")
    node.insert(
        "replication_cursors",
        peer_id=PEER.id,
        direction="inbound",
        cursor="5.0",
        updated_at="then",
    )
    got = stored(bare)
    assert (got.position.frontier, got.position.settled) == ("5.0", "5.0")
    assert (got.row, got.first_contact) == (CursorRow("5.0", "then"), True)


def save(database: Database, frontier: str | None, settled: str | None) -> None:
    kept = (Checkpoint("1.0", 10), Checkpoint("2.0", 20), Checkpoint("1.5", 20))
    with writing(database) as connection:
        done = progress(frontier, settled=settled, checkpoints=kept)
        positions.save(connection, PEER, FACTS, None, done, FakeClock())


def test_a_position_reads_back(database: Database) -> None:
    """Frontier from the node's row, the rest from our own, checkpoints oldest first."""
    save(database, "3.0", "2.0")
    got = stored(database)
    assert (
        got.position
        == progress(
            "3.0",
            settled="2.0",
            checkpoints=(Checkpoint("1.0", 10), Checkpoint("1.5", 20), Checkpoint("2.0", 20)),
        ).after
    )
    assert (got.own_frontier, got.first_contact) == ("3.0", False)


@pytest.mark.parametrize(
    ("cursor", "settled"),
    [("2.5", "2.0"), ("1.9", "1.9"), ("10.0", "10.0"), ("9.0", "2.0"), (None, None)],
)
def test_a_cursor_changed_by_somebody_else_lowers_the_settled_position(
    database: Database, node: NodeDatabase, cursor: str | None, settled: str | None
) -> None:
    """The lower of cursor and settled position as text is where the next pass begins."""
    save(database, "3.0", "2.0")
    node.run("UPDATE replication_cursors SET cursor = ?", cursor)
    got = stored(database).position
    assert (got.frontier, got.settled) == (cursor, settled)


def test_a_removed_cursor_row_starts_over(database: Database, node: NodeDatabase) -> None:
    """A row that was deleted means the beginning."""
    save(database, "3.0", "2.0")
    node.run("DELETE FROM replication_cursors")
    got = stored(database)
    assert (got.position.frontier, got.position.settled, got.row) == (None, None, None)


# the registry


def test_peers_are_read_with_what_was_agreed(bare: Database, node: NodeDatabase) -> None:
    """Scopes come from JSON, empty organisations are none, the order is that of node ids."""
    add_peer(
        node,
        id="p0",
        node_id="a",
        status="revoked",
        entity_uri="  ",
        relay_trusted=1,
        ingest_tenant="acme",
        allowed_scopes='["team"]',
    )
    with reading(bare) as connection:
        other, first = reads.peers(connection)
        assert first == PEER
        assert other == replace(
            PEER,
            id="p0",
            node_id="a",
            status="revoked",
            scopes=frozenset({"team"}),
            ingest_tenant="acme",
            entity_uri=None,
            relay_trusted=True,
        )
        assert reads.peer(connection, "p0") == other
        assert reads.peer(connection, "gone") is None


@pytest.mark.parametrize(
    ("column", "scopes"),
    [
        ("", set()),
        ("public", set()),
        ('"public"', set()),
        ('{"public": 1}', set()),
        ('["public", 1, null, ["team"]]', {"public"}),
        ("[" * 5_000, set()),
    ],
)
def test_scopes_that_do_not_read_are_none(
    bare: Database, node: NodeDatabase, column: str, scopes: set[str]
) -> None:
    """A peer whose scopes are damaged is agreed nothing, and the other peers are read."""
    node.run("UPDATE peers SET allowed_scopes = ?", column)
    with reading(bare) as connection:
        (got,) = reads.peers(connection)
    assert got.scopes == scopes


def test_a_node_without_an_identity_is_told(bare: Database, node: NodeDatabase) -> None:
    """A node that was never started has no id; nothing is made up for it."""
    with pytest.raises(LocalError) as caught, reading(bare) as connection:
        reads.node_meta(connection, "node_id")
    assert caught.value.reason is Reason.NODE_NOT_INITIALISED
    node.insert("node_meta", key="node_id", value="stigmem:node:me")
    with reading(bare) as connection:
        assert reads.node_meta(connection, "node_id") == "stigmem:node:me"


def test_only_the_inbound_cursor_is_ours(bare: Database, node: NodeDatabase) -> None:
    """The other direction belongs to somebody else."""
    row = {"peer_id": PEER.id, "cursor": "9.0", "updated_at": "then"}
    node.insert("replication_cursors", direction="outbound", **row)
    with reading(bare) as connection:
        assert reads.cursor_row(connection, PEER.id) is None


# policy


def test_tenants_come_from_the_map_the_keys_and_the_operator(
    bare: Database, node: NodeDatabase
) -> None:
    """The peer's own map, and whether any key of the node is of another tenant."""
    with reading(bare) as connection:
        policy = reads.tenant_policy(connection, PEER, plugin_active=False)
    assert (dict(policy.tenant_map), policy.hosts_tenants) == ({}, False)
    add_peer(node, id="p0", node_id="a")
    for peer_id, origin, local in [(PEER.id, "a", "b"), ("p0", "c", "d")]:
        row = {"peer_id": peer_id, "origin_tenant": origin, "local_tenant": local}
        node.insert("peer_tenant_map", **row)
    for tenant in ("default", "acme"):
        key = {"id": tenant, "key_hash": tenant, "entity_uri": "x", "created_at": ""}
        node.insert("api_keys", tenant_id=tenant, **key)
    with reading(bare) as connection:
        policy = reads.tenant_policy(connection, PEER, plugin_active=True)
    assert (dict(policy.tenant_map), policy.hosts_tenants) == ({"a": "b"}, True)
    assert policy.plugin_active


def test_trust_inputs_are_what_the_node_has(bare: Database, node: NodeDatabase) -> None:
    """Rules in their order, manifests with their proof, active agents, and recent facts."""
    for number, (kind, scope) in enumerate(
        [("never_trust", None), ("always_trust", "team"), ("unheard_of", None)]
    ):
        node.insert(
            "quarantine_rules",
            id=f"r-{9 - number}",
            rule_type=kind,
            org_uri="s",
            scope=scope,
            created_by="x",
            created_at="",
        )
    for uri, proof in (("https://a", None), ("https://b", "{}")):
        node.insert(
            "federation_manifests",
            id=uri,
            entity_uri=uri,
            manifest_json="{}",
            signature="",
            key_id="",
            issued_at="",
            expires_at="",
            log_entry_json=proof,
            created_at="",
            updated_at="then",
        )
    for agent, status in (("agent:a", "active"), ("agent:r", "revoked")):
        row = {"id": agent, "entity_uri": agent, "public_key": "", "registered_at": ""}
        node.insert("agent_keys", status=status, **row)
    facts: dict[str, dict[str, Any]] = {
        "old": {"timestamp": "2025-01-01"},
        "new": {"timestamp": "2026-01-01"},
        "failed": {"timestamp": "2026-01-02", "attested": 0},
        "good": {"timestamp": "2026-01-02", "attested": 1},
        "other": {"timestamp": "2026-01-02", "source": "agent:y"},
        **{f"more-{number}": {"timestamp": "2026-01-03"} for number in range(7)},
    }
    for fact_id, changes in facts.items():
        add_fact(node, fact_id, **changes)
    with reading(bare) as connection:
        assert reads.trust_rules(connection) == (
            Rule("s", None, trusted=False),
            Rule("s", "team", trusted=True),
        )
        proven = reads.proven_organisations(connection)
        assert proven == {"https://a": False, "https://b": True}
        assert reads.active_agents(connection) == {"agent:a"}
        assert reads.source_history(connection, "2026-01-01") == {
            "agent:x": History(10, 1),
        }
        stored = reads.StoredManifest("{}", "then")
        assert reads.manifest(connection, "https://b") == stored
        assert reads.manifest(connection, "https://c") is None
