"""Fixtures of the integration tests: copies of a database that the node itself has migrated."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stigmem_replicator.store import migrations, records
from stigmem_replicator.store.engine import Database, open_database, writing
from stigmem_replicator.store.reads import PeerRow
from tests.integration.world import PEER, FakeClock, add_peer
from tests.nodes.environment import node_environment

# The first test of a session also installs the node, from a network that may be slow.
TEST_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of this folder the time that installing the node may take."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def node_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the node's schema and nothing in it; copied, never opened by a test."""
    environment = node_environment()
    folder = tmp_path_factory.mktemp("node")
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


@pytest.fixture
def node_path(node_schema: Path, tmp_path: Path) -> Path:
    """A node's database of this test's own, without peers and without our tables."""
    path = tmp_path / "node.db"
    shutil.copyfile(node_schema, path)
    path.chmod(0o600)
    return path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def bare(node_path: Path) -> Iterator[Database]:
    """The database opened, with a peer and without our tables."""
    add_peer(node_path)
    database = open_database(node_path, timeout_s=1.0)
    yield database
    database.close()


@pytest.fixture
def database(bare: Database, clock: FakeClock) -> Database:
    """The database with our tables, the clock seeded and the peer enlisted."""
    migrations.upgrade(bare)
    with writing(bare) as connection:
        records.seed_clock(connection)
        records.enlist(connection, PEER.node_id, clock)
    return bare


@pytest.fixture
def peer() -> PeerRow:
    return PEER
