"""Killing the daemon again and again while it drains a crowd, and starting it again each time.

The moments are drawn by a seed and spread over the whole drain: each life ends when the drain has
come to its point and a little later, and every few lives one ends while it starts. What the
receiver then holds is for the ledgers to judge.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.pages.crowd import Crowd
from tests.pages.measured_daemon import MeasuredDaemon, admitted
from tests.pages.receiver import Receiver

_LIFE_S = 60.0
_DRAIN_S = 900.0
_BEYOND_S = 0.1
"""How long after its point in the drain a life may go on."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One death: how many seconds it came after the start, and where the drain then stood."""

    life_s: float
    admitted: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, and by which seed; every `starting`-th life ends within `start_s` seconds."""

    kills: int
    seed: int
    starting: int = 4
    start_s: float = 1.5


def kill_and_drain(
    daemon: MeasuredDaemon,
    receiver: Receiver,
    facts: int,
    plan: Plan,
    tell: Callable[[int, Kill], None] = lambda _number, _kill: None,
) -> list[Kill]:
    """Kill a daemon that runs, then let it drain all the facts; it runs on afterwards."""
    chance = random.Random(plan.seed)
    # The last points lie before the end, so that there is always something left to do.
    points = sorted(chance.randrange(facts * 9 // 10) for _ in range(plan.kills))
    kills: list[Kill] = []
    for number, point in enumerate(points):
        began = time.monotonic()
        if number % plan.starting == 0:
            time.sleep(chance.uniform(0.0, plan.start_s))
        else:
            wait_for(daemon, receiver, point, _LIFE_S)
            time.sleep(chance.uniform(0.0, _BEYOND_S))
        daemon.kill()
        kills.append(Kill(time.monotonic() - began, admitted(receiver)))
        tell(number, kills[-1])
        daemon.start()
    wait_for(daemon, receiver, facts, _DRAIN_S)
    return kills


def wait_for(daemon: MeasuredDaemon, receiver: Receiver, facts: int, seconds: float) -> None:
    """Wait until so many facts are there."""
    daemon.wait_until(lambda: admitted(receiver) >= facts, seconds, f"had {facts} facts")


def problems(crowd: Crowd, receiver: Receiver) -> Sequence[str]:
    """What the ledgers of all members find wrong; empty when every fact is there, once."""
    found: list[str] = []
    for member in crowd.members.values():
        verdict = member.origin.ledger.judge(receiver.database)
        found += [f"{member.name}: {line}" for line in verdict.problems()]
        if len(verdict.admitted) != member.facts:
            found.append(f"{member.name}: {len(verdict.admitted)} of {member.facts} facts")
    (row,) = receiver.query("PRAGMA integrity_check")
    if row[0] != "ok":
        found.append(f"the database: {row[0]}")
    return found
