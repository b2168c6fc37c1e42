"""Our own tables in the node's database: made, kept, refused and removed."""

from __future__ import annotations

import threading

import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import migrations, own_schema
from stigmem_replicator.store.engine import Database, open_database, reading
from stigmem_replicator.store.own_models import (
    HEAD_REVISION,
    PREFIX,
    VERSION_TABLE,
    OwnBase,
)
from tests.check_migrations import problems
from tests.nodes.database import NodeDatabase


def test_an_upgrade_makes_our_tables_and_touches_no_other(
    bare: Database, node: NodeDatabase
) -> None:
    """Everything new carries our prefix; what the node made is as it was, byte for byte."""
    before, tables = node.schema(), node.tables()
    assert migrations.upgrade(bare)
    after = node.schema()
    assert [row for row in after if not row[2].startswith(PREFIX)] == before
    assert node.tables() - tables == {VERSION_TABLE, *OwnBase.metadata.tables}
    with reading(bare) as connection:
        assert migrations.current(connection) == HEAD_REVISION
        own_schema.check(connection, required=True)


def test_a_second_upgrade_changes_nothing(bare: Database, node: NodeDatabase) -> None:
    """Every start may upgrade; rows and schema stay."""
    migrations.upgrade(bare)
    node.run("INSERT INTO replicator_clock VALUES (1, 2, 3)")
    before = node.schema()
    assert not migrations.upgrade(bare)
    assert node.schema() == before
    assert node.query("SELECT * FROM replicator_clock") == [(1, 2, 3)]


def test_dropping_leaves_the_nodes_schema_as_it_was(bare: Database, node: NodeDatabase) -> None:
    """Afterwards nothing tells that we were here, and an upgrade can make the tables again."""
    before = node.schema()
    migrations.upgrade(bare)
    node.run("INSERT INTO replicator_clock VALUES (1, 2, 3)")
    assert migrations.drop(bare)
    assert node.schema() == before
    assert not migrations.drop(bare)
    assert migrations.upgrade(bare)
    assert node.query("SELECT * FROM replicator_clock") == []


def test_tables_of_a_newer_version_are_refused(bare: Database, node: NodeDatabase) -> None:
    """An older program neither uses nor changes what a newer one made."""
    migrations.upgrade(bare)
    node.run(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608 - a constant
    before = node.schema()
    with pytest.raises(LocalError) as caught:
        migrations.upgrade(bare)
    assert caught.value.reason is Reason.OWN_SCHEMA_OUTDATED
    assert "9999" in caught.value.message
    assert node.schema() == before
    with pytest.raises(LocalError) as required, reading(bare) as connection:
        own_schema.check(connection, required=True)
    assert required.value.reason is Reason.OWN_SCHEMA_OUTDATED


def test_without_our_tables_a_command_says_what_to_run(bare: Database) -> None:
    """A command that may not migrate names the one that does."""
    with reading(bare) as connection:
        assert migrations.current(connection) is None
        with pytest.raises(LocalError) as caught:
            own_schema.check(connection, required=True)
    assert caught.value.reason is Reason.OWN_SCHEMA_OUTDATED
    assert "db upgrade" in caught.value.hint


@pytest.mark.usefixtures("bare")
def test_processes_that_start_together_upgrade_once(node: NodeDatabase) -> None:
    """The whole upgrade holds the write lock, so one does it and the others find it done."""
    barrier = threading.Barrier(3, timeout=10)
    changed: list[bool] = []

    def start() -> None:
        other = open_database(node.location, timeout_s=10.0)
        barrier.wait()
        changed.append(migrations.upgrade(other))
        other.close()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(changed) == [False, False, True]


def test_an_upgrade_that_is_interrupted_leaves_nothing(
    bare: Database, node: NodeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables come together or not at all."""
    before = node.schema()

    def end(_connection: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(bare.write.dialect, "do_commit", end)
        with pytest.raises(KeyboardInterrupt):
            migrations.upgrade(bare)
    assert node.schema() == before
    assert migrations.upgrade(bare)


def test_the_migrations_make_what_the_models_say() -> None:
    """Scripts and models describe the same tables, up, down and up again."""
    assert problems() == []
