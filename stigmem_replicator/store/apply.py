"""One batch in one transaction: assumptions checked inside, HLCs stamped inside.

A batch was planned from what the database held a moment ago.  Inside the transaction every
assumption is looked at again: the cursor row, the peer's status, the ids, the number of facts
under each key.  If one fell, nothing is written and the page is planned again.  There is no
network, no signature check and no waiting in here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.exc import DBAPIError

from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import PeerHeldError, Reason, UnknownPeerError
from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication.plan import Batch, FactRow, Row
from stigmem_replicator.replication.session import Progress
from stigmem_replicator.store import hlc_clock, positions, reads, tombstones
from stigmem_replicator.store.engine import Database, local_errors
from stigmem_replicator.store.fallen import Fallen
from stigmem_replicator.store.node_models import (
    Conflict,
    Fact,
    FactAudit,
    FederationAudit,
    NodeBase,
    Peer,
    Tombstone,
    TombstoneRevocation,
)
from stigmem_replicator.store.own_models import FACTS, DeadLetter, PeerStatus
from stigmem_replicator.store.reads import PeerRow, StreamRow
from stigmem_replicator.store.siblings import sibling_counts
from stigmem_replicator.store.sql import insert_many, insert_or, place_in_table


class Point(StrEnum):
    """Moments of a transaction at which a test can stop the process."""

    BEFORE_BEGIN = "before_begin"
    AFTER_INSERTS = "after_inserts"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class BatchWrite:
    """One batch and what must still be true for it.

    ``row`` is the stream's row as last read or written.  ``progress`` comes with the page's last
    batch and moves the cursor.
    ``letter_bytes`` is what the payloads of the stream's dead letters must be trimmed to, None
    when they fit.  ``still_held`` says whether the peer's lock is still ours.
    """

    peer: PeerRow
    stream: str
    row: StreamRow
    batch: Batch
    progress: Progress | None
    letter_bytes: int | None = None
    still_held: Callable[[], bool] = _always


@dataclass(frozen=True, slots=True)
class Committed:
    """The batch is durable.

    ``row`` is what the next batch must expect; ``waited_s`` is how long the write lock was waited
    for and ``held_s`` how long it was held, in seconds.
    ``data_version`` changes between two commits of ours when somebody else committed.
    """

    row: StreamRow
    waited_s: float
    held_s: float
    data_version: int


@dataclass(frozen=True, slots=True)
class NotWritten:
    """An assumption fell and nothing was written; ``row`` is the cursor row as it is now.

    ``held_s`` is how long the write lock was held to find that out, in seconds, and ``why`` is the
    database's own word on an entry that it refuses.
    """

    fallen: Fallen
    row: StreamRow
    held_s: float = 0.0
    why: str = ""


def reached(point: Point) -> None:
    """Do nothing; tests replace this function to stop a process at a named point."""


def apply(database: Database, write: BatchWrite, clock: Clock) -> Committed | NotWritten:
    """Write one batch, or nothing.

    Raises :class:`UnknownPeerError` when the peer is no longer active and ``LocalError`` when
    the database cannot be written.
    """
    reached(Point.BEFORE_BEGIN)
    with local_errors(database), database.write.connect() as connection:
        asked = clock.monotonic()
        transaction = connection.begin()
        began = clock.monotonic()
        version = database.backend.version(connection)
        sent, row = False, write.row
        holder: _Holding | None = None
        try:
            fallen = _fallen_assumption(connection, write)
            if fallen is not None:
                transaction.rollback()
                return replace(fallen, held_s=clock.monotonic() - began)
            holder = _holder(connection, write)
            row = _write(connection, write, clock)
            reached(Point.BEFORE_COMMIT)
            sent = True
            transaction.commit()
        except DBAPIError as error:
            refused = database.backend.refusal(error)
            if refused is not None:
                transaction.rollback()
                fallen = NotWritten(refused.fallen, write.row, why=refused.why)
                return replace(fallen, held_s=clock.monotonic() - began)
            if not sent:
                transaction.rollback()
                raise
            # The answer to COMMIT may be what was lost: the peer's commit number tells.
            connection.invalidate()
            assert holder is not None  # noqa: S101 - read before anything was sent
            if not _is_written(database, write, holder):
                raise
        except BaseException:
            transaction.rollback()
            raise
        reached(Point.AFTER_COMMIT)
        return Committed(
            row=row,
            waited_s=began - asked,
            held_s=clock.monotonic() - began,
            data_version=version,
        )


@dataclass(frozen=True, slots=True)
class _Holding:
    """Who works on the peer, and the number of its commits."""

    host: str | None
    pid: int | None
    since_ms: int | None
    commit_number: int


def _holder(connection: Connection, write: BatchWrite) -> _Holding:
    row = connection.execute(
        select(
            PeerStatus.holder_host,
            PeerStatus.holder_pid,
            PeerStatus.holder_since_ms,
            PeerStatus.commit_number,
        ).where(PeerStatus.node_id == write.peer.node_id)
    ).first()
    return _Holding(None, None, None, 0) if row is None else _Holding(*row)


def _is_written(database: Database, write: BatchWrite, before: _Holding) -> bool:
    """Say whether the batch is written, although the answer to its commit was lost.

    Asked under the write lock, so that a commit that is still under way has ended, and by the
    thread that writes everything of this process; when somebody else has taken the peer since, a
    commit of theirs is not mistaken for ours.
    """
    with database.write.connect() as connection, connection.begin() as transaction:
        now = _holder(connection, write)
        transaction.rollback()
    return now == replace(before, commit_number=before.commit_number + 1)


def _fallen_assumption(connection: Connection, write: BatchWrite) -> NotWritten | None:
    # On PostgreSQL others write beside us: both rows stay as they are until we have committed.
    row = reads.stream_row(connection, write.peer, write.stream, lock=True)
    status = connection.scalar(
        select(Peer.status).where(Peer.id == write.peer.id).with_for_update(read=True)
    )
    if status != "active":
        raise UnknownPeerError(
            Reason.PEER_NOT_ACTIVE,
            f"peer {write.peer.node_id} is no longer active (it is {status or 'gone'})",
            hint="nothing of the page in flight was written",
        )
    if not write.still_held():
        raise PeerHeldError(
            Reason.PEER_HELD,
            f"the connection to the database was lost, and another process works on peer "
            f"{write.peer.node_id} since",
            hint="nothing more was written; run the command again",
        )
    if row != write.row:
        return NotWritten(Fallen.CURSOR, row)
    if _known(connection, write.stream, write.batch.admitted_ids):
        return NotWritten(Fallen.FACTS, row)
    expected = {key: count for key, count in write.batch.sibling_counts.items() if count}
    if sibling_counts(connection, list(write.batch.sibling_counts)) != expected:
        return NotWritten(Fallen.SIBLINGS, row)
    return None


def _known(connection: Connection, stream: str, ids: Sequence[str]) -> bool:
    """Say whether any of these ids is here already."""
    if stream == FACTS:
        return bool(reads.known_facts(connection, ids))
    return bool(tombstones.known_records(connection, stream, ids))


def _write(connection: Connection, write: BatchWrite, clock: Clock) -> StreamRow:
    batch = write.batch
    if batch.facts:
        _insert(connection, Fact, _stamped(connection, batch.facts, clock.now_ms()))
    if batch.conflicts:
        _insert(connection, Conflict, batch.conflicts)
    if batch.tombstones:
        _insert(connection, Tombstone, batch.tombstones)
    if batch.revocations:
        _insert(connection, TombstoneRevocation, batch.revocations)
    if batch.federation_audit:
        _insert(connection, FederationAudit, batch.federation_audit)
    if batch.fact_audit:
        _write_fact_audit(connection, batch.fact_audit)
    _write_letters(connection, write, clock.now_ms())
    reached(Point.AFTER_INSERTS)
    row = write.row
    if write.progress is not None:
        row = positions.save(connection, write.peer, write.stream, write.row, write.progress, clock)
    _count(connection, write, clock.now_ms())
    return row


def _insert(connection: Connection, model: type[NodeBase], rows: Sequence[Row]) -> None:
    connection.execute(insert_many(connection, model), rows)


def _stamped(connection: Connection, rows: Sequence[FactRow], now_ms: int) -> list[Row]:
    state = hlc_clock.read(connection)
    stamped = []
    for row in rows:
        if row.remote_hlc is None:
            state = hlc.tick(state, now_ms)
        else:
            remote = hlc.HlcState(*hlc.parse(row.remote_hlc))
            state = hlc.receive(state, remote, now_ms)
        stamped.append({**row.values, "hlc": state.text})
    hlc_clock.write(connection, state)
    return stamped


def _write_fact_audit(connection: Connection, rows: Sequence[Row]) -> None:
    _insert(connection, FactAudit, rows)
    # The node numbers its own audit rows by their place in the table, where there is one.
    connection.execute(
        update(FactAudit)
        .where(FactAudit.id.in_([row["id"] for row in rows]))
        .values(seq=place_in_table(connection, FactAudit.seq))
    )


def _write_letters(connection: Connection, write: BatchWrite, now_ms: int) -> None:
    batch = write.batch
    of_stream = (DeadLetter.node_id == write.peer.node_id, DeadLetter.stream == write.stream)
    # First what is settled: an id that is admitted may be refused again further down the page.
    if batch.settled_letters:
        connection.execute(
            update(DeadLetter)
            .where(*of_stream, DeadLetter.entry_id.in_(batch.settled_letters))
            .values(status="resolved", last_seen_at_ms=now_ms, payload=None)
        )
    if batch.dead_letters:
        new = insert_or(connection, DeadLetter)
        kept = ("node_id", "stream", "entry_id", "first_seen_at_ms", "times_seen")
        changed = {
            column.name: new.excluded[column.name]
            for column in DeadLetter.__table__.columns
            if column.name not in kept
        }
        connection.execute(
            new.on_conflict_do_update(
                index_elements=["node_id", "stream", "entry_id"],
                set_={**changed, "times_seen": DeadLetter.times_seen + 1},
            ),
            batch.dead_letters,
        )
        if write.letter_bytes is not None:
            _trim_payloads(connection, write)
    if batch.touched_letters:
        connection.execute(
            update(DeadLetter)
            .where(*of_stream, DeadLetter.entry_id.in_(batch.touched_letters))
            .values(last_seen_at_ms=now_ms, times_seen=DeadLetter.times_seen + 1)
        )


def _trim_payloads(connection: Connection, write: BatchWrite) -> None:
    """Drop the oldest payloads of a stream until what is left fits; the rows stay."""
    of_stream = (DeadLetter.node_id == write.peer.node_id, DeadLetter.stream == write.stream)
    newest_first = func.sum(func.length(DeadLetter.payload)).over(
        order_by=(DeadLetter.last_seen_at_ms.desc(), DeadLetter.entry_id)
    )
    sized = (
        select(DeadLetter.entry_id, newest_first.label("bytes"))
        .where(*of_stream, DeadLetter.payload.is_not(None))
        .subquery()
    )
    over = connection.scalars(
        select(sized.c.entry_id).where(sized.c.bytes > write.letter_bytes)
    ).all()
    if over:
        connection.execute(
            update(DeadLetter)
            .where(*of_stream, DeadLetter.entry_id == bindparam("of_entry"))
            .values(payload=None),
            [{"of_entry": entry_id} for entry_id in over],
        )


def _count(connection: Connection, write: BatchWrite, now_ms: int) -> None:
    """Raise the number of the peer's commits, and its totals, which are of its facts."""
    counts, progress = write.batch.counts, write.progress
    values: dict[str, object] = {"commit_number": PeerStatus.commit_number + 1}
    if write.stream == FACTS:
        values |= {
            "admitted": PeerStatus.admitted + counts.admitted,
            "duplicates": PeerStatus.duplicates + counts.duplicates,
            "rejected": PeerStatus.rejected + sum(counts.rejected.values()),
        }
        if progress is not None:
            values |= {"pages": PeerStatus.pages + 1, "last_success_ms": now_ms}
    connection.execute(
        update(PeerStatus).where(PeerStatus.node_id == write.peer.node_id).values(**values)
    )
