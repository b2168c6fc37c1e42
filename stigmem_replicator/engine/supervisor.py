"""Which peers run here: one task each, started and stopped as the tables say.

Once a second it looks: at the node's registry, at pauses, at who wants a peer, at cursors that
somebody moved.  A peer runs here while it is active, not paused, and its lock is ours; idle or
not, we keep the lock until somebody asks for it.  What a task does is in ``peer_task``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import anyio
from anyio.abc import TaskGroup
from sqlalchemy import Connection

from stigmem_replicator.engine import notes as all_notes
from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.housekeeping import House
from stigmem_replicator.engine.notes import AnyNote, Notes
from stigmem_replicator.engine.peer_task import PeerTask
from stigmem_replicator.engine.picture import Painter
from stigmem_replicator.engine.places import Places
from stigmem_replicator.engine.running import Running, Stands, end_all, take
from stigmem_replicator.engine.stream_task import Shared
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import LocalError, PeerHeldError, Reason, ReplicatorError
from stigmem_replicator.observe.log import logger
from stigmem_replicator.replication import states
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.store import events, hlc_clock, pauses, standings
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.registry import Registry, Sight
from stigmem_replicator.store.standings import Note
from stigmem_replicator.store.streams import StreamNote

LOOK_SECONDS: Final = 1.0

WANTED_SECONDS: Final = 3.0
"""How long a peer is left to whoever asked for it; a live one takes it in a fraction of this."""

LETTING_GO_SECONDS: Final = 4.0

LOST: Final = "our session with the database was lost, and another process took the peer"

ANEW: Final = frozenset(
    {
        Reason.DATABASE_REPLACED,
        Reason.SCHEMA_UNSUPPORTED,
        Reason.OWN_SCHEMA_OUTDATED,
    }
)
"""Trouble that no waiting mends while the database stays open: it must be opened anew."""


class Supervisor:
    """Runs the peers of one database; make one for each time that it is opened."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        settings = around.settings
        self._gate = Gate(around.clock)
        self._notes = Notes(around, self._gate, self._is_ours)
        self._shared = Shared(
            self._gate,
            self._notes,
            places=Places(settings.peers_at_once, around.clock),
            tombstone_places=Places(settings.peers_at_once, around.clock),
        )
        self._registry = Registry(around.database)
        self._sights: Mapping[str, Sight] = {}
        self._running: dict[str, Running] = {}
        self._house = House(around, self._gate)
        self._painter = Painter(around, self._gate, self._house)
        self._seeded = False
        self._looked = False
        # When each wish for a peer was first seen here: other hosts' clocks are not ours.
        self._wishes: dict[str, tuple[int | None, float]] = {}
        around.writer.hindered = lambda: self._gate.cause

    async def run(self) -> LocalError:
        """Look and act until cancelled; then let go of every peer.

        Returns why the database has to be opened anew, when it has to.
        """
        cause: LocalError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._notes.run)
                tasks.start_soon(self._house.keep)
                tasks.start_soon(self._keep_shown)
                cause = await self._look_and_act(tasks)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(LETTING_GO_SECONDS, shield=True):
                await self._let_go_of_all()
            self._registry.close()
        assert cause is not None  # noqa: S101 - a cancelled run does not come here
        return cause

    async def _look_and_act(self, tasks: TaskGroup) -> LocalError:
        while True:
            try:
                await self._try_database()
                if self._gate.cause is None:
                    self._gate.settle()
                    await self._look()
                    await self._act(tasks)
            except LocalError as error:
                self._gate.close(error)
            except PeerHeldError as error:
                # Somebody changes our tables at this moment.
                logger().info("replicator.waiting", detail=error.message)
            if self._around.board is not None:
                self._around.board.looked_at = self._around.clock.monotonic()
            self._show()
            cause = self._gate.cause
            if cause is not None and cause.reason in ANEW:
                return cause
            await self._around.sleep(LOOK_SECONDS)

    async def _keep_shown(self) -> None:
        """Hang up a new picture each second, also while a look takes long."""
        while True:
            self._show()
            await self._around.sleep(LOOK_SECONDS)

    def _show(self) -> None:
        """Hang up the picture of now, where somebody looks at it."""
        board = self._around.board
        if board is not None:
            tasks = {node_id: running.task for node_id, running in self._running.items()}
            sights = self._sights if self._looked else None
            board.picture = self._painter.paint(board.picture, sights, tasks)

    async def _try_database(self) -> None:
        """Open the gate if the database can be written again; raises :class:`LocalError`.

        Not for what only another opening mends, and not again and again within seconds.
        """
        cause = self._gate.cause
        if cause is None or cause.reason in ANEW or not self._gate.is_due:
            return
        await self._around.threads.look_up(self._registry.check)
        await self._around.writer.try_out(hlc_clock.touch)
        self._gate.open()

    async def _look(self) -> None:
        if not self._seeded:
            await self._around.writer.run(hlc_clock.seed)
            await self._around.writer.call(self._around.locks.announce)
            self._seeded = True
        if self._around.locks.may_be_lost:
            await self._around.writer.call(self._around.locks.confirm)
        sights = await self._around.threads.look_up(self._registry.look)
        if sights is not None:
            self._sights, self._looked = sights, True

    async def _act(self, tasks: TaskGroup) -> None:
        """Bring what runs here into line with what was seen."""
        self._shared.places.sort_out()
        self._shared.tombstone_places.sort_out()
        self._heed_wishes()
        await self._end_pauses(self._around.clock.now_ms())
        await self._leave(self._to_leave())
        await self._restart(tasks)
        self._bring_news()
        await self._take(tasks, self._to_take())

    def _heed_wishes(self) -> None:
        """Remember since when whoever wants a peer asks for it; it asks again while it waits."""
        now = self._around.clock.monotonic()
        for node_id, sight in self._sights.items():
            if sight.wanted_by is None:
                self._wishes.pop(node_id, None)
            elif self._wishes.get(node_id, (None, now))[0] != sight.wanted_at_ms:
                self._wishes[node_id] = (sight.wanted_at_ms, now)

    async def _end_pauses(self, now_ms: int) -> None:
        for node_id, sight in self._sights.items():
            until = sight.paused_until_ms
            if sight.paused_at_ms is not None and until is not None and until <= now_ms:
                await self._around.writer.run(
                    pauses.resume, node_id, events.REPLICATOR, self._around.clock
                )

    def _to_leave(self) -> dict[str, str | None]:
        """Return the peers that must not run here any more, each with who wants it."""
        leaving: dict[str, str | None] = {}
        for node_id, running in self._running.items():
            sight = self._sights.get(node_id)
            number = running.task.number
            if sight is None or not sight.workable or not self._around.locks.holds(number):
                leaving[node_id] = None
            elif sight.number != number:
                # The tables are those of a backup: others would lock by the number there.
                leaving[node_id] = None
            elif sight.wanted_by is not None:
                leaving[node_id] = sight.wanted_by
            elif running.ended.is_set():
                leaving[node_id] = None
        return leaving

    def _to_take(self) -> list[str]:
        late = self._around.clock.monotonic() - WANTED_SECONDS
        return [
            node_id
            for node_id, sight in self._sights.items()
            if sight.workable
            and node_id not in self._running
            and not (node_id in self._wishes and self._wishes[node_id][1] > late)
        ]

    async def _restart(self, tasks: TaskGroup) -> None:
        """Begin anew with the peers whose row in the node's registry changed."""
        changed = {
            node_id: running
            for node_id, running in self._running.items()
            if running.task.peer != self._sights[node_id].peer
        }
        await end_all(changed.values())
        for node_id, running in changed.items():
            task, now_ms = running.task, self._around.clock.now_ms()
            stands = Stands(
                states.row_changed(task.facts.standing, now_ms),
                states.row_changed(task.tombstones.standing, now_ms),
            )
            before = Stands(task.facts.standing, task.tombstones.standing)
            self._post_changes(node_id, before, stands)
            self._start(tasks, self._sights[node_id], task.number, stands)

    def _bring_news(self) -> None:
        """Tell the tasks what was asked of their peers, and where their cursors are now."""
        for node_id, running in self._running.items():
            sight = self._sights[node_id]
            if sight.resumed_at_ms != running.resumed_at_ms:
                running.resumed_at_ms = sight.resumed_at_ms
                running.task.resume()
            running.task.facts.saw(sight.cursor)

    async def _leave(self, leaving: Mapping[str, str | None]) -> None:
        """End these tasks, write that nobody works on their peers, and free the locks."""
        if not leaving:
            return
        ended = [self._running[node_id] for node_id in leaving]
        await end_all(ended)
        wanted = {node_id: name for node_id, name in leaving.items() if name is not None}
        held = await self._write_and_free([item.task for item in ended], wanted)
        # Until here they are ours: whoever stops us meanwhile lets go of them too.
        for node_id, name in leaving.items():
            del self._running[node_id]
            if node_id not in held:
                logger(peer=node_id).warning("federation.peer.lost", detail=LOST)
            elif name is not None:
                logger(peer=node_id).info("federation.peer.handed_over", to=name)

    async def _write_and_free(
        self, tasks: Collection[PeerTask], wanted: Mapping[str, str]
    ) -> set[str]:
        """Write how these peers were left, and free and return those whose lock was still ours."""
        writer = self._around.writer
        numbers = {task.peer.node_id: task.number for task in tasks}
        notes = self._notes.taken_out(list(numbers))
        try:
            held = await writer.run(self._write_last, notes, numbers, wanted)
        except BaseException:
            # Still ours, to be written when the database can be, or when we stop.
            self._notes.put_back(notes)
            raise
        with anyio.CancelScope(shield=True):
            await writer.call(self._around.locks.free_all, list(numbers.values()))
        return held

    def _write_last(
        self,
        connection: Connection,
        notes: Sequence[AnyNote],
        numbers: Mapping[str, int],
        wanted: Mapping[str, str],
    ) -> set[str]:
        """Write how peers were left, those that are ours: a session begun anew may lose some."""
        holds = self._around.locks.holds
        held = {node_id for node_id, number in numbers.items() if holds(number)}
        ours = [note for note in notes if note.node_id in held]
        wanted = {node_id: name for node_id, name in wanted.items() if node_id in held}
        all_notes.write(connection, ours, self._around.clock)
        standings.let_go(connection, held, wanted, self._around.clock)
        return held

    def _is_ours(self, node_id: str) -> bool:
        running = self._running.get(node_id)
        return running is not None and self._around.locks.holds(running.task.number)

    async def _take(self, tasks: TaskGroup, node_ids: list[str]) -> None:
        """Lock those of these peers that are free, and start a task for each."""
        if not node_ids:
            return
        around = self._around
        numbers = await self._numbers(node_ids)
        free = await around.writer.call(self._locked, numbers)
        if not free:
            return
        process = replace(around.process, since_ms=around.clock.now_ms())
        try:
            taken: dict[str, Stands] = await around.writer.run(take, list(free), process)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await around.writer.call(around.locks.free_all, list(free.values()))
            raise
        # A row that went, or a pause that came, between the look and now: the next look tells.
        begun = {n for n, found in taken.items() if found.facts.state is not PeerState.PAUSED}
        for node_id in begun:
            self._begin(tasks, self._sights[node_id], free[node_id], taken[node_id])
        if missed := free.keys() - begun:
            try:
                await around.writer.run(standings.let_go, list(missed), {}, around.clock)
            finally:
                # Nobody would work on them, and nobody else could.
                with anyio.CancelScope(shield=True):
                    await around.writer.call(around.locks.free_all, [free[n] for n in missed])

    async def _numbers(self, node_ids: list[str]) -> dict[str, int]:
        """Return the numbers of these peers' locks; one that was never seen gets one."""
        known = {node_id: self._sights[node_id].number for node_id in node_ids}
        numbers = {node_id: number for node_id, number in known.items() if number is not None}
        new = [node_id for node_id in node_ids if node_id not in numbers]
        if new:
            run, clock = self._around.writer.run, self._around.clock
            numbers |= await run(standings.enlist_all, new, clock)
        return numbers

    def _locked(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """Try to lock these peers; blocks, so call it in the writer's thread."""
        taken = self._around.locks.take_all(numbers.values())
        return {node_id: number for node_id, number in numbers.items() if number in taken}

    def _begin(self, tasks: TaskGroup, sight: Sight, number: int, before: Stands) -> None:
        """Start a task for a peer whose lock was just taken."""
        longest_s = float(self._around.settings.retry_after_cap_s)
        now_ms = self._around.clock.now_ms()
        stands = Stands(
            states.taken(before.facts, now_ms, longest_s),
            states.taken(before.tombstones, now_ms, longest_s),
        )
        self._post_changes(sight.peer.node_id, before, stands)
        self._start(tasks, sight, number, stands)

    def _post_changes(self, node_id: str, before: Stands, after: Stands) -> None:
        """Have written what a peer's streams are now that they were not before."""
        if after.facts.state is not before.facts.state:
            self._notes.post(Note(node_id, after.facts), urgent=True)
        if after.tombstones.state is not before.tombstones.state:
            self._notes.post(StreamNote(node_id, TOMBSTONES, after.tombstones), urgent=True)

    def _start(self, tasks: TaskGroup, sight: Sight, number: int, stands: Stands) -> None:
        task = PeerTask(
            sight.peer, number, stands.facts, stands.tombstones, self._around, self._shared
        )
        running = Running(task, sight.resumed_at_ms)
        self._running[sight.peer.node_id] = running
        tasks.start_soon(running.run)

    async def _let_go_of_all(self) -> None:
        """Write what is left to write, unless the database is in trouble, and free every peer."""
        tasks = [running.task for running in self._running.values()]
        self._running.clear()
        if self._gate.cause is not None or not tasks:
            return
        try:
            await self._write_and_free(tasks, {})
        except ReplicatorError as error:
            logger().warning("replicator.not_noted", detail=error.message, reason=error.reason)
