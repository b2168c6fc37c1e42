"""An installation that was pulled as 0.9.0a10 and goes on as 0.9.0a12, with real nodes.

The nodes are upgraded one after the other, the origin first, with a pull after each step. The
tests are parts of that one story and run in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import make_cli
from tests.e2e.pulling import (
    Pulled,
    assert_wrong_dialect,
    carried,
    content_id,
    node_tables,
    pull,
    reset,
)
from tests.nodes.bulk import assert_in_bulk
from tests.nodes.environment import node_environment as installed_environment
from tests.nodes.fact_corpus import facts
from tests.nodes.federation import approve_again, pair_of_nodes, upgrade
from tests.nodes.ledger import Ledger
from tests.nodes.node import NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Cli
    from tests.nodes.federation import Pair

OLD, NEW = "0.9.0a10", "0.9.0a12"
EARLY, WAITING, LATE = 300, 120, 60
ADMIT = {"STIGMEM_REPLICATOR_ADMIT_LEGACY_CID": "true"}


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The upgraded pair, and what each pull on the way said."""

    pair: Pair
    early: frozenset[str]
    """Pulled before the upgrade."""
    waiting: frozenset[str]
    """Asserted before the upgrade, and not pulled until after it."""
    late: frozenset[str]
    """Asserted at the upgraded origin."""
    first: Pulled
    half: Pulled
    """Only the origin is upgraded."""
    unbound: Pulled
    """Both are, and the receiver has not bound the origin's organisation."""
    bound: Pulled

    def ledger(self, *, admitting: bool = False) -> Ledger:
        ledger = Ledger(self.pair.origin.node_id)
        ledger.acknowledge(self.early | self.late)
        ledger.acknowledge(self.waiting, refusable=not admitting)
        return ledger


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    cli = make_cli(tmp_path_factory.mktemp("cli"))
    new = installed_environment(NEW)
    with pair_of_nodes(installed_environment(OLD), tmp_path_factory.mktemp("upgraded")) as pair:

        def write(count: int, namespace: str) -> frozenset[str]:
            done = assert_in_bulk(pair.origin, facts(count, namespace=namespace))
            return frozenset(entry.id for entry in done)

        early = write(EARLY, "early")
        first = pull(cli, pair)
        waiting = write(WAITING, "waiting")
        upgrade(pair.origin, new)
        half = pull(cli, pair, check=False)
        upgrade(pair.receiver, new)
        late = write(LATE, "late")
        unbound = pull(cli, pair, check=False)
        approve_again(pair.receiver, pair.origin)
        bound = pull(cli, pair, check=False)
        yield Upgraded(pair, early, waiting, late, first, half, unbound, bound)


def test_before_the_upgrade(upgraded: Upgraded) -> None:
    """The pull under wire version 1 brought what there was."""
    assert upgraded.first.summary["new"] == EARLY
    assert upgraded.first.cursor is not None


def test_half_an_upgrade_stops_the_pull_and_loses_nothing(upgraded: Upgraded) -> None:
    """While only the origin is upgraded, its pages are refused and the cursor stands."""
    assert_wrong_dialect(upgraded.half, peer=2, node=1)
    assert upgraded.half.cursor == upgraded.first.cursor


def test_an_unbound_organisation_stops_the_pull_and_loses_nothing(upgraded: Upgraded) -> None:
    """The upgrade binds no organisation to a peer: the pull says what to do, the cursor stands."""
    assert (upgraded.unbound.returncode, upgraded.unbound.reason) == (9, "origin_unresolvable")
    assert "approve it again" in upgraded.unbound.stderr
    assert upgraded.unbound.summary["new"] == 0
    assert upgraded.unbound.cursor == upgraded.first.cursor


