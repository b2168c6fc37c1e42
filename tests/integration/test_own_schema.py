"""Whether our own tables fit this code, on both backends."""

from __future__ import annotations

import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import migrations, own_schema
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.store.own_models import HEAD_REVISION, VERSION_TABLE, OwnBase
from tests.nodes.database import NodeDatabase


def refusal(database: Database, *, required: bool = False, older: bool = False) -> LocalError:
    with pytest.raises(LocalError) as caught, reading(database) as connection:
        own_schema.check(connection, required=required, older=older)
    assert caught.value.reason is Reason.OWN_SCHEMA_OUTDATED
    return caught.value


def test_no_tables_pass_unless_they_are_required(bare: Database) -> None:
    with reading(bare) as connection:
        own_schema.check(connection)
        own_schema.check(connection, older=True)
        own_schema.refuse_newer(connection)
        assert own_schema.present(connection) == set()
    assert "db upgrade" in refusal(bare, required=True).hint


def test_tables_as_they_should_be_pass(bare: Database) -> None:
    migrations.upgrade(bare)
    with reading(bare) as connection:
        own_schema.check(connection, required=True)
        assert own_schema.present(connection) == {VERSION_TABLE, *OwnBase.metadata.tables}


def test_an_earlier_revision_passes_only_on_its_way_up(bare: Database, node: NodeDatabase) -> None:
    """What reads the tables refuses an earlier form of them; what upgrades them does not."""
    migrations.upgrade(bare)
    node.run("UPDATE replicator_alembic_version SET version_num = '0000'")
    node.run("DROP TABLE replicator_events")
    with reading(bare) as connection:
        own_schema.check(connection, older=True)
        own_schema.refuse_newer(connection)
    error = refusal(bare)
    assert f"at revision 0000, this version needs {HEAD_REVISION}" in error.message
    assert "db upgrade" in error.hint


def test_a_later_revision_never_passes(bare: Database, node: NodeDatabase) -> None:
    """Not even to be dropped: what a newer version added would be left behind."""
    migrations.upgrade(bare)
    node.run("UPDATE replicator_alembic_version SET version_num = '9999'")
    for error in (refusal(bare), refusal(bare, required=True), refusal(bare, older=True)):
        assert "9999, made by a newer version" in error.message
    with pytest.raises(LocalError):
        migrations.drop(bare)


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        ("DROP TABLE replicator_cursors", "replicator_cursors"),
        ("DROP TABLE replicator_alembic_version", VERSION_TABLE),
        ("ALTER TABLE replicator_peers DROP COLUMN holder_pid", "replicator_peers.holder_pid"),
    ],
)
def test_half_of_the_tables_never_passes(
    bare: Database, node: NodeDatabase, damage: str, missing: str
) -> None:
    """What is missing is named, nothing is made up, and dropping the rest is the way out."""
    before = node.schema()
    migrations.upgrade(bare)
    node.run(damage)
    half = node.schema()
    for error in (refusal(bare), refusal(bare, required=True), refusal(bare, older=True)):
        assert error.message.endswith(f"half there: {missing} missing")
        assert "db drop" in error.hint
    with pytest.raises(LocalError):
        migrations.upgrade(bare)
    assert node.schema() == half
    assert migrations.drop(bare)
    assert node.schema() == before
