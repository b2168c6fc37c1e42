"""Whether every fact is there in the end, once, when the daemon is killed again and again.

Run: ``python -m benchmarks.kills [--kills 100] [--facts 50000] [--peers 5] [--page-size 100]
[--seed N]``.  SIGKILL at random moments of the drain, and while it starts; a new one is started
each time.  Prints where the drain stood at each, and ends with 1 when a ledger finds a fact lost,
doubled, unverified, incomplete or unexpected.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.receivers import receiver_of_crowd
from tests.faults.killing import Kill, Plan, kill_and_drain, problems
from tests.pages.crowd import Group
from tests.pages.measured_daemon import MeasuredDaemon


def main() -> None:
    """Kill, let it drain, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--facts", type=int, default=50_000, help="of all peers together")
    parser.add_argument("--peers", type=int, default=5)
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    wished = parser.parse_args()
    each = wished.facts // wished.peers
    facts = each * wished.peers
    with (
        tempfile.TemporaryDirectory(prefix="stigmem-bench-") as name,
        receiver_of_crowd(Path(name), [Group("p", wished.peers, facts=each)]) as (receiver, crowd),
    ):
        print(f"seed {wished.seed}")
        began = time.monotonic()
        with MeasuredDaemon(receiver, Path(name), page_size=wished.page_size) as daemon:
            plan = Plan(wished.kills, wished.seed)
            kills = kill_and_drain(daemon, receiver, facts, plan, tell)
        seconds = time.monotonic() - began
        found = problems(crowd, receiver)
    amid = sum(0 < kill.admitted < facts for kill in kills)
    print(f"{len(kills)} kills, {amid} of them amid the drain; {facts} facts in {seconds:.0f} s")
    for problem in found:
        print(f"NOT MET: {problem}")
    if not found:
        print("the ledgers are clean: nothing lost, doubled, unverified, incomplete or unexpected")
    sys.exit(bool(found))


def tell(number: int, kill: Kill) -> None:
    """Print one kill."""
    print(f"kill {number + 1}: after {kill.life_s:.2f} s, at {kill.admitted} facts", flush=True)


if __name__ == "__main__":
    main()
