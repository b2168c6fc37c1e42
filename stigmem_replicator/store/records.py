"""The small transactions beside the pages.

A peer's number, who works on it, how its last pull ended, its events, a cursor reset, a newer
manifest.  Everything that belongs to a page is in ``apply``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from stigmem_replicator.clock import Clock, NewId
from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication.session import Position
from stigmem_replicator.store import own_schema, positions, reads
from stigmem_replicator.store.node_models import Fact, FederationAudit, FederationManifest
from stigmem_replicator.store.own_models import Event, HlcClock, PeerStatus
from stigmem_replicator.store.reads import CursorRow, PeerRow
from stigmem_replicator.store.sql import insert_or
from stigmem_replicator.trust.keys import Manifest

EVENTS_KEPT: Final = 20
"""How many of a peer's own events are kept; what operators did is always kept."""

REPLICATOR: Final = "replicator"
"""The actor of events that no operator caused."""

CURSOR_MOVED: Final = "cursor_moved_elsewhere"
CURSOR_RESET: Final = "cursor_reset"
CURSOR_SET: Final = "cursor_set"
CURSOR_IMPORTED: Final = "cursor_imported"
STATE_CHANGED: Final = "state_changed"
FIRST_CONTACT: Final = "first_contact"

_GREATEST: Final = 2**63 - 1


