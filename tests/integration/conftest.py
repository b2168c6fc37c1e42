"""Fixtures of the integration tests: copies of a database that the node itself has migrated.

What takes `node`, or a fixture that does, runs on SQLite and on PostgreSQL.  What takes `database`
gets copies that have our tables too: making them takes longer than most tests.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stigmem_replicator.store import hlc_clock, migrations, standings
from stigmem_replicator.store.engine import Database, open_database, reading, writing
from stigmem_replicator.store.own_schema import present as own_schema_there
from stigmem_replicator.store.reads import PeerRow
from tests.integration.world import PEER, FakeClock, add_peer
from tests.nodes.database import NodeDatabase, PostgresDatabase, SqliteDatabase
from tests.nodes.environment import NodeEnvironment, node_environment
from tests.nodes.postgres import PostgresServer

# The first test of a session also installs the node, from a network that may be slow.
TEST_TIMEOUT_S = 600
OLD_VERSION = "0.9.0a10"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of this folder the time that installing the node may take."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def node_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the node's schema and nothing in it; copied, never opened by a test."""
    return migrated(node_environment(), tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def old_node_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a node of wire version 1."""
    return migrated(node_environment(OLD_VERSION), tmp_path_factory.mktemp("old-node"))


def migrated(environment: NodeEnvironment, folder: Path) -> Path:
    """Return a SQLite database that the node itself has just made."""
    path = folder / "node.db"
    code = "from stigmem_node.db import apply_migrations; apply_migrations()"
    subprocess.run(
        [str(environment.python), "-c", code],
        env={"PATH": os.defpath, "HOME": str(folder), "STIGMEM_DB_PATH": str(path)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TEST_TIMEOUT_S,
        check=True,
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(scope="session")
def own_schema(node_schema: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of `node_schema` with our tables."""
    path = copied(node_schema, tmp_path_factory.mktemp("own") / "node.db")
    _upgrade(path)
    return path


@pytest.fixture(scope="session")
def own_postgres_schema(postgres_server: PostgresServer) -> str:
    """The same on PostgreSQL: the name of a database to copy."""
    url = postgres_server.node_database(node_environment())
    _upgrade(url)
    return url.rsplit("/", 1)[1]


def _upgrade(location: Path | str) -> None:
    database = open_database(location, timeout_s=5.0)
    migrations.upgrade(database)
    database.close()


def _with_own_tables(request: pytest.FixtureRequest) -> bool:
    return "database" in request.fixturenames


@pytest.fixture
def node_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A SQLite database of this test's own, without peers; with our tables for `database`."""
    schema = "own_schema" if _with_own_tables(request) else "node_schema"
    return copied(request.getfixturevalue(schema), tmp_path / "node.db")


@pytest.fixture
def old_node_path(old_node_schema: Path, tmp_path: Path) -> Path:
    """The same of a node of wire version 1."""
    return copied(old_node_schema, tmp_path / "old-node.db")


def copied(schema: Path, path: Path) -> Path:
    shutil.copyfile(schema, path)
    path.chmod(0o600)
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def node(request: pytest.FixtureRequest) -> Iterator[NodeDatabase]:
    """A node's database of this test's own, on each backend; see `SQLITE_ONLY`."""
    yield from _on_backend(request, "node_path", node_environment())


@pytest.fixture(params=["sqlite", "postgres"])
def old_node(request: pytest.FixtureRequest) -> Iterator[NodeDatabase]:
    """The same of a node of wire version 1."""
    yield from _on_backend(request, "old_node_path", node_environment(OLD_VERSION))


def _on_backend(
    request: pytest.FixtureRequest, file: str, environment: NodeEnvironment
) -> Iterator[NodeDatabase]:
    if request.param == "sqlite":
        yield SqliteDatabase(request.getfixturevalue(file))
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    if _with_own_tables(request):
        url = server.create_database(request.getfixturevalue("own_postgres_schema"))
    else:
        url = server.node_database(environment)
    yield PostgresDatabase(url)
    server.drop_database(url)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def bare(node: NodeDatabase) -> Iterator[Database]:
    """The database opened, with a peer; with our tables only for `database`."""
    add_peer(node)
    database = open_database(node.location, timeout_s=1.0)
    yield database
    database.close()


@pytest.fixture
def database(bare: Database, clock: FakeClock) -> Database:
    """The database with our tables, the clock seeded and the peer enlisted."""
    with reading(bare) as connection:
        there = own_schema_there(connection)
    if not there:  # who asked for this fixture only when the test ran
        migrations.upgrade(bare)
    with writing(bare) as connection:
        hlc_clock.seed(connection)
        standings.enlist(connection, PEER.node_id, clock)
    return bare


@pytest.fixture
def peer() -> PeerRow:
    return PEER
