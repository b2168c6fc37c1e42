"""Our own tables as an earlier version left them: upgraded whole, and under nobody's feet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager

import pytest

from stigmem_replicator.errors import ExitCode, LocalError, PeerHeldError, Reason
from stigmem_replicator.service import upgrading
from stigmem_replicator.store import migrations, own_schema, standings
from stigmem_replicator.store.engine import Database, open_database, reading, writing
from stigmem_replicator.store.own_models import HEAD_REVISION, VERSION_TABLE, OwnBase
from stigmem_replicator.store.standings import Holder
from tests.integration.world import PEER, SQLITE_ONLY, FakeClock
from tests.nodes.database import NodeDatabase
from tests.nodes.environment import REPOSITORY
from tests.unit.signed import NOW_MS

FIRST, SECOND, THIRD = "0001", "0002", "0003"
OF_SECOND = {"certificate_not_after_ms", "upstream_lag_ms", "upstream_lag_at_ms"}
OF_THIRD = {
    *("next_attempt_ms", "paused_at_ms", "paused_until_ms", "resumed_at_ms", "wanted_at_ms"),
    *("turn_ms", "turn_admitted", "vanished_at_ms"),
}
TEXTS_OF_THIRD = {"hint", "paused_by", "pause_reason", "wanted_by"}
TABLE_OF_FOURTH = "replicator_streams"
HOLDER = Holder("host-1", 4711, "pull", NOW_MS)
OPENED = """
import sys
from pathlib import Path
from stigmem_replicator.service import upgrading
from stigmem_replicator.store.engine import open_database
from stigmem_replicator.store.locks import make_locks
where = Path(sys.argv[1]) if sys.argv[1].startswith("/") else sys.argv[1]
database = open_database(where, timeout_s=30.0)
"""
HOLD = f"""{OPENED}
locks = make_locks(database)
print(all(locks.take(int(number)) for number in sys.argv[2:]), flush=True)
sys.stdin.read()
"""
UPGRADE = f"""{OPENED}
print("ready", flush=True)
sys.stdin.read()
print(upgrading.upgrade(database, 0.0, print))
"""


def started(node: NodeDatabase, code: str, *numbers: int) -> subprocess.Popen[str]:
    words = [str(node.location), *(str(number) for number in numbers)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


@contextmanager
def another_process(node: NodeDatabase, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that works on peers until its standard input ends."""
    with started(node, HOLD, *numbers) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def first(bare: Database, node: NodeDatabase) -> Database:
    """The tables of the first revision, with a row in each, and two peers."""
    fill(bare, node, FIRST)
    return bare


def fill(database: Database, node: NodeDatabase, revision: str) -> None:
    """Make the tables of a revision, with a row in each, and two peers."""
    with writing(database) as connection:
        migrations._run(connection, None, "upgrade", revision)  # noqa: SLF001 - as it did
    for number, node_id in ((7, PEER.node_id), (9, "stigmem:node:other")):
        node.insert("replicator_peers", node_id=node_id, number=number, pages=5, caught_up_ms=3)
    holder = ("holder_host", "holder_pid", "holder_command", "holder_since_ms")
    values = (HOLDER.host, HOLDER.pid, HOLDER.command, HOLDER.since_ms)
    for name, value in zip(holder, values, strict=True):
        node.run(f"UPDATE replicator_peers SET {name} = ? WHERE number = 7", value)  # noqa: S608
    there = set(node.columns("replicator_peers"))
    for name in sorted((OF_SECOND | OF_THIRD) & there):
        node.run(f"UPDATE replicator_peers SET {name} = 8")  # noqa: S608
    for name in sorted(TEXTS_OF_THIRD & there):
        node.run(f"UPDATE replicator_peers SET {name} = 'x'")  # noqa: S608
    of_stream: dict[str, object] = {"node_id": PEER.node_id, "stream": "facts"}
    node.insert("replicator_cursors", **of_stream, frontier="5.0", settled="4.0")
    node.insert("replicator_checkpoints", **of_stream, position="4.0", kept_at_ms=4)
    letter = dict.fromkeys(("reason", "detail", "payload_hash", "generation"), "x")
    seen = dict.fromkeys(("first_seen_at_ms", "last_seen_at_ms", "times_seen"), 1)
    node.insert(
        "replicator_dead_letters", **of_stream, entry_id="e", status="open", **letter, **seen
    )
    node.insert("replicator_clock", id=1, wall_ms=2, counter=3)
    node.insert(
        "replicator_events", id=1, node_id=PEER.node_id, at_ms=1, event="e", actor="a", detail="{}"
    )


