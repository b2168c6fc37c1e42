"""Both wire versions, with real nodes: version 1 by itself, and one version beside the other.

Wire version 1 is what nodes of 0.9.0a10 speak, version 2 what those of 0.9.0a12 do. Pulling
between two nodes of 0.9.0a12 is for test_real_pull.py, upgraded nodes are for test_upgrade.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import make_cli
from tests.e2e.pulling import (
    assert_wrong_dialect,
    carried,
    node_cursor,
    node_tables,
    pull,
    reset,
    state,
)
from tests.nodes.bulk import InsideNode, assert_in_bulk
from tests.nodes.environment import node_environment as installed_environment
from tests.nodes.fact_corpus import facts, plain_facts, uncarriable_facts
from tests.nodes.federation import pair_of_nodes
from tests.nodes.ledger import Ledger
from tests.nodes.node import NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.e2e.conftest import Cli
    from tests.nodes.federation import Pair

OLD, NEW = "0.9.0a10", "0.9.0a12"
WIRE = {OLD: 1, NEW: 2}
CORPUS = 1_500
NAMESPACE = "versions"
SOURCE = "agent:versions"


def content_id(row: Mapping[str, Any]) -> str:
    """The content id of wire version 1 of a stored fact, computed anew from its columns."""
    keys = ("entity", "relation", "value_type", "value_v", "source", "scope", "confidence")
    body = {key: row[key] for key in keys}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.fixture(scope="module")
def module_cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return make_cli(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def old_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """An origin and a receiver of 0.9.0a10, peers of each other, for the tests of this module."""
    folder = tmp_path_factory.mktemp("old")
    with pair_of_nodes(installed_environment(OLD), folder) as nodes:
        yield nodes


@dataclass(frozen=True, slots=True)
class Corpus:
    """The corpus at an old origin, and pulled into the database of a running old receiver."""

    ledger: Ledger
    scores: dict[tuple[str, str], float]
    """What the receiver's node would have scored a source in a scope before the pull."""
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def corpus(old_pair: Pair, module_cli: Cli) -> Corpus:
    asserted = facts(CORPUS, namespace=NAMESPACE)
    ledger = Ledger(old_pair.origin.node_id)
    ledger.acknowledge(assert_in_bulk(old_pair.origin, asserted))
    scored = sorted({(fact.source, fact.scope) for fact in asserted})
    with InsideNode(old_pair.receiver) as inside:
        scores = dict(zip(scored, inside.trust_scores(scored), strict=True))
    return Corpus(ledger, scores, pull(module_cli, old_pair).summary)


class TestVersionOne:
    """A corpus of every kind of fact, between two nodes of 0.9.0a10."""

    def test_all_facts_arrive_once_and_nothing_else(self, old_pair: Pair, corpus: Corpus) -> None:
        """Of what the origin acknowledged nothing is lost, doubled, incomplete or refused."""
        verdict = corpus.ledger.assert_clean(old_pair.receiver.database)
        assert len(verdict.admitted) == CORPUS
        assert corpus.summary["caught_up"]
        assert (corpus.summary["new"], corpus.summary["rejected"]) == (CORPUS, {})
        assert corpus.summary["conflicts"] > 50

    def test_every_fact_is_the_same_to_the_letter(self, old_pair: Pair, corpus: Corpus) -> None:
        """Text, numbers, times and content ids are the origin's own, character for character."""
        assert corpus.summary["caught_up"]
        expected = carried(old_pair.origin, SOURCE)
        assert carried(old_pair.receiver, SOURCE) == expected
        assert len(expected) == CORPUS

    def test_every_stored_text_verifies(self, old_pair: Pair, corpus: Corpus) -> None:
        """Each content id is that of the text stored beside it, whole numbers included."""
        assert corpus.summary["caught_up"]
        stored = old_pair.receiver.query("SELECT * FROM facts WHERE source = ?", [SOURCE])
        whole = [
            row for row in stored if row["value_type"] == "number" and "." not in row["value_v"]
        ]
        assert [row["id"] for row in stored if content_id(row) != row["cid"]] == []
        assert len(stored) == CORPUS
        assert len(whole) > 50

    def test_every_score_is_the_nodes_own(self, old_pair: Pair, corpus: Corpus) -> None:
        """The trust in a source is stored as the receiver's node computes it, to the last bit."""
        stored = old_pair.receiver.query(
            "SELECT DISTINCT source, scope, source_trust FROM facts WHERE source = ?", [SOURCE]
        )
        assert {
            (row["source"], row["scope"]): row["source_trust"] for row in stored
        } == corpus.scores

    def test_the_node_serves_what_was_pulled(self, old_pair: Pair, corpus: Corpus) -> None:
        """The receiver's node, running all the while, answers with the facts by its own API."""
        assert corpus.summary["caught_up"]
        said = old_pair.origin.fact(min(corpus.ledger.acknowledged))
        assert said is not None
        served = old_pair.receiver.fact(said["id"])
        assert served is not None
        assert served["received_from"] == old_pair.origin.node_id
        same = ("entity", "relation", "value", "source", "scope", "confidence", "cid", "timestamp")
        assert {key: served[key] for key in same} == {key: said[key] for key in same}

    def test_a_second_pull_adds_nothing(
        self, old_pair: Pair, corpus: Corpus, module_cli: Cli
    ) -> None:
        """Nothing is new, and nothing is written to the node's tables."""
        before = node_tables(old_pair.receiver)
        summary = pull(module_cli, old_pair).summary
        assert (summary["new"], summary["conflicts"], summary["rejected"]) == (0, 0, {})
        assert node_tables(old_pair.receiver) == before
        corpus.ledger.assert_clean(old_pair.receiver.database)

    def test_a_pull_from_the_beginning_adds_nothing(
        self, old_pair: Pair, corpus: Corpus, module_cli: Cli
    ) -> None:
        """After `cursor reset` everything is read once more and recognised."""
        before = node_tables(old_pair.receiver)
        reset(module_cli, old_pair)
        summary = pull(module_cli, old_pair).summary
        assert summary["cursor_before"] is None
        assert (summary["new"], summary["conflicts"], summary["rejected"]) == (0, 0, {})
        assert summary["duplicates"] >= CORPUS
        assert node_tables(old_pair.receiver) == before
        corpus.ledger.assert_clean(old_pair.receiver.database)

    def test_a_number_that_the_wire_cannot_carry_stops_nothing(
        self, old_pair: Pair, corpus: Corpus, module_cli: Cli
    ) -> None:
        """It becomes a dead letter with its own reason, and what comes after it arrives."""
        uncarriable = assert_in_bulk(old_pair.origin, uncarriable_facts())
        after = assert_in_bulk(old_pair.origin, plain_facts(20, namespace="after-numbers"))
        corpus.ledger.acknowledge(uncarriable, refusable=True)
        corpus.ledger.acknowledge(after)
        summary = pull(module_cli, old_pair).summary
        verdict = corpus.ledger.assert_clean(old_pair.receiver.database)
        assert {verdict.refused[entry.id] for entry in uncarriable} == {"number_not_reproducible"}
        assert {entry.id for entry in after} <= verdict.admitted
        assert summary["rejected"] == {"number_not_reproducible": len(uncarriable)}

    def test_the_nodes_own_loop_and_the_replicator_take_over_from_each_other(
        self, cli: Cli, tmp_path: Path
    ) -> None:
        """Each goes on from the other's cursor: nothing is lost, read twice or left behind."""
        with pair_of_nodes(installed_environment(OLD), tmp_path / "nodes") as pair:
            ledger = Ledger(pair.origin.node_id)

            def write(count: int, namespace: str) -> None:
                some = plain_facts(count, namespace=namespace)
                ledger.acknowledge(assert_in_bulk(pair.origin, some))

            def pull_as_node() -> None:
                with InsideNode(pair.receiver) as inside:
                    inside.pull_all_peers_once()

            write(30, "by-node")
            pull_as_node()
            left_by_node = node_cursor(pair)
            write(40, "by-us")
            summary = pull(cli, pair).summary
            assert summary["cursor_before"] == left_by_node
            assert (summary["new"], summary["duplicates"]) == (40, 0)
            write(50, "by-node-again")
            pull_as_node()
            assert len(ledger.assert_clean(pair.receiver.database).admitted) == 30 + 40 + 50


