"""What people are shown of our own tables.

Every function works while our tables do not exist yet, and then has nothing to show.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, null, select

from stigmem_replicator.store import reads
from stigmem_replicator.store.own_models import DeadLetter, Event, PeerStatus


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer's state and totals; times are milliseconds since 1970, but the lag is a duration."""

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


def peer_views(connection: Connection) -> dict[str, PeerView]:
    """Return the state of every peer that was ever pulled, by node id."""
    if not reads.has_own_tables(connection):
        return {}
    columns = [getattr(PeerStatus, name) for name in PeerView.__dataclass_fields__]
    rows = connection.execute(select(PeerStatus.node_id, *columns))
    return {row.node_id: PeerView(*row[1:]) for row in rows}


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
        (DeadLetter.reason, reason),
        (DeadLetter.status, status),
        (DeadLetter.entry_id, entry_id),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    return [LetterView(*row) for row in connection.execute(query.limit(limit))]