def contents(node: NodeDatabase, columns: Collection[str]) -> dict[str, list[dict[str, object]]]:
    """Every row of the tables that there were always; of the peers these columns only."""
    return {
        table: [
            {name: value for name, value in row.items() if name in columns}
            if table == "replicator_peers"
            else row
            for row in node.rows(table, "1")
        ]
        for table in OwnBase.metadata.tables
        if table != TABLE_OF_FOURTH
    }


@pytest.mark.parametrize("revision", [FIRST, SECOND, THIRD])
def test_an_upgrade_loses_nothing(
    bare: Database, node: NodeDatabase, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """Every row of every table stays as it was; what is new is empty, and the old code refuses.

    Until then nothing is read or written of tables of another form.
    """
    fill(bare, node, revision)
    columns = set(node.columns("replicator_peers"))
    before, others = contents(node, columns), node.dump()
    assert all(before.values())
    outdated = f"at revision {revision}, this version needs {HEAD_REVISION}"
    with reading(bare) as connection:
        for required in (False, True):
            with pytest.raises(LocalError, match=outdated):
                own_schema.check(connection, required=required)
    assert node.dump() == others
    assert migrations.upgrade(bare)
    with reading(bare) as connection:
        own_schema.check(connection, required=True)
    assert contents(node, columns) == before
    after = node.dump()
    grown = set(node.columns("replicator_peers")) - columns
    assert bool(grown) == (revision != THIRD)
    assert {name for name in others if others[name] != after[name]} == {
        *(["replicator_peers"] if grown else []),
        VERSION_TABLE,
    }
    assert after.keys() - others.keys() == {TABLE_OF_FOURTH}
    assert node.rows(TABLE_OF_FOURTH) == []
    for row in node.rows("replicator_peers"):
        assert {row[name] for name in grown} <= {None}
    assert not migrations.upgrade(bare)
    monkeypatch.setattr(own_schema, "HEAD_REVISION", revision)
    with pytest.raises(LocalError, match=f"at revision {HEAD_REVISION}, made by a newer version"):
        migrations.upgrade(bare)


@pytest.mark.parametrize("change", [migrations.upgrade, migrations.drop])
def test_tables_in_use_are_not_changed(
    first: Database, node: NodeDatabase, change: Callable[[Database], bool]
) -> None:
    """While a process works on any peer nothing is changed; peer and process are named."""
    schema, rows = node.schema(), node.dump()
    with another_process(node, 7):
        with pytest.raises(PeerHeldError) as caught:
            change(first)
        assert (node.schema(), node.dump()) == (schema, rows)
    assert caught.value.exit_code is ExitCode.HELD_ELSEWHERE
    assert caught.value.message == f"{HOLDER} works on peer {PEER.node_id}"
    assert "nothing was changed" in caught.value.hint
    with another_process(node, 9), pytest.raises(PeerHeldError) as unnamed:
        change(first)
    assert unnamed.value.message == "another process works on peer stigmem:node:other"


def test_tables_that_need_no_change_may_be_in_use(first: Database, node: NodeDatabase) -> None:
    """Whoever finds the tables as they should be does not wait for others."""
    migrations.upgrade(first)
    with another_process(node, 7, 9):
        assert not migrations.upgrade(first)


def test_every_peer_is_held_for_the_upgrade_and_no_longer(
    first: Database, node: NodeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets a peer while the tables change; as soon as they have, anybody does."""
    run = migrations._run  # noqa: SLF001 - the moment in which the tables change
    granted: list[str] = []

    def watched(*arguments: object) -> None:
        for number in (7, 9):
            with started(node, HOLD, number) as other:
                granted.append(other.communicate()[0].strip())
        run(*arguments)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(migrations, "_run", watched)
    assert migrations.upgrade(first)
    assert granted == ["False", "False"]
    with another_process(node, 7, 9):
        pass


def test_processes_that_start_together_upgrade_once(first: Database, node: NodeDatabase) -> None:
    """They wait for each other as writers and not as holders: one upgrades, none fails."""
    processes = [started(node, UPGRADE) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    said = sorted(process.communicate()[0].strip() for process in processes)
    assert said == ["False", "False", "True"]
    with reading(first) as connection:
        own_schema.check(connection, required=True)


def test_an_upgrade_that_is_interrupted_leaves_the_earlier_tables(
    first: Database, node: NodeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done whole or not at all, and holds nobody afterwards."""
    before = (node.schema(), node.dump())

    def end(_connection: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(first.write.dialect, "do_commit", end)
        with pytest.raises(KeyboardInterrupt):
            migrations.upgrade(first)
    assert (node.schema(), node.dump()) == before
    with closing(open_database(node.location, timeout_s=5.0)) as other:
        assert migrations.upgrade(other)


@SQLITE_ONLY
def test_a_command_waits_for_whoever_works_on_a_peer(first: Database, node: NodeDatabase) -> None:
    """It says so once, and goes on when the other has let go."""
    with another_process(node, 7) as other:
        pauses: list[float] = []
        told: list[str] = []

        def pause(seconds: float, /) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                other.kill()
                other.wait()

        assert upgrading.upgrade(first, 10.0, told.append, clock=FakeClock(), pause=pause)
    assert len(pauses) == 2
    assert told == [f"waiting, to upgrade the tables: {HOLDER} works on peer {PEER.node_id}"]


@SQLITE_ONLY
def test_a_command_does_not_wait_for_ever(first: Database, node: NodeDatabase) -> None:
    """After its patience it names who is still there."""
    clock = FakeClock()
    told: list[str] = []
    before = clock.monotonic()
    with another_process(node, 7), pytest.raises(PeerHeldError):
        upgrading.upgrade(first, 1.0, told.append, clock=clock, pause=clock.advance)
    assert 1.0 <= clock.monotonic() - before < 1.5
    assert len(told) == 1


def test_a_peer_is_not_taken_in_tables_that_were_upgraded_meanwhile(
    database: Database, node: NodeDatabase
) -> None:
    """A process that looked at the tables before an upgrade and got its peer after it ends."""
    node.run(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608 - a constant
    with pytest.raises(LocalError) as caught, writing(database) as connection:
        standings.take(connection, [PEER.node_id], HOLDER)
    assert caught.value.reason is Reason.OWN_SCHEMA_OUTDATED
    assert node.rows("replicator_peers")[0]["holder_pid"] is None


def test_tables_that_are_only_half_there_are_not_called_upgraded(
    first: Database, node: NodeDatabase
) -> None:
    """A table that is missing is named, what to do is said, and nothing is changed."""
    node.run("DROP TABLE replicator_cursors")
    before = node.rows("replicator_peers", "1")
    with pytest.raises(LocalError) as caught:
        migrations.upgrade(first)
    assert caught.value.reason is Reason.OWN_SCHEMA_OUTDATED
    assert "half there: replicator_cursors missing" in caught.value.message
    assert node.rows("replicator_peers", "1") == before
    with reading(first) as connection:
        assert migrations.current(connection) == FIRST
