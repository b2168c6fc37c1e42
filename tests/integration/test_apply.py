"""One batch in one transaction: everything it writes, what makes it write nothing, lost answers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from stigmem_replicator.errors import LocalError, Reason, UnknownPeerError
from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication.plan import Batch, Judged, RefusedBefore, Siblings
from stigmem_replicator.replication.session import Checkpoint, Position, Progress
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import (
    BatchWrite,
    Committed,
    Fallen,
    NotWritten,
    Point,
)
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import CursorRow
from stigmem_replicator.trust.facts import Duplicate
from tests.integration.world import (
    KEY,
    PEER,
    FakeClock,
    add_fact,
    admitted,
    dump,
    insert,
    planned,
    progress,
    query,
    rejected,
    rows,
    run,
)
from tests.unit.signed import NOW, NOW_MS

Crash = Callable[[Point], None]


def batch_write(
    batch: Batch,
    *,
    row: CursorRow | None = None,
    commit_number: int = 0,
    moves: Progress | None = None,
    letter_bytes: int | None = None,
) -> BatchWrite:
    return BatchWrite(PEER, FACTS, row, commit_number, batch, moves, letter_bytes)


def committed(database: Database, write: BatchWrite, clock: FakeClock) -> Committed:
    outcome = apply.apply(database, write, clock)
    assert isinstance(outcome, Committed), outcome
    return outcome


def status(database: Database) -> dict[str, Any]:
    (row,) = rows(database.path, "replicator_peers")
    return row


# what is written


def test_one_batch_writes_all_its_rows_together(database: Database, clock: FakeClock) -> None:
    """Fact, meta fact, conflict, audits, dead letter, counters and cursor are one transaction."""
    add_fact(database.path, "s-1")
    batch = planned(
        [admitted("f-1"), rejected("f-2"), Judged("f-3", Duplicate("f-3"))],
        {KEY: Siblings(("s-1",), 1)},
    )
    moves = progress(f"{NOW_MS}.0", settled="1.0", checkpoints=(Checkpoint("1.0", 7),))
    outcome = committed(database, batch_write(batch, moves=moves), clock)

    facts = {row["id"]: row for row in rows(database.path, "facts")}
    assert len(facts) == 5
    written = facts["f-1"]
    planned_row = batch.facts[0].values
    assert {name: written[name] for name in planned_row} == planned_row
    assert (written["garden_id"], written["attested"], written["quarantine_status"]) == (None,) * 3
    (conflict,) = rows(database.path, "conflicts")
    assert (conflict["fact_a_id"], conflict["fact_b_id"]) == ("f-1", "s-1")
    assert (conflict["status"], conflict["resolution_fact_id"]) == ("unresolved", None)
    (federation,) = rows(database.path, "federation_audit")
    assert (federation["peer_id"], federation["event_type"]) == (PEER.id, "rejected_fact")
    (audit,) = rows(database.path, "fact_audit_log")
    assert (audit["fact_id"], audit["event_type"]) == ("f-2", "federation_integrity_rejected")
    (letter,) = rows(database.path, "replicator_dead_letters")
    assert (letter["entry_id"], letter["status"]) == ("f-2", "open")
    (cursor,) = rows(database.path, "replication_cursors")
    assert cursor == {
        "peer_id": PEER.id,
        "direction": "inbound",
        "cursor": f"{NOW_MS}.0",
        "updated_at": NOW.isoformat(),
    }
    assert outcome.row == CursorRow(f"{NOW_MS}.0", NOW.isoformat())
    (own,) = rows(database.path, "replicator_cursors")
    assert (own["frontier"], own["settled"]) == (f"{NOW_MS}.0", "1.0")
    (kept,) = rows(database.path, "replicator_checkpoints")
    assert (kept["position"], kept["kept_at_ms"]) == ("1.0", 7)
    counted = status(database)
    assert outcome.commit_number == counted["commit_number"] == 1
    assert (counted["admitted"], counted["duplicates"], counted["rejected"]) == (1, 1, 1)
    assert (counted["pages"], counted["last_success_ms"]) == (1, NOW_MS)


def test_a_batch_before_the_last_moves_no_cursor(database: Database, clock: FakeClock) -> None:
    """Only the page's last transaction carries the cursor and counts the page."""
    outcome = committed(database, batch_write(planned([admitted("f-1")])), clock)
    assert outcome.row is None
    assert rows(database.path, "replication_cursors") == []
    assert rows(database.path, "replicator_cursors") == []
    counted = status(database)
    assert (counted["pages"], counted["last_success_ms"], counted["admitted"]) == (0, None, 1)


