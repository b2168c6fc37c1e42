"""One batch in one transaction: everything that it writes, and how it is stamped."""

from __future__ import annotations

import json

import pytest

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication.plan import Judged, Siblings
from stigmem_replicator.replication.session import Checkpoint, Position
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.reads import CursorRow
from stigmem_replicator.trust.verdicts import Duplicate
from tests.integration.world import (
    KEY,
    PEER,
    SQLITE_ONLY,
    FakeClock,
    add_fact,
    admitted,
    batch_write,
    commits,
    committed,
    planned,
    progress,
    rejected,
    status,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW, NOW_MS

# what is written


def test_one_batch_writes_all_its_rows_together(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Fact, meta fact, conflict, audits, dead letter, counters and cursor are one transaction."""
    add_fact(node, "s-1")
    batch = planned(
        [admitted("f-1"), rejected("f-2"), Judged("f-3", Duplicate("f-3"))],
        {KEY: Siblings(("s-1",), 1)},
    )
    moves = progress(f"{NOW_MS}.0", settled="1.0", checkpoints=(Checkpoint("1.0", 7),))
    outcome = committed(database, batch_write(batch, moves=moves), clock)

    facts = {row["id"]: row for row in node.rows("facts")}
    assert len(facts) == 5
    written = facts["f-1"]
    planned_row = batch.facts[0].values
    assert {name: written[name] for name in planned_row} == planned_row
    assert (written["garden_id"], written["attested"], written["quarantine_status"]) == (None,) * 3
    (conflict,) = node.rows("conflicts")
    assert (conflict["fact_a_id"], conflict["fact_b_id"]) == ("f-1", "s-1")
    assert (conflict["status"], conflict["resolution_fact_id"]) == ("unresolved", None)
    (federation,) = node.rows("federation_audit")
    assert (federation["peer_id"], federation["event_type"]) == (PEER.id, "rejected_fact")
    (audit,) = node.rows("fact_audit_log")
    assert (audit["fact_id"], audit["event_type"]) == ("f-2", "federation_integrity_rejected")
    (letter,) = node.rows("replicator_dead_letters")
    assert (letter["entry_id"], letter["status"]) == ("f-2", "open")
    (cursor,) = node.rows("replication_cursors")
    assert cursor == {
        "peer_id": PEER.id,
        "direction": "inbound",
        "cursor": f"{NOW_MS}.0",
        "updated_at": NOW.isoformat(),
    }
    assert outcome.row == CursorRow(f"{NOW_MS}.0", NOW.isoformat())
    (own,) = node.rows("replicator_cursors")
    assert (own["frontier"], own["settled"]) == (f"{NOW_MS}.0", "1.0")
    (kept,) = node.rows("replicator_checkpoints")
    assert (kept["position"], kept["kept_at_ms"]) == ("1.0", 7)
    counted = status(node)
    assert counted["commit_number"] == 1
    assert (counted["admitted"], counted["duplicates"], counted["rejected"]) == (1, 1, 1)
    assert (counted["pages"], counted["last_success_ms"]) == (1, NOW_MS)


def test_a_batch_before_the_last_moves_no_cursor(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Only the page's last transaction carries the cursor and counts the page."""
    outcome = committed(database, batch_write(planned([admitted("f-1")])), clock)
    assert outcome.row is None
    assert node.rows("replication_cursors") == []
    assert node.rows("replicator_cursors") == []
    counted = status(node)
    assert (counted["pages"], counted["last_success_ms"], counted["admitted"]) == (0, None, 1)


def test_batches_follow_each_other(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Each transaction expects what the one before it left, and totals add up."""
    first = committed(
        database, batch_write(planned([admitted("f-1")]), moves=progress("5.0")), clock
    )
    clock.advance(1)
    before = Position("5.0", None)
    second = batch_write(
        planned([admitted("f-2", entity="other"), rejected("f-3")]),
        row=first.row,
        moves=progress("6.0", before=before),
    )
    assert commits(node) == 1
    committed(database, second, clock)
    counted = status(node)
    assert counted["commit_number"] == 2
    assert (counted["admitted"], counted["rejected"], counted["pages"]) == (2, 1, 2)
    assert node.rows("replication_cursors")[0]["cursor"] == "6.0"


@SQLITE_ONLY
def test_the_full_text_index_knows_new_facts(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The node's own trigger runs for what we insert, so that recall finds it."""
    committed(database, batch_write(planned([admitted("f-1")])), clock)
    found = node.query("SELECT fact_id FROM facts_fts WHERE facts_fts MATCH 'CEO'")
    assert found == [("f-1",)]


@SQLITE_ONLY
def test_audit_rows_are_numbered_by_their_place(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """The sequence number is the row's own, as the node numbers its audit rows."""
    node.insert("fact_audit_log", id="older", ts="then")
    batch = planned([rejected(f"f-{n}") for n in range(3)])
    committed(database, batch_write(batch), clock)
    ours = node.query("SELECT seq, rowid FROM fact_audit_log WHERE id <> 'older'")
    assert ours == [(2, 2), (3, 3), (4, 4)]
    assert node.query("SELECT seq FROM fact_audit_log WHERE id = 'older'") == [(None,)]
    details = [json.loads(row["detail"]) for row in node.rows("fact_audit_log")[1:]]
    assert {detail["sender_node_id"] for detail in details} == {PEER.node_id}


@pytest.mark.parametrize(
    "reason", [Reason.SCOPE_NOT_PERMITTED, Reason.HLC_SKEW, Reason.ID_REQUIRED]
)
def test_every_audit_row_passes_the_nodes_constraint(
    database: Database, node: NodeDatabase, clock: FakeClock, reason: Reason
) -> None:
    """The real schema takes the event that each kind of rejection is audited with."""
    committed(database, batch_write(planned([rejected("f-1", reason)])), clock)
    assert len(node.rows("federation_audit")) == 1


# stamps


def stamps(node: NodeDatabase) -> list[tuple[int, int]]:
    found = [(row["hlc"],) for row in node.rows("facts")]
    return [hlc.parse(text) for (text,) in found]


def test_stamps_rise_and_lie_above_everything(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Each row's HLC is greater than the one before it, than its wire HLC and than our clock."""
    ahead = NOW_MS + 250_000
    judged = [
        admitted("f-1", entity="a", hlc=f"{NOW_MS - 9}.7"),
        admitted("f-2", entity="b", hlc=f"{ahead}.41"),
        admitted("f-3", entity="c", hlc=f"{ahead}.99"),
        admitted("f-4", entity="d", hlc=None),
    ]
    committed(database, batch_write(planned(judged)), clock)
    got = stamps(node)
    assert got[0] == (NOW_MS, 0)
    assert got == sorted(set(got))
    assert got[2] == (ahead, 42)
    assert got[4] == (ahead, 100)
    (row,) = node.rows("replicator_clock")
    assert (row["wall_ms"], row["counter"]) == got[-1]


def test_stamps_rise_over_transactions_when_the_wall_clock_steps_back(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Our clock row remembers the last stamp, so a clock set back does not make stamps fall."""
    committed(database, batch_write(planned([admitted("f-1", entity="a")])), clock)
    clock.wall_ms -= 3_600_000
    batch = planned([admitted("f-2", entity="b")])
    committed(database, batch_write(batch), clock)
    got = stamps(node)
    assert got == sorted(set(got))
    assert got[-1][0] == NOW_MS
