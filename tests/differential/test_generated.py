"""Pages that nobody thought of: the node's own loop and we leave the same rows behind.

hypothesis writes rounds of pages, ordinary facts and every kind of violation, alone and mixed.
Both sides take each round from the same beginning, and whatever then differs is listed with its
reason. The seed is fixed, so that a change is judged by the same pages as the last; `make
differential` looks further, at as many rounds as are asked for, and so does `make soak`.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from stigmem_replicator.settings import Settings
from tests.differential.arena import arena_of
from tests.differential.drafts import rounds
from tests.differential.explained import differences
from tests.differential.pen import Pen
from tests.differential.rows import compare
from tests.differential.shown import EVERY_DIFFERENCE, EVERY_REFUSAL, KNOWN_AND_CHANGED
from tests.differential.writing import write
from tests.nodes.environment import node_environment
from tests.nodes.federation import pair_of_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.differential.arena import Arena
    from tests.differential.conftest import World
    from tests.differential.drafts import Round
    from tests.nodes.federation import Pair

EXPLORED = int(os.environ.get("DIFFERENTIAL_ROUNDS") or 0)
ROUNDS = EXPLORED or 40
OTHER_ROUNDS = EXPLORED // 4 or 10

REASONS = {
    1: {
        *("malformed_entry", "id_required", "malformed_fact", "invalid_scope"),
        *("scope_not_permitted", "cid_mismatch", "number_not_reproducible", "hlc_skew"),
        *("invalid_interpret_as", "quarantine_garden_required", "valid_until_extension"),
    }
}
REASONS[2] = REASONS[1] | {
    *("missing_origin_block", "cid_required", "origin_not_sender", "origin_sig_invalid"),
    *("scope_not_in_origin_grant", "tenant_not_in_origin_grant", "tenant_policy_unsafe"),
    *("cid_legacy", "wire_id_collision"),
}

pytestmark = pytest.mark.timeout(0 if EXPLORED else 600)


@dataclass(slots=True)
class Tally:
    """What all the rounds together have shown."""

    rounds: int = 0
    pages: int = 0
    entries: int = 0
    admitted: int = 0
    conflicts: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        what = (
            f"{self.rounds} rounds: {self.pages} pages, {self.entries} entries,"
            f" {self.admitted} admitted, {self.conflicts} conflicts"
        )
        return "\n".join(
            [
                what,
                *(
                    f"  {title} {number} times: {name[:100]}"
                    for title, counted in (
                        ("different", self.explained),
                        ("refused", self.refused),
                        ("the node's loop ended", self.ends),
                    )
                    for name, number in counted.most_common()
                ),
            ]
        )


@dataclass(frozen=True, slots=True)
class Receiver:
    """A node that does not run, peered and empty of facts."""

    pair: Pair
    snapshot: Path
    dialect: int


@pytest.fixture(scope="module", params=["0.9.0a12", "0.9.0a10"])
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    """The receiver of each node version; the older one speaks wire version 1."""
    if request.param == "0.9.0a12":
        world: World = request.getfixturevalue("world")
        yield Receiver(world.pair, world.snapshot, dialect=2)
        return
    folder = tmp_path_factory.mktemp("older")
    with pair_of_nodes(node_environment(request.param), folder) as pair:
        pair.receiver.stop()
        yield Receiver(pair, pair.receiver.copy_database(folder / "snapshot.db"), dialect=1)


def play(arena: Arena, plan: Round, tally: Tally) -> None:
    """Have both sides take a round, and fail with whatever nothing explains."""
    pen = replace(Pen.of(arena.pair.origin), dialect=arena.dialect)
    script = write(plan, pen)
    allowed = differences(script, arena.scores(script.sources()))
    played = arena.play(script.bodies, prepared=arena.registry(plan), row_budget=plan.row_budget)
    found = compare(played.node_database, played.our_database, allowed)

    tally.rounds += 1
    tally.pages += len(script.bodies)
    tally.entries += sum(len(ended) for ended in played.ended)
    tally.admitted += played.report.counts.admitted
    tally.conflicts += played.report.counts.conflicts
    for item, number in zip(allowed, found, strict=True):
        tally.explained[item.why] += number
    tally.refused.update(reason for reasons in played.reasons.values() for reason in reasons)
    tally.ends.update(str(end).split(":")[0] for page in played.ended for end in page if end)


def explore(arena: Arena, number: int) -> Tally:
    """Play the rounds that show everything, and as many drawn ones."""
    tally = Tally()

    @settings(
        max_examples=number,
        derandomize=not EXPLORED,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(rounds())
    @example(EVERY_REFUSAL)
    @example(EVERY_DIFFERENCE)
    @example(KNOWN_AND_CHANGED)
    def one_round(plan: Round) -> None:
        play(arena, plan, tally)

    one_round()
    return tally


def test_generated_pages(
    receiver: Receiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every table agrees but for what is listed; and everything that is listed was seen."""
    with arena_of(receiver.pair, receiver.snapshot, tmp_path, dialect=receiver.dialect) as arena:
        tally = explore(arena, ROUNDS)
    with capsys.disabled():
        print(f"\nwire version {receiver.dialect}, {tally}")
    assert not [why for why, number in tally.explained.items() if not number]
    assert tally.refused.keys() >= REASONS[receiver.dialect]
    assert tally.conflicts


def test_generated_pages_without_scores(receiver: Receiver, tmp_path: Path) -> None:
    """So it is where sources are not scored and no fact is too old."""
    with arena_of(
        receiver.pair,
        receiver.snapshot,
        tmp_path,
        dialect=receiver.dialect,
        node_settings={"TRUST_MODE": "off", "FEDERATION_HLC_MAX_PAST_SKEW_S": "0"},
        settings=Settings(trust_mode="off", hlc_max_past_skew_s=0),
    ) as arena:
        explore(arena, OTHER_ROUNDS)
