"""What a SQLite origin holds and a PostgreSQL receiver cannot: refused, and the stream goes on."""

from __future__ import annotations

import json
import random
import string
from typing import TYPE_CHECKING

from tests.e2e.conftest import make_cli
from tests.nodes.bulk import InsideNode
from tests.nodes.fact_corpus import Fact, plain_facts
from tests.nodes.federation import peer
from tests.nodes.ledger import Ledger
from tests.nodes.node import Node
from tests.nodes.postgres import node_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nodes.environment import NodeEnvironment
    from tests.nodes.postgres import PostgresServer

GOOD = 40


def long_name(chance: random.Random) -> str:
    """A name that no index can shorten by packing it."""
    return "long:" + "".join(chance.choices(string.ascii_letters + string.digits, k=2000))


def test_what_postgresql_cannot_hold_is_a_dead_letter(
    postgres_server: PostgresServer, node_environment: NodeEnvironment, tmp_path: Path
) -> None:
    """A NUL, a confidence below its range and names too long for its index; the rest arrives."""
    url = postgres_server.node_database(node_environment)
    chance = random.Random(7)
    unstorable = [
        Fact("test:nul", "test:text", "string", "a\x00b"),
        Fact("test:faint", "test:text", "string", "x", confidence=5e-324),
        Fact(long_name(chance), long_name(chance), "string", "x"),
    ]
    with (
        Node(node_environment, tmp_path / "origin", name="origin") as origin,
        Node(
            node_environment, tmp_path / "receiver", name="receiver", settings=node_settings(url)
        ) as receiver,
        InsideNode(origin) as inside,
    ):
        peer(origin, receiver)
        ledger = Ledger(origin.node_id)
        good = plain_facts(GOOD)
        ledger.acknowledge(inside.assert_facts(good[: GOOD // 2]))
        ledger.acknowledge(inside.assert_facts(unstorable), refusable=True)
        ledger.acknowledge(inside.assert_facts(good[GOOD // 2 :]))
        ledger.adopt(origin.store)
        cli = make_cli(tmp_path)
        environ = {**receiver.settings}
        summaries = [
            json.loads(cli("pull", "--peer", origin.node_id, "--json", env=environ).stdout)
            for _ in range(2)
        ]
        # The next pull begins with what is known, and comes to another one after it.
        late = Fact("test:fainter", "test:text", "string", "x", confidence=1e-320)
        ledger.acknowledge(inside.assert_facts([late]), refusable=True)
        ledger.acknowledge(inside.assert_facts([Fact("test:late", "test:text", "string", "x")]))
        third = json.loads(cli("pull", "--peer", origin.node_id, "--json", env=environ).stdout)
        ledger.adopt(origin.store)
        verdict = ledger.assert_clean(receiver.store)
    assert [summary["caught_up"] for summary in summaries] == [True, True]
    assert [summary["new"] for summary in summaries] == [GOOD, 0]
    assert summaries[0]["rejected"] == {"malformed_fact": len(unstorable)}
    assert (third["new"], third["rejected"]) == (1, {"malformed_fact": 1})
    assert third["duplicates"] > 0
    assert verdict.refused.keys() == ledger.refusable
