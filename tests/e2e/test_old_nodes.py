"""The harness with nodes of 0.9.0a10: they behave as tests assume.

Beside nodes of 0.9.0a12 they are in test_wire_versions.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.nodes.bulk import InsideNode, assert_in_bulk
from tests.nodes.environment import NodeEnvironment, constraints_file
from tests.nodes.environment import node_environment as installed_environment
from tests.nodes.fact_corpus import Fact, facts, plain_facts
from tests.nodes.federation import approve_again, pair_of_nodes, upgrade
from tests.nodes.ledger import Ledger
from tests.nodes.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nodes.federation import Pair

OLD, NEW = "0.9.0a10", "0.9.0a12"
NEWEST_MIGRATION = {
    OLD: "038_peer_approval_flow",
    NEW: "058_federation_audit_first_trust_confirm_rejected",
}


@pytest.fixture(scope="module")
def old_environment() -> NodeEnvironment:
    return installed_environment(OLD)


@pytest.fixture(scope="module")
def old_pair(
    old_environment: NodeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    with pair_of_nodes(old_environment, tmp_path_factory.mktemp("old")) as nodes:
        yield nodes


def newest_migration(node: Node) -> str:
    (row,) = node.query("SELECT MAX(version) AS version FROM schema_migrations")
    version: str = row["version"]
    return version


def known_peer(host: Node, newcomer: Node) -> dict[str, Any]:
    (row,) = host.query("SELECT * FROM peers WHERE node_id = ?", [newcomer.node_id])
    return dict(row)


def received(node: Node) -> int:
    (row,) = node.query("SELECT COUNT(*) AS found FROM facts WHERE received_from IS NOT NULL")
    found: int = row["found"]
    return found


def content_id(record: dict[str, Any], stored: str) -> str:
    """The content id of wire version 1: seven keys, `interpret_as` not among them."""
    keys = ("entity", "relation", "source", "scope", "confidence")
    body = {key: record[key] for key in keys}
    body.update(value_type=record["value"]["type"], value_v=stored)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class TestOldPair:
    """Two nodes of 0.9.0a10, peers of each other."""

    def test_both_have_the_schema_of_their_version(self, old_pair: Pair) -> None:
        for node in (old_pair.origin, old_pair.receiver):
            assert node.running
            assert newest_migration(node) == NEWEST_MIGRATION[OLD]

    def test_each_is_an_active_peer_without_an_organisation(self, old_pair: Pair) -> None:
        """Wire version 1 knows a peer by its key only."""
        ends = (old_pair.receiver, old_pair.origin), (old_pair.origin, old_pair.receiver)
        for host, newcomer in ends:
            row = known_peer(host, newcomer)
            assert row["status"] == "active"
            assert row["federation_pubkey"] == newcomer.public_key
            assert "entity_uri" not in row

    def test_bulk_facts_are_the_nodes_own(self, old_pair: Pair) -> None:
        corpus = facts(200, namespace="old-bulk")
        asserted = assert_in_bulk(old_pair.origin, corpus)
        assert len({entry.id for entry in asserted}) == len(corpus)
        for fact, entry in list(zip(corpus, asserted, strict=True))[::19]:
            read = old_pair.origin.fact(entry.id)
            assert read is not None
            assert (read["hlc"], read["entity"]) == (entry.hlc, fact.entity)
            assert read["cid"] == content_id(read, fact.stored_value)

    def test_a_held_fact_appears_later_below_the_newest_hlc(self, old_pair: Pair) -> None:
        with InsideNode(old_pair.origin) as inside:
            held = inside.hold(Fact("held:late", "test:name", "string", "late"))
            newer = old_pair.origin.assert_fact("held:newer", "test:name", "on time")
            assert old_pair.origin.fact(held.id) is None
            assert held.commit().hlc == held.hlc < newer["hlc"]
        assert old_pair.origin.fact(held.id) is not None

    def test_a_stopped_clock_counts_up(self, old_pair: Pair) -> None:
        with InsideNode(old_pair.origin) as inside, inside.frozen_clock() as wall_ms:
            asserted = inside.assert_facts(plain_facts(3, namespace="old-frozen"))
        assert [entry.hlc for entry in asserted] == [f"{wall_ms}.{n}" for n in range(3)]

    def test_the_nodes_own_loop_takes_a_recorded_page(self, old_pair: Pair) -> None:
        """A page of one good fact and one with another content id: the loop ends at the second."""
        body = {
            "id": "old-recorded",
            "entity": "old:recorded",
            "relation": "test:name",
            "value": {"type": "string", "v": "x", "interpret_as": "content"},
            "source": "agent:old",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "hlc": None,
            "confidence": 1.0,
            "scope": "public",
        }
        good = {**body, "cid": content_id(body, "x")}
        bad = {**good, "id": "old-tampered", "entity": "old:other"}
        page = json.dumps({"facts": [good, bad], "cursor": None, "has_more": False}).encode()
        with InsideNode(old_pair.receiver) as inside:
            fine, ended = inside.ingest_pages(old_pair.origin.node_id, [page])
        assert fine is None
        assert ended is not None
        assert "CHECK constraint" in ended
        assert old_pair.receiver.fact("old-recorded") is not None
        assert old_pair.receiver.fact("old-tampered") is None


def test_the_nodes_own_loop_replicates(old_environment: NodeEnvironment, tmp_path: Path) -> None:
    """One turn of the loop of 0.9.0a10 brings a page, and the ledger finds it complete."""
    with pair_of_nodes(old_environment, tmp_path / "nodes") as pair:
        ledger = Ledger(pair.origin.node_id)
        ledger.acknowledge(assert_in_bulk(pair.origin, plain_facts(60, namespace="old-loop")))
        with InsideNode(pair.receiver) as inside:
            inside.pull_all_peers_once()
        assert len(ledger.assert_clean(pair.receiver.database).admitted) == 60


def test_an_upgraded_pair_keeps_its_identity_and_binds_organisations_when_approved(
    old_environment: NodeEnvironment, tmp_path: Path
) -> None:
    """Its facts and peers live on, and only a new approval tells whose organisation a peer is."""
    new_environment = installed_environment(NEW)
    with pair_of_nodes(old_environment, tmp_path / "nodes") as pair:
        (before,) = assert_in_bulk(pair.origin, plain_facts(1))
        (row,) = pair.origin.query("SELECT cid FROM facts WHERE id = ?", [before.id])
        for node in (pair.origin, pair.receiver):
            upgrade(node, new_environment)
            assert newest_migration(node) == NEWEST_MIGRATION[NEW]
            known = node.client.get("/.well-known/stigmem").json()
            assert (known["node_id"], known["federation_pubkey"]) == (
                node.node_id,
                node.public_key,
            )
        (kept,) = pair.origin.query("SELECT cid FROM facts WHERE id = ?", [before.id])
        assert kept["cid"] == row["cid"]
        unbound = known_peer(pair.receiver, pair.origin)
        assert (unbound["status"], unbound["entity_uri"]) == ("active", None)
        approve_again(pair.receiver, pair.origin)
        bound = known_peer(pair.receiver, pair.origin)
        assert (bound["id"], bound["entity_uri"]) == (unbound["id"], pair.origin.entity_uri)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_constraints_file_pins_versions_and_nothing_else(version: str) -> None:
    """It names no index and no path of this machine."""
    first, *rest = constraints_file(version).read_text().splitlines()
    assert version in first
    pins = [line for line in rest if not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", pin)] == []
