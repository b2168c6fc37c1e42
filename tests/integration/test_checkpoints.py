"""Cursors of all peers for a checkpoint file, and dead letters in chunks, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from stigmem_replicator.replication.session import Checkpoint, Position
from stigmem_replicator.store import checkpoints, events, letters, positions, records
from stigmem_replicator.store.checkpoints import Outcome, Restored, Statement, StreamState
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.letters import Narrowing
from stigmem_replicator.store.own_models import FACTS, DeadLetter
from tests.integration.world import PEER, FakeClock, add_peer
from tests.nodes.database import NodeDatabase
from tests.unit.signed import NOW, NOW_MS

OTHER_ID, OTHER = "peer-other", "stigmem:node:zz-other"


@pytest.fixture
def two(database: Database, node: NodeDatabase) -> Database:
    """A database with two peers."""
    add_peer(node, id=OTHER_ID, node_id=OTHER)
    return database


def restore(
    database: Database, clock: FakeClock, *statements: Statement, force: bool = False
) -> list[Restored]:
    with writing(database) as connection:
        return checkpoints.restore(connection, statements, force=force, actor="alice", clock=clock)


def cursors(database: Database) -> dict[tuple[str, str], str | None]:
    with reading(database) as connection:
        found = checkpoints.entries(connection)
    return {(item.peer_node_id, item.direction): item.cursor for item in found}


def test_entries_are_every_cursor_with_its_peer(
    two: Database, clock: FakeClock, node: NodeDatabase
) -> None:
    """Both directions are there, ordered by node id and direction, with the peer's own row."""
    restore(
        two,
        clock,
        Statement(OTHER_ID, None, "inbound", None),
        Statement(PEER.id, None, "outbound", "2.0"),
        Statement(PEER.id, None, "inbound", "1.0"),
    )
    with reading(two) as connection:
        first, second, third = checkpoints.entries(connection)
    (peer,) = [row for row in node.rows("peers") if row["id"] == PEER.id]
    assert first == checkpoints.CursorEntry(
        PEER.id, PEER.node_id, peer["node_url"], "active", "inbound", "1.0", NOW.isoformat()
    )
    assert (second.direction, second.cursor) == ("outbound", "2.0")
    assert (third.peer_node_id, third.cursor) == (OTHER, None)


def test_a_cursor_that_is_set_stays_without_force(two: Database, clock: FakeClock) -> None:
    """What is null or missing is filled; what is set is only overwritten when forced."""
    restore(two, clock, Statement(OTHER_ID, None, "inbound", None))
    restore(two, clock, Statement(PEER.id, None, "inbound", "1.0"))
    again = (
        Statement(PEER.id, None, "inbound", "9.0"),
        Statement(OTHER_ID, None, "inbound", "9.0"),
    )
    done = restore(two, clock, *again)
    assert [item.outcome for item in done] == [Outcome.ALREADY_SET, Outcome.RESTORED]
    assert cursors(two)[PEER.node_id, "inbound"] == "1.0"
    assert cursors(two)[OTHER, "inbound"] == "9.0"
    restore(two, clock, *again, force=True)
    assert set(cursors(two).values()) == {"9.0"}


def test_an_imported_cursor_counts_as_settled(
    two: Database, clock: FakeClock, node: NodeDatabase
) -> None:
    """Without more in the file the settled position is the cursor, and later checkpoints go."""
    kept = (Checkpoint("3.0", 3), Checkpoint("7.0", 7))
    with writing(two) as connection:
        positions.write_position(connection, PEER, FACTS, Position("8.0", "7.0", checkpoints=kept))
    restore(two, clock, Statement(PEER.id, None, "inbound", "5.0"), force=True)
    with reading(two) as connection:
        found = checkpoints.states(connection)
    assert found == {PEER.node_id: StreamState("5.0", kept[:1])}
    (event,) = node.rows("replicator_events")
    assert (event["event"], event["actor"]) == (events.CURSOR_IMPORTED, "alice")


def test_a_state_is_restored_no_further_than_its_cursor(two: Database, clock: FakeClock) -> None:
    """Settled position and checkpoints come from the file, cut off at the cursor."""
    kept = (Checkpoint("3.0", 3), Checkpoint("4.0", 4), Checkpoint("7.0", 7))
    for settled, cursor, expected in (
        ("4.0", "8.0", StreamState("4.0", kept[:2])),
        ("7.0", "5.0", StreamState("5.0", kept[:2])),
        ("7.0", None, StreamState(None, ())),
        (None, "8.0", StreamState(None, ())),
    ):
        state = StreamState(settled, kept)
        restore(two, clock, Statement(PEER.id, None, "inbound", cursor, state), force=True)
        with reading(two) as connection:
            assert checkpoints.states(connection)[PEER.node_id] == expected