@dataclass(frozen=True, slots=True)
class MixedPair:
    """Two nodes that are peers of each other, and the versions of origin and receiver."""

    pair: Pair
    origin: str
    receiver: str


@pytest.fixture(scope="module", params=[(OLD, NEW), (NEW, OLD)], ids=" to ".join)
def mixed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MixedPair]:
    """A pair of either kind, with facts at its origin, for the tests below in their order."""
    versions: tuple[str, str] = request.param
    origin, receiver = (installed_environment(version) for version in versions)
    folder = tmp_path_factory.mktemp("mixed")
    with pair_of_nodes(origin, folder, receiver_environment=receiver) as pair:
        assert_in_bulk(pair.origin, plain_facts(10))
        yield MixedPair(pair, *versions)


def test_nodes_of_two_versions_accept_each_other_and_read_nothing(mixed: MixedPair) -> None:
    """A mixed pair is peered on both sides, yet neither version's own loop takes a fact."""
    pair = mixed.pair
    for host, newcomer in ((pair.receiver, pair.origin), (pair.origin, pair.receiver)):
        sql = "SELECT status FROM peers WHERE node_id = ?"
        assert host.query(sql, [newcomer.node_id]) == [{"status": "active"}]
    with InsideNode(pair.receiver) as inside:
        if mixed.receiver == OLD:
            with pytest.raises(NodeError, match="KeyError: 'id'"):
                inside.pull_all_peers_once()
        else:
            inside.pull_all_peers_once()
    assert pair.receiver.query("SELECT 1 FROM facts WHERE received_from IS NOT NULL") == []
    assert pair.receiver.query("SELECT * FROM replication_cursors") == []


def test_a_mixed_pair_is_refused_in_plain_words(cli: Cli, mixed: MixedPair) -> None:
    """The page of the other wire version ends the pull with exit code 9; nothing is let in.

    The cursor stands where it stood, and the state says the same as the message.
    """
    pair = mixed.pair
    pair.receiver.store.run(
        "INSERT INTO replication_cursors (peer_id, direction, cursor, updated_at)"
        " SELECT id, 'inbound', '1000.0', '2026-01-01T00:00:00+00:00' FROM peers"
    )
    before = node_tables(pair.receiver)
    for _attempt in range(2):
        pulled = pull(cli, pair, check=False)
        assert_wrong_dialect(pulled, peer=WIRE[mixed.origin], node=WIRE[mixed.receiver])
        assert pulled.cursor == "1000.0"
        assert state(cli, pair) == ("blocked", "wrong_dialect")
        assert node_tables(pair.receiver) == before
    assert pair.receiver.query("SELECT * FROM replicator_dead_letters") == []
