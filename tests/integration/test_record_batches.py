"""Batches of tombstones and revocations: what they write, together, and when they write nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import psycopg
import pytest

from stigmem_replicator.errors import LocalError, PeerHeldError, Reason, UnknownPeerError
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import Judged
from stigmem_replicator.store import apply, records
from stigmem_replicator.store.apply import BatchWrite, NotWritten, Point
from stigmem_replicator.store.engine import Database, writing
from stigmem_replicator.store.fallen import Fallen
from stigmem_replicator.store.own_models import REVOCATIONS, TOMBSTONES
from stigmem_replicator.store.reads import OwnCursor
from stigmem_replicator.trust.verdicts import Duplicate
from tests.integration import world
from tests.integration.record_batches import (
    ISSUER,
    NEW,
    NEWER,
    OLD,
    add_revocation,
    add_tombstone,
    held,
    ids,
    record_write,
    refused,
    revocation,
    tombstone,
)
from tests.integration.world import (
    PEER,
    REFUSED_BY_SCHEMA,
    SQLITE_ONLY,
    FakeClock,
    commits,
    committed,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW

REVOKING: Final = Artifact.REVOCATION


def nothing_written(
    database: Database, node: NodeDatabase, write: BatchWrite, clock: FakeClock
) -> NotWritten:
    before = held(node)
    outcome = apply.apply(database, write, clock)
    assert isinstance(outcome, NotWritten), outcome
    assert held(node) == before
    return outcome


def full_write() -> BatchWrite:
    """A write that touches every table that tombstones do."""
    judged = [tombstone("t-1"), refused("t-2"), Judged("t-3", Duplicate("t-3"))]
    return record_write(judged, newest=NEW, settled=OLD)


# what is written


def test_one_batch_writes_all_its_rows_together(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Record, audit, dead letter, counters and our own position; the node's cursor is not ours."""
    outcome = committed(database, full_write(), clock)

    (row,) = node.rows("tombstones")
    assert (row["id"], row["entity_uri"], row["scope"], row["legal_hold"]) == (
        *("t-1", "gone:t-1", "*", 0),
    )
    assert (row["signed_by"], row["created_at"], row["tenant_id"]) == (ISSUER, NEW, "default")
    assert {row[name] for name in row if name.startswith(("origin_", "received_"))} == {None}
    admitted, rejected = node.rows("fact_audit_log")
    assert (admitted["event_type"], admitted["fact_id"]) == ("tombstone_federation_ingested", "t-1")
    assert (admitted["entity_uri"], admitted["source"]) == (ISSUER, "federation")
    assert (rejected["event_type"], rejected["fact_id"]) == ("tombstone_federation_rejected", "t-2")
    assert json.loads(rejected["detail"])["reason"] == "issuer_sig_invalid"
    places = [None, None] if node.backend == "postgres" else [1, 2]
    assert [row["seq"] for row in (admitted, rejected)] == places
    (letter,) = node.rows("replicator_dead_letters")
    assert (letter["stream"], letter["entry_id"], letter["status"]) == (TOMBSTONES, "t-2", "open")
    (own,) = node.rows("replicator_cursors")
    assert (own["stream"], own["frontier"], own["settled"]) == (TOMBSTONES, NEW, OLD)
    assert outcome.row == OwnCursor(NEW, OLD)
    for table in ("replication_cursors", "federation_audit", "facts"):
        assert node.rows(table) == []
    counted = world.status(node)
    # A peer's totals are those of its facts.
    told = ("commit_number", "pages", "admitted", "rejected", "last_success_ms")
    assert [counted[name] for name in told] == [1, 0, 0, 0, None]


