"""Our own tables, prefixed ``replicator_`` and managed by Alembic.

They are keyed by the peer's node id, which survives a new registration, and hold no foreign key
to a table of the node.  Times are milliseconds since 1970.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PREFIX: Final = "replicator_"
VERSION_TABLE: Final = "replicator_alembic_version"
HEAD_REVISION: Final = "0004"
"""The revision that this code needs; the migration scripts end at it."""

FACTS: Final = "facts"
"""Name of the stream of facts."""

TOMBSTONES: Final = "tombstones"
REVOCATIONS: Final = "revocations"
"""Names of the streams of tombstones and revocations, which come in one answer and are worked on
together, under the name of the first."""


class OwnBase(DeclarativeBase):
    """Models of our own schema."""

    type_annotation_map = {str: Text, int: BigInteger}  # noqa: RUF012 - SQLAlchemy's form


class PeerStatus(OwnBase):
    """One peer as we know it: its lock number, state, totals and who works on it.

    ``wanted_by`` names a process that asks for the peer while another works on it.
    ``turn_admitted`` facts came in ``turn_ms`` milliseconds, the last time that any came.
    ``vanished_at_ms`` is when the node's registry was first seen without the peer.
    """

    __tablename__ = "replicator_peers"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(server_default="catching_up")
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    since_ms: Mapped[int | None]
    last_attempt_ms: Mapped[int | None]
    last_success_ms: Mapped[int | None]
    caught_up_ms: Mapped[int | None]
    failures: Mapped[int] = mapped_column(server_default="0")
    not_before_ms: Mapped[int | None]
    pages: Mapped[int] = mapped_column(server_default="0")
    admitted: Mapped[int] = mapped_column(server_default="0")
    duplicates: Mapped[int] = mapped_column(server_default="0")
    rejected: Mapped[int] = mapped_column(server_default="0")
    commit_number: Mapped[int] = mapped_column(server_default="0")
    holder_host: Mapped[str | None]
    holder_pid: Mapped[int | None]
    holder_command: Mapped[str | None]
    holder_since_ms: Mapped[int | None]
    certificate_not_after_ms: Mapped[int | None]
    upstream_lag_ms: Mapped[int | None]
    upstream_lag_at_ms: Mapped[int | None]
    next_attempt_ms: Mapped[int | None]
    hint: Mapped[str | None]
    paused_at_ms: Mapped[int | None]
    paused_until_ms: Mapped[int | None]
    resumed_at_ms: Mapped[int | None]
    paused_by: Mapped[str | None]
    pause_reason: Mapped[str | None]
    wanted_by: Mapped[str | None]
    wanted_at_ms: Mapped[int | None]
    turn_ms: Mapped[int | None]
    turn_admitted: Mapped[int | None]
    vanished_at_ms: Mapped[int | None]


class StreamCursor(OwnBase):
    """Where a stream's reading stands beside the node's own cursor row.

    ``frontier`` is the cursor that we committed last, by which a change made by somebody else
    is told.
    """

    __tablename__ = "replicator_cursors"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(primary_key=True)
    frontier: Mapped[str | None]
    settled: Mapped[str | None]
    origin_time_ms: Mapped[int | None]
    origin_time_at_ms: Mapped[int | None]


class StreamStatus(OwnBase):
    """How a stream stands that is worked on beside the facts, whose own is in ``PeerStatus``.

    ``token_not_after_ms`` is when the capability token that it is asked with ends.
    """

    __tablename__ = "replicator_streams"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(server_default="catching_up")
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    hint: Mapped[str | None]
    since_ms: Mapped[int | None]
    failures: Mapped[int] = mapped_column(server_default="0")
    next_attempt_ms: Mapped[int | None]
    not_before_ms: Mapped[int | None]
    last_attempt_ms: Mapped[int | None]
    caught_up_ms: Mapped[int | None]
    token_not_after_ms: Mapped[int | None]


class StreamCheckpoint(OwnBase):
    """A settled position that a stream may go back to."""

    __tablename__ = "replicator_checkpoints"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[str] = mapped_column(primary_key=True)
    kept_at_ms: Mapped[int]


class DeadLetter(OwnBase):
    """An entry that was refused, and why; ``payload`` may have been dropped for space."""

    __tablename__ = "replicator_dead_letters"
    __table_args__ = (
        CheckConstraint(
            "status IN ('open','resolved','discarded')", name="replicator_dead_letters_status"
        ),
        Index("replicator_dead_letters_seen", "node_id", "last_seen_at_ms"),
    )

    node_id: Mapped[str] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(primary_key=True)
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    detail: Mapped[str]
    payload: Mapped[str | None]
    payload_hash: Mapped[str]
    generation: Mapped[str]
    first_seen_at_ms: Mapped[int]
    last_seen_at_ms: Mapped[int]
    times_seen: Mapped[int]
    status: Mapped[str]


class HlcClock(OwnBase):
    """The one row from which every HLC of ours is stamped."""

    __tablename__ = "replicator_clock"
    __table_args__ = (CheckConstraint("id = 1", name="replicator_clock_one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    wall_ms: Mapped[int]
    counter: Mapped[int]


class Event(OwnBase):
    """Something that happened to a peer, or that an operator did."""

    __tablename__ = "replicator_events"
    __table_args__ = (Index("replicator_events_peer", "node_id", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    node_id: Mapped[str]
    at_ms: Mapped[int]
    event: Mapped[str]
    actor: Mapped[str]
    detail: Mapped[str]
