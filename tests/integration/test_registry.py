"""The look at the peers: what is seen of each, when nothing is, and a database that is another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.replication.states import Standing
from stigmem_replicator.store import events, pauses, standings
from stigmem_replicator.store.engine import Database, writing
from stigmem_replicator.store.reads import CursorRow
from stigmem_replicator.store.registry import Registry, Sight
from stigmem_replicator.store.standings import Holder
from tests.integration.world import (
    PEER,
    POSTGRES_ONLY,
    SQLITE_ONLY,
    FakeClock,
    add_fact,
    add_peer,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS

LATER = "999_later"


@pytest.fixture
def registry(database: Database) -> Iterator[Registry]:
    with closing(Registry(database)) as made:
        yield made


def looked(registry: Registry) -> dict[str, Sight]:
    found = registry.look()
    assert found is not None
    return dict(found)


def test_a_peer_is_seen_with_all_that_is_known_of_it(
    node: NodeDatabase, database: Database, registry: Registry, clock: FakeClock
) -> None:
    """Its row, its cursor, its lock's number, a pause, and who wants it."""
    (first,) = looked(registry).values()
    assert first == Sight(PEER, None, number=1, standing=Standing(since_ms=NOW_MS))
    node.insert(
        "replication_cursors", peer_id=PEER.id, direction="inbound", cursor="5.0", updated_at="then"
    )
    node.insert(
        "replication_cursors", peer_id=PEER.id, direction="outbound", cursor="9.0", updated_at="now"
    )
    wanter = Holder("host", 7, "pull", NOW_MS)
    with writing(database) as connection:
        pauses.pause(connection, PEER.node_id, "noise", NOW_MS + 9, "somebody", clock)
        standings.want(connection, PEER.node_id, wanter, clock)
    seen = looked(registry)[PEER.node_id]
    assert seen.cursor == CursorRow("5.0", "then")
    assert (seen.paused_at_ms, seen.paused_until_ms) == (NOW_MS, NOW_MS + 9)
    assert (seen.wanted_by, seen.wanted_at_ms) == (str(wanter), NOW_MS)
    assert not seen.workable
    with writing(database) as connection:
        pauses.resume(connection, PEER.node_id, "somebody", clock)
    seen = looked(registry)[PEER.node_id]
    assert (seen.paused_at_ms, seen.resumed_at_ms) == (None, NOW_MS)
    assert seen.workable


def test_a_peer_that_was_never_seen_is_seen(node: NodeDatabase, registry: Registry) -> None:
    """It has no number yet; one that is not active is seen as well, and not worked on."""
    add_peer(node, id="peer-2", node_id="new")
    add_peer(node, id="peer-3", node_id="asked", status="pending_verification")
    seen = looked(registry)
    assert seen["new"].number is None
    assert seen["new"].workable
    assert not seen["asked"].workable


@SQLITE_ONLY
def test_nothing_is_read_where_nothing_was_committed(
    node: NodeDatabase, database: Database, registry: Registry, clock: FakeClock
) -> None:
    """A commit of anybody, also our own, is followed by one look; then there is nothing new."""
    looked(registry)
    assert registry.look() is None
    assert registry.look() is None
    add_fact(node, "f-1")
    looked(registry)
    assert registry.look() is None
    with writing(database) as connection:
        events.note(connection, PEER.node_id, events.PAUSED, "somebody", {}, clock)
    looked(registry)
    assert registry.look() is None


@POSTGRES_ONLY
def test_on_postgresql_each_look_reads(registry: Registry) -> None:
    """There is nothing cheaper to ask there."""
    assert looked(registry) == looked(registry)


@SQLITE_ONLY
def test_a_look_that_failed_is_made_again(
    node: NodeDatabase, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed before it is not forgotten for it."""
    looked(registry)
    add_peer(node, id="peer-2", node_id="new")
    with monkeypatch.context() as patched:

        def fail(_connection: object) -> None:
            raise LocalError(Reason.DATABASE_LOCKED, "it is locked")

        patched.setattr("stigmem_replicator.store.registry.reads.peers", fail)
        with pytest.raises(LocalError):
            registry.look()
    assert "new" in looked(registry)


def test_a_node_that_was_upgraded_is_noticed(node: NodeDatabase, registry: Registry) -> None:
    """Its new migration is found by the next look, and by a check."""
    looked(registry)
    node.insert("schema_migrations", version=LATER, applied_at="now")
    for ask in (registry.look, registry.check):
        with pytest.raises(LocalError) as caught:
            ask()
        assert caught.value.reason is Reason.SCHEMA_UNSUPPORTED
        assert LATER in caught.value.message


@SQLITE_ONLY
@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_is_another_is_noticed(
    node: NodeDatabase,
    registry: Registry,
    removed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Replaced or gone, it is not read, whether anything was committed or not."""
    looked(registry)
    path = Path(node.location)
    new = path.with_name("new.db")
    if removed:
        path.rename(new)
    else:
        shutil.copyfile(path, new)
        new.rename(path)
    for ask in (registry.look, registry.check):
        with pytest.raises(LocalError) as caught:
            ask()
        assert caught.value.reason is Reason.DATABASE_REPLACED


def test_a_database_that_is_still_the_same_passes(registry: Registry) -> None:
    """A check of it says nothing."""
    registry.check()
    looked(registry)
    registry.check()


def test_a_closed_look_gives_its_connection_back(database: Database, registry: Registry) -> None:
    """However often it is closed, and it may look again."""
    for _ in range(12):
        looked(registry)
        registry.close()
        registry.close()
        registry = Registry(database)
    registry.close()
    assert database.read.pool.checkedout() == 0  # type: ignore[attr-defined]
