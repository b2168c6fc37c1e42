"""Which schemas of a node can be shared: known, older, newer, and newer in a way that matters."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.store.engine import open_database
from stigmem_replicator.store.node_models import LACKING_V1, UNTOUCHED, NodeBase
from stigmem_replicator.store.schema import NEWER_EVENT, NodeSchema
from tests.nodes.database import NodeDatabase, SqliteDatabase

SHORT_S = 0.05
OLD_NEWEST = "038_peer_approval_flow"
NEWEST = "058_federation_audit_first_trust_confirm_rejected"


@pytest.fixture(autouse=True)
def said() -> Iterator[list[Any]]:
    """What is logged meanwhile."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.configure(**before)


def opened(location: Path | str) -> NodeSchema:
    database = open_database(location, timeout_s=SHORT_S)
    database.close()
    return database.schema


def refused(location: Path | str) -> LocalError:
    with pytest.raises(LocalError) as caught:
        opened(location)
    error = caught.value
    assert error.exit_code is ExitCode.CONFIGURATION
    assert error.reason is Reason.SCHEMA_UNSUPPORTED
    assert error.hint
    return error


def altered(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(";".join(statements))
    return path


# known


def test_a_schema_of_wire_version_2_is_known(node: NodeDatabase, said: list[Any]) -> None:
    """The schema of 0.9.0a12 has every column of ours, and none that is new to us."""
    assert opened(node.location) == NodeSchema(Dialect.V2, NEWEST)
    assert opened(node.location).warning is None
    assert said == []


def test_a_schema_of_wire_version_1_is_known(old_node: NodeDatabase, said: list[Any]) -> None:
    """So does that of 0.9.0a10, but for what came with wire version 2."""
    schema = opened(old_node.location)
    assert schema == NodeSchema(Dialect.V1, OLD_NEWEST)
    assert schema.lacking("facts") == LACKING_V1["facts"]
    assert schema.lacking("conflicts") == frozenset()
    assert said == []


def test_every_known_column_is_the_nodes(node: NodeDatabase) -> None:
    """What we say we know of the node's tables is all there, and nothing else is."""
    for name, table in NodeBase.metadata.tables.items():
        known = set(table.columns.keys()) | UNTOUCHED.get(name, frozenset())
        assert set(node.columns(name)) == known


def test_what_the_older_wire_lacks_is_not_there(old_node: NodeDatabase) -> None:
    """The columns that are left out at a node of wire version 1 are those that it does not have."""
    for name, table in NodeBase.metadata.tables.items():
        lacking = LACKING_V1.get(name, frozenset())
        if name not in old_node.tables():
            assert lacking == set(table.columns.keys())
            continue
        assert set(table.columns.keys()) - set(old_node.columns(name)) == lacking


# older


@pytest.mark.parametrize(
    ("last", "named"), [("037_federation_audit_san_mismatch", "037_"), ("", "migration none")]
)
def test_an_older_schema_is_refused(old_node_path: Path, last: str, named: str) -> None:
    """It is named by its newest migration, beside the oldest that is known."""
    altered(old_node_path, f"DELETE FROM schema_migrations WHERE version > '{last}'")  # noqa: S608
    error = refused(old_node_path)
    assert named in error.message
    assert f"older than {OLD_NEWEST}" in error.message
    assert "start the node" in error.hint


def test_an_older_schema_of_wire_version_2_is_refused(node_path: Path) -> None:
    """The schemas between two releases are nobody's."""
    altered(node_path, "DELETE FROM schema_migrations WHERE version > '047'")
    assert "046_facts_origin_entity_uri" in refused(node_path).message


def test_half_a_migration_to_wire_version_2_is_refused(node_path: Path) -> None:
    """With some columns of version 2 and without its signatures it is of neither version."""
    altered(node_path, "ALTER TABLE facts DROP COLUMN origin_sig")
    error = refused(node_path)
    assert "of neither wire version" in error.message
    assert "peers.entity_uri" in error.message
    assert NEWEST in error.message


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("ALTER TABLE peers DROP COLUMN entity_uri", "peers.entity_uri"),
        ("ALTER TABLE facts DROP COLUMN origin_tenant", "facts.origin_tenant"),
        ("DROP TABLE quarantine_rules", "quarantine_rules.org_uri"),
        ("DROP TABLE replication_cursors", "replication_cursors.cursor"),
        ("DROP TABLE federation_audit", "federation_audit.event_type"),
    ],
)
def test_a_schema_that_lacks_what_we_need_is_refused(
    node_path: Path, statement: str, named: str
) -> None:
    """A missing table or column is named, with the newest migration."""
    error = refused(altered(node_path, statement))
    assert named in error.message
    assert NEWEST in error.message