def test_batches_follow_each_other(database: Database, clock: FakeClock) -> None:
    """Each transaction expects what the one before it left, and totals add up."""
    first = committed(
        database, batch_write(planned([admitted("f-1")]), moves=progress("5.0")), clock
    )
    clock.advance(1)
    before = Position("5.0", None)
    second = batch_write(
        planned([admitted("f-2", entity="other"), rejected("f-3")]),
        row=first.row,
        commit_number=first.commit_number,
        moves=progress("6.0", before=before),
    )
    assert committed(database, second, clock).commit_number == 2
    counted = status(database)
    assert (counted["admitted"], counted["rejected"], counted["pages"]) == (2, 1, 2)
    assert rows(database.path, "replication_cursors")[0]["cursor"] == "6.0"


def test_the_full_text_index_knows_new_facts(database: Database, clock: FakeClock) -> None:
    """The node's own trigger runs for what we insert, so that recall finds it."""
    committed(database, batch_write(planned([admitted("f-1")])), clock)
    found = query(database.path, "SELECT fact_id FROM facts_fts WHERE facts_fts MATCH 'CEO'")
    assert found == [("f-1",)]


def test_audit_rows_are_numbered_by_their_place(database: Database, clock: FakeClock) -> None:
    """The sequence number is the row's own, as the node numbers its audit rows."""
    insert(database.path, "fact_audit_log", id="older", ts="then")
    batch = planned([rejected(f"f-{n}") for n in range(3)])
    committed(database, batch_write(batch), clock)
    ours = query(database.path, "SELECT seq, rowid FROM fact_audit_log WHERE id <> 'older'")
    assert ours == [(2, 2), (3, 3), (4, 4)]
    assert query(database.path, "SELECT seq FROM fact_audit_log WHERE id = 'older'") == [(None,)]
    details = [json.loads(row["detail"]) for row in rows(database.path, "fact_audit_log")[1:]]
    assert {detail["sender_node_id"] for detail in details} == {PEER.node_id}


@pytest.mark.parametrize(
    "reason", [Reason.SCOPE_NOT_PERMITTED, Reason.HLC_SKEW, Reason.ID_REQUIRED]
)
def test_every_audit_row_passes_the_nodes_constraint(
    database: Database, clock: FakeClock, reason: Reason
) -> None:
    """The real schema takes the event that each kind of rejection is audited with."""
    committed(database, batch_write(planned([rejected("f-1", reason)])), clock)
    assert len(rows(database.path, "federation_audit")) == 1


# stamps


def stamps(database: Database) -> list[tuple[int, int]]:
    found = query(database.path, "SELECT hlc FROM facts ORDER BY rowid")
    return [hlc.parse(text) for (text,) in found]


def test_stamps_rise_and_lie_above_everything(database: Database, clock: FakeClock) -> None:
    """Each row's HLC is greater than the one before it, than its wire HLC and than our clock."""
    ahead = NOW_MS + 250_000
    judged = [
        admitted("f-1", entity="a", hlc=f"{NOW_MS - 9}.7"),
        admitted("f-2", entity="b", hlc=f"{ahead}.41"),
        admitted("f-3", entity="c", hlc=f"{ahead}.99"),
        admitted("f-4", entity="d", hlc=None),
    ]
    committed(database, batch_write(planned(judged)), clock)
    got = stamps(database)
    assert got[0] == (NOW_MS, 0)
    assert got == sorted(set(got))
    assert got[2] == (ahead, 42)
    assert got[4] == (ahead, 100)
    (row,) = rows(database.path, "replicator_clock")
    assert (row["wall_ms"], row["counter"]) == got[-1]


