"""The picture that the daemon shows of itself, out of what its supervisor knows.

Peers that run here are shown as their tasks stand, the others as the tables have them.  It only
looks; where the picture hangs is in ``observe.board``, how it is shown in ``service``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.housekeeping import House
from stigmem_replicator.engine.peer_task import PeerTask
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.observe.board import (
    HISTORY_POINTS,
    HISTORY_SECONDS,
    PeerPicture,
    Picture,
    StreamPicture,
    Trouble,
)
from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication import states
from stigmem_replicator.settings import Settings
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.reads import CursorRow
from stigmem_replicator.store.registry import Sight
from stigmem_replicator.store.streams import StreamView


class Painter:
    """Makes one picture after the other; keeps the history of lags between them."""

    def __init__(self, around: Surroundings, gate: Gate, house: House) -> None:
        self._around = around
        self._gate = gate
        self._house = house
        self._lags: dict[str, deque[int | None]] = {}
        self._kept_at: float | None = None

    def paint(
        self, before: Picture, sights: Mapping[str, Sight] | None, tasks: Mapping[str, PeerTask]
    ) -> Picture:
        """Return the picture of now; what is known of the process is taken from ``before``.

        Without ``sights``, before the first look, the peers are those of before, and nobody's.
        """
        around = self._around
        now_ms = around.clock.now_ms()
        if sights is None:
            peers = {node_id: let_go(peer) for node_id, peer in before.peers.items()}
        else:
            peers = {
                node_id: self._peer(sights[node_id], tasks.get(node_id), now_ms)
                for node_id in sorted(sights)
            }
        self._keep_lags(peers, before)
        own = around.network.certificates
        return replace(
            _of_database(before, around.database, around.settings),
            at_ms=now_ms,
            own_certificate_not_after_ms=None if own is None else own.own.not_after_ms,
            ready=sights is not None,
            trouble=_trouble(self._gate, around, now_ms),
            peers={
                node_id: replace(peer, lag_history=tuple(self._lags[node_id]))
                for node_id, peer in peers.items()
            },
        )

    def _keep_lags(self, peers: Mapping[str, PeerPicture], before: Picture) -> None:
        now = self._around.clock.monotonic()
        due = self._kept_at is None or now - self._kept_at >= HISTORY_SECONDS
        if due:
            self._kept_at = now
        for node_id in self._lags.keys() - peers.keys():
            del self._lags[node_id]
        for node_id, peer in peers.items():
            if node_id not in self._lags:
                shown = before.peers.get(node_id)
                history = () if shown is None else shown.lag_history
                self._lags[node_id] = deque(history, maxlen=HISTORY_POINTS)
            kept = self._lags[node_id]
            if due:
                kept.append(peer.lag_ms)

    def _peer(self, sight: Sight, task: PeerTask | None, now_ms: int) -> PeerPicture:
        peer, house = sight.peer, self._house
        standing = sight.standing if task is None else task.facts.standing
        report = None if task is None else task.facts.report
        caught_up_ms = sight.caught_up_ms
        if report is not None and report.caught_up_ms is not None:
            caught_up_ms = report.caught_up_ms
        row = sight.cursor if task is None else task.facts.row or sight.cursor
        seen = None if task is None else task.seen
        return PeerPicture(
            node_id=peer.node_id,
            url=peer.node_url,
            status=peer.status,
            state=standing.state,
            held=task is not None,
            reason=standing.reason,
            detail=standing.detail,
            hint=standing.hint,
            since_ms=standing.since_ms,
            failures=standing.failures,
            next_attempt_ms=standing.next_attempt_ms,
            not_before_ms=standing.not_before_ms,
            caught_up_ms=caught_up_ms,
            last_success_ms=max(caught_up_ms or 0, sight.last_success_ms or 0) or None,
            lag_ms=self._lag_ms(sight, row, caught_up_ms, now_ms),
            rate_per_s=None if task is None else task.facts.rate_per_s,
            cursor=None if row is None else row.cursor,
            certificate_not_after_ms=(seen and seen.certificate_not_after_ms)
            or sight.certificate_not_after_ms,
            upstream_lag_ms=seen.upstream_lag_ms
            if seen is not None and seen.upstream_lag_at_ms is not None
            else sight.upstream_lag_ms,
            node_loop=peer.node_id in house.node_loop,
            dead_letters=None
            if house.dead_letters is None
            else house.dead_letters.get(peer.node_id, 0),
            tombstones=_tombstones(sight.tombstones, task),
        )

    def _lag_ms(
        self, sight: Sight, row: CursorRow | None, caught_up_ms: int | None, now_ms: int
    ) -> int | None:
        if sight.peer.status != "active":
            return None
        interval_s = self._around.settings.for_peer(sight.peer.node_id).poll_interval_s
        wall_ms = None if row is None or row.cursor is None else hlc.wall_ms(row.cursor)
        return states.lag_ms(now_ms, caught_up_ms, wall_ms, states.fresh_ms(interval_s))


def _tombstones(stored: StreamView | None, task: PeerTask | None) -> StreamPicture | None:
    """Return how the tombstones of a peer stand: as its task has them, else as the table has."""
    if task is None:
        if stored is None:
            return None
        standing, caught_up_ms = stored.standing, stored.caught_up_ms
        not_after_ms, expiring = stored.token_not_after_ms, False
    else:
        beside = task.tombstones
        standing = beside.standing
        caught_up_ms = beside.report.caught_up_ms
        if caught_up_ms is None and stored is not None:
            caught_up_ms = stored.caught_up_ms
        not_after_ms, expiring = beside.token_not_after_ms, beside.token_is_expiring
    return StreamPicture(
        state=standing.state,
        reason=standing.reason,
        detail=standing.detail,
        hint=standing.hint,
        since_ms=standing.since_ms,
        failures=standing.failures,
        next_attempt_ms=standing.next_attempt_ms,
        caught_up_ms=caught_up_ms,
        token_not_after_ms=not_after_ms,
        token_is_expiring=expiring,
    )


def let_go(peer: PeerPicture) -> PeerPicture:
    """Return a peer that nobody works on now, and of which nothing new can be told."""
    return replace(peer, held=False, lag_ms=None, rate_per_s=None)


def _of_database(before: Picture, database: Database, settings: Settings) -> Picture:
    """Return the picture with the database that is open now."""
    return replace(
        before,
        database=database.name,
        wire_version=int(database.schema.dialect),
        newest_migration=database.schema.newest,
        insecure=settings.federation_insecure,
    )


def _trouble(gate: Gate, around: Surroundings, now_ms: int) -> Trouble | None:
    cause = gate.cause
    if cause is None:
        return None
    closed_s = around.clock.monotonic() - gate.closed_at
    since_ms = now_ms - round(closed_s * 1000)
    return Trouble(cause.reason.value, cause.message, cause.hint, since_ms)