@pytest.mark.parametrize("table", ["quarantine_rules", "replication_cursors", "conflicts"])
def test_a_schema_of_wire_version_1_that_lacks_a_table_is_refused(
    old_node_path: Path, table: str
) -> None:
    """What a node of wire version 1 does not need to have is only what came later."""
    error = refused(altered(old_node_path, f"DROP TABLE {table}"))
    assert f"{table}." in error.message
    assert OLD_NEWEST in error.message


# newer


def with_column(column: str) -> tuple[str, str]:
    columns = "id TEXT PRIMARY KEY, peer_id TEXT NOT NULL, event_type TEXT, detail TEXT, ts TEXT"
    return "DROP TABLE federation_audit", f"CREATE TABLE federation_audit ({columns}, {column})"


def test_a_schema_that_demands_more_than_we_know_is_refused(node_path: Path) -> None:
    """A new column that must be filled would make every insert fail."""
    error = refused(altered(node_path, *with_column("region TEXT NOT NULL")))
    assert "demands federation_audit.region" in error.message
    assert NEWEST in error.message


@pytest.mark.parametrize(
    "column",
    [
        "region TEXT",
        "region TEXT NOT NULL DEFAULT 'eu'",
        "region TEXT NOT NULL GENERATED ALWAYS AS (upper(ts)) STORED",
    ],
)
def test_a_new_column_that_fills_itself_is_a_warning(
    node_path: Path, column: str, said: list[Any]
) -> None:
    """A newer node may have columns that we do not know; the operator reads which."""
    schema = opened(altered(node_path, *with_column(column)))
    assert schema.unknown_columns == ("federation_audit.region",)
    assert schema.warning is not None
    assert "federation_audit.region" in schema.warning
    (event,) = said
    assert (event["event"], event["log_level"]) == (NEWER_EVENT, "warning")
    assert event["detail"] == schema.warning


def test_a_demanded_column_of_a_table_that_we_only_read_is_a_warning(node_path: Path) -> None:
    """What the node must fill in tables that we do not write does not concern us."""
    columns = "id TEXT PRIMARY KEY, entity_uri TEXT, status TEXT, more TEXT NOT NULL"
    altered(node_path, "DROP TABLE agent_keys", f"CREATE TABLE agent_keys ({columns})")
    assert opened(node_path).unknown_columns == ("agent_keys.more",)


@pytest.mark.parametrize(("path", "dialect"), [("node_path", "2"), ("old_node_path", "1")])
def test_a_newer_migration_that_leaves_our_tables_alone_is_a_warning(
    request: pytest.FixtureRequest, path: str, dialect: str
) -> None:
    """The tables that we touch decide; that they fit is said once."""
    database = SqliteDatabase(request.getfixturevalue(path))
    database.insert("schema_migrations", version="059_weather", applied_at="")
    schema = opened(database.location)
    assert (schema.dialect, schema.newest) == (dialect, "059_weather")
    assert schema.unknown_migrations == ("059_weather",)
    assert schema.warning is not None
    assert "059_weather" in schema.warning


def test_a_refusal_names_the_newer_migration(node_path: Path) -> None:
    """A newer schema that does not fit is known by the migration that an operator can look up."""
    SqliteDatabase(node_path).insert("schema_migrations", version="059_weather", applied_at="")
    error = refused(altered(node_path, *with_column("region TEXT NOT NULL")))
    assert "newest migration 059_weather" in error.message
    assert "install a stigmem-replicate" in error.hint