def test_stamps_rise_over_transactions_when_the_wall_clock_steps_back(
    database: Database, clock: FakeClock
) -> None:
    """Our clock row remembers the last stamp, so a clock set back does not make stamps fall."""
    committed(database, batch_write(planned([admitted("f-1", entity="a")])), clock)
    clock.wall_ms -= 3_600_000
    batch = planned([admitted("f-2", entity="b")])
    committed(database, batch_write(batch, commit_number=1), clock)
    got = stamps(database)
    assert got == sorted(set(got))
    assert got[-1][0] == NOW_MS


# dead letters


def letter(database: Database, entry_id: str = "f-1") -> dict[str, Any]:
    return next(
        row for row in rows(database.path, "replicator_dead_letters") if row["entry_id"] == entry_id
    )


def test_a_letter_that_comes_again_is_renewed_and_counted(
    database: Database, clock: FakeClock
) -> None:
    """The newest reason, payload and policy stand; when it was first seen stays."""
    committed(database, batch_write(planned([rejected("f-1", Reason.CID_LEGACY)])), clock)
    run(database.path, "UPDATE replicator_dead_letters SET status = 'discarded'")
    again = rejected("f-1", Reason.CID_MISMATCH, size=9)
    batch = planned([again], now_ms=NOW_MS + 5, generation="g2")
    committed(database, batch_write(batch, commit_number=1), clock)
    got = letter(database)
    assert (got["reason"], got["payload"]) == ("cid_mismatch", again.payload.decode())
    assert (got["payload_hash"], got["generation"]) == (again.payload_hash, "g2")
    assert (got["first_seen_at_ms"], got["last_seen_at_ms"]) == (NOW_MS, NOW_MS + 5)
    assert (got["times_seen"], got["status"]) == (2, "open")


def test_an_entry_refused_before_is_only_counted(database: Database, clock: FakeClock) -> None:
    """Touching a letter changes when it was last seen and how often, nothing else."""
    committed(database, batch_write(planned([rejected("f-1"), rejected("f-2")])), clock)
    before = letter(database)
    clock.advance(3600)
    seen = Judged("f-1", RefusedBefore(Reason.CID_MISMATCH, touch=True))
    committed(database, batch_write(planned([seen]), commit_number=1), clock)
    touched = {"last_seen_at_ms": NOW_MS + 3_600_000, "times_seen": 2}
    assert letter(database) == {**before, **touched}
    assert letter(database, "f-2")["times_seen"] == 1
    assert len(rows(database.path, "federation_audit")) == 2


def test_a_letter_is_settled_when_its_entry_is_admitted(
    database: Database, clock: FakeClock
) -> None:
    """The letter stays as a record and gives its payload back."""
    committed(database, batch_write(planned([rejected("f-1"), rejected("f-2")])), clock)
    batch = planned([admitted("f-1")], open_letters=["f-1"])
    committed(database, batch_write(batch, commit_number=1), clock)
    assert (letter(database)["status"], letter(database)["payload"]) == ("resolved", None)
    assert letter(database, "f-2")["status"] == "open"


def test_the_oldest_payloads_go_first(database: Database, clock: FakeClock) -> None:
    """Over the bound the payloads seen longest ago are dropped; their rows stay."""
    size = len(rejected("f-1", size=100).payload)
    for number in range(4):
        batch = planned([rejected(f"f-{number}", size=100)], now_ms=NOW_MS + number)
        write = batch_write(batch, commit_number=number, letter_bytes=2 * size)
        committed(database, write, clock)
    kept = {row["entry_id"]: row["payload"] is not None for row in letters(database)}
    assert kept == {"f-0": False, "f-1": False, "f-2": True, "f-3": True}
    assert all(row["payload_hash"] for row in letters(database))


def test_without_a_bound_payloads_stay(database: Database, clock: FakeClock) -> None:
    """Nothing is dropped while the payloads are known to fit."""
    committed(database, batch_write(planned([rejected("f-1", size=10_000)])), clock)
    assert letter(database)["payload"] is not None


