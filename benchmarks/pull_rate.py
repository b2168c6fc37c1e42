"""How fast a backlog is pulled: ours and the node's own loop, in turn, into equal databases.

Run: ``python -m benchmarks.pull_rate [--facts 20000] [--node-facts 2000] [--rounds 3]
[--node 0.9.0a10] [--receiver postgres]``.  Both pull from the same real origin; the node's loop is
given a smaller part of the backlog, because its rate does not depend on it and the whole would
take long.  Prints each rate and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.subjects import Rate, rate_of, start_node_loop, start_own_pull
from tests.nodes.bulk import assert_in_bulk
from tests.nodes.environment import DEFAULT_VERSION, NodeEnvironment, node_environment
from tests.nodes.fact_corpus import plain_facts
from tests.nodes.federation import Pair, peer
from tests.nodes.node import Node
from tests.nodes.postgres import node_settings, postgres_server

BOUND_S = 600.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A pair of peers and how to make another copy of the receiver's empty database.

    A copy is told as the node's settings that lead to it.
    """

    pair: Pair
    copy: Callable[[str], Mapping[str, str]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=20_000)
    parser.add_argument("--node-facts", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--node", default=DEFAULT_VERSION, help="version of both nodes")
    parser.add_argument("--receiver", choices=("sqlite", "postgres"), default="sqlite")
    wished = parser.parse_args()
    environment = node_environment(wished.node, tell=print)
    prepared = on_sqlite if wished.receiver == "sqlite" else on_postgres
    with (
        tempfile.TemporaryDirectory(prefix="stigmem-bench-") as name,
        prepared(environment, Path(name), wished.facts) as subject,
    ):
        measure(subject, wished.rounds, wished.facts, wished.node_facts)


@contextmanager
def on_sqlite(environment: NodeEnvironment, folder: Path, facts: int) -> Iterator[Subject]:
    """Bring up a pair on SQLite."""
    with pair(environment, folder, {}) as found:
        assert_in_bulk(found.origin, plain_facts(facts))

        def copy(name: str) -> Mapping[str, str]:
            target = found.receiver.copy_database(folder / f"{name}.db")
            return {"STIGMEM_DB_PATH": str(target)}

        yield Subject(found, copy)


@contextmanager
def on_postgres(environment: NodeEnvironment, folder: Path, facts: int) -> Iterator[Subject]:
    """Bring up a pair whose receiver keeps its data in PostgreSQL."""
    with postgres_server() as server:
        url = server.node_database(environment)
        with pair(environment, folder, node_settings(url)) as found:
            assert_in_bulk(found.origin, plain_facts(facts))
            found.receiver.stop()  # a database in use cannot be copied

            def copy(_name: str) -> Mapping[str, str]:
                made = server.create_database(url.rsplit("/", 1)[1])
                return {f"STIGMEM_{key}": value for key, value in node_settings(made).items()}

            yield Subject(found, copy)


@contextmanager
def pair(environment: NodeEnvironment, folder: Path, settings: Mapping[str, str]) -> Iterator[Pair]:
    """Bring up two nodes that are peers; ``settings`` are the receiver's."""
    with ExitStack() as ending:
        origin = ending.enter_context(Node(environment, folder / "origin", name="origin"))
        receiver = ending.enter_context(
            Node(environment, folder / "receiver", name="receiver", settings=settings)
        )
        peer(origin, receiver)
        yield Pair(origin, receiver)


def measure(subject: Subject, rounds: int, facts: int, node_facts: int) -> None:
    """Let both pull in turn and print their rates."""
    origin, receiver = subject.pair.origin, subject.pair.receiver
    ours: list[Rate] = []
    theirs: list[Rate] = []
    for number in range(rounds):
        rate = rate_of(
            start_own_pull(receiver, origin, subject.copy(f"ours-{number}")), timeout_s=BOUND_S
        )
        tell("ours", rate)
        if rate.facts != facts:
            raise SystemExit(f"our pull ended with {rate.facts} facts")
        ours.append(rate)
        loop = start_node_loop(receiver, subject.copy(f"node-{number}"), node_facts, BOUND_S)
        theirs.append(rate_of(loop, timeout_s=BOUND_S))
        tell("node", theirs[-1])
    own = statistics.median(rate.per_second for rate in ours)
    node = statistics.median(rate.per_second for rate in theirs)
    print(f"median: ours {own:.0f}/s, the node's own loop {node:.0f}/s, ratio {own / node:.1f}")


def tell(kind: str, rate: Rate) -> None:
    """Print one rate."""
    print(f"{kind}: {rate.facts} facts in {rate.seconds:.1f} s, {rate.per_second:.0f}/s")


if __name__ == "__main__":
    main()
