"""The small transactions: our clock, a peer's number, who works on it, how it ended, resets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from stigmem_replicator.protocol.hlc import HlcState
from stigmem_replicator.replication.session import Checkpoint
from stigmem_replicator.store import migrations, positions, reads, records, views
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import CursorRow
from stigmem_replicator.store.records import Ending, Holder, Observed, PeerState
from stigmem_replicator.trust.keys import parse_manifest
from tests.integration.world import (
    PEER,
    FakeClock,
    add_fact,
    new_id,
    progress,
    unstamp,
)
from tests.nodes.database import NodeDatabase
from tests.unit.signed import KEYS, NOW, NOW_MS, manifest_document, rotation

HOLDER = Holder("host-1", 4711, "pull", NOW_MS)


def status(node: NodeDatabase, node_id: str = PEER.node_id) -> dict[str, Any]:
    found = {row["node_id"]: row for row in node.rows("replicator_peers")}
    return found[node_id]


# the clock


def seeded(database: Database, node: NodeDatabase) -> HlcState:
    with writing(database) as connection:
        records.seed_clock(connection)
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


# numbers and holders


def test_each_peer_has_its_own_number_for_good(database: Database, clock: FakeClock) -> None:
    """A peer is numbered once; its number is the byte by which it is locked."""
    with writing(database) as connection:
        for node_id in ("b", "a", "b", PEER.node_id):
            records.enlist(connection, node_id, clock)
        numbers = {
            node_id: records.peer_number(connection, node_id)
            for node_id in (PEER.node_id, "a", "b")
        }
    assert numbers == {PEER.node_id: 1, "b": 2, "a": 3}


@pytest.mark.usefixtures("database")
def test_a_peer_begins_as_catching_up(node: NodeDatabase) -> None:
    """Before its first pull a peer has a state, a time, and no totals."""
    row = status(node)
    assert (row["state"], row["since_ms"], row["reason"]) == ("catching_up", NOW_MS, None)
    assert {row[name] for name in ("pages", "admitted", "rejected", "commit_number")} == {0}


def test_who_works_on_a_peer_can_be_named(database: Database, node: NodeDatabase) -> None:
    """Taking a peer notes the process and gives the commit number; letting go removes it."""
    node.run("UPDATE replicator_peers SET commit_number = 7")
    with writing(database) as connection:
        assert records.holder(connection, PEER.node_id) is None
        assert records.take(connection, PEER.node_id, HOLDER) == 7
        assert records.holder(connection, PEER.node_id) == HOLDER
        assert records.holder(connection, "unknown") is None
    assert str(HOLDER) == "process 4711 on host-1 (pull)"
    assert status(node)["last_attempt_ms"] == NOW_MS
    with writing(database) as connection:
        records.let_go(connection, PEER.node_id)
        assert records.holder(connection, PEER.node_id) is None


# endings and events


def end(database: Database, clock: FakeClock, ending: Ending) -> None:
    with writing(database) as connection:
        records.ended(connection, PEER.node_id, ending, clock)


def events(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    with reading(database) as connection:
        found = views.events(connection, PEER.node_id)
    return [(event.event, event.actor, json.loads(event.detail)) for event in reversed(found)]


def test_a_pull_that_caught_up_leaves_an_idle_peer(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Its times are noted and its failures forgotten."""
    node.run("UPDATE replicator_peers SET failures = 3, not_before_ms = 9")
    end(database, clock, Ending(PeerState.IDLE, caught_up_ms=NOW_MS - 5))
    row = status(node)
    assert (row["state"], row["failures"], row["not_before_ms"]) == ("idle", 0, None)
    assert (row["caught_up_ms"], row["last_success_ms"]) == (NOW_MS - 5, NOW_MS - 5)


