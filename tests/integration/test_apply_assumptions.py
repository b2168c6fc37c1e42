"""What a batch assumes of the database, and that nothing is written when it no longer holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stigmem_replicator.errors import Reason, UnknownPeerError
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import BatchWrite, NotWritten
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.fallen import Fallen
from stigmem_replicator.store.reads import CursorRow
from tests.integration.world import (
    PEER,
    FakeClock,
    add_fact,
    admitted,
    batch_write,
    committed,
    full_write,
    planned,
)
from tests.nodes.database import NodeDatabase


def nothing_written(
    database: Database, node: NodeDatabase, write: BatchWrite, clock: FakeClock
) -> NotWritten:
    before = node.dump()
    outcome = apply.apply(database, write, clock)
    assert isinstance(outcome, NotWritten), outcome
    assert node.dump() == before
    return outcome


def test_a_cursor_row_that_appeared_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Somebody else wrote a cursor: nothing is written, and the row is told."""
    write = full_write(node)
    row = {"peer_id": PEER.id, "direction": "inbound", "updated_at": "now"}
    node.insert("replication_cursors", cursor="9.0", **row)
    outcome = nothing_written(database, node, write, clock)
    assert outcome == NotWritten(Fallen.CURSOR, CursorRow("9.0", "now"))


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ("UPDATE replication_cursors SET cursor = '1.0'", CursorRow("1.0", "then")),
        ("UPDATE replication_cursors SET cursor = NULL", CursorRow(None, "then")),
        ("UPDATE replication_cursors SET updated_at = 'now'", CursorRow("3.0", "now")),
        ("DELETE FROM replication_cursors", None),
    ],
)
def test_a_cursor_row_that_changed_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock, change: str, now: CursorRow | None
) -> None:
    """The whole row is compared, so a reset to the same cursor is seen too."""
    row = {"peer_id": PEER.id, "direction": "inbound", "cursor": "3.0", "updated_at": "then"}
    node.insert("replication_cursors", **row)
    write = replace(full_write(node), row=CursorRow("3.0", "then"))
    node.run(change)
    assert nothing_written(database, node, write, clock) == NotWritten(Fallen.CURSOR, now)


def test_a_fact_that_appeared_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The node's own loop wrote one of the ids: the page is judged again."""
    write = full_write(node)
    add_fact(node, "f-1", entity="elsewhere")
    assert nothing_written(database, node, write, clock) == NotWritten(Fallen.FACTS, None)


def test_a_sibling_that_appeared_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A fact under one of the keys would have no conflict: the page is planned again."""
    write = full_write(node)
    add_fact(node, "s-2")
    assert nothing_written(database, node, write, clock) == NotWritten(Fallen.SIBLINGS, None)


def test_a_first_sibling_that_appeared_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A key that was free counts as an assumption too."""
    write = batch_write(planned([admitted("f-1")]))
    add_fact(node, "s-1")
    assert nothing_written(database, node, write, clock) == NotWritten(Fallen.SIBLINGS, None)


def test_what_does_not_concern_the_batch_does_not_stop_it(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Other facts, retractions and other peers' cursors are no assumption of this batch."""
    write = full_write(node)
    add_fact(node, "x-1", entity="other")
    add_fact(node, "x-2", confidence=0.0)
    committed(database, write, clock)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("UPDATE peers SET status = 'revoked'", "revoked"),
        ("UPDATE peers SET status = 'pending_approval'", "pending_approval"),
        ("DELETE FROM peers", "gone"),
    ],
)
def test_a_peer_that_is_no_longer_active_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock, change: str, word: str
) -> None:
    """Nothing of a page in flight is admitted from a peer that an operator revoked."""
    write = full_write(node)
    node.run(change)
    before = node.dump()
    with pytest.raises(UnknownPeerError) as caught:
        apply.apply(database, write, clock)
    assert caught.value.reason is Reason.PEER_NOT_ACTIVE
    assert word in caught.value.message
    assert node.dump() == before