def test_other_peers_payloads_are_not_trimmed(database: Database, clock: FakeClock) -> None:
    """The bound is one peer's."""
    committed(database, batch_write(planned([rejected("f-1", size=100)])), clock)
    run(database.path, "UPDATE replicator_dead_letters SET node_id = 'stigmem:node:other'")
    batch = planned([rejected("f-2", size=100)])
    committed(database, batch_write(batch, commit_number=1, letter_bytes=1), clock)
    assert letter(database, "f-1")["payload"] is not None
    assert letter(database, "f-2")["payload"] is None


def letters(database: Database) -> list[dict[str, Any]]:
    return rows(database.path, "replicator_dead_letters")


# assumptions


def full_write(database: Database) -> BatchWrite:
    """Return a write that would touch every table."""
    add_fact(database.path, "s-1")
    batch = planned([admitted("f-1"), rejected("f-2")], {KEY: Siblings(("s-1",), 1)})
    return batch_write(batch, moves=progress("5.0"))


def nothing_written(database: Database, write: BatchWrite, clock: FakeClock) -> NotWritten:
    before = dump(database)
    outcome = apply.apply(database, write, clock)
    assert isinstance(outcome, NotWritten), outcome
    assert dump(database) == before
    return outcome


def test_a_cursor_row_that_appeared_stops_the_batch(database: Database, clock: FakeClock) -> None:
    """Somebody else wrote a cursor: nothing is written, and the row is told."""
    write = full_write(database)
    row = {"peer_id": PEER.id, "direction": "inbound", "updated_at": "now"}
    insert(database.path, "replication_cursors", cursor="9.0", **row)
    outcome = nothing_written(database, write, clock)
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
    database: Database, clock: FakeClock, change: str, now: CursorRow | None
) -> None:
    """The whole row is compared, so a reset to the same cursor is seen too."""
    row = {"peer_id": PEER.id, "direction": "inbound", "cursor": "3.0", "updated_at": "then"}
    insert(database.path, "replication_cursors", **row)
    write = replace(full_write(database), row=CursorRow("3.0", "then"))
    run(database.path, change)
    assert nothing_written(database, write, clock) == NotWritten(Fallen.CURSOR, now)


def test_a_fact_that_appeared_stops_the_batch(database: Database, clock: FakeClock) -> None:
    """The node's own loop wrote one of the ids: the page is judged again."""
    write = full_write(database)
    add_fact(database.path, "f-1", entity="elsewhere")
    assert nothing_written(database, write, clock) == NotWritten(Fallen.FACTS, None)


def test_a_sibling_that_appeared_stops_the_batch(database: Database, clock: FakeClock) -> None:
    """A fact under one of the keys would have no conflict: the page is planned again."""
    write = full_write(database)
    add_fact(database.path, "s-2")
    assert nothing_written(database, write, clock) == NotWritten(Fallen.SIBLINGS, None)


def test_a_first_sibling_that_appeared_stops_the_batch(
    database: Database, clock: FakeClock
) -> None:
    """A key that was free counts as an assumption too."""
    write = batch_write(planned([admitted("f-1")]))
    add_fact(database.path, "s-1")
    assert nothing_written(database, write, clock) == NotWritten(Fallen.SIBLINGS, None)


def test_what_does_not_concern_the_batch_does_not_stop_it(
    database: Database, clock: FakeClock
) -> None:
    """Other facts, retractions and other peers' cursors are no assumption of this batch."""
    write = full_write(database)
    add_fact(database.path, "x-1", entity="other")
    add_fact(database.path, "x-2", confidence=0.0)
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
    database: Database, clock: FakeClock, change: str, word: str
) -> None:
    """Nothing of a page in flight is admitted from a peer that an operator revoked."""
    write = full_write(database)
    run(database.path, change)
    before = dump(database)
    with pytest.raises(UnknownPeerError) as caught:
        apply.apply(database, write, clock)
    assert caught.value.reason is Reason.PEER_NOT_ACTIVE
    assert word in caught.value.message
    assert dump(database) == before


# failures


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Point], None]:
    """Make the transaction fail at a point, as a process that ends there would."""

    def arm(point: Point) -> None:
        def reached(at: Point) -> None:
            if at is point:
                raise KeyboardInterrupt

        monkeypatch.setattr(apply, "reached", reached)

    return arm


