"""How long a tombstone takes to be applied behind a great many facts that wait.

Run: ``python -m benchmarks.forgetting [--facts 1000000] [--tombstones 10] [--interval 5]``.  A
daemon drains one peer, which has so many facts; tombstones are made at it one after the other, at
moments that have nothing to do with its polls.  Prints how long each took, and ends with 1 when
one took longer than a poll interval and the fifth by which it varies, or when the facts stood
still meanwhile.  The peer runs in this process, beside the daemon.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.receivers import prepared_receiver
from tests.pages.backlog import add_backlog
from tests.pages.measured_daemon import MeasuredDaemon, admitted
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstones import add_tombstone

START_S: Final = 60.0
VARIES: Final = 1.2
"""A poll comes a fifth earlier or later than its interval."""

WORK_S: Final = 1.0
"""What asking, verifying and writing may take beside the wait for the poll."""

LOOK_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Measured:
    """The seconds that each tombstone took, and how many facts came meanwhile, in how long."""

    seconds: list[float]
    facts: int
    took_s: float


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=1_000_000)
    parser.add_argument("--tombstones", type=int, default=10)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two polls")
    wished = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stigmem-bench-") as name,
        PageServer() as server,
    ):
        receiver = prepared_receiver(Path(name))
        receiver.adopt(server)
        add_backlog(server.origin, wished.facts)
        with MeasuredDaemon(receiver, Path(name), tombstone_interval_s=wished.interval) as daemon:
            daemon.wait_until(lambda: admitted(receiver) > 0, START_S, "facts came")
            measured = measure(receiver, server, wished.tombstones, wished.interval)
    bound_s = VARIES * wished.interval + WORK_S
    print(f"facts         {measured.facts} of {wished.facts} came in {measured.took_s:.1f} s")
    print(f"tombstones    {len(measured.seconds)}, one poll interval is {wished.interval:g} s")
    print(f"applied after {min(measured.seconds):.2f} to {max(measured.seconds):.2f} s")
    problems = []
    if max(measured.seconds) > bound_s:
        problems.append(f"a tombstone took longer than {bound_s:.1f} s")
    if not measured.facts:
        problems.append("no fact came meanwhile")
    for problem in problems:
        print(f"NOT MET: {problem}")
    sys.exit(bool(problems))


def measure(receiver: Receiver, server: PageServer, count: int, interval_s: float) -> Measured:
    """Make tombstones one after the other, and wait for each."""
    before, began = admitted(receiver), time.monotonic()
    seconds = []
    for number in range(count):
        time.sleep(random.uniform(0.0, interval_s))  # noqa: S311 - no secret
        record = add_tombstone(server.origin, f"waiting:{number}")
        made = time.monotonic()
        while record["id"] not in receiver.tombstone_ids():
            if time.monotonic() - made > START_S:
                break
            time.sleep(LOOK_S)
        seconds.append(time.monotonic() - made)
    return Measured(seconds, admitted(receiver) - before, time.monotonic() - began)


if __name__ == "__main__":
    main()
