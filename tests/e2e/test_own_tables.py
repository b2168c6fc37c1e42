"""Our own tables as an operator meets them: made, dropped, and refused where they do not fit.

An older program meets tables that a newer one made, a newer program those of an older one, and
any program tables of which a part is gone: each is refused in one line or used whole, never half.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stigmem_replicator.store import migrations, own_models, own_schema
from stigmem_replicator.store.own_models import HEAD_REVISION, VERSION_TABLE
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.pages.fixtures", "tests.e2e.here")

READING = (
    ("peers", "list"),
    ("peers", "show", "stigmem:node:"),
    ("cursor", "show"),
    ("dead-letters", "list"),
    ("pull", "--all", "--dry-run"),
)
WRITING = (
    ("pull", "--all"),
    ("pull", "--all", "--no-migrate"),
    ("cursor", "reset", "--peer", "stigmem:node:", "--yes"),
    ("db", "upgrade"),
)


def refused(here: Here, database: Path, *words: str) -> str:
    """The command says in one line, and only there, that the tables do not fit."""
    result = here(*words, db=database)
    assert result.stdout == "", words
    return result.failed("own_schema_outdated", 3)


def test_db_upgrade_current_and_drop(here: Here, bare_receiver: Receiver) -> None:
    """The tables come and go, each step says what it did, and the node's own stay as they were."""
    db = bare_receiver.database
    bare = bare_receiver.dump()
    assert "no tables yet" in here("db", "current", db=db).stdout
    assert here("db", "drop", "--yes", db=db).stdout == "there were no tables\n"
    assert "now at revision" in here("db", "upgrade", db=db).stdout
    assert "already at revision" in here("db", "upgrade", db=db).stdout
    assert "what this version needs" in here("db", "current", db=db).stdout
    upgraded = bare_receiver.dump()
    assert set(bare) < set(upgraded)
    assert "not confirmed" in here("db", "drop", db=db).stderr
    assert bare_receiver.dump() == upgraded
    assert here("db", "drop", "--yes", db=db).stdout == "the tables are removed\n"
    assert bare_receiver.dump() == bare


def test_an_older_program_leaves_newer_tables_alone(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """Whatever a newer version added, every command but `db current` refuses and names it."""
    server.origin.add_many(2)
    adopted.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608 - a constant
    adopted.execute("ALTER TABLE replicator_peers ADD COLUMN added INTEGER NOT NULL DEFAULT 7")
    before = adopted.dump()
    for words in (*READING, *WRITING, ("db", "drop", "--yes")):
        line = refused(here, adopted.database, *words)
        assert "9999" in line
        assert "newer" in line
    assert "9999" in here("db", "current", db=adopted.database).stdout
    assert adopted.dump() == before
    assert server.requests == []


def test_a_column_that_somebody_added_changes_nothing(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """At the revision that is needed, what is there in addition is left alone."""
    server.origin.add_many(2)
    adopted.execute("ALTER TABLE replicator_peers ADD COLUMN added INTEGER NOT NULL DEFAULT 7")
    for words in (("pull", "--all"), *READING):
        result = here(*words, db=adopted.database)
        assert (result.code, result.stderr) == (0, ""), result.stderr
    assert len(adopted.assert_clean(server).admitted) == 2
    assert adopted.query("SELECT added FROM replicator_peers")[0]["added"] == 7


def test_a_newer_program_upgrades_older_tables_or_says_who_does(
    here: Here, adopted: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not upgrade names the command that does; nothing reads tables of another form."""
    for module in (own_models, own_schema):
        monkeypatch.setattr(module, "HEAD_REVISION", f"{HEAD_REVISION}z")
    before = adopted.dump()
    reset = ("cursor", "reset", "--peer", "stigmem:node:", "--yes")
    for words in (*READING, ("pull", "--all", "--no-migrate"), reset):
        line = refused(here, adopted.database, *words)
        assert f"at revision {HEAD_REVISION}, this version needs {HEAD_REVISION}z" in line
        assert "stigmem-replicate db upgrade" in line
    assert adopted.dump() == before


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        ("DROP TABLE replicator_cursors", "replicator_cursors"),
        ("DROP TABLE replicator_peers", "replicator_peers"),
        (f"DROP TABLE {VERSION_TABLE}", VERSION_TABLE),
        ("DELETE FROM replicator_alembic_version", VERSION_TABLE),
        (
            "ALTER TABLE replicator_peers DROP COLUMN not_before_ms",
            "replicator_peers.not_before_ms",
        ),
    ],
)
def test_tables_that_are_half_there(
    here: Here,
    adopted: Receiver,
    bare_template: Path,
    server: PageServer,
    damage: str,
    missing: str,
) -> None:
    """Every command names what is missing, until the rest is dropped and all made anew."""
    server.origin.add_many(2)
    adopted.execute(damage)
    before = adopted.dump()
    for words in (*READING, *WRITING, ("db", "current")):
        line = refused(here, adopted.database, *words)
        assert f": {missing} missing" in line
        assert "db drop" in line
    assert adopted.dump() == before
    assert server.requests == []

    assert here("db", "drop", "--yes", db=adopted.database).stdout == "the tables are removed\n"
    bare = Receiver(bare_template)
    tables = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    assert [tuple(row) for row in adopted.query(tables)] == [
        tuple(row) for row in bare.query(tables)
    ]
    assert here("pull", "--all", db=adopted.database).code == 0
    assert len(adopted.assert_clean(server).admitted) == 2


def test_no_migrate_refuses_in_place_of_making_the_tables(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """With --no-migrate a pull changes no schema; after `db upgrade` it is a pull as any."""
    bare_receiver.adopt(server)
    server.origin.add_many(2)
    before = bare_receiver.dump()
    words = ("pull", "--all", "--no-migrate")
    line = refused(here, bare_receiver.database, *words)
    assert "stigmem-replicate db upgrade" in line
    assert bare_receiver.dump() == before
    assert server.requests == []
    # A dry run reads only, and has no use for the tables.
    assert here(*words, "--dry-run", db=bare_receiver.database).code == 0
    here("db", "upgrade", db=bare_receiver.database)
    assert here(*words, db=bare_receiver.database).code == 0
    assert len(bare_receiver.assert_clean(server).admitted) == 2


def test_tables_in_use_are_neither_dropped_nor_upgraded(
    here: Here,
    start: Start,
    adopted: Receiver,
    server: PageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside a running pull of an earlier version nothing is changed, and that is exit 8."""
    server.origin.add_many(1)
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    before = adopted.dump()
    for module in (migrations, own_schema):
        monkeypatch.setattr(module, "HEAD_REVISION", f"{HEAD_REVISION}z")
    short = {"STIGMEM_REPLICATOR_DATABASE_TIMEOUT_S": "0.1"}
    try:
        for words in (("db", "drop", "--yes"), ("db", "upgrade"), ("pull", "--all", "--wait", "0")):
            result = here(*words, db=adopted.database, env=short)
            line = result.failed_among("peer_held", 8)
            assert f"process {running.pid} on " in line
            assert f"works on peer {server.node_id}" in line
            assert "nothing was changed" in line
            assert adopted.dump() == before
    finally:
        held.let_go()
        stderr, code = running.end()[1:]
    assert code == 0, stderr
    assert len(adopted.assert_clean(server).admitted) == 1
