"""What a daemon costs that has nothing to do: memory, descriptors, log, writes, processor.

Run: ``python -m benchmarks.idle [--peers 200] [--polls 24] [--interval 2] [--warm-up 6]``.  Every
peer is caught up; each is then asked so many times more.  Prints what grew, and ends with 1 when
memory grew by more than ``--growth-mib``, when more descriptors stay open than a pool of database
connections explains, when the log grew at all, or when there were more transactions than one a
minute.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.receivers import receiver_of_crowd
from tests.pages.crowd import Crowd, Group
from tests.pages.measured_daemon import Cost, MeasuredDaemon, admitted, commits
from tests.pages.receiver import Receiver

FACTS: Final = 5
ONE_ARENA: Final = {"MALLOC_ARENA_MAX": "1"}
"""Else glibc keeps memory for each of the threads that came and went, and a leak hides in that."""

START_S: Final = 120.0
LOOK_S: Final = 1.0
POOL: Final = 8
"""Descriptors that may be added: the pool of connections to the database fills as it is needed."""
SLACK: Final = 3.0
"""How many times longer than they should take the polls may take."""
MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """How often each peer was asked, the cost at many moments on the way, and the writes."""

    seconds: float
    polls: list[int]
    costs: list[Cost]
    writes: int

    @property
    def early(self) -> Sequence[Cost]:
        """The costs of the first third."""
        return self.costs[: math.ceil(len(self.costs) / 3)]

    @property
    def late(self) -> Sequence[Cost]:
        """The costs of the last third."""
        return self.costs[-math.ceil(len(self.costs) / 3) :]


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--polls", type=int, default=24)
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two polls")
    parser.add_argument("--warm-up", type=int, default=6, help="polls before the first look")
    parser.add_argument("--growth-mib", type=float, default=2.0, help="that memory may grow by")
    wished = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stigmem-bench-") as name,
        receiver_of_crowd(Path(name), [Group("p", wished.peers, facts=FACTS)]) as (receiver, crowd),
        MeasuredDaemon(
            receiver, Path(name), environ=ONE_ARENA, poll_interval_s=wished.interval
        ) as daemon,
    ):
        daemon.wait_until(
            lambda: admitted(receiver) == wished.peers * FACTS, START_S, "every peer was caught up"
        )
        polled(crowd, daemon, wished.warm_up, wished.interval)
        measured = measure(receiver, crowd, daemon, wished.polls, wished.interval)
    print_measured(measured)
    problems = judge(measured, wished.growth_mib)
    for problem in problems:
        print(f"NOT MET: {problem}")
    sys.exit(bool(problems))


def polled(crowd: Crowd, daemon: MeasuredDaemon, polls: int, interval_s: float) -> list[Cost]:
    """Wait until every peer was asked so many times more; return the costs on the way."""
    before, costs = asked(crowd), [daemon.cost()]

    def done() -> bool:
        # Asking for the report costs the crowd some time, which belongs to the daemon.
        time.sleep(min(interval_s, LOOK_S))
        costs.append(daemon.cost())
        return all(now - then >= polls for now, then in zip(asked(crowd), before, strict=True))

    daemon.wait_until(done, SLACK * polls * interval_s + START_S, "polled every peer")
    return costs


def asked(crowd: Crowd) -> list[int]:
    """Return how often each peer was asked until now."""
    return [len(member.asked_at) for member in crowd.report().values()]


def measure(
    receiver: Receiver, crowd: Crowd, daemon: MeasuredDaemon, polls: int, interval_s: float
) -> Measured:
    """Watch the daemon over so many polls of every peer."""
    before, began = asked(crowd), time.monotonic()
    with commits(receiver.database) as counted:
        costs = polled(crowd, daemon, polls, interval_s)
        seconds = time.monotonic() - began
    times = [now - then for now, then in zip(asked(crowd), before, strict=True)]
    return Measured(seconds, times, costs, len(counted.seen))


def print_measured(measured: Measured) -> None:
    """Print what a measurement found."""
    early, late, seconds = measured.early, measured.late, measured.seconds
    first, last = measured.costs[0], measured.costs[-1]
    polls = sum(measured.polls)
    print(f"{polls} polls of {len(measured.polls)} peers in {seconds:.0f} s")
    rss = f"{_least_rss(early):.1f} to {_least_rss(late):.1f} MiB"
    print(f"memory: {rss}, peak {last.peak_mib:.1f} MiB")
    print(f"file descriptors: {_least_descriptors(early)} to {_least_descriptors(late)}")
    print(f"log: {first.log_bytes} to {last.log_bytes} bytes")
    print(f"writes to the database: {measured.writes}, {allowed_writes(seconds)} are meant at most")
    cpu_s = last.cpu_s - first.cpu_s
    print(
        f"processor: {cpu_s:.1f} s, {100 * cpu_s / seconds:.1f} % of one, "
        f"{1000 * cpu_s / polls:.1f} ms a poll"
    )


def _least_rss(costs: Sequence[Cost]) -> float:
    return min(cost.rss_mib for cost in costs)


def _least_descriptors(costs: Sequence[Cost]) -> int:
    # Connections come and go with the polls: what stays is what counts.
    return min(cost.descriptors for cost in costs)


def allowed_writes(seconds: float) -> int:
    """Return how many writes there may be in a time when there is one a minute at most."""
    return int(seconds // MINUTE_S) + 1


def judge(measured: Measured, growth_mib: float) -> list[str]:
    """Return what is not as it should be."""
    early, late = measured.early, measured.late
    problems = []
    grown = _least_rss(late) - _least_rss(early)
    if grown > growth_mib:
        problems.append(f"memory grew by {grown:.1f} MiB, {growth_mib:g} MiB are meant at most")
    more = _least_descriptors(late) - _least_descriptors(early)
    if more > POOL:
        problems.append(f"{more} more file descriptors stay open")
    written = measured.costs[-1].log_bytes - measured.costs[0].log_bytes
    if written:
        problems.append(f"the log grew by {written} bytes")
    if measured.writes > allowed_writes(measured.seconds):
        problems.append(f"there were {measured.writes} writes, more than one a minute")
    return problems


if __name__ == "__main__":
    main()
