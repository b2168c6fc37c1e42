"""Whether a thousand peers get an equal share of one daemon, whatever some of them do.

Run: ``python -m benchmarks.fairness [--peers 1000] [--hanging 50] [--throttled 20] [--turns 5]
[--seconds 300] [--page-size 10] [--quantum-pages 1] [--facts N]``.  Of the peers some accept and
never answer, some answer 429 with ``Retry-After: 30``; each of the others has more facts than are
pulled.  What counts is what the receiver committed, from the moment when every healthy peer has had
its first turn until half of them have had so many more, or the seconds are over.  A turn is one
small page here: with the defaults it is up to ten thousand facts, and the shares would be those of
a few turns.

Prints Jain's index of the shares, the rate, and what it cost.  Ends with 1 when the index is below
0.95, a healthy peer ran out of facts, or a throttled one was asked before its time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.receivers import receiver_of_crowd
from tests.pages.crowd import HANGING, RETRY_AFTER_S, THROTTLED, Crowd, Group, Member, jain_index
from tests.pages.measured_daemon import Cost, MeasuredDaemon, Share, shares
from tests.pages.receiver import Receiver

JAIN_MIN: Final = 0.95
START_S: Final = 300.0
"""How long the first turns may take."""
LOOK_S: Final = 1.0
EARLY_S: Final = 0.05
"""By how much a wait may seem shorter than asked for: clocks are read at both ends."""
ENOUGH: Final = 4
"""How many times as many facts a peer has as it should get."""
NONE: Final = Share(0, 0)


@dataclass(frozen=True, slots=True)
class Until:
    """The end of a measurement: the median peer's pages, or seconds, whichever comes first."""

    pages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Each healthy peer's share of some seconds, and the cost at many moments of them."""

    seconds: float
    pages: list[int]
    facts: list[int]
    costs: list[Cost]
    crowd_cpu_s: float


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=1_000)
    parser.add_argument("--hanging", type=int, default=50)
    parser.add_argument("--throttled", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5, help="of the median peer, after its first")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="at most, after the first turns"
    )
    parser.add_argument("--page-size", type=int, default=10)
    parser.add_argument("--quantum-pages", type=int, default=1)
    parser.add_argument("--facts", type=int, default=0, help="of each healthy peer; 0: enough")
    wished = parser.parse_args()
    pages = wished.turns * wished.quantum_pages
    facts = wished.facts or (pages + wished.quantum_pages) * wished.page_size * ENOUGH
    groups = [
        Group("healthy", wished.peers - wished.hanging - wished.throttled, facts=facts),
        Group("hanging", wished.hanging, kind=HANGING),
        Group("throttled", wished.throttled, kind=THROTTLED),
    ]
    with (
        tempfile.TemporaryDirectory(prefix="stigmem-bench-") as name,
        receiver_of_crowd(Path(name), groups) as (receiver, crowd),
        MeasuredDaemon(
            receiver,
            Path(name),
            page_size=wished.page_size,
            quantum_pages=wished.quantum_pages,
        ) as daemon,
    ):
        healthy = [member for member in crowd.members.values() if member.facts]
        all_first_turns(receiver, daemon, healthy)
        measured = measure(receiver, crowd, daemon, healthy, Until(pages, wished.seconds))
        print_measured(measured)
        problems = judge(receiver, crowd, healthy, measured)
    for problem in problems:
        print(f"NOT MET: {problem}")
    sys.exit(bool(problems))


def all_first_turns(receiver: Receiver, daemon: MeasuredDaemon, healthy: Sequence[Member]) -> None:
    """Wait until every healthy peer has had its first turn."""
    began = time.monotonic()

    def all_began() -> bool:
        return all(pages > 0 for pages, _ in of(healthy, shares(receiver)))

    daemon.wait_until(all_began, START_S, "every healthy peer had its first turn")
    print(f"first turns: {time.monotonic() - began:.1f} s, the start included", flush=True)


def of(members: Sequence[Member], got: Mapping[str, Share]) -> list[tuple[int, int]]:
    """Return each member's pages and facts."""
    found = [got.get(member.origin.node_id, NONE) for member in members]
    return [(share.pages, share.facts) for share in found]


def measure(
    receiver: Receiver,
    crowd: Crowd,
    daemon: MeasuredDaemon,
    healthy: Sequence[Member],
    until: Until,
) -> Measured:
    """Watch who gets what until the end that is named."""
    crowd.report()
    crowd_cpu_s = crowd.cpu_s
    first, costs, began = of(healthy, shares(receiver)), [daemon.cost()], time.monotonic()
    while True:
        time.sleep(LOOK_S)
        costs.append(daemon.cost())
        last, seconds = of(healthy, shares(receiver)), time.monotonic() - began
        pages = [now[0] - then[0] for now, then in zip(last, first, strict=True)]
        if statistics.median(pages) >= until.pages or seconds >= until.seconds:
            break
    crowd.report()
    return Measured(
        seconds=seconds,
        pages=pages,
        facts=[now[1] - then[1] for now, then in zip(last, first, strict=True)],
        costs=costs,
        crowd_cpu_s=crowd.cpu_s - crowd_cpu_s,
    )


def print_measured(measured: Measured) -> None:
    """Print what a measurement found."""
    seconds, costs = measured.seconds, measured.costs
    for name, amounts in (("facts", measured.facts), ("pages", measured.pages)):
        print(
            f"{name}: Jain index {jain_index(amounts):.4f}; a healthy peer got "
            f"{min(amounts)} to {max(amounts)}, median {statistics.median(amounts):g}; "
            f"{sum(amounts) / seconds:.0f}/s in all"
        )
    cpu_s = costs[-1].cpu_s - costs[0].cpu_s
    print(
        f"cost: peak {costs[-1].peak_mib:.0f} MiB, at most "
        f"{max(cost.descriptors for cost in costs)} file descriptors, "
        f"{costs[-1].log_bytes} bytes of log; {cpu_s:.1f} CPU seconds in {seconds:.0f} s, "
        f"{costs[-1].cpu_s:.1f} since the start, the crowd's {measured.crowd_cpu_s:.1f} s"
    )


def judge(
    receiver: Receiver, crowd: Crowd, healthy: Sequence[Member], measured: Measured
) -> list[str]:
    """Return what is not as it should be."""
    problems = []
    index = jain_index(measured.facts)
    if index < JAIN_MIN:
        problems.append(f"the Jain index of the facts is {index:.4f}, at least {JAIN_MIN} is meant")
    got = shares(receiver)
    empty = [member for member in healthy if got[member.origin.node_id].facts >= member.facts]
    if empty:
        problems.append(f"{len(empty)} peers had no more facts: take more of them, or less time")
    report = crowd.report()
    waits = {
        member.name: report[member.name].shortest_wait_s for member in crowd.of_kind(THROTTLED)
    }
    asked = sum(len(report[name].asked_at) for name in waits)
    shortest = min(waits.values(), default=RETRY_AFTER_S)
    print(
        f"throttled: asked {asked} times in all, never within {shortest:.1f} s of the time before"
    )
    early = [name for name, wait in waits.items() if wait < RETRY_AFTER_S - EARLY_S]
    if early:
        problems.append(f"{len(early)} throttled peers were asked before their time: {early[:5]}")
    return problems


if __name__ == "__main__":
    main()
