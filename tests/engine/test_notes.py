"""What is written of how peers stand: changes at once and together, the rest once a minute."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from stigmem_replicator.engine import notes
from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.notes import QUIET_SECONDS, Notes, merged
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.writer import Writer
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store import standings
from stigmem_replicator.store.standings import Note, Observed, Turn
from tests.engine.daemon_room import daemon_of, surroundings_of
from tests.engine.test_rate_limits import Timeline
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

LOCKED = LocalError(Reason.DATABASE_LOCKED, "it is locked")
IDLE = Standing(PeerState.IDLE)


class Recorder:
    """Takes the place of the writer: remembers what was written, and when; fails when told to."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.written: list[tuple[float, list[Note]]] = []
        self.error: BaseException | None = None
        self.may_write = anyio.Event()
        self.may_write.set()

    async def run(self, work: Callable[..., object], *args: object) -> None:
        await self.may_write.wait()
        if self.error is not None:
            raise self.error
        work(None, *args)

    def write(self, _connection: object, notes: Sequence[Note], _clock: object) -> None:
        """Take the place of `standings.write`."""
        self.written.append((self.timeline.now_s - 100.0, list(notes)))

    def peers(self) -> list[tuple[float, list[str]]]:
        """When which peers were written, each time in the order of their names."""
        return [(at, sorted(note.node_id for note in notes)) for at, notes in self.written]


class Desk:
    """Notes in a time that passes when told to."""

    def __init__(self, receiver: Receiver) -> None:
        self.timeline = Timeline()
        self.recorder = Recorder(self.timeline)
        with surroundings_of(receiver) as around:
            self.around: Surroundings = replace(
                around,
                clock=self.timeline,
                sleep=self.timeline.sleep,
                writer=cast("Writer", self.recorder),
            )
        self.gate = Gate(self.timeline)
        self.lost: set[str] = set()
        self.notes = Notes(self.around, self.gate, lambda name: name not in self.lost)

    def post(self, *names: str, urgent: bool = False, **values: Any) -> None:  # noqa: ANN401
        for name in names:
            self.notes.post(Note(name, IDLE, **values), urgent=urgent)


