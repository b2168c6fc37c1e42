"""Pulling from a real node: what arrives, what stays away, and what pulling again changes."""

from __future__ import annotations

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import make_cli
from tests.e2e.pulling import content_id
from tests.nodes.bulk import InsideNode, assert_in_bulk
from tests.nodes.fact_corpus import SCOPES, Fact, facts, plain_facts, uncarriable_facts
from tests.nodes.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cli
    from tests.nodes.federation import Pair

CORPUS = 3_000
NAMESPACE = "pulled"
SOURCE = f"agent:{NAMESPACE}"

# What makes a fact what it is and must reach the receiver to the letter.
CARRIED = (
    "id, entity, relation, value_type, value_v, source, timestamp, valid_until, confidence,"
    " scope, interpret_as, cid"
)


def pull(cli: Cli, pair: Pair, database: Path) -> dict[str, Any]:
    """Pull from the origin into a database, to the end, and return the summary."""
    said = cli("pull", "--peer", pair.origin.node_id, "--json", db=database, env=settings(pair))
    summary: dict[str, Any] = json.loads(said.stdout)
    assert summary["caught_up"]
    return summary


def settings(pair: Pair) -> dict[str, str]:
    """The settings that a replicator shares with the receiver's node."""
    return {"STIGMEM_NODE_URL": pair.receiver.url}


def rows(database: Path, sql: str, *parameters: str) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(sql, parameters).fetchall()


def carried(database: Path, source: str) -> dict[str, tuple[Any, ...]]:
    found = rows(database, f"SELECT {CARRIED} FROM facts WHERE source = ?", source)  # noqa: S608
    return {row["id"]: tuple(row) for row in found}