class PeerState(StrEnum):
    """How replication from a peer stands: one word in the table, the CLI and the JSON."""

    CATCHING_UP = "catching_up"
    IDLE = "idle"
    THROTTLED = "throttled"
    BACKING_OFF = "backing_off"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that works on a peer."""

    host: str
    pid: int
    command: str
    since_ms: int

    def __str__(self) -> str:
        """Name the process as an operator can find it."""
        return f"process {self.pid} on {self.host} ({self.command})"


def seed_clock(connection: Connection) -> None:
    """Move our clock past the newest HLC in the database, so that ours never fall behind it.

    The newest is found by the index, which orders texts; the walls of our days have one length.
    """
    newest = connection.scalar(select(func.max(Fact.hlc)).where(Fact.hlc.is_not(None)))
    wall = hlc.wall_ms(newest) if newest else None
    # A range and not a pattern, so that the index serves.  Walls of our days have one length, so
    # every collation orders them, whatever it makes of the point.
    walls: Iterable[str | None] = ()
    if wall is not None:
        walls = connection.scalars(
            select(Fact.hlc).where(Fact.hlc >= str(wall), Fact.hlc < str(wall + 1))
        )
    states = [hlc.HlcState(*hlc.parse(found)) for found in walls if found and _reads(found)]
    row = connection.execute(select(HlcClock.wall_ms, HlcClock.counter)).first()
    if row is not None:
        states.append(hlc.HlcState(row.wall_ms, row.counter))
    greatest = max(states, default=hlc.HlcState())
    values = {"wall_ms": greatest.wall_ms, "counter": greatest.counter}
    connection.execute(
        insert_or(connection, HlcClock)
        .values(id=1, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def _reads(text: str) -> bool:
    return hlc.wall_ms(text) is not None


def enlist(connection: Connection, node_id: str, clock: Clock) -> None:
    """Give a peer its row and number unless it has them."""
    number = select(func.coalesce(func.max(PeerStatus.number), 0) + 1).scalar_subquery()
    connection.execute(
        insert_or(connection, PeerStatus)
        .values(node_id=node_id, number=number, since_ms=clock.now_ms())
        .on_conflict_do_nothing(index_elements=["node_id"])
    )


def peer_number(connection: Connection, node_id: str) -> int:
    """Return the number by which a peer is locked."""
    return connection.execute(
        select(PeerStatus.number).where(PeerStatus.node_id == node_id)
    ).scalar_one()


def holder(connection: Connection, node_id: str) -> Holder | None:
    """Return the process that last said that it works on a peer."""
    row = connection.execute(
        select(
            PeerStatus.holder_host,
            PeerStatus.holder_pid,
            PeerStatus.holder_command,
            PeerStatus.holder_since_ms,
        ).where(PeerStatus.node_id == node_id)
    ).first()
    if row is None or row.holder_host is None:
        return None
    return Holder(
        row.holder_host, row.holder_pid or 0, row.holder_command or "", row.holder_since_ms or 0
    )


def not_before_ms(connection: Connection, node_id: str) -> int | None:
    """Return the moment before which a peer asked not to be asked again."""
    return connection.scalar(select(PeerStatus.not_before_ms).where(PeerStatus.node_id == node_id))


def take(connection: Connection, node_id: str, holder: Holder) -> int:
    """Note who works on a peer now and return the peer's commit number.

    Raises :class:`LocalError` when a newer version has changed our tables since this process
    looked at them: whoever changes them holds every peer, and this one was free.
    """
    own_schema.refuse_newer(connection)
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id == node_id)
        .values(
            holder_host=holder.host,
            holder_pid=holder.pid,
            holder_command=holder.command,
            holder_since_ms=holder.since_ms,
            last_attempt_ms=holder.since_ms,
        )
    )
    return connection.execute(
        select(PeerStatus.commit_number).where(PeerStatus.node_id == node_id)
    ).scalar_one()


@dataclass(frozen=True, slots=True)
class Observed:
    """What a peer's answers told of it, milliseconds since 1970 unless said otherwise.

    ``certificate_not_after_ms`` is when its certificate ends; None leaves what is stored.
    ``upstream_lag_ms`` is how many milliseconds the peer is behind its own sources, as it said at
    ``upstream_lag_at_ms``; None at a known time means that it named no lag then, and without a
    time what is stored stays.
    """

    certificate_not_after_ms: int | None = None
    upstream_lag_ms: int | None = None
    upstream_lag_at_ms: int | None = None

    def values(self) -> dict[str, object]:
        """Return what is to be written of it, by column."""
        values: dict[str, object] = {}
        if self.certificate_not_after_ms is not None:
            values["certificate_not_after_ms"] = self.certificate_not_after_ms
        if self.upstream_lag_at_ms is not None:
            lag_ms = self.upstream_lag_ms
            values["upstream_lag_at_ms"] = self.upstream_lag_at_ms
            # The peer may name any number; more than the column holds is as good as endless.
            values["upstream_lag_ms"] = None if lag_ms is None else max(0, min(lag_ms, _GREATEST))
        return values


@dataclass(frozen=True, slots=True)
class Ending:
    """How a pull of one peer ended: the peer's new state, and why.

    ``caught_up_ms`` is the sending time of the answer that said there is no more, None when
    none did; ``not_before_ms`` is the moment before which the peer must not be asked.
    ``observed`` is what its answers told meanwhile, None when there is nothing to note.
    """

    state: PeerState
    reason: str | None = None
    detail: str | None = None
    caught_up_ms: int | None = None
    not_before_ms: int | None = None
    observed: Observed | None = None


def let_go(connection: Connection, node_id: str) -> None:
    """Note that nobody works on a peer any more."""
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id == node_id)
        .values(holder_host=None, holder_pid=None, holder_command=None, holder_since_ms=None)
    )


def ended(connection: Connection, node_id: str, ending: Ending, clock: Clock) -> None:
    """Note how a pull of a peer ended."""
    before = connection.execute(
        select(PeerStatus.state, PeerStatus.reason).where(PeerStatus.node_id == node_id)
    ).first()
    values: dict[str, object] = {
        "state": ending.state,
        "reason": ending.reason,
        "detail": ending.detail,
        "not_before_ms": ending.not_before_ms,
        "failures": PeerStatus.failures + 1 if ending.reason else 0,
    }
    if ending.caught_up_ms is not None:
        values["caught_up_ms"] = ending.caught_up_ms
        values["last_success_ms"] = ending.caught_up_ms
    if ending.observed is not None:
        values |= ending.observed.values()
    changed = before is None or (before.state, before.reason) != (ending.state, ending.reason)
    if changed:
        values["since_ms"] = clock.now_ms()
        shown = {"state": ending.state, "reason": ending.reason, "detail": ending.detail}
        note(connection, node_id, STATE_CHANGED, REPLICATOR, shown, clock)
    connection.execute(update(PeerStatus).where(PeerStatus.node_id == node_id).values(**values))


def note(
    connection: Connection,
    node_id: str,
    event: str,
    actor: str,
    detail: Mapping[str, object],
    clock: Clock,
) -> None:
    """Add an event of a peer; of what the replicator did itself, the last 20 are kept."""
    connection.execute(
        insert(Event).values(
            node_id=node_id,
            at_ms=clock.now_ms(),
            event=event,
            actor=actor,
            detail=json.dumps(detail, sort_keys=True),
        )
    )
    of_peer = (Event.node_id == node_id, Event.actor == REPLICATOR)
    oldest_kept = (
        select(Event.id).where(*of_peer).order_by(Event.id.desc()).offset(EVENTS_KEPT - 1).limit(1)
    )
    connection.execute(delete(Event).where(*of_peer, Event.id < oldest_kept.scalar_subquery()))


def reset_cursor(
    connection: Connection,
    peer: PeerRow,
    stream: str,
    cursor: str | None,
    actor: str,
    clock: Clock,
    *,
    event: str = CURSOR_RESET,
    forced: bool = False,
) -> CursorRow:
    """Set a stream to ``cursor`` (None: the beginning), whoever works on the peer.

    A page in flight compares the row and is planned again from here.  ``event`` is the
    operator's act and ``forced`` says that the peer is not known to have given the position.
    """
    enlist(connection, peer.node_id, clock)
    stored = reads.stored_position(connection, peer, stream)
    row = positions.write_cursor_row(connection, peer, cursor, clock)
    kept = tuple(
        checkpoint
        for checkpoint in stored.position.checkpoints
        if cursor is not None and checkpoint.position <= cursor
    )
    position = Position(
        frontier=cursor,
        settled=cursor,
        origin_time_ms=stored.position.origin_time_ms,
        origin_time_at_ms=stored.position.origin_time_at_ms,
        checkpoints=kept,
    )
    positions.write_position(connection, peer, stream, position)
    before = stored.row.cursor if stored.row else None
    detail: dict[str, object] = {"stream": stream, "before": before, "after": cursor}
    if forced:
        detail["forced"] = True
    note(connection, peer.node_id, event, actor, detail, clock)
    return row


def store_manifest(
    connection: Connection,
    peer: PeerRow,
    manifest: Manifest,
    stored: reads.StoredManifest,
    clock: Clock,
    new_id: NewId,
) -> None:
    """Replace a stored manifest by one that follows from it, as the node does.

    A manifest that did not change only gets a new time.  The transparency-log proof belongs to
    the manifest that it was made for and goes with it.
    """
    document = json.dumps(manifest.document(), separators=(",", ":"))
    values = {"updated_at": clock.now_iso()}
    unchanged = json.loads(stored.document) == manifest.document()
    if not unchanged:
        values |= {
            "manifest_json": document,
            "signature": manifest.signature,
            "key_id": manifest.key_id,
            "issued_at": manifest.issued_at,
            "expires_at": manifest.expires_at,
        }
    stood = connection.execute(
        update(FederationManifest)
        .where(
            FederationManifest.entity_uri == manifest.entity_uri,
            # What somebody else stored since it was read stays.
            FederationManifest.updated_at == stored.updated_at,
        )
        .values(**values, **({} if unchanged else {"log_entry_json": None}))
    ).rowcount
    if stood and not unchanged:
        connection.execute(
            insert(FederationAudit).values(
                id=new_id(),
                peer_id=peer.id,
                event_type="manifest_stored",
                detail=json.dumps({"entity_uri": manifest.entity_uri, "key_id": manifest.key_id}),
                ts=clock.now_iso(),
            )
        )


def audit_san_mismatch(connection: Connection, peer: PeerRow, new_id: NewId, clock: Clock) -> None:
    """Note in the node's audit, as the node does, that a peer's certificate is somebody else's.

    In this event the node names the peer by its node id, not by the id of its registry.
    """
    connection.execute(
        insert(FederationAudit).values(
            id=new_id(),
            peer_id=peer.node_id,
            event_type="san_mismatch",
            detail=json.dumps({"peer_node_id": peer.node_id, "direction": "pull"}),
            ts=clock.now_iso(),
        )
    )