def test_a_failure_is_counted_and_keeps_when_it_was_caught_up(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Reason, detail and the peer's wish to be left alone are kept; the last success stays."""
    end(database, clock, Ending(PeerState.IDLE, caught_up_ms=NOW_MS))
    clock.advance(60)
    throttled = Ending(
        PeerState.THROTTLED, "throttled", "asked us to wait", not_before_ms=NOW_MS + 10**6
    )
    end(database, clock, throttled)
    end(database, clock, throttled)
    row = status(node)
    assert (row["state"], row["reason"], row["detail"]) == (
        "throttled",
        "throttled",
        "asked us to wait",
    )
    assert (row["failures"], row["caught_up_ms"], row["since_ms"]) == (2, NOW_MS, NOW_MS + 60_000)
    with reading(database) as connection:
        assert records.not_before_ms(connection, PEER.node_id) == NOW_MS + 10**6


def observed(node: NodeDatabase) -> tuple[int | None, int | None, int | None]:
    row = status(node)
    return row["certificate_not_after_ms"], row["upstream_lag_ms"], row["upstream_lag_at_ms"]


def test_what_a_peer_told_of_itself_is_kept_until_it_tells_otherwise(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Nothing told leaves what is stored; a lag that is named no more is none."""
    idle = Ending(PeerState.IDLE, caught_up_ms=NOW_MS)
    for told, stored in (
        (None, (None, None, None)),
        (Observed(), (None, None, None)),
        (Observed(certificate_not_after_ms=7), (7, None, None)),
        (Observed(None, 60_001, 5), (7, 60_001, 5)),
        (None, (7, 60_001, 5)),
        (Observed(), (7, 60_001, 5)),
        (Observed(8, None, 6), (8, None, 6)),
        (Observed(None, 0, 9), (8, 0, 9)),
    ):
        end(database, clock, replace(idle, observed=told))
        assert observed(node) == stored
    assert len(events(database)) == 1


@pytest.mark.parametrize(("told", "stored"), [(10**30, 2**63 - 1), (-(10**30), 0)])
def test_a_lag_that_no_column_holds(
    database: Database, node: NodeDatabase, clock: FakeClock, told: int, stored: int
) -> None:
    """A peer may name any number: it is stored as near as it can be, and hinders nothing."""
    failed = Ending(PeerState.THROTTLED, "throttled", observed=Observed(None, told, NOW_MS))
    end(database, clock, failed)
    assert observed(node) == (None, stored, NOW_MS)


def test_only_changes_of_state_are_events(database: Database, clock: FakeClock) -> None:
    """The same ending again is no news; another reason is."""
    for ending in (
        Ending(PeerState.IDLE, caught_up_ms=NOW_MS),
        Ending(PeerState.IDLE, caught_up_ms=NOW_MS),
        Ending(PeerState.BACKING_OFF, "timeout", "slow"),
        Ending(PeerState.BACKING_OFF, "timeout", "slow again"),
        Ending(PeerState.BACKING_OFF, "unreachable"),
    ):
        end(database, clock, ending)
    assert [
        (event, detail["state"], detail["reason"]) for event, _, detail in events(database)
    ] == [
        ("state_changed", "idle", None),
        ("state_changed", "backing_off", "timeout"),
        ("state_changed", "backing_off", "unreachable"),
    ]


def test_twenty_events_of_a_peer_are_kept_and_all_of_operators(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """What the replicator notes itself is bounded for each peer; operators' actions never go."""
    with writing(database) as connection:
        records.note(connection, "other", "kept", records.REPLICATOR, {}, clock)
        for number in range(50):
            records.note(connection, PEER.node_id, "e", records.REPLICATOR, {"n": number}, clock)
            if number % 10 == 0:
                records.note(connection, PEER.node_id, "e", "alice", {"n": number}, clock)
    found = events(database)
    assert [detail["n"] for _, actor, detail in found if actor == "alice"] == [0, 10, 20, 30, 40]
    ours = [detail["n"] for _, actor, detail in found if actor == records.REPLICATOR]
    assert ours == list(range(30, 50))
    assert len(node.rows("replicator_events")) == 26


# the node's audit


def test_a_certificate_of_somebody_else_is_audited_as_the_node_does(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """One row under the peer's node id, in the closed list of events of the node's table."""
    with writing(database) as connection:
        records.audit_san_mismatch(connection, PEER, lambda: "audit-1", clock)
    assert node.rows("federation_audit") == [
        {
            "id": "audit-1",
            "peer_id": PEER.node_id,
            "event_type": "san_mismatch",
            "detail": f'{{"peer_node_id": "{PEER.node_id}", "direction": "pull"}}',
            "ts": NOW.isoformat(),
        }
    ]


# resets


def reset(database: Database, clock: FakeClock, cursor: str | None) -> CursorRow:
    with writing(database) as connection:
        return records.reset_cursor(connection, PEER, FACTS, cursor, "alice", clock)


@pytest.mark.parametrize(
    ("cursor", "kept"),
    [(None, []), ("2.5", ["1.0", "2.0"]), ("0.5", []), ("4.0", ["1.0", "2.0", "3.0"])],
)
def test_a_reset_sets_every_position_back(
    database: Database, clock: FakeClock, cursor: str | None, kept: list[str]
) -> None:
    """The node's row, frontier and settled position are one, and later checkpoints are gone."""
    checkpoints = tuple(Checkpoint(f"{n}.0", n) for n in (1, 2, 3))
    with writing(database) as connection:
        done = progress("5.0", settled="3.0", checkpoints=checkpoints)
        positions.save(connection, PEER, FACTS, None, done, clock)
    clock.advance(1)
    row = reset(database, clock, cursor)
    assert row == CursorRow(cursor, clock.now_iso())
    with reading(database) as connection:
        got = reads.stored_position(connection, PEER, FACTS)
    assert got.row == row
    assert (got.position.frontier, got.position.settled) == (cursor, cursor)
    assert [checkpoint.position for checkpoint in got.position.checkpoints] == kept
    assert got.position.origin_time_ms == NOW_MS - 50
    assert events(database) == [
        ("cursor_reset", "alice", {"stream": FACTS, "before": "5.0", "after": cursor})
    ]


def test_a_peer_that_was_never_pulled_can_be_reset(
    bare: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """A cursor may be set before the first pull; the peer gets its row."""
    migrations.upgrade(bare)
    assert reset(bare, clock, "7.0").cursor == "7.0"
    assert status(node)["number"] == 1
    assert events(bare)[0][2]["before"] is None


# manifests


def stored_manifest(
    database: Database, node: NodeDatabase, document: dict[str, Any]
) -> reads.StoredManifest:
    node.insert(
        "federation_manifests",
        id="m-1",
        entity_uri=document["entity_uri"],
        manifest_json=json.dumps(document),
        signature=document["signature"],
        key_id=document["key_id"],
        issued_at=document["issued_at"],
        expires_at=document["expires_at"],
        log_entry_json="{}",
        created_at="then",
        updated_at="then",
    )
    with reading(database) as connection:
        stored = reads.manifest(connection, document["entity_uri"])
    assert stored is not None
    return stored


def store(
    database: Database,
    node: NodeDatabase,
    clock: FakeClock,
    document: dict[str, Any],
    stored: reads.StoredManifest,
) -> dict[str, Any]:
    with writing(database) as connection:
        records.store_manifest(connection, PEER, parse_manifest(document), stored, clock, new_id)
    (row,) = node.rows("federation_manifests")
    return row


def test_a_newer_manifest_replaces_the_stored_one(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Every column follows, the proof of the old one goes, and the node's audit says so."""
    stored = stored_manifest(database, node, manifest_document(KEYS[0]))
    newer = manifest_document(KEYS[1], rotations=[rotation(KEYS[0], KEYS[1])])
    row = store(database, node, clock, newer, stored)
    assert json.loads(row["manifest_json"]) == newer
    assert (row["id"], row["created_at"], row["updated_at"]) == ("m-1", "then", NOW.isoformat())
    assert (row["key_id"], row["signature"]) == (KEYS[1].id, newer["signature"])
    assert (row["issued_at"], row["expires_at"]) == (newer["issued_at"], newer["expires_at"])
    assert row["log_entry_json"] is None
    (audit,) = node.rows("federation_audit")
    assert (audit["event_type"], audit["peer_id"]) == ("manifest_stored", PEER.id)
    assert json.loads(audit["detail"])["key_id"] == KEYS[1].id


def test_the_same_manifest_only_gets_a_new_time(
    database: Database, node: NodeDatabase, clock: FakeClock
) -> None:
    """Nothing changed, so its proof stays and nothing is audited."""
    document = manifest_document(KEYS[0])
    stored = stored_manifest(database, node, document)
    before = node.rows("federation_manifests")[0]
    row = store(database, node, clock, document, stored)
    assert row == {**before, "updated_at": NOW.isoformat()}
    assert node.rows("federation_audit") == []