@pytest.mark.parametrize("point", [Point.BEFORE_BEGIN, Point.AFTER_INSERTS, Point.BEFORE_COMMIT])
def test_before_the_commit_an_interruption_leaves_nothing(
    database: Database,
    clock: FakeClock,
    crash_at: Crash,
    point: Point,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever was inserted goes with the transaction, and the same batch can come again."""
    write = full_write(database)
    before = dump(database)
    with monkeypatch.context():
        crash_at(point)
        with pytest.raises(KeyboardInterrupt):
            apply.apply(database, write, clock)
    monkeypatch.undo()
    assert dump(database) == before
    committed(database, write, clock)


def test_after_the_commit_an_interruption_loses_nothing(
    database: Database, clock: FakeClock, crash_at: Crash
) -> None:
    """What was committed stays although its answer was never given."""
    write = full_write(database)
    crash_at(Point.AFTER_COMMIT)
    with pytest.raises(KeyboardInterrupt):
        apply.apply(database, write, clock)
    assert status(database)["commit_number"] == 1
    assert rows(database.path, "replication_cursors")[0]["cursor"] == "5.0"


class LostAnswer:
    """Takes the place of the driver's COMMIT: it fails, having committed or not."""

    def __init__(self, *, commits: bool) -> None:
        self.commits = commits
        self.calls = 0

    def __call__(self, connection: Any) -> None:  # noqa: ANN401 - the driver's own
        self.calls += 1
        if self.commits:
            connection.commit()
        raise sqlite3.OperationalError("disk I/O error")


def test_a_lost_answer_of_a_commit_that_happened_is_a_commit(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's commit number tells that the batch is durable, so it is not written again."""
    write = full_write(database)
    lost = LostAnswer(commits=True)
    with monkeypatch.context() as broken:
        broken.setattr(database.write.dialect, "do_commit", lost)
        outcome = committed(database, write, clock)
    assert lost.calls == 1
    assert outcome.commit_number == status(database)["commit_number"] == 1
    assert outcome.row == CursorRow("5.0", NOW.isoformat())
    following = planned([admitted("f-9", entity="other")])
    committed(database, batch_write(following, row=outcome.row, commit_number=1), clock)


def test_a_commit_that_failed_is_a_failure(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the new commit number nothing was written, and the same batch can come again."""
    write = full_write(database)
    before = dump(database)
    with monkeypatch.context() as broken:
        broken.setattr(database.write.dialect, "do_commit", LostAnswer(commits=False))
        with pytest.raises(LocalError) as caught:
            apply.apply(database, write, clock)
    assert caught.value.reason is Reason.DATABASE_FAILED
    assert dump(database) == before
    committed(database, write, clock)


def test_a_row_that_the_schema_refuses_fails_the_whole_batch(
    database: Database, clock: FakeClock
) -> None:
    """One bad row takes its batch with it, and the connection is good for the next."""
    batch = planned([admitted("f-1"), rejected("f-2")])
    batch.federation_audit[0]["event_type"] = "federation_integrity_rejected"
    before = dump(database)
    with pytest.raises(LocalError) as caught:
        apply.apply(database, batch_write(batch), clock)
    assert caught.value.reason is Reason.DATABASE_FAILED
    assert dump(database) == before
    committed(database, batch_write(planned([admitted("f-1")])), clock)


def test_a_locked_database_is_told_apart(database: Database, clock: FakeClock) -> None:
    """When the write lock cannot be had in time, nothing is written and the reason says so."""
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LocalError) as caught:
            apply.apply(database, batch_write(planned([admitted("f-1")])), clock)
    assert caught.value.reason is Reason.DATABASE_LOCKED
    committed(database, batch_write(planned([admitted("f-1")])), clock)


def test_other_writers_are_noticed(database: Database, clock: FakeClock) -> None:
    """The data version changes when somebody else committed, not when we did."""
    first = committed(database, batch_write(planned([rejected("f-1")])), clock)
    second = committed(database, batch_write(planned([rejected("f-2")]), commit_number=1), clock)
    assert first.data_version == second.data_version
    add_fact(database.path, "x")
    third = committed(database, batch_write(planned([rejected("f-3")]), commit_number=2), clock)
    assert third.data_version != second.data_version
