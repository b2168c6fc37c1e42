"""How long the node's own writes take, idle, while we pull at full speed, while its own loop does.

Run: ``python -m benchmarks.write_latency [--facts 20000] [--idle 300]``.  One client posts facts to
the receiver's HTTP API, one after the other, and every answer is timed.  The node's own loop runs
as a second process on the same database, which is kinder to the node than the loop inside it.
Prints median and 99th percentile of each phase, and how far each lies above idle.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.subjects import start_node_loop, start_own_pull
from tests.nodes.bulk import assert_in_bulk
from tests.nodes.environment import node_environment
from tests.nodes.fact_corpus import plain_facts
from tests.nodes.federation import pair_of_nodes
from tests.nodes.node import Node

BOUND_S = 300.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=20_000)
    parser.add_argument("--idle", type=int, default=300)
    wished = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stigmem-bench-") as name,
        pair_of_nodes(node_environment(tell=print), Path(name) / "pair") as pair,
    ):
        receiver, origin = pair.receiver, pair.origin
        assert_in_bulk(origin, plain_facts(wished.facts))
        _post(receiver, "warm", lambda count: count < wished.idle // 3)
        idle = _post(receiver, "idle", lambda count: count < wished.idle)
        _print("idle", idle, idle)
        loop = start_node_loop(receiver, {}, wished.facts, 20.0)
        _print("node's own loop", _post_during(receiver, "loop", loop), idle)
        ours = start_own_pull(receiver, origin, {})
        _print("our pull", _post_during(receiver, "ours", ours), idle)


def _post_during(node: Node, name: str, process: subprocess.Popen[str]) -> list[float]:
    began = time.monotonic()
    times = _post(
        node, name, lambda _: process.poll() is None and time.monotonic() - began < BOUND_S
    )
    process.kill()
    process.communicate()
    return times


def _post(node: Node, name: str, go_on: Callable[[int], bool]) -> list[float]:
    times: list[float] = []
    while go_on(len(times)):
        began = time.monotonic()
        node.assert_fact(f"bench:{name}-{len(times)}", "bench:value", f"{name} {len(times)}")
        times.append((time.monotonic() - began) * 1000)
    return times


def _print(name: str, times: list[float], idle: list[float]) -> None:
    p50, p99 = statistics.median(times), _p99(times)
    print(
        f"{name}: {len(times)} writes, p50 {p50:.0f} ms, p99 {p99:.0f} ms "
        f"({p99 - _p99(idle):+.0f} ms against idle)"
    )


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


if __name__ == "__main__":
    main()
