"""Pages that nobody thought of: the node's own loop and we leave the same rows behind.

hypothesis writes rounds of pages, ordinary facts and every kind of violation, alone and mixed.
Both sides take each round from the same beginning, and whatever then differs is listed with its
reason. The seed is fixed, so that a change is judged by the same pages as the last; `make
differential` looks further, at as many rounds as are asked for.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from tests.differential.arena import arena_of
from tests.differential.drafts import EVERY_DIFFERENCE, rounds
from tests.differential.explained import differences
from tests.differential.pen import Pen
from tests.differential.rows import compare
from tests.differential.writing import write
from tests.nodes.environment import node_environment
from tests.nodes.federation import pair_of_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.differential.arena import Arena
    from tests.differential.conftest import World
    from tests.differential.drafts import Round

EXPLORED = int(os.environ.get("DIFFERENTIAL_ROUNDS") or 0)
ROUNDS = EXPLORED or 150


@dataclass(slots=True)
class Tally:
    """What all the rounds together have shown."""

    rounds: int = 0
    pages: int = 0
    entries: int = 0
    admitted: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module", params=["0.9.0a12", "0.9.0a10"])
def arena(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Arena]:
    """The arena of a node version; the older one speaks wire version 1."""
    folder = tmp_path_factory.mktemp("arena")
    with ExitStack() as opened:
        if request.param == "0.9.0a12":
            world: World = request.getfixturevalue("world")
            pair, snapshot, dialect = world.pair, world.snapshot, 2
        else:
            environment = node_environment(request.param)
            pair = opened.enter_context(pair_of_nodes(environment, folder / "nodes"))
            pair.receiver.stop()
            snapshot, dialect = pair.receiver.copy_database(folder / "snapshot.db"), 1
        yield opened.enter_context(arena_of(pair, snapshot, folder, dialect=dialect))


def play(arena: Arena, plan: Round, tally: Tally) -> None:
    """Have both sides take a round, and fail with whatever nothing explains."""
    pen = replace(Pen.of(arena.pair.origin), dialect=arena.dialect)
    script = write(plan, pen)
    allowed = differences(script, arena.scores(script.sources()))
    played = arena.play(script.bodies, prepared=arena.registry(plan), row_budget=plan.row_budget)
    found = compare(played.node_database, played.our_database, allowed)

    tally.rounds += 1
    tally.pages += len(script.bodies)
    tally.entries += len(script.entries)
    tally.admitted += played.report.counts.admitted
    for item, number in zip(allowed, found, strict=True):
        tally.explained[item.why] += number
    tally.refused.update(reason for reasons in played.reasons.values() for reason in reasons)
    tally.ends.update(str(end).split(":")[0] for page in played.ended for end in page if end)


def test_generated_pages(arena: Arena) -> None:
    """Every table agrees, but for what is listed; and everything that is listed was seen."""
    tally = Tally()

    @settings(
        max_examples=ROUNDS,
        derandomize=not EXPLORED,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(rounds())
    @example(EVERY_DIFFERENCE)
    def explore(plan: Round) -> None:
        play(arena, plan, tally)

    explore()
    print(f"\n{tally.rounds} rounds, {tally.pages} pages, {tally.entries} entries")
    for name, counted in (
        ("differences", tally.explained),
        ("refused", tally.refused),
        ("the node's loop ended", tally.ends),
    ):
        for what, number in counted.most_common():
            print(f"  {name}: {number} {what[:90]}")
    assert not [why for why, number in tally.explained.items() if not number]