def test_the_pull_goes_on_where_it_stood(upgraded: Upgraded) -> None:
    """New facts arrive; those with an old content id are counted apart and stop nothing."""
    summary = upgraded.bound.summary
    assert upgraded.bound.returncode == 0, upgraded.bound.stderr
    assert summary["caught_up"]
    assert summary["cursor_before"] == upgraded.first.cursor
    assert summary["new"] == LATE
    assert summary["rejected"] == {"cid_legacy": WAITING}
    verdict = upgraded.ledger().assert_clean(upgraded.pair.receiver.database)
    assert verdict.admitted == upgraded.early | upgraded.late
    assert verdict.refused == dict.fromkeys(upgraded.waiting, "cid_legacy")


def test_what_was_replicated_stays_a_duplicate(upgraded: Upgraded, cli: Cli) -> None:
    """Read from the beginning, what came under wire version 1 is recognised as it is."""
    pair = upgraded.pair
    before = node_tables(pair.receiver)
    reset(cli, pair)
    summary = pull(cli, pair).summary
    assert (summary["new"], summary["conflicts"], summary["rejected"]) == (0, 0, {})
    assert summary["duplicates"] >= EARLY + LATE
    assert node_tables(pair.receiver) == before
    upgraded.ledger().assert_clean(pair.receiver.database)


def test_the_setting_admits_old_content_ids(upgraded: Upgraded, cli: Cli) -> None:
    """With `admit_legacy_cid` the facts that waited are admitted, under a new content id."""
    pair = upgraded.pair
    reset(cli, pair)
    summary = pull(cli, pair, env=ADMIT).summary
    assert (summary["new"], summary["rejected"]) == (WAITING, {})
    verdict = upgraded.ledger(admitting=True).assert_clean(pair.receiver.database)
    assert verdict.admitted == upgraded.early | upgraded.waiting | upgraded.late
    served = carried(pair.origin, "agent:waiting")
    assert len(served) == WAITING
    for fact_id, fact in carried(pair.receiver, "agent:waiting").items():
        assert fact == served[fact_id] | {"cid": content_id(fact)}


def test_what_was_admitted_stays_without_the_setting(upgraded: Upgraded, cli: Cli) -> None:
    """The setting can be taken away again: nothing that is here is refused for it."""
    pair = upgraded.pair
    before = node_tables(pair.receiver)
    reset(cli, pair)
    summary = pull(cli, pair).summary
    assert (summary["new"], summary["rejected"]) == (0, {})
    assert summary["duplicates"] >= EARLY + WAITING + LATE
    assert node_tables(pair.receiver) == before
    upgraded.ledger(admitting=True).assert_clean(pair.receiver.database)


def test_the_nodes_backfill_changes_nothing_for_a_pull(upgraded: Upgraded, cli: Cli) -> None:
    """`stigmem backfill-cids` on both nodes moves aliases only: all stays a duplicate."""
    pair = upgraded.pair
    before = node_tables(pair.receiver)
    for node in (pair.origin, pair.receiver):
        node.run_cli("backfill-cids")
    reset(cli, pair)
    summary = pull(cli, pair).summary
    assert (summary["new"], summary["rejected"]) == (0, {})
    assert node_tables(pair.receiver) == before
    upgraded.ledger(admitting=True).assert_clean(pair.receiver.database)


def test_an_upgraded_node_does_not_serve_old_content_ids_to_readers(upgraded: Upgraded) -> None:
    """0.9.0a12 answers 409 for a row with one: its own, and one that was replicated before.

    What `admit_legacy_cid` admitted is served by the receiver, and still not by the origin.
    """
    origin, receiver = upgraded.pair.origin, upgraded.pair.receiver
    for node in (origin, receiver):
        assert node.fact(min(upgraded.late)) is not None
        assert node.facts(source="agent:late")
        with pytest.raises(NodeError, match=r"409: .*cid_mismatch"):
            node.fact(min(upgraded.early))
    with pytest.raises(NodeError, match=r"409: .*cid_mismatch"):
        origin.fact(min(upgraded.waiting))
    assert receiver.fact(min(upgraded.waiting)) is not None
    assert receiver.facts(source="agent:waiting")
