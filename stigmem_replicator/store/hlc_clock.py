"""Our one clock row, from which every HLC of ours is stamped, kept past all HLCs of the node.

The arithmetic is in ``protocol.hlc``; who may stamp is decided by the write lock.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, func, select, update

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.protocol import hlc
from stigmem_replicator.protocol.hlc import HlcState
from stigmem_replicator.store.node_models import Fact
from stigmem_replicator.store.own_models import HlcClock
from stigmem_replicator.store.sql import insert_or


def seed(connection: Connection) -> None:
    """Move our clock past the newest HLC in the database, so that ours never fall behind it."""
    row = connection.execute(select(HlcClock.wall_ms, HlcClock.counter)).first()
    stand = HlcState() if row is None else HlcState(row.wall_ms, row.counter)
    greatest = max(stand, newest(connection))
    values = {"wall_ms": greatest.wall_ms, "counter": greatest.counter}
    connection.execute(
        insert_or(connection, HlcClock)
        .values(id=1, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def read(connection: Connection) -> HlcState:
    """Return where the clock stands, which is past every HLC in the database.

    The node stamps by a clock of its own while we work.  Raises :class:`LocalError` when our
    tables are gone.
    """
    row = connection.execute(select(HlcClock.wall_ms, HlcClock.counter)).first()
    if row is None:
        raise LocalError(
            Reason.OWN_SCHEMA_OUTDATED,
            "the replicator's tables were removed while it was at work",
            hint="run the command again",
        )
    stand = HlcState(row.wall_ms, row.counter)
    wall = hlc.wall_ms(_greatest_text(connection) or "")
    # Only where the node is ahead: its counters within our own millisecond are not looked for,
    # of which there may be many.
    return stand if wall is None or wall <= stand.wall_ms else newest(connection)


def write(connection: Connection, state: HlcState) -> None:
    """Set the clock."""
    connection.execute(update(HlcClock).values(wall_ms=state.wall_ms, counter=state.counter))


def touch(connection: Connection) -> None:
    """Write the clock as it is: a write that changes nothing, to see whether one is possible."""
    connection.execute(update(HlcClock).values(wall_ms=HlcClock.wall_ms))


def newest(connection: Connection) -> HlcState:
    """Return the newest HLC in the database.

    It is found by the index, which orders texts; the walls of our days have one length.
    """
    text = _greatest_text(connection)
    wall = hlc.wall_ms(text) if text else None
    # A range and not a pattern, so that the index serves.  Walls of our days have one length, so
    # every collation orders them, whatever it makes of the point.
    walls: Iterable[str | None] = ()
    if wall is not None:
        walls = connection.scalars(
            select(Fact.hlc).where(Fact.hlc >= str(wall), Fact.hlc < str(wall + 1))
        )
    states = (HlcState(*hlc.parse(found)) for found in walls if found and _reads(found))
    return max(states, default=HlcState())


def _greatest_text(connection: Connection) -> str | None:
    return connection.scalar(select(func.max(Fact.hlc)).where(Fact.hlc.is_not(None)))


def _reads(text: str) -> bool:
    return hlc.wall_ms(text) is not None
