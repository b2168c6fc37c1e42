"""Our clock row: it begins past every HLC in the database, and never falls behind one."""

from __future__ import annotations

import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.protocol import hlc
from stigmem_replicator.protocol.hlc import HlcState
from stigmem_replicator.store import hlc_clock
from stigmem_replicator.store.engine import Database, reading, writing
from tests.integration.world import FakeClock, add_fact, committed, full_write, unstamp
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW_MS


def seeded(database: Database, node: NodeDatabase) -> HlcState:
    with writing(database) as connection:
        hlc_clock.seed(connection)
    (row,) = node.rows("replicator_clock")
    return HlcState(row["wall_ms"], row["counter"])


def test_a_clock_without_facts_begins_at_zero(database: Database, node: NodeDatabase) -> None:
    """The first stamp is the wall clock's."""
    assert seeded(database, node) == HlcState()


def test_the_clock_begins_at_the_greatest_stamp(database: Database, node: NodeDatabase) -> None:
    """Among the stamps of the last millisecond the counter counts as a number, not as text."""
    for counter in ("9", "10", "2"):
        add_fact(node, f"f-{counter}", f"{NOW_MS}.{counter}")
    add_fact(node, "older", f"{NOW_MS - 1}.500")
    assert seeded(database, node) == HlcState(NOW_MS, 10)


def test_stamps_are_compared_byte_by_byte(database: Database, node: NodeDatabase) -> None:
    """A database that sorts text by a language passes over the dot and takes 1009 for the greater.

    Walls of two lengths are not real, but nothing else shows how stamps are compared.
    """
    add_fact(node, "lesser", "100.9")
    add_fact(node, "greater", "1000.1")
    assert seeded(database, node) == HlcState(1000, 1)


def test_the_clock_never_falls(database: Database, node: NodeDatabase) -> None:
    """A clock that is ahead of every fact stays where it is; one that is behind moves up."""
    add_fact(node, "f-1", f"{NOW_MS}.3")
    node.run("UPDATE replicator_clock SET wall_ms = ?, counter = 7", NOW_MS)
    assert seeded(database, node) == HlcState(NOW_MS, 7)
    node.run("UPDATE replicator_clock SET wall_ms = ?", NOW_MS + 5)
    assert seeded(database, node) == HlcState(NOW_MS + 5, 7)
    add_fact(node, "f-2", f"{NOW_MS + 6}.0")
    assert seeded(database, node) == HlcState(NOW_MS + 6, 0)


def test_facts_without_a_stamp_do_not_count(database: Database, node: NodeDatabase) -> None:
    """A database whose facts were never stamped seeds nothing."""
    add_fact(node, "f-1")
    unstamp(node, "f-1")
    assert seeded(database, node) == HlcState()


def read(database: Database) -> HlcState:
    with reading(database) as connection:
        return hlc_clock.read(connection)


def test_the_clock_is_read_past_what_the_node_stamped_meanwhile(
    database: Database, node: NodeDatabase
) -> None:
    """A node whose wall clock is ahead is followed; its stamps of our own millisecond are not."""
    node.run("UPDATE replicator_clock SET wall_ms = ?, counter = 7", NOW_MS)
    add_fact(node, "f-1", f"{NOW_MS}.500")
    assert read(database) == HlcState(NOW_MS, 7)
    for counter in ("9", "10"):
        add_fact(node, f"ahead-{counter}", f"{NOW_MS + 1}.{counter}")
    assert read(database) == HlcState(NOW_MS + 1, 10)


def test_the_clock_is_written_and_touched(database: Database, node: NodeDatabase) -> None:
    """A touch proves that the database takes a write, and changes nothing."""
    with writing(database) as connection:
        hlc_clock.write(connection, HlcState(NOW_MS, 4))
    before = node.dump()
    with writing(database) as connection:
        hlc_clock.touch(connection)
    assert read(database) == HlcState(NOW_MS, 4)
    assert node.dump() == before


def test_a_clock_that_is_gone_is_not_made_up(database: Database, node: NodeDatabase) -> None:
    """Without its row nothing is stamped."""
    node.run("DELETE FROM replicator_clock")
    with pytest.raises(LocalError) as caught:
        read(database)
    assert caught.value.reason is Reason.OWN_SCHEMA_OUTDATED


def test_what_is_written_is_stamped_past_the_node(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Each batch looks anew: a node whose clock is ahead while we run is never stamped before."""
    write = full_write(node)
    ahead_ms = NOW_MS + 60_000
    add_fact(node, "ahead", f"{ahead_ms}.41", entity="another")
    committed(database, write, clock)
    stamps = {row["id"]: row["hlc"] for row in node.rows("facts")}
    ours = [
        HlcState(*hlc.parse(stamp))
        for name, stamp in stamps.items()
        if name not in ("ahead", "s-1")
    ]
    assert ours
    assert min(ours) > HlcState(ahead_ms, 41)
    assert len(set(ours)) == len(ours)
    assert read(database) == max(ours)
