"""Fixtures of the differential tests: one receiver twice, for the node's own loop and for us."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.differential.pen import Pen
from tests.differential.recorded import page_server, record
from tests.e2e.conftest import Cli, make_cli
from tests.nodes.bulk import InsideNode, assert_in_bulk
from tests.nodes.environment import node_environment
from tests.nodes.fact_corpus import facts, uncarriable_facts
from tests.nodes.federation import Pair, pair_of_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CORPUS = 400

# The first test of a session also installs the node, from a network that may be slow.
TEST_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@dataclass(frozen=True, slots=True)
class World:
    """A pair of nodes, of which only the origin still runs, and what was kept of them."""

    pair: Pair
    snapshot: Path
    """The receiver's database: peered, and empty of facts."""
    pages: list[bytes]
    """The answers that hold the corpus, as the origin gave them."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with pair_of_nodes(node_environment(), folder) as pair:
        pair.receiver.stop()
        snapshot = pair.receiver.copy_database(folder / "snapshot.db")
        corpus = [*facts(CORPUS), *uncarriable_facts()]
        assert_in_bulk(pair.origin, corpus)
        with InsideNode(pair.receiver) as inside:
            pages = record(pair.origin, inside)
        assert sum(len(json.loads(body)["facts"]) for body in pages) == len(corpus)
        yield World(pair, snapshot, pages)


@dataclass(frozen=True, slots=True)
class Fed:
    """What became of pages given to both."""

    ended: list[str | None]
    """For each entry the exception that ended the node's loop there, or None."""
    code: int
    """Our exit code."""
    summary: dict[str, Any]
    """Our summary."""


@dataclass(slots=True)
class Both:
    """Two copies of one receiver's database, fed with the same pages."""

    world: World
    node_database: Path
    our_database: Path
    cli: Cli
    settings: Mapping[str, str]
    """Settings of the node, without prefix, that both go by."""
    own_settings: Mapping[str, str]
    """Settings that only the replicator has, without prefix."""
    _open: ExitStack = field(default_factory=ExitStack)
    _inside: InsideNode | None = None

    @property
    def inside(self) -> InsideNode:
        """The node at work on its copy."""
        if self._inside is None:
            self._inside = self._open.enter_context(
                InsideNode(
                    self.world.pair.receiver, database=self.node_database, settings=self.settings
                )
            )
        return self._inside

    def close(self) -> None:
        self._open.close()

    def alter(self, sql: str, *parameters: str | None) -> None:
        """Change something in both databases."""
        for database in (self.node_database, self.our_database):
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute(sql, parameters)

    def feed(self, bodies: Sequence[bytes], *, node_too: bool = True) -> Fed:
        """Give answers of the origin to the node's loop and to us, or to us alone."""
        origin = self.world.pair.origin
        with page_server(bodies) as url:
            self.alter("UPDATE peers SET node_url = ? WHERE node_id = ?", url, origin.node_id)
            ended = self.inside.ingest_pages(origin.node_id, bodies) if node_too else []
            said = self.cli(
                *("pull", "--peer", origin.node_id, "--json", "--wait", "0"),
                *("--stream", "facts"),
                db=self.our_database,
                env=self._environ(),
                check=False,
            )
        assert said.stdout, said.stderr
        return Fed(ended, said.returncode, json.loads(said.stdout))

    def _environ(self) -> dict[str, str]:
        shared = {f"STIGMEM_{name}": value for name, value in self.settings.items()}
        own = {f"STIGMEM_REPLICATOR_{name}": value for name, value in self.own_settings.items()}
        return {"STIGMEM_NODE_URL": self.world.pair.receiver.url, **shared, **own}

    def read_again(self) -> None:
        """Have our next pull begin at the beginning."""
        origin = self.world.pair.origin.node_id
        self.cli("cursor", "reset", "--peer", origin, "--yes", db=self.our_database)

    def node_rows(self, sql: str, *parameters: str) -> list[sqlite3.Row]:
        return _rows(self.node_database, sql, parameters)

    def our_rows(self, sql: str, *parameters: str) -> list[sqlite3.Row]:
        return _rows(self.our_database, sql, parameters)


def _rows(database: Path, sql: str, parameters: Sequence[str]) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(sql, parameters).fetchall()


def make_both(
    world: World,
    folder: Path,
    settings: Mapping[str, str],
    own_settings: Mapping[str, str],
) -> Both:
    copies = [folder / "node-side.db", folder / "our-side.db"]
    for copy in copies:
        copy.touch(mode=0o600)
        copy.write_bytes(world.snapshot.read_bytes())
    node_side, our_side = copies
    return Both(world, node_side, our_side, make_cli(folder), settings, own_settings)


@pytest.fixture
def both(world: World, tmp_path: Path) -> Iterator[Both]:
    """The two databases, under the settings of a node that was left as it comes."""
    made = make_both(world, tmp_path, {}, {})
    yield made
    made.close()


@pytest.fixture
def both_with(world: World, tmp_path: Path) -> Iterator[Callable[..., Both]]:
    """Make the two databases for given settings: `both_with({"TRUST_MODE": "off"})`."""
    with ExitStack() as opened:

        def make(
            settings: Mapping[str, str] | None = None, own: Mapping[str, str] | None = None
        ) -> Both:
            made = make_both(world, tmp_path, settings or {}, own or {})
            opened.callback(made.close)
            return made

        yield make


@pytest.fixture
def pen(world: World) -> Pen:
    """What the origin would write with."""
    return Pen.of(world.pair.origin)
