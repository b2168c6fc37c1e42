"""A demonstration for newcomers: two real nodes, our commands between them, a comparison.

The facts are ordinary ones, about a few people and towns. Run as `python -m tests.nodes.demo`, or
`make demo`, whose ARGS may name another `--node-version`. It is for showing that replication works
and what it looks like; it stops at the first thing that goes wrong, says so and exits with 1.
Whatever its end, it ends the nodes that it started and removes its folder.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx

from tests.nodes.demo_command import COMMAND, DemoError, command, say
from tests.nodes.demo_forgetting import forget
from tests.nodes.environment import (
    DEFAULT_VERSION,
    NodeInstallError,
    known_versions,
    node_environment,
)
from tests.nodes.fact_corpus import Fact
from tests.nodes.federation import introduced
from tests.nodes.node import Node, NodeError
from tests.nodes.tombstone_plugin import SuppressingNode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

TOWN_HALL, SURVEY = "agent:town-hall", "agent:survey"
TOWN = "stigmem://towns.example/"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# name, born, height in metres, cups of tea a day, works remotely, lives in
PEOPLE = (
    ("alice", "1990-04-12", 1.68, 2, True, "lisbon"),
    ("bob", "1984-11-30", 1.81, 0, False, "oslo"),
    ("chiara", "1977-02-03", 1.59, 1, True, "turin"),
    ("dmitri", "2001-08-25", 1.90, 6, False, "tallinn"),
    ("emeka", "1995-06-17", 1.75, 3, True, "lagos"),
    ("freya", "1969-12-01", 1.72, 4, False, "oslo"),
    ("goran", "1988-03-09", 1.79, 2, False, "zagreb"),
    ("hana", "1999-10-20", 1.63, 5, True, "kyoto"),
)

# name, as it is written, country, inhabitants, square kilometres, by the sea
TOWNS = (
    ("kyoto", "Kyoto", "Japan", 1463723, 827.83, False),
    ("lagos", "Lagos", "Nigeria", 15388000, 1171.28, True),
    ("lisbon", "Lisboa", "Portugal", 545796, 100.05, True),
    ("oslo", "Oslo", "Norway", 717710, 454.12, True),
    ("tallinn", "Tallinn", "Estonia", 461346, 159.3, True),
    ("turin", "Torino", "Italy", 841600, 130.01, False),
    ("zagreb", "Zagreb", "Croatia", 767131, 641.0, False),
)

# What another source says about the same thing: facts that contradict each other.
SECOND_OPINIONS = (
    Fact("person:bob", "cups of tea", "number", 3, SURVEY, confidence=0.6),
    Fact("person:emeka", "lives in", "ref", f"{TOWN}lisbon", SURVEY, confidence=0.7),
    Fact(f"{TOWN}oslo", "inhabitants", "number", 709037, SURVEY, confidence=0.9),
)

FORGOTTEN = "person:bob"

SHOWN = (
    ("person:alice", "born"),
    ("person:alice", "works remotely"),
    ("person:bob", "cups of tea"),
    ("person:emeka", "lives in"),
    (f"{TOWN}oslo", "inhabitants"),
    (f"{TOWN}turin", "square kilometres"),
)

# What a fact is; the rest of a record (HLC, trust, garden) is each node's own business.
COMPARED = (
    "entity",
    "relation",
    "value",
    "source",
    "scope",
    "confidence",
    "timestamp",
    "valid_until",
    "cid",
)


def main() -> int:
    version = _asked_version()
    for number in ENDING:
        signal.signal(number, _interrupted)
    started = time.monotonic()
    try:
        with _folder() as folder:
            _demonstrate(folder, version)
    except (DemoError, NodeError, NodeInstallError, httpx.HTTPError) as error:
        say(f"\nFAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted; both nodes are stopped.")
        return 130
    say(f"\nDone in {time.monotonic() - started:.0f} s.")
    return 0


def _asked_version() -> str:
    about = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.nodes.demo", description=about)
    parser.add_argument(
        "--node-version",
        choices=known_versions(),
        default=DEFAULT_VERSION,
        help="which stigmem-node to run (default: %(default)s)",
    )
    version: str = parser.parse_args().node_version
    return version


def _demonstrate(folder: Path, version: str) -> None:
    say("Two stigmem nodes will run on this machine. Facts are written to the first, and")
    say(f"`{COMMAND}` copies them to the second, checking every one on the way.\n")

    environment = node_environment(version, tell=lambda news: say(f"   {news}"))
    say(f"1. Starting two nodes of stigmem-node {environment.version}, and introducing them:")
    say("   each registers with the other and is approved by its fingerprint.")
    origin = Node(environment, folder / "origin", name="origin")
    receiver = SuppressingNode(environment, folder / "receiver", name="receiver", short_cache=False)
    with introduced(origin, receiver) as pair:
        for node in (pair.origin, pair.receiver):
            say(f"   {node.name:<9} {node.url}  {node.node_id}")

        facts = _facts()
        say(f"\n2. Writing {len(facts)} facts to the origin, through its HTTP API.")
        written = _write(pair.origin, facts)
        if _read(pair.receiver):
            raise DemoError("the receiver has the facts before anything was replicated")
        say(f"   {len(written)} facts acknowledged. The receiver knows none of them yet.")

        say("\n3. Replicating, with the commands that an operator would type.")
        command(pair, "peers", "list")
        command(pair, "pull", "--peer", pair.origin.node_id)
        command(pair, "cursor", "show")

        say("\n4. Reading the facts back from the receiver, through its own HTTP API.")
        read = _read(pair.receiver)
        _compare(written, read)
        _show(read)

        say("\n5. Replicating again: what is known is recognised and skipped.")
        command(pair, "pull", "--peer", pair.origin.node_id)
        if _read(pair.receiver) != read:
            raise DemoError("pulling a second time changed the receiver's facts")

        say(
            "\n6. Forgetting a person, and taking that back: tombstones and revocations travel too."
        )
        forget(pair, FORGOTTEN)
        if _read(pair.receiver) != read:
            raise DemoError("what was taken back is not as it was")

        say("\nSummary")
        say("   nodes                 2")
        say(f"   facts asserted      {len(written):>3}")
        say(f"   facts read back     {len(read):>3}")
        say("   missing             none")
        say("   different           none")
        say("   pulled again        nothing changed")
        say(f"   forgotten           {FORGOTTEN}, and told of again")


def _facts() -> list[Fact]:
    facts: list[Fact] = []
    for name, born, height, cups, remotely, town in PEOPLE:
        person = f"person:{name}"
        facts += [
            Fact(person, "name", "string", name.capitalize(), TOWN_HALL),
            Fact(person, "born", "datetime", f"{born}T00:00:00Z", TOWN_HALL),
            Fact(person, "height", "number", height, TOWN_HALL, "company"),
            Fact(person, "cups of tea", "number", cups, TOWN_HALL),
            Fact(person, "works remotely", "boolean", remotely, TOWN_HALL, "company"),
            Fact(person, "lives in", "ref", f"{TOWN}{town}", TOWN_HALL),
        ]
    for name, written, country, inhabitants, area, by_the_sea in TOWNS:
        town = f"{TOWN}{name}"
        facts += [
            Fact(town, "name", "string", written, TOWN_HALL),
            Fact(town, "country", "string", country, TOWN_HALL),
            Fact(town, "inhabitants", "number", inhabitants, TOWN_HALL),
            Fact(town, "square kilometres", "number", area, TOWN_HALL),
            Fact(town, "by the sea", "boolean", by_the_sea, TOWN_HALL),
            Fact(town, "motto", "null", None, TOWN_HALL),
        ]
    return [*facts, *SECOND_OPINIONS]


def _write(origin: Node, facts: Sequence[Fact]) -> dict[str, dict[str, Any]]:
    records = {record["id"]: record for record in (origin.post_fact(f.request()) for f in facts)}
    if len(records) != len(facts):
        raise DemoError(f"the origin acknowledged {len(records)} facts of {len(facts)}")
    return records


def _read(node: Node) -> dict[str, dict[str, Any]]:
    found = [record for source in (TOWN_HALL, SURVEY) for record in node.facts(source=source)]
    return {record["id"]: record for record in found}


def _show(read: dict[str, dict[str, Any]]) -> None:
    """Print a few facts as the receiver tells them, both sides of a contradiction among them."""
    for entity, relation in SHOWN:
        told = [
            f"{_spoken(record['value'])} ({record['source']})"
            for record in read.values()
            if (record["entity"], record["relation"]) == (entity, relation)
        ]
        say(f"      {entity:<30} {relation:<18} {'  or  '.join(sorted(told))}")


def _spoken(value: dict[str, Any]) -> str:
    """A value as a person would write it: the wire carries every number as a float."""
    return f"{value['v']:.15g}" if value["type"] == "number" else str(value["v"])


def _compare(written: dict[str, dict[str, Any]], read: dict[str, dict[str, Any]]) -> None:
    missing = [fact_id for fact_id in written if fact_id not in read]
    unknown = [fact_id for fact_id in read if fact_id not in written]
    different = [
        f"{fact_id} ({field}: {written[fact_id][field]!r}, read {read[fact_id][field]!r})"
        for fact_id in written
        if fact_id in read
        for field in COMPARED
        if repr(written[fact_id][field]) != repr(read[fact_id][field])  # -0.0 is not 0.0
    ]
    reasons = [
        f"{len(found)} facts {what}: {', '.join(found[:3])}"
        for what, found in (
            ("are missing", missing),
            ("were never asserted", unknown),
            ("differ", different),
        )
        if found
    ]
    if reasons:
        raise DemoError("the receiver does not have the same facts\n   " + "\n   ".join(reasons))
    say(f"   {len(read)} facts, every one equal in all that a fact is. Some of them:")


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stigmem-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not stop the tidying up
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