def node_tables(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of what pulling writes into the node's own tables."""
    tables = ("facts", "conflicts", "fact_audit_log", "federation_audit")
    return {
        table: [tuple(row) for row in rows(database, f"SELECT * FROM {table} ORDER BY id")]  # noqa: S608
        for table in tables
    }


@dataclass(frozen=True, slots=True)
class Corpus:
    """The corpus at the origin, and pulled into the running receiver's database."""

    ledger: Ledger
    facts: list[Fact]
    scores: dict[tuple[str, str], float]
    """What the receiver's node would have scored a source in a scope before the pull."""
    summary: dict[str, Any]
    written_meanwhile: list[str]
    """Facts that the receiver's node accepted while the pull was on."""


@pytest.fixture(scope="module")
def corpus(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    cli = make_cli(tmp_path_factory.mktemp("corpus"))
    asserted = [*facts(CORPUS, namespace=NAMESPACE), *_facts_of_known_sources(pair)]
    ledger = Ledger(pair.origin.node_id)
    ledger.acknowledge(assert_in_bulk(pair.origin, asserted))
    ledger.adopt(pair.origin.database)
    scored = sorted({(fact.source, fact.scope) for fact in asserted})
    with InsideNode(pair.receiver) as inside:
        scores = dict(zip(scored, inside.trust_scores(scored), strict=True))
    written: list[str] = []
    with ThreadPoolExecutor(1) as threads:
        pulling = threads.submit(pull, cli, pair, pair.receiver.database)
        while not pulling.done():
            said = pair.receiver.assert_fact(f"meanwhile:{len(written)}", "test:name", "mine")
            written.append(said["id"])
            time.sleep(0.1)
    return Corpus(ledger, asserted, scores, pulling.result(), written)


def _facts_of_known_sources(pair: Pair) -> list[Fact]:
    """Facts of sources that a node knows something about: an organisation, itself, a URI."""
    netloc = urlsplit(pair.receiver.url).netloc
    sources = (
        pair.origin.entity_uri,
        f"stigmem://{netloc}/agent/scribe",
        "stigmem://elsewhere.example/agent/scribe",
        "stigmem:agent",
    )
    return [
        Fact(f"{NAMESPACE}:by-{number}", "test:said", "string", "so", source, scope)
        for number, source in enumerate(sources)
        for scope in SCOPES
    ]


class TestCorpus:
    """Three thousand facts of every kind, pulled into the database of a running node."""

    def test_all_facts_arrive_once_and_nothing_else(self, pair: Pair, corpus: Corpus) -> None:
        """Of what the origin acknowledged nothing is lost, doubled, incomplete or refused."""
        verdict = corpus.ledger.assert_clean(pair.receiver.database)
        assert len(verdict.admitted) >= len(corpus.facts) > CORPUS
        assert corpus.summary["new"] >= len(corpus.facts)

    def test_the_corpus_has_everything_that_matters(self, corpus: Corpus) -> None:
        """The facts pulled cover every value type and scope, and contradict each other."""
        assert {fact.type for fact in corpus.facts} == {
            *("string", "text", "number", "boolean", "datetime", "ref", "null")
        }
        assert {fact.scope for fact in corpus.facts} == set(SCOPES)
        assert any(isinstance(fact.value, int) for fact in corpus.facts if fact.type == "number")
        keys = {(fact.entity, fact.relation, fact.scope) for fact in corpus.facts}
        assert len(keys) < len(corpus.facts)
        assert corpus.summary["conflicts"] > 100

    def test_every_fact_is_the_same_to_the_letter(self, pair: Pair, corpus: Corpus) -> None:
        """Text, numbers, times and content ids are the origin's own, character for character."""
        for source in {fact.source for fact in corpus.facts}:
            expected = carried(pair.origin.database, source)
            assert expected
            assert carried(pair.receiver.database, source) == expected

    def test_every_stored_text_verifies(self, pair: Pair, corpus: Corpus) -> None:
        """Each content id is that of the text stored beside it, whole numbers included."""
        stored = rows(pair.receiver.database, "SELECT * FROM facts WHERE received_from IS NOT NULL")
        whole = [
            row for row in stored if row["value_type"] == "number" and "." not in row["value_v"]
        ]
        assert [row["id"] for row in stored if content_id(dict(row)) != row["cid"]] == []
        assert len(stored) >= len(corpus.facts)
        assert len(whole) > 50

    def test_every_score_is_the_nodes_own(self, pair: Pair, corpus: Corpus) -> None:
        """The trust in a source is stored as the receiver's node computes it, to the last bit."""
        stored = rows(
            pair.receiver.database,
            "SELECT DISTINCT source, scope, source_trust FROM facts WHERE received_from = ?",
            pair.origin.node_id,
        )
        scores = {(row["source"], row["scope"]): row["source_trust"] for row in stored}
        assert {key: scores[key] for key in corpus.scores} == corpus.scores
        assert len(set(corpus.scores.values())) >= 5

    def test_the_score_of_an_established_source_too(
        self, pair: Pair, corpus: Corpus, cli: Cli
    ) -> None:
        """A source with a long history here is scored by it, as the node does."""
        ((key, before),) = [item for item in corpus.scores.items() if item[0] == (SOURCE, "public")]
        with InsideNode(pair.receiver) as inside:
            (expected,) = inside.trust_scores([key])
        said = pair.origin.assert_fact(f"{NAMESPACE}:later", "test:name", "x", source=SOURCE)
        corpus.ledger.acknowledge([said["id"]])
        pull(cli, pair, pair.receiver.database)
        (row,) = rows(
            pair.receiver.database, "SELECT source_trust FROM facts WHERE id = ?", said["id"]
        )
        assert row["source_trust"] == expected > before

    def test_the_node_serves_what_was_pulled(self, pair: Pair, corpus: Corpus) -> None:
        """The receiver's node, running all the while, answers with the facts by its own API."""
        (said,) = pair.origin.facts(entity=f"{NAMESPACE}:by-1", scope="public")
        served = pair.receiver.fact(said["id"])
        assert served is not None
        assert served["received_from"] == pair.origin.node_id
        same = ("entity", "relation", "value", "source", "scope", "confidence", "cid", "timestamp")
        assert {key: served[key] for key in same} == {key: said[key] for key in same}
        assert served["source_trust"] == corpus.scores[said["source"], "public"]

    def test_the_node_writes_meanwhile(self, pair: Pair, corpus: Corpus) -> None:
        """A node whose database we write to goes on accepting facts."""
        assert len(corpus.written_meanwhile) > 3
        for fact_id in corpus.written_meanwhile:
            assert pair.receiver.fact(fact_id) is not None


class TestAgain:
    """Pulling again is harmless."""

    def test_a_second_pull_adds_nothing(self, pair: Pair, corpus: Corpus, cli: Cli) -> None:
        """Nothing is new, nothing is written to the node's tables, and the exit code is 0."""
        pull(cli, pair, pair.receiver.database)
        before = node_tables(pair.receiver.database)
        summary = pull(cli, pair, pair.receiver.database)
        assert (summary["new"], summary["conflicts"], summary["rejected"]) == (0, 0, {})
        assert node_tables(pair.receiver.database) == before
        corpus.ledger.assert_clean(pair.receiver.database)

    def test_a_pull_from_the_beginning_adds_nothing(
        self, pair: Pair, corpus: Corpus, cli: Cli
    ) -> None:
        """After `cursor reset` everything is read once more and recognised."""
        pull(cli, pair, pair.receiver.database)
        before = node_tables(pair.receiver.database)
        cli("cursor", "reset", "--peer", pair.origin.node_id, "--yes", db=pair.receiver.database)
        summary = pull(cli, pair, pair.receiver.database)
        assert summary["cursor_before"] is None
        assert (summary["new"], summary["conflicts"], summary["rejected"]) == (0, 0, {})
        assert summary["duplicates"] >= len(corpus.facts)
        assert node_tables(pair.receiver.database) == before
        corpus.ledger.assert_clean(pair.receiver.database)


@pytest.fixture
def receiver_copy(pair: Pair, corpus: Corpus, tmp_path: Path) -> Path:
    """A copy of the receiver's database with the corpus in it, for one test alone."""
    assert corpus.summary["caught_up"]
    return pair.receiver.copy_database(tmp_path / "receiver.db")


def test_a_number_that_the_wire_cannot_carry_stops_nothing(
    pair: Pair, receiver_copy: Path, cli: Cli
) -> None:
    """It becomes a dead letter with its own reason, and what comes after it arrives."""
    ledger = Ledger(pair.origin.node_id)
    ledger.adopt(pair.origin.database)
    numbers = uncarriable_facts(namespace="too-much")
    uncarriable = assert_in_bulk(pair.origin, numbers)
    after = assert_in_bulk(pair.origin, plain_facts(20, namespace="after-numbers"))
    ledger.acknowledge(uncarriable, refusable=True)
    ledger.acknowledge(after)
    summary = pull(cli, pair, receiver_copy)
    verdict = ledger.assert_clean(receiver_copy)
    assert {verdict.refused[entry.id] for entry in uncarriable} == {"number_not_reproducible"}
    assert {entry.id for entry in after} <= verdict.admitted
    assert summary["rejected"]["number_not_reproducible"] >= len(numbers)

    again = pull(cli, pair, receiver_copy)
    assert (again["new"], again["rejected"]) == (0, {})
    ledger.assert_clean(receiver_copy)


class TestLate:
    """Facts that appear behind what was already read."""

    def test_a_fact_that_waited_to_be_written(
        self, pair: Pair, receiver_copy: Path, cli: Cli
    ) -> None:
        """A fact committed after newer ones were pulled is brought by the next pull."""
        with InsideNode(pair.origin) as inside:
            held = inside.hold(Fact("late:waiting", "test:name", "string", "late"))
            newer = pair.origin.assert_fact("late:newer", "test:name", "on time")
            first = pull(cli, pair, receiver_copy)
            assert first["cursor"] >= newer["hlc"] > held.hlc
            assert not self._has(receiver_copy, held.id)
            held.commit()
        assert pull(cli, pair, receiver_copy)["new"] == 1
        assert self._has(receiver_copy, held.id)

    def test_a_fact_in_a_transaction_that_blocks_its_node(
        self, pair: Pair, receiver_copy: Path, cli: Cli
    ) -> None:
        """An origin blocked by its own writer fails the pull, and loses nothing.

        The fact's HLC was assigned by a clock that had fallen back behind what we have read.
        """
        pair.origin.assert_fact("late:before-block", "test:name", "on time")
        first = pull(cli, pair, receiver_copy)
        with InsideNode(pair.origin) as inside:
            with inside.frozen_clock(int(first["cursor"].split(".")[0]) - 100):
                inside.forget_clock()
                held = inside.hold(
                    Fact("late:blocking", "test:name", "string", "late"), at="before_commit"
                )
            assert held.hlc < first["cursor"]
            said = cli(
                *("pull", "--peer", pair.origin.node_id, "--wait", "0"),
                db=receiver_copy,
                check=False,
            )
            assert said.returncode == 5, said.stderr
            assert not self._has(receiver_copy, held.id)
            held.commit()
        assert pull(cli, pair, receiver_copy)["new"] == 1
        assert self._has(receiver_copy, held.id)

    def test_counters_whose_text_order_is_not_their_order(
        self, pair: Pair, receiver_copy: Path, cli: Cli
    ) -> None:
        """Counters 10 to 14 are less than 9 as text; pulled after it they still arrive."""
        ledger = Ledger(pair.origin.node_id)
        ledger.adopt(pair.origin.database)
        with InsideNode(pair.origin) as inside, inside.frozen_clock() as wall_ms:
            ledger.acknowledge(inside.assert_facts(plain_facts(10, namespace="counter")))
            first = pull(cli, pair, receiver_copy)
            assert first["cursor"] == f"{wall_ms}.9"
            behind = inside.assert_facts(plain_facts(5, namespace="counter-behind"))
        assert [entry.hlc for entry in behind] == [f"{wall_ms}.{n}" for n in range(10, 15)]
        assert all(entry.hlc < first["cursor"] for entry in behind)
        ledger.acknowledge(behind)
        assert pull(cli, pair, receiver_copy)["new"] == 5
        ledger.assert_clean(receiver_copy)

    @staticmethod
    def _has(database: Path, fact_id: str) -> bool:
        return bool(rows(database, "SELECT 1 FROM facts WHERE id = ?", fact_id))


class TestHandingOver:
    """Between the node's own pull loop and the replicator, and back."""

    def test_there_and_back(self, fresh_pair: Pair, cli: Cli) -> None:
        """Each goes on from the other's cursor: nothing is lost, read twice or left behind."""
        pair, database = fresh_pair, fresh_pair.receiver.database
        ledger = Ledger(pair.origin.node_id)

        def write(count: int, namespace: str) -> None:
            ledger.acknowledge(assert_in_bulk(pair.origin, plain_facts(count, namespace=namespace)))

        def node_cursor() -> str:
            (row,) = rows(database, "SELECT cursor FROM replication_cursors")
            cursor: str = row["cursor"]
            return cursor

        tables = self._tables(database)
        write(30, "by-node")
        with InsideNode(pair.receiver) as inside:
            inside.pull_all_peers_once()
        ledger.assert_clean(database)
        left_by_node = node_cursor()

        write(40, "by-us")
        said = cli("pull", "--peer", pair.origin.node_id, "--json", db=database)
        summary = json.loads(said.stdout)
        assert summary["cursor_before"] == left_by_node
        assert (summary["new"], summary["duplicates"]) == (40, 0)
        assert f"going on from the node's own cursor {left_by_node}" in said.stderr
        ledger.assert_clean(database)
        left_by_us = node_cursor()
        assert left_by_us > left_by_node

        cli("db", "drop", "--yes", db=database)
        assert self._tables(database) == tables
        assert node_cursor() == left_by_us
        assert pair.receiver.client.get("/healthz").status_code == 200
        mine = pair.receiver.assert_fact("after:drop", "test:name", "still writing")
        assert pair.receiver.fact(mine["id"]) is not None

        write(50, "by-node-again")
        with InsideNode(pair.receiver) as inside:
            inside.pull_all_peers_once()
        verdict = ledger.assert_clean(database)
        assert len(verdict.admitted) == 30 + 40 + 50

    @staticmethod
    def _tables(database: Path) -> set[str]:
        found = rows(database, "SELECT type || ' ' || name AS name FROM sqlite_master")
        return {row["name"] for row in found}
