"""Who works on a peer, who wants it, and how it stands: the rows of ``replicator_peers``.

Small transactions beside the pages.  What a happening makes of a standing is decided in
``replication.states``; who really holds a peer is decided by ``locks``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update
from sqlalchemy.orm import InstrumentedAttribute

from stigmem_replicator.clock import Clock
from stigmem_replicator.observe.log import printable
from stigmem_replicator.replication import states
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import events, own_schema
from stigmem_replicator.store.own_models import PeerStatus

_GREATEST: Final = 2**63 - 1
_KEY: Final = "of_node_id"
_TOLD: Final = ("state", "reason", "detail")
_WRITTEN_BEFORE: Final[tuple[InstrumentedAttribute[Any], ...]] = (
    PeerStatus.node_id,
    PeerStatus.state,
    PeerStatus.reason,
    PeerStatus.since_ms,
    PeerStatus.paused_at_ms,
    PeerStatus.paused_until_ms,
    PeerStatus.pause_reason,
)
STANDING: Final = tuple(getattr(PeerStatus, item.name) for item in fields(Standing))


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
            values["upstream_lag_ms"] = None if lag_ms is None else min(max(lag_ms, 0), _GREATEST)
        return values


@dataclass(frozen=True, slots=True)
class Turn:
    """The last time that work on a peer brought new facts: how many, in how many milliseconds."""

    admitted: int
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Note:
    """How a peer stands now, to be written.

    ``attempted_ms`` is when it was last asked and ``caught_up_ms`` the sending time of the last
    answer that said there is no more (milliseconds since 1970); what is None stays as stored.
    """

    node_id: str
    standing: Standing
    attempted_ms: int | None = None
    caught_up_ms: int | None = None
    observed: Observed = Observed()
    turn: Turn | None = None

    def values(self) -> dict[str, object]:
        """Return what is to be written beside the standing, by column."""
        values = self.observed.values()
        if self.attempted_ms is not None:
            values["last_attempt_ms"] = self.attempted_ms
        if self.caught_up_ms is not None:
            values["caught_up_ms"] = values["last_success_ms"] = self.caught_up_ms
        if self.turn is not None:
            values["turn_admitted"] = self.turn.admitted
            values["turn_ms"] = self.turn.milliseconds
        return values


def enlist(connection: Connection, node_id: str, clock: Clock) -> None:
    """Give a peer its row and number unless it has them."""
    enlist_all(connection, [node_id], clock)


def enlist_all(connection: Connection, node_ids: Sequence[str], clock: Clock) -> dict[str, int]:
    """Give each of these peers its row and number unless it has them, in the order given.

    Returns the numbers of all of them.
    """
    rows = connection.execute(
        select(PeerStatus.node_id, PeerStatus.number).where(PeerStatus.node_id.in_(node_ids))
    )
    numbers = {row.node_id: row.number for row in rows}
    new = [node_id for node_id in dict.fromkeys(node_ids) if node_id not in numbers]
    if not new:
        return numbers
    # Every transaction that writes here excludes all others: no number is given twice.
    last = connection.scalar(select(func.max(PeerStatus.number))) or 0
    given = {node_id: number for number, node_id in enumerate(new, last + 1)}
    connection.execute(
        insert(PeerStatus),
        [
            {"node_id": node_id, "number": number, "since_ms": clock.now_ms()}
            for node_id, number in given.items()
        ],
    )
    return numbers | given


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


def standing(connection: Connection, node_id: str) -> Standing:
    """Return how a peer stands, as was written last; that of a new peer when nothing was."""
    row = connection.execute(select(*STANDING).where(PeerStatus.node_id == node_id)).first()
    return Standing() if row is None else standing_of(row)


def standing_of(row: Row[Any]) -> Standing:
    """Return how a peer stands from a row that has, among others, the columns STANDING."""
    values = {item.name: row._mapping[item.name] for item in fields(Standing)}  # noqa: SLF001 - public
    return Standing(**{**values, "state": PeerState(values["state"])})


def take(connection: Connection, node_ids: Collection[str], process: Holder) -> dict[str, Standing]:
    """Note that a process works on these peers now, and return how each of them stands.

    Whoever wanted one of them has it or asks again.  Raises :class:`LocalError` when a newer
    version has changed our tables since this process looked at them: whoever changes them holds
    every peer, and these were free.
    """
    own_schema.refuse_newer(connection)
    ids = list(node_ids)
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id.in_(ids))
        .values(
            holder_host=process.host,
            holder_pid=process.pid,
            holder_command=process.command,
            holder_since_ms=process.since_ms,
            wanted_by=None,
            wanted_at_ms=None,
            vanished_at_ms=None,
        )
    )
    rows = connection.execute(
        select(PeerStatus.node_id, *STANDING).where(PeerStatus.node_id.in_(ids))
    )
    return {row.node_id: standing_of(row) for row in rows}


def let_go(
    connection: Connection, node_ids: Collection[str], wanted: Mapping[str, str], clock: Clock
) -> None:
    """Note that nobody works on these peers any more; ``wanted`` names who wants which of them."""
    ids, now_ms = list(node_ids), clock.now_ms()
    left = connection.scalars(
        select(PeerStatus.node_id).where(
            PeerStatus.node_id.in_(ids), PeerStatus.state == PeerState.ELSEWHERE
        )
    )
    # Who had it is gone and may have said nothing of how it stands.
    after = {
        node_id: states.taken(standing(connection, node_id), now_ms) for node_id in left.all()
    } | {
        node_id: states.handed_over(standing(connection, node_id), name, now_ms)
        for node_id, name in wanted.items()
    }
    write(connection, [Note(node_id, stands) for node_id, stands in after.items()], clock)
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id.in_(ids))
        .values(holder_host=None, holder_pid=None, holder_command=None, holder_since_ms=None)
    )


def want_no_more(connection: Connection, node_id: str, process: Holder) -> None:
    """Take back what :func:`want` asked for."""
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id == node_id, PeerStatus.wanted_by == str(process))
        .values(wanted_by=None, wanted_at_ms=None)
    )


def want(connection: Connection, node_id: str, process: Holder, clock: Clock) -> None:
    """Ask whoever works on a peer to let go of it."""
    connection.execute(
        update(PeerStatus)
        .where(PeerStatus.node_id == node_id)
        .values(wanted_by=str(process), wanted_at_ms=clock.now_ms())
    )


def write(connection: Connection, notes: Sequence[Note], clock: Clock) -> None:
    """Write how peers stand; a change of state or reason becomes an event.

    Whether a peer is paused is the row's to say, whatever its worker knew.  A peer whose row was
    removed meanwhile gets none.
    """
    ids = [item.node_id for item in notes]
    rows = connection.execute(select(*_WRITTEN_BEFORE).where(PeerStatus.node_id.in_(ids)))
    before = {row.node_id: row for row in rows}
    stands: dict[str, tuple[object, object]] = {
        node_id: (row.state, row.reason) for node_id, row in before.items()
    }
    values: dict[str, dict[str, object]] = {}
    changes: list[tuple[str, dict[str, object]]] = []
    for item in notes:
        node_id = item.node_id
        if node_id not in before:
            continue
        now = columns(_as_stored(item.standing, before[node_id], clock.now_ms()))
        stood, stands[node_id] = stands[node_id], (now["state"], now["reason"])
        if stands[node_id] != stood:
            changes.append((node_id, {name: now[name] for name in _TOLD}))
        values[node_id] = values.get(node_id, {}) | item.values() | now
    _update(connection, values)
    events.note_all(connection, changes, events.STATE_CHANGED, events.REPLICATOR, clock)


def _as_stored(standing: Standing, before: Row[Any], now_ms: int) -> Standing:
    """Return what a worker says of a peer, with what only the row knows."""
    if before.paused_at_ms is not None:
        why, until_ms = before.pause_reason, before.paused_until_ms
        standing = states.paused(standing, before.paused_at_ms, why, until_ms)
    elif standing.state is PeerState.PAUSED:
        standing = states.resumed(standing, now_ms)
    if (before.state, before.reason) == (standing.state, standing.reason):
        return replace(standing, since_ms=before.since_ms)
    return standing


def _update(connection: Connection, values: Mapping[str, Mapping[str, object]]) -> None:
    """Write these columns, by peer."""
    # One statement for all peers of which the same is known: a thousand idle ones are one.
    alike: dict[frozenset[str], list[dict[str, object]]] = {}
    for node_id, columns in values.items():
        alike.setdefault(frozenset(columns), []).append({_KEY: node_id, **columns})
    for names, parameters in alike.items():
        connection.execute(
            update(PeerStatus)
            .where(PeerStatus.node_id == bindparam(_KEY))
            .values({name: bindparam(name) for name in sorted(names)}),
            parameters,
        )


def columns(standing: Standing) -> dict[str, object]:
    """Return a standing as it is written, by column."""
    values: dict[str, object] = {
        item.name: getattr(standing, item.name) for item in fields(Standing)
    }
    return values | {
        "detail": storable(standing.detail),
        "hint": storable(standing.hint),
    }


def storable(text: str | None) -> str | None:
    """Return a text as any database takes it: without NUL and without half of a character."""
    return None if text is None else printable(text, len(text))