def test_a_page_is_its_tombstones_and_then_its_revocations(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A revocation finds the tombstone that came with it; each stream has its own position."""
    first = record_write([tombstone("t-1", tenant="acme")], newest=NEW)
    committed(database, first, clock)
    revoking = record_write([revocation("r-1", "t-1")], REVOKING, newest=NEWER)
    committed(database, revoking, clock)
    assert (ids(node), ids(node, REVOKING)) == (["t-1"], ["r-1"])
    audit = node.rows("fact_audit_log")[1]
    assert (audit["event_type"], audit["fact_id"], audit["tenant_id"]) == (
        *("tombstone_revocation_federation_ingested", "t-1", "default"),
    )
    stands = {row["stream"]: row["frontier"] for row in node.rows("replicator_cursors")}
    assert stands == {TOMBSTONES: NEW, REVOCATIONS: NEWER}


def test_streams_of_a_peer_share_its_commit_number(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Batches that were planned side by side are all written: nobody expects a commit number."""
    facts = world.batch_write(world.planned([world.admitted("f-1")]), moves=world.progress("5.0"))
    beside = record_write([tombstone("t-1")], newest=NEW)
    revoking = record_write([revocation("r-1", "t-1")], REVOKING, newest=NEWER)
    more_facts = world.planned([world.admitted("f-2", entity="other")])
    row = committed(database, facts, clock).row
    for write in (beside, revoking, world.batch_write(more_facts, row=row)):
        committed(database, write, clock)
    assert commits(node) == 4
    # The pages that are counted are those of facts.
    assert world.status(node)["pages"] == 1


def test_letters_of_another_stream_are_not_touched(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The same id may wait in both streams, and is settled in the one where it came."""
    committed(database, record_write([refused("x", Reason.WAITING_FOR_KEY)]), clock)
    committed(database, record_write([refused("x", Reason.WAITING_FOR_TOMBSTONE)], REVOKING), clock)
    settling = record_write([tombstone("x")], open_letters=["x"])
    committed(database, settling, clock)
    letters = {row["stream"]: row for row in node.rows("replicator_dead_letters")}
    assert letters[TOMBSTONES]["status"] == "resolved"
    assert letters[REVOCATIONS]["status"] == "open"
    assert letters[REVOCATIONS]["payload"] is not None
    # What merely waits for its tombstone is nothing for the node's audit.
    refusals = [
        row["detail"] for row in node.rows("fact_audit_log") if "rejected" in row["event_type"]
    ]
    assert [json.loads(detail)["reason"] for detail in refusals] == ["waiting_for_key"]


# assumptions


def test_a_reset_in_between_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Our own row is compared whole: nothing is written, and the row is told."""
    first = committed(database, record_write([tombstone("t-1")], newest=NEW, settled=OLD), clock)
    write = record_write([tombstone("t-2")], row=first.row, newest=NEWER, settled=NEW)
    with writing(database) as connection:
        records.reset_beside(connection, PEER, TOMBSTONES, None, "alice", clock)
    outcome = nothing_written(database, node, write, clock)
    assert outcome == NotWritten(Fallen.CURSOR, OwnCursor(None, None))
    again = record_write([tombstone("t-2")], row=outcome.row, newest=NEWER, settled=NEW)
    assert committed(database, again, clock).row == OwnCursor(NEWER, NEW)


def test_a_reset_of_another_stream_does_not(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Nor does one to where the stream stands."""
    write = record_write([tombstone("t-1")], newest=NEW)
    with writing(database) as connection:
        records.reset_beside(connection, PEER, REVOCATIONS, OLD, "alice", clock)
        records.reset_beside(connection, PEER, TOMBSTONES, None, "alice", clock)
    committed(database, write, clock)
    assert ids(node) == ["t-1"]


@pytest.mark.parametrize("artifact", list(Artifact))
def test_an_id_that_came_in_between_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock, artifact: Artifact
) -> None:
    """The node's push route took it: the page is judged again, against what it holds now."""
    add_tombstone(node, "target")
    write = (
        record_write([tombstone("t-0"), tombstone("x")], newest=NEW)
        if artifact is Artifact.TOMBSTONE
        else record_write([revocation("r-0", "target"), revocation("x", "target")], REVOKING)
    )
    if artifact is Artifact.TOMBSTONE:
        add_tombstone(node, "x")
    else:
        add_revocation(node, "x", "target")
    outcome = nothing_written(database, node, write, clock)
    assert outcome == NotWritten(Fallen.FACTS, OwnCursor())


@SQLITE_ONLY
def test_the_same_id_of_the_other_kind_is_no_hindrance(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    add_tombstone(node, "x")
    committed(database, record_write([revocation("x", "x")], REVOKING), clock)
    assert ids(node, REVOKING) == ["x"]


@SQLITE_ONLY
def test_a_peer_that_is_no_longer_active_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """An order to forget from a peer that an operator revoked is not carried out."""
    node.run("UPDATE peers SET status = 'revoked'")
    before = held(node)
    with pytest.raises(UnknownPeerError):
        apply.apply(database, full_write(), clock)
    assert held(node) == before


@SQLITE_ONLY
def test_a_peer_that_somebody_else_took_stops_the_batch(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    before = held(node)
    with pytest.raises(PeerHeldError):
        apply.apply(database, record_write([tombstone("t")], still_held=lambda: False), clock)
    assert held(node) == before


def test_a_revocation_of_nothing_takes_its_batch_with_it(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The foreign key is the last to see that a tombstone is missing; nothing is half written."""
    add_tombstone(node, "t-1")
    before = held(node)
    judged = [revocation("r-1", "t-1"), revocation("r-2", "missing")]
    with pytest.raises(REFUSED_BY_SCHEMA):
        apply.apply(database, record_write(judged, REVOKING, newest=NEWER), clock)
    assert held(node) == before


# failures


@pytest.mark.parametrize("point", list(Point))
def test_an_interruption_leaves_all_or_nothing(
    database: Database,
    node: NodeDatabase,
    clock: FakeClock,
    point: Point,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to the commit nothing is left and the same batch can come again; then all stays."""

    def reached(at: Point) -> None:
        if at is point:
            raise KeyboardInterrupt

    before = held(node)
    with monkeypatch.context() as broken:
        broken.setattr(apply, "reached", reached)
        with pytest.raises(KeyboardInterrupt):
            apply.apply(database, full_write(), clock)
    if point is Point.AFTER_COMMIT:
        assert (ids(node), commits(node)) == (["t-1"], 1)
        assert node.rows("replicator_cursors")[0]["frontier"] == NEW
        return
    assert held(node) == before
    committed(database, full_write(), clock)


@pytest.mark.parametrize("happened", [True, False])
def test_the_answer_to_a_commit_is_lost(
    database: Database,
    node: NodeDatabase,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    happened: bool,
) -> None:
    """The peer's commit number tells whether the batch is durable, also beside facts."""
    facts = world.batch_write(world.planned([world.admitted("f-1")]))
    committed(database, facts, clock)
    write, before = full_write(), held(node)
    with monkeypatch.context() as broken:
        broken.setattr(database.write.dialect, "do_commit", _lost(node, happened=happened))
        if happened:
            assert committed(database, write, clock).row == OwnCursor(NEW, OLD)
        else:
            with pytest.raises(LocalError) as caught:
                apply.apply(database, write, clock)
            assert caught.value.reason is Reason.DATABASE_FAILED
    if not happened:
        assert held(node) == before
        committed(database, write, clock)
    assert (ids(node), commits(node)) == (["t-1"], 2)
    assert node.rows("replicator_dead_letters")[0]["times_seen"] == 1


def _lost(node: NodeDatabase, *, happened: bool) -> Callable[[Any], None]:
    """In place of the driver's COMMIT: the first fails, having committed or not."""
    error = (sqlite3 if node.backend == "sqlite" else psycopg).OperationalError("disk I/O error")
    calls: list[object] = []

    def commit(connection: Any) -> None:  # noqa: ANN401 - the driver's own
        calls.append(connection)
        if happened or len(calls) > 1:
            connection.commit()
        else:
            connection.rollback()
        if len(calls) == 1:
            raise error

    return commit


@SQLITE_ONLY
def test_times_of_the_audit_are_of_the_writing(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The issuer's time is the record's, ours the audit's."""
    committed(database, record_write([tombstone("t-1", created_at=OLD)]), clock)
    assert node.rows("tombstones")[0]["created_at"] == OLD
    assert node.rows("fact_audit_log")[0]["ts"] == NOW.isoformat()
