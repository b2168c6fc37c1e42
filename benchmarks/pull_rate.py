"""How fast a backlog is pulled: ours and the node's own loop, in turn, into equal databases.

Run: ``python -m benchmarks.pull_rate [--facts 20000] [--node-facts 2000] [--rounds 3]``.  Both pull
from the same real origin; the node's loop is given a smaller part of the backlog, because its
rate does not depend on it and the whole would take long.  Prints each rate and their ratio.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from benchmarks.subjects import Rate, rate_of, start_node_loop, start_own_pull
from tests.nodes.bulk import assert_in_bulk
from tests.nodes.environment import node_environment
from tests.nodes.fact_corpus import plain_facts
from tests.nodes.federation import pair_of_nodes

BOUND_S = 600.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=20_000)
    parser.add_argument("--node-facts", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    wished = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stigmem-bench-") as name,
        pair_of_nodes(node_environment(tell=print), Path(name) / "pair") as pair,
    ):
        assert_in_bulk(pair.origin, plain_facts(wished.facts))
        empty = pair.receiver.copy_database(Path(name) / "empty.db")
        ours: list[Rate] = []
        theirs: list[Rate] = []
        for number in range(wished.rounds):
            for kind in ("ours", "node"):
                target = Path(name) / f"{kind}-{number}.db"
                shutil.copy(empty, target)
                if kind == "ours":
                    process = start_own_pull(pair.receiver, pair.origin, target)
                    rate = rate_of(process, timeout_s=BOUND_S)
                    if rate.facts != wished.facts:
                        raise SystemExit(f"our pull ended with {rate.facts} facts")
                    ours.append(rate)
                else:
                    process = start_node_loop(pair.receiver, target, wished.node_facts, BOUND_S)
                    rate = rate_of(process, timeout_s=BOUND_S)
                    theirs.append(rate)
                print(
                    f"{kind}: {rate.facts} facts in {rate.seconds:.1f} s, {rate.per_second:.0f}/s"
                )
        own = statistics.median(rate.per_second for rate in ours)
        node = statistics.median(rate.per_second for rate in theirs)
        print(f"median: ours {own:.0f}/s, the node's own loop {node:.0f}/s, ratio {own / node:.1f}")


if __name__ == "__main__":
    main()