@pytest.fixture
def desk(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(receiver)
    monkeypatch.setattr(notes, "APART_SECONDS", 0.0)
    monkeypatch.setattr(standings, "write", made.recorder.write)
    return made


async def test_what_is_no_change_is_written_once_a_minute(desk: Desk) -> None:
    """However many peers are polled however often, one transaction has them all."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        for second in range(0, 200, 5):
            desk.post(*"abcdefgh", attempted_ms=second)
            await desk.timeline.run(second)
        tasks.cancel_scope.cancel()
    assert desk.recorder.peers() == [
        (QUIET_SECONDS, list("abcdefgh")),
        (2 * QUIET_SECONDS, list("abcdefgh")),
        (3 * QUIET_SECONDS, list("abcdefgh")),
    ]
    times = [{note.attempted_ms for note in notes} for _, notes in desk.recorder.written]
    assert times == [{60}, {120}, {180}]


async def test_a_change_is_written_at_once_with_all_that_waits(desk: Desk) -> None:
    """It takes the others along, and the next minute begins with it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        await desk.timeline.run(10)
        desk.post("a", "b")
        await desk.timeline.run(20)
        desk.post("c", urgent=True)
        await desk.timeline.run(30)
        desk.post("d")
        await desk.timeline.run(20 + QUIET_SECONDS)
        tasks.cancel_scope.cancel()
    assert desk.recorder.peers() == [(20, ["a", "b", "c"]), (20 + QUIET_SECONDS, ["d"])]


async def test_changes_while_one_is_written_go_together(desk: Desk) -> None:
    """A slow disk makes fewer transactions, not more."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        desk.recorder.may_write = anyio.Event()
        desk.post("a", urgent=True)
        await anyio.wait_all_tasks_blocked()
        for name in "bcd":
            desk.post(name, urgent=True)
            await anyio.wait_all_tasks_blocked()
        assert desk.recorder.written == []
        desk.recorder.may_write.set()
        await anyio.wait_all_tasks_blocked()
        assert [peers for _, peers in desk.recorder.peers()] == [["a"], ["b", "c", "d"]]
        tasks.cancel_scope.cancel()


async def test_nothing_is_written_where_nothing_was_noted(desk: Desk) -> None:
    """Minutes without a note are minutes without a transaction."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        await desk.timeline.run(5 * QUIET_SECONDS)
        tasks.cancel_scope.cancel()
    assert desk.recorder.written == []


async def test_what_could_not_be_written_is_written_later(desk: Desk) -> None:
    """The gate is closed; behind it the notes wait, and newer ones are not overtaken."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        desk.recorder.error = LOCKED
        desk.post("a", "b", urgent=True, attempted_ms=1, caught_up_ms=1)
        await anyio.wait_all_tasks_blocked()
        assert desk.gate.cause is LOCKED
        desk.post("b", attempted_ms=2)
        desk.recorder.error = None
        await desk.timeline.run(2 * QUIET_SECONDS)
        assert desk.recorder.written == []
        desk.gate.open()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    ((_, notes),) = desk.recorder.written
    assert {note.node_id: (note.attempted_ms, note.caught_up_ms) for note in notes} == {
        "a": (1, 1),
        "b": (2, 1),
    }


async def test_what_is_newer_than_a_failed_write_wins(desk: Desk) -> None:
    """A note that came while an older one failed to be written is not replaced by it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        desk.recorder.may_write = anyio.Event()
        desk.post("a", urgent=True, attempted_ms=1, caught_up_ms=1)
        await anyio.wait_all_tasks_blocked()
        desk.post("a", attempted_ms=2)
        desk.recorder.error = LOCKED
        desk.recorder.may_write.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    (note,) = desk.notes.taken_out(["a"])
    assert (note.attempted_ms, note.caught_up_ms) == (2, 1)


async def test_what_was_not_written_when_it_is_stopped_is_kept(desk: Desk) -> None:
    """Whoever lets go of the peers can write it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        desk.recorder.may_write = anyio.Event()
        desk.post("a", urgent=True)
        await anyio.wait_all_tasks_blocked()
        desk.post("b")
        tasks.cancel_scope.cancel()
    taken = desk.notes.taken_out(["a", "b", "c"])
    assert sorted(note.node_id for note in taken) == ["a", "b"]
    assert desk.notes.taken_out(["a", "b", "c"]) == []


async def test_what_is_being_written_is_not_lost_when_its_peer_is_left(desk: Desk) -> None:
    """Whoever lets go of the peer writes it again, in case that it fails."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        desk.recorder.may_write = anyio.Event()
        desk.post("a", "b", urgent=True, caught_up_ms=1)
        await anyio.wait_all_tasks_blocked()
        desk.post("a", attempted_ms=2)
        taken = desk.notes.taken_out(["a"])
        desk.recorder.error = LOCKED
        desk.recorder.may_write.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert [(note.attempted_ms, note.caught_up_ms) for note in taken] == [(2, 1)]
    assert [note.node_id for note in desk.notes.taken_out(["a", "b"])] == ["b"]


async def test_nothing_is_written_of_a_peer_that_is_not_ours(desk: Desk) -> None:
    """Another process has it, and writes of it itself."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.notes.run)
        desk.lost.add("a")
        desk.post("a", "b", urgent=True)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert desk.recorder.peers() == [(0, ["b"])]


def test_the_later_note_keeps_what_only_the_earlier_says() -> None:
    """Each value is the newest that was told, whatever the note that told it."""
    before = Note(
        "a",
        Standing(PeerState.CATCHING_UP),
        attempted_ms=1,
        caught_up_ms=2,
        observed=Observed(3, 4, 5),
        turn=Turn(6, 7),
    )
    assert merged(before, Note("a", IDLE)) == replace(before, standing=IDLE)
    later = Note("a", IDLE, attempted_ms=10, observed=Observed(13, None, 15))
    assert merged(before, later) == Note(
        "a",
        IDLE,
        attempted_ms=10,
        caught_up_ms=2,
        observed=Observed(13, None, 15),
        turn=Turn(6, 7),
    )


async def test_an_idle_daemon_hardly_writes(
    receiver: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """Polls that bring nothing are at most one transaction a minute, seen from outside."""
    for peer in (server, second_server):
        receiver.adopt(peer)
        peer.origin.add_many(2)
    async with daemon_of(receiver, poll_interval_s=5.0) as daemon:
        for peer in (server, second_server):
            await daemon.until_state(peer, "idle")
        # The first poll after a drain may still write where it stands.
        settled = min(len(server.requests), len(second_server.requests)) + 3
        await daemon.until(
            lambda: min(len(server.requests), len(second_server.requests)) > settled, "polls"
        )
        clock = daemon.around.clock
        with closing(sqlite3.connect(f"file:{receiver.database}?mode=ro", uri=True)) as watch:
            versions: set[int] = set()

            def polled() -> bool:
                versions.add(watch.execute("PRAGMA data_version").fetchone()[0])
                return min(len(server.requests), len(second_server.requests)) > asked + 15

            asked = max(len(server.requests), len(second_server.requests))
            began, versions = clock.monotonic(), set()
            polled()
            await daemon.until(polled, "polls")
            minutes = (clock.monotonic() - began) / QUIET_SECONDS
    # The first is no commit, and a minute may have begun before.
    assert len(versions) - 1 <= minutes + 1
