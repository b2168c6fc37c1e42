"""What people are shown of our own tables.

Every function works while our tables do not exist yet, and then has nothing to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, null, select

from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication import states
from stigmem_replicator.store import reads
from stigmem_replicator.store.node_models import ReplicationCursor
from stigmem_replicator.store.own_models import DeadLetter, Event, PeerStatus

_WANTED_MS: Final = 3_000
"""Who wants a peer says so every second; what is older was left behind, in milliseconds."""


@dataclass(frozen=True, slots=True)
class PauseView:
    """That an operator paused a peer: since and until when (milliseconds since 1970), who, why."""

    at_ms: int
    until_ms: int | None
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class PeerView:
    """How a peer stands, as was written last, and its totals.

    Times are milliseconds since 1970, but the lag is a duration.  ``rate_per_s`` is how many new
    facts a second came the last time that any did, ``wanted_by`` who wants it from its holder.
    """

    state: str
    reason: str | None
    detail: str | None
    since_ms: int | None
    last_attempt_ms: int | None
    last_success_ms: int | None
    caught_up_ms: int | None
    not_before_ms: int | None
    failures: int
    pages: int
    admitted: int
    duplicates: int
    rejected: int
    holder_host: str | None
    holder_pid: int | None
    holder_command: str | None
    certificate_not_after_ms: int | None
    upstream_lag_ms: int | None
    upstream_lag_at_ms: int | None
    next_attempt_ms: int | None
    hint: str | None
    paused: PauseView | None
    wanted_by: str | None
    rate_per_s: float | None

    def lag_ms(self, frontier: str | None, now_ms: int, poll_interval_s: float) -> int | None:
        """Return how far we are behind the peer in milliseconds, None when it cannot be told.

        ``frontier`` is the node's cursor of the peer, ``poll_interval_s`` how many seconds lie
        between two looks at it.  Two looks may be missed before a quiet peer counts as behind.
        """
        wall_ms = None if frontier is None else hlc.wall_ms(frontier)
        fresh_ms = states.fresh_ms(poll_interval_s)
        return states.lag_ms(now_ms, self.caught_up_ms, wall_ms, fresh_ms)


_AS_STORED: Final = tuple(
    name
    for name in PeerView.__dataclass_fields__
    if name not in {"paused", "wanted_by", "rate_per_s"}
)
_COLUMNS: Final = (
    *(getattr(PeerStatus, name) for name in ("node_id", *_AS_STORED)),
    PeerStatus.paused_at_ms,
    PeerStatus.paused_until_ms,
    PeerStatus.paused_by,
    PeerStatus.pause_reason,
    PeerStatus.wanted_by,
    PeerStatus.wanted_at_ms,
    PeerStatus.turn_admitted,
    PeerStatus.turn_ms,
)


@dataclass(frozen=True, slots=True)
class EventView:
    """One event of a peer; ``detail`` is JSON."""

    at_ms: int
    event: str
    actor: str
    detail: str


@dataclass(frozen=True, slots=True)
class LetterView:
    """One dead letter; ``payload`` is the entry as it was served, None when not at hand."""

    node_id: str
    stream: str
    entry_id: str
    reason: str
    detail: str
    status: str
    times_seen: int
    first_seen_at_ms: int
    last_seen_at_ms: int
    payload: str | None


def peer_views(connection: Connection, now_ms: int) -> dict[str, PeerView]:
    """Return how every peer stands that was ever worked on or paused, by node id."""
    if not reads.has_own_tables(connection):
        return {}
    rows = connection.execute(select(*_COLUMNS))
    return {row.node_id: _peer_view(row, now_ms) for row in rows}


def peer_view(connection: Connection, node_id: str, now_ms: int) -> PeerView | None:
    """Return how one peer stands, None when it was never worked on or paused."""
    if not reads.has_own_tables(connection):
        return None
    query = select(*_COLUMNS).where(PeerStatus.node_id == node_id)
    row = connection.execute(query).first()
    return None if row is None else _peer_view(row, now_ms)


def _peer_view(row: Row[Any], now_ms: int) -> PeerView:
    paused = None
    if row.paused_at_ms is not None:
        paused = PauseView(row.paused_at_ms, row.paused_until_ms, row.paused_by, row.pause_reason)
    wanted = row.wanted_at_ms is not None and now_ms - row.wanted_at_ms <= _WANTED_MS
    new, took_ms = row.turn_admitted, row.turn_ms
    return PeerView(
        **{name: getattr(row, name) for name in _AS_STORED},
        paused=paused,
        wanted_by=row.wanted_by if wanted else None,
        rate_per_s=None if new is None else round(1000 * new / max(took_ms or 0, 1), 1),
    )


def frontiers(connection: Connection) -> dict[str, str | None]:
    """Return the node's inbound cursor of every peer that has one, by registry id."""
    rows = connection.execute(
        select(ReplicationCursor.peer_id, ReplicationCursor.cursor).where(
            ReplicationCursor.direction == reads.INBOUND
        )
    )
    return {row.peer_id: row.cursor for row in rows}


def peer_numbers(connection: Connection) -> dict[str, int]:
    """Return the number by which each peer is locked, by node id."""
    if not connection.dialect.has_table(connection, PeerStatus.__tablename__):
        return {}
    rows = connection.execute(select(PeerStatus.node_id, PeerStatus.number))
    return {row.node_id: row.number for row in rows}


def events(connection: Connection, node_id: str, limit: int | None = None) -> list[EventView]:
    """Return the events of a peer, newest first, at most ``limit``."""
    if not reads.has_own_tables(connection):
        return []
    rows = connection.execute(
        select(Event.at_ms, Event.event, Event.actor, Event.detail)
        .where(Event.node_id == node_id)
        .order_by(Event.id.desc())
        .limit(limit)
    )
    return [EventView(*row) for row in rows]


def letters(
    connection: Connection,
    *,
    node_id: str | None = None,
    stream: str | None = None,
    reason: str | None = None,
    status: str | None = None,
    entry_id: str | None = None,
    limit: int | None = None,
    payloads: bool = True,
) -> list[LetterView]:
    """Return dead letters, the last seen first, narrowed by whatever is given.

    Without ``payloads`` their content, which may be large, is not read.
    """
    if not reads.has_own_tables(connection):
        return []
    columns = [
        null() if name == "payload" and not payloads else getattr(DeadLetter, name)
        for name in LetterView.__dataclass_fields__
    ]
    query = select(*columns).order_by(DeadLetter.last_seen_at_ms.desc(), DeadLetter.entry_id)
    for column, wanted in (
        (DeadLetter.node_id, node_id),
        (DeadLetter.stream, stream),
        (DeadLetter.reason, reason),
        (DeadLetter.status, status),
        (DeadLetter.entry_id, entry_id),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    return [LetterView(*row) for row in connection.execute(query.limit(limit))]
