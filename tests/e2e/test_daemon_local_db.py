"""The daemon's own database in trouble: told once, nobody blamed, mended without a restart.

One daemon lives through all of it.  Whatever happens to the file, the daemon goes on when it is
over, and every fact is there, once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.daemon import Daemon, daemon, receiver_of
from tests.e2e.database_trouble import (
    bound_by_permissions,
    fill,
    locked,
    move_away,
    small_disk,
)
from tests.nodes.database import SqliteDatabase
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = pytest.mark.slow

EVENT: Final = "replicator.local_db"
FREE_MIB: Final = 8
TIMEOUT_S: Final = 0.5
POLL_S: Final = 0.5
LASTS_S: Final = 1.5
"""Trouble lasts longer than some polls and looks: time for a second line, were there one."""


@dataclass(slots=True)
class World:
    """A receiver with one peer, and the daemon between them."""

    receiver: Receiver
    server: PageServer
    folder: Path
    daemon: Daemon

    @property
    def path(self) -> Path:
        return self.receiver.database

    def has(self, fact_id: str) -> bool:
        return fact_id in self.receiver.fact_ids(self.server)

    def standing(self) -> dict[str, Any]:
        """What must not change for a trouble that is not the peer's."""
        row = self.daemon.row(self.server)
        return {
            name: row.get(name) for name in ("state", "reason", "detail", "failures", "since_ms")
        }

    def arrives(self, fact_id: str) -> None:
        self.daemon.wait(lambda: self.has(fact_id), "the new fact")
        self.daemon.wait_for_state(self.server, "idle")
        self.receiver.assert_clean(self.server)

    @contextmanager
    def told(self, cause: str) -> Iterator[Told]:
        """Expect a trouble inside to be told once, with its cause, and its end too.

        A new fact, which nobody can write before that, is there afterwards.
        """
        self.daemon.wait_for_state(self.server, "idle")
        told = Told(self, cause, len(self.daemon.said(EVENT)))
        yield told
        took = self.daemon.wait(
            lambda: told.lines()[-1]["gate"] == "open", "word that the trouble is over"
        )
        print(f"{cause}: over after {took:.2f} s")
        self.arrives(told.fact_id)
        told.check()
        assert not [line for line in self.daemon.lines() if "exception" in line]


class Told:
    """One trouble and what was said of it."""

    def __init__(self, world: World, cause: str, before: int) -> None:
        self._world = world
        self._cause = cause
        self._before = before
        self.fact_id = ""

    def lines(self) -> list[dict[str, Any]]:
        return self._world.daemon.said(EVENT)[self._before :]

    def lasts(self) -> None:
        """Have a new fact at the peer, wait until the trouble is told, and then for more of it."""
        self.fact_id = self._world.server.origin.add()
        daemon = self._world.daemon
        took = daemon.wait(self.lines, f"word of {self._cause}")
        print(f"{self._cause}: told after {took:.2f} s")
        until = time.monotonic() + LASTS_S
        daemon.wait(lambda: time.monotonic() > until, "the trouble to last")
        self.check()

    def check(self) -> None:
        """The cause was told first, and nothing twice."""
        lines = self.lines()
        assert {line["reason"] for line in lines} == {"local_db"}
        assert (lines[0]["gate"], lines[0]["cause"]) == ("closed", self._cause)
        told = [(line["gate"], line["cause"]) for line in lines]
        assert len(told) == len(set(told)), lines


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("local-db")
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(folder))
        except pytest.skip.Exception:
            disk = folder
        receiver = receiver_of(template, disk)
        server = stack.enter_context(PageServer())
        server.origin.add_many(10)
        receiver.adopt(server)
        running = stack.enter_context(
            daemon(
                folder,
                receiver.database,
                under=bound_by_permissions(),
                poll_interval_s=POLL_S,
                database_timeout_s=TIMEOUT_S,
                free_space_min_mb=FREE_MIB,
            )
        )
        yield World(receiver, server, disk, running)
        running.stop()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    pid = shared.daemon.pid
    shared.daemon.wait_for_state(shared.server, "idle")
    before = shared.standing()
    yield shared
    assert shared.daemon.running
    assert shared.daemon.pid == pid
    after = shared.standing()
    assert (
        (after["failures"], after["reason"]) == (before["failures"], before["reason"]) == (0, None)
    )


def test_it_is_locked(world: World) -> None:
    """Another process, such as the node, keeps the write lock for longer than we wait."""
    before = world.standing()
    with world.told("database_locked") as told, locked(world.path):
        told.lasts()
        assert world.standing() == before


def test_it_may_only_be_read(world: World) -> None:
    """The right to write is taken away, and given back."""
    before = world.standing()
    with world.told("database_failed") as told:
        world.path.chmod(0o400)
        try:
            told.lasts()
            assert world.standing() == before
        finally:
            world.path.chmod(0o600)


def test_its_disk_has_no_room(world: World) -> None:
    """The disk fills up to the last byte, and is cleared."""
    if not world.folder.is_mount():
        pytest.skip("this user cannot mount a disk")
    before = world.standing()
    with world.told("disk_low") as told:
        filler = fill(world.folder, leave=0)
        try:
            told.lasts()
            assert world.standing() == before
        finally:
            filler.unlink()


def test_a_backup_is_restored_over_it(world: World) -> None:
    """Reading goes on from where the restored file stands; the old one is not touched again."""
    backup = SqliteDatabase(world.path).copy(world.folder / "backup.db")
    later = world.server.origin.add()
    world.arrives(later)
    aside = world.folder / "aside.db"
    with world.told("database_replaced") as told:
        move_away(world.path, aside)
        before = Receiver(aside).dump()
        try:
            told.lasts()
        finally:
            backup.rename(world.path)
    assert world.has(later)
    assert Receiver(aside).dump() == before


def test_it_is_removed_and_put_back(world: World) -> None:
    """A file that is gone is not made anew; put back, it is used again."""
    aside = world.folder / "away.db"
    with world.told("database_replaced") as told:
        move_away(world.path, aside)
        try:
            told.lasts()
            assert not world.path.exists()
        finally:
            move_away(aside, world.path)


def test_its_write_ahead_log_is_left_behind(world: World) -> None:
    """A backup moved over the file beside the old file's log: the log is not read into it.

    Who restores a file and forgets what lies beside it would otherwise have a damaged one.
    """
    backup = SqliteDatabase(world.path).copy(world.folder / "second-backup.db")
    later = world.server.origin.add()
    world.arrives(later)
    content = backup.read_bytes()
    with world.told("database_replaced") as told:
        backup.rename(world.path)
        try:
            told.lasts()
            assert world.path.read_bytes() == content
        finally:
            for side in ("-wal", "-shm"):
                Path(f"{world.path}{side}").unlink()
    assert world.has(later)
    assert world.receiver.query("PRAGMA integrity_check")[0][0] == "ok"


def test_its_log_cannot_be_written(adopted: Receiver, server: PageServer, tmp_path: Path) -> None:
    """A disk without room for the log, or a reader of it that is gone, ends nothing."""
    server.origin.add_many(3)
    to_a_full_disk = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    with daemon(tmp_path, adopted.database, under=to_a_full_disk, backoff_cap_s=1) as running:
        running.wait_for_state(server, "idle")
        server.script(misbehaviour.status(500), misbehaviour.status(500))
        running.wait_for_state(server, "backing_off", "server_error")
        running.wait_for_state(server, "idle")
        running.send(signal.SIGTERM)
        assert running.ended() == 0
    adopted.assert_clean(server)