def test_the_history_tells_direction_and_force(two: Database, clock: FakeClock) -> None:
    """Events of the cursor come newest first; other events are none of them."""
    with writing(two) as connection:
        events.note(connection, PEER.node_id, events.STATE_CHANGED, "replicator", {}, clock)
        detail = {"before": None, "after": "1.0"}
        events.note(connection, PEER.node_id, events.FIRST_CONTACT, "replicator", detail, clock)
        records.reset_cursor(
            connection, PEER, FACTS, "6.0", "bob", clock, event=events.CURSOR_SET, forced=True
        )
    restore(two, clock, Statement(PEER.id, None, "outbound", "2.0"))
    with reading(two) as connection:
        found = checkpoints.history(connection, PEER.node_id)
        assert checkpoints.history(connection, OTHER) == []
        assert checkpoints.history(connection, PEER.node_id, 1) == found[:1]
    assert [(item.event, item.direction, item.after, item.forced) for item in found] == [
        (events.CURSOR_IMPORTED, "outbound", "2.0", False),
        (events.CURSOR_SET, "inbound", "6.0", True),
        (events.FIRST_CONTACT, "inbound", "1.0", False),
    ]
    assert {item.at_ms for item in found} == {NOW_MS}


def test_positions_that_a_peer_gave(two: Database, clock: FakeClock) -> None:
    """Where reading stands and stood, and checkpoints; not what was forced and left again."""

    def place(cursor: str | None, *, forced: bool = False) -> frozenset[str]:
        with writing(two) as connection:
            records.reset_cursor(connection, PEER, FACTS, cursor, "bob", clock, forced=forced)
            return checkpoints.given_positions(connection, PEER)

    with writing(two) as connection:
        position = Position("8.0", "7.0", checkpoints=(Checkpoint("3.0", 3),))
        positions.write_cursor_row(connection, PEER, "8.0", clock)
        positions.write_position(connection, PEER, FACTS, position)
        assert checkpoints.given_positions(connection, PEER) == {"3.0", "7.0", "8.0"}
    assert place("5.0", forced=True) == {"3.0", "5.0", "8.0"}
    assert place(None) == {"8.0"}


def letter(**changes: object) -> dict[str, Any]:
    return {
        "node_id": PEER.node_id,
        "stream": FACTS,
        "entry_id": "e",
        "reason": "hlc_skew",
        "detail": "",
        "payload": '"\\u00fc"',
        "payload_hash": "",
        "generation": "",
        "first_seen_at_ms": 1,
        "last_seen_at_ms": 1,
        "times_seen": 1,
        "status": "open",
        **changes,
    }


def test_chunks_of_letters_are_all_of_them(two: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunk after chunk, each no larger than it may be, every letter comes once."""
    monkeypatch.setattr(letters, "CHUNK_ROWS", 4)
    monkeypatch.setattr(letters, "CHUNK_BYTES", 24)
    ids = [f"{prefix}{number}" for prefix in ("b", "A", "ä", "_") for number in range(5)]
    with writing(two) as connection:
        rows = [letter(entry_id=name, node_id=n) for name in ids for n in (PEER.node_id, OTHER)]
        rows.append(letter(entry_id="large", payload='"' + "x" * 100 + '"', reason="cid_mismatch"))
        rows.append(letter(entry_id="dropped", payload=None))
        connection.execute(insert(DeadLetter), rows)

    def everything(narrowing: Narrowing) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = []
        while True:
            with reading(two) as connection:
                chunk = letters.chunk(connection, narrowing, found[-1] if found else None)
            if not chunk:
                return found
            assert len(chunk) <= 4
            sizes = [len(item.payload or "") for item in chunk]
            assert sum(sizes) <= 24 or len(chunk) == 1 or sizes[0] == 0
            found += [letters.key(item) for item in chunk]

    found = everything(Narrowing())
    assert len(found) == len(set(found)) == len(rows)
    assert {key[0] for key in everything(Narrowing(node_id=OTHER))} == {OTHER}
    assert [key[2] for key in everything(Narrowing(reason="cid_mismatch"))] == ["large"]
