"""The harness itself: that the nodes it brings up behave as the other tests assume."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.nodes.bulk import InsideNode, assert_in_bulk
from tests.nodes.fact_corpus import Fact, facts, plain_facts, uncarriable_facts
from tests.nodes.ledger import Ledger
from tests.nodes.node import Node, NodeError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nodes.environment import NodeEnvironment
    from tests.nodes.federation import Pair


def wall_and_counter(hlc: str) -> tuple[int, int]:
    wall, counter = hlc.split(".")
    return int(wall), int(counter)


def test_both_nodes_answer(pair: Pair) -> None:
    for node in (pair.origin, pair.receiver):
        assert node.running
        assert node.client.get("/healthz").status_code == 200


def test_each_node_knows_the_other_by_its_verified_organisation(pair: Pair) -> None:
    for host, newcomer in ((pair.receiver, pair.origin), (pair.origin, pair.receiver)):
        (row,) = host.query("SELECT * FROM peers")
        assert row["node_id"] == newcomer.node_id
        assert row["status"] == "active"
        assert row["entity_uri"] == newcomer.entity_uri
        assert row["federation_pubkey"] == newcomer.public_key


def test_a_fact_is_read_back_through_the_api(pair: Pair) -> None:
    said = pair.origin.assert_fact("api:one", "test:name", "Zoë ☕", source="agent:api")
    (read,) = pair.origin.facts(entity="api:one")
    assert read["id"] == said["id"]
    assert read["value"]["v"] == "Zoë ☕"
    by_id = pair.origin.fact(said["id"])
    assert by_id is not None
    assert by_id["cid"] == said["cid"]


def test_an_equal_fact_is_not_asserted_twice(pair: Pair) -> None:
    first = pair.origin.assert_fact("api:twice", "test:name", "same")
    assert pair.origin.assert_fact("api:twice", "test:name", "same")["id"] == first["id"]


def test_bulk_facts_are_the_nodes_own(pair: Pair) -> None:
    corpus = facts(300, namespace="bulk")
    asserted = assert_in_bulk(pair.origin, corpus)
    assert len({entry.id for entry in asserted}) == len(corpus)
    for fact, entry in list(zip(corpus, asserted, strict=True))[::29]:
        read = pair.origin.fact(entry.id)
        assert read is not None
        assert read["hlc"] == entry.hlc
        assert (read["entity"], read["relation"]) == (fact.entity, fact.relation)
        assert read["value"]["v"] == fact.value
        assert read["cid"].startswith("sha256:")


def test_the_node_accepts_numbers_that_the_wire_cannot_carry(pair: Pair) -> None:
    asserted = assert_in_bulk(pair.origin, uncarriable_facts())
    stored = pair.origin.query("SELECT value_v FROM facts WHERE id = ?", [asserted[0].id])
    served = pair.origin.fact(asserted[0].id)
    assert served is not None
    assert stored[0]["value_v"] == "9007199254740993"
    assert served["value"]["v"] == 9007199254740992.0


def test_a_held_fact_appears_later_below_the_newest_hlc(pair: Pair) -> None:
    with InsideNode(pair.origin) as inside:
        held = inside.hold(Fact("held:late", "test:name", "string", "late"))
        newer = pair.origin.assert_fact("held:newer", "test:name", "on time")
        assert pair.origin.fact(held.id) is None
        assert held.hlc < newer["hlc"]
        assert held.commit().hlc == held.hlc
    late = pair.origin.fact(held.id)
    assert late is not None
    assert late["hlc"] == held.hlc


def test_a_fact_held_before_commit_blocks_writers_until_abandoned(pair: Pair) -> None:
    with InsideNode(pair.origin) as inside:
        held = inside.hold(Fact("held:lock", "test:name", "string", "x"), at="before_commit")
        with closing(sqlite3.connect(pair.origin.database, timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            held.abandon()
            other.execute("BEGIN IMMEDIATE")
            other.rollback()
    assert pair.origin.fact(held.id) is None


def test_what_is_held_at_the_end_is_rolled_back(pair: Pair) -> None:
    with InsideNode(pair.origin) as inside:
        held = inside.hold(Fact("held:crash", "test:name", "string", "x"), at="before_commit")
    assert pair.origin.fact(held.id) is None


def test_counters_of_one_millisecond_are_out_of_order_as_text(pair: Pair) -> None:
    with InsideNode(pair.origin) as inside, inside.frozen_clock() as wall_ms:
        asserted = inside.assert_facts(plain_facts(12, namespace="frozen"))
    hlcs = [entry.hlc for entry in asserted]
    assert hlcs == [f"{wall_ms}.{counter}" for counter in range(12)]
    assert hlcs == sorted(hlcs, key=wall_and_counter)
    assert hlcs != sorted(hlcs)


def test_a_clock_set_back_and_forgotten_makes_lower_hlcs(pair: Pair) -> None:
    with InsideNode(pair.origin) as inside:
        (before,) = inside.assert_facts(plain_facts(1, namespace="before"))
        an_hour_ago = wall_and_counter(before.hlc)[0] - 3_600_000
        with inside.frozen_clock(an_hour_ago):
            (kept,) = inside.assert_facts(plain_facts(1, namespace="kept"))
            inside.forget_clock()
            (fallen,) = inside.assert_facts(plain_facts(1, namespace="fallen"))
    assert wall_and_counter(kept.hlc) > wall_and_counter(before.hlc)
    assert fallen.hlc == f"{an_hour_ago}.0"


def test_an_error_inside_the_node_is_told(pair: Pair) -> None:
    with InsideNode(pair.origin) as inside:
        with pytest.raises(NodeError, match="scope must be one of"):
            inside.assert_facts([Fact("bad:scope", "test:name", "string", "x", scope="galaxy")])
        assert inside.assert_facts(plain_facts(1, namespace="good"))


def test_a_node_survives_a_restart_with_its_identity(
    node_environment: NodeEnvironment, tmp_path: Path
) -> None:
    with Node(node_environment, tmp_path / "node", settings={"TRUST_MODE": "off"}) as node:
        said = node.assert_fact("restart:one", "test:name", "kept")
        node.kill()
        assert not node.running
        node.start()
        known = node.client.get("/.well-known/stigmem").json()
        assert known["node_id"] == node.node_id
        assert known["federation_pubkey"] == node.public_key
        assert node.fact(said["id"]) is not None


def test_a_node_that_cannot_start_says_why(
    node_environment: NodeEnvironment, tmp_path: Path
) -> None:
    node = Node(node_environment, tmp_path / "node", settings={"RATE_LIMIT_DISABLED_ACK": "false"})
    with pytest.raises(NodeError, match="RATE_LIMIT_DISABLED_ACK"):
        node.__enter__()
    assert not node.running


def test_the_copy_of_the_receiver_is_peered_and_empty(pair: Pair, fresh_receiver_db: Path) -> None:
    with closing(sqlite3.connect(fresh_receiver_db)) as copy:
        assert copy.execute("SELECT COUNT(*) FROM facts").fetchone() == (0,)
        assert copy.execute("SELECT node_id FROM peers").fetchall() == [(pair.origin.node_id,)]
        keys = dict(copy.execute("SELECT key, value FROM node_meta"))
    assert {"node_id", "federation_pubkey", "federation_privkey"} <= keys.keys()
    assert fresh_receiver_db.stat().st_mode & 0o777 == 0o600


class TestLedger:
    """The oracle sees each kind of trouble, made by hand in a copy of the receiver's database."""

    ORIGIN = "stigmem:node:origin"

    def insert(self, database: Path, fact_id: str, *, meta: int = 1, value: str = "1.0") -> None:
        rows: list[tuple[str | None, ...]]
        rows = [(fact_id, "e:one", "test:n", "number", value, "public", self.ORIGIN)]
        rows += [
            (f"{fact_id}-{n}", fact_id, "stigmem:received_from", "ref", self.ORIGIN, "local", None)
            for n in range(meta)
        ]
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.executemany(
                "INSERT INTO facts (id, entity, relation, value_type, value_v, scope,"
                " received_from, source, timestamp, confidence)"
                " VALUES (?,?,?,?,?,?,?,'agent:plain','2026-01-01T00:00:00+00:00',1.0)",
                rows,
            )

    def conflict(self, database: Path, number: int, one: str, other: str) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "INSERT INTO conflicts (id, fact_a_id, fact_b_id, status, detected_at)"
                " VALUES (?,?,?,?,?)",
                (f"stigmem:conflict:{number}", one, other, "unresolved", "2026-01-01"),
            )

    def dead_letter(self, database: Path, fact_id: str) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS replicator_dead_letters"
                " (node_id TEXT, stream TEXT, entry_id TEXT, reason TEXT, status TEXT)"
            )
            connection.execute(
                "INSERT INTO replicator_dead_letters VALUES (?,?,?,?,?)",
                (self.ORIGIN, "facts", fact_id, "cid_mismatch", "open"),
            )

    def test_clean(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        ledger.acknowledge(["one", "two"])
        self.insert(fresh_receiver_db, "one")
        self.insert(fresh_receiver_db, "two", value="2.0")
        self.conflict(fresh_receiver_db, 1, "two", "one")
        assert ledger.assert_clean(fresh_receiver_db).admitted == {"one", "two"}

    def test_lost(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        ledger.acknowledge(["one"])
        with pytest.raises(AssertionError, match="1 lost: one"):
            ledger.assert_clean(fresh_receiver_db)

    def test_duplicated(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        ledger.acknowledge(["one", "two"])
        self.insert(fresh_receiver_db, "one", meta=2)
        self.insert(fresh_receiver_db, "two", value="2.0")
        self.conflict(fresh_receiver_db, 1, "two", "one")
        self.conflict(fresh_receiver_db, 2, "one", "two")
        assert ledger.judge(fresh_receiver_db).duplicated == {"one", "one with two"}

    def test_unverified(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        ledger.acknowledge(["one"])
        ledger.poison(["one"])
        self.insert(fresh_receiver_db, "one")
        assert ledger.judge(fresh_receiver_db).unverified == {"one"}

    def test_unexpected_unless_attempted(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        self.insert(fresh_receiver_db, "one")
        assert ledger.judge(fresh_receiver_db).unexpected == {"one"}
        ledger.attempt([Fact("e:one", "test:n", "number", 1, "agent:plain")])
        assert not ledger.judge(fresh_receiver_db).unexpected

    def test_incomplete_without_its_meta_fact(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        ledger.acknowledge(["one"])
        self.insert(fresh_receiver_db, "one", meta=0)
        assert ledger.judge(fresh_receiver_db).incomplete == {"one"}

    def test_incomplete_without_a_conflict_with_its_sibling(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        ledger.acknowledge(["one", "two"])
        self.insert(fresh_receiver_db, "one")
        self.insert(fresh_receiver_db, "two", value="2.0")
        assert ledger.judge(fresh_receiver_db).incomplete == {"one without two"}

    def test_refused_is_not_lost_but_has_to_be_expected(self, fresh_receiver_db: Path) -> None:
        ledger = Ledger(self.ORIGIN)
        ledger.acknowledge(["one"])
        self.dead_letter(fresh_receiver_db, "one")
        verdict = ledger.judge(fresh_receiver_db)
        assert not verdict.lost
        with pytest.raises(AssertionError, match=r"one \(cid_mismatch\)"):
            ledger.assert_clean(fresh_receiver_db)
        ledger.acknowledge(["one"], refusable=True)
        ledger.assert_clean(fresh_receiver_db)
