"""The database goes bad under a running pull: one clear line, exit 3, and nothing half written.

Every pull is held between its first page, which is committed, and its second, while the file is
replaced, closed to writing or left without room.  What was committed stays, the page in flight
is not written, and once the trouble is over another pull brings the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.database_trouble import MIB, SIDES, bound_by_permissions, fill, small_disk
from tests.e2e.page_pulls import settings, wait_for
from tests.pages.receiver import Receiver
from tests.pages.server import Held, PageServer, honestly

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.pages.fixtures import Running, Start

pytest_plugins = ("tests.pages.fixtures",)

FACTS: Final = 12
PAGE: Final = 4


@dataclass(frozen=True, slots=True)
class HeldPull:
    """A pull whose first page is committed and whose second is held back."""

    running: Running
    second: Held

    def failed(self, reason: str) -> str:
        """Let the second page come; the one line that says why it was not written."""
        self.second.let_go()
        _stdout, stderr, code = self.running.end()
        assert "Traceback" not in stderr
        (line,) = stderr.splitlines()
        assert line.startswith("stigmem-replicate: ")
        assert f" ({reason})" in line, line
        assert code == 3
        return line


def held_pull(
    start: Start,
    receiver: Receiver,
    server: PageServer,
    *,
    under: tuple[str, ...] = (),
    **values: object,
) -> HeldPull:
    server.origin.add_many(FACTS)
    server.script(honestly)
    second = server.hold()
    words = ("pull", "--peer", server.node_id)
    env = settings(page_size=PAGE, **values)
    running = start(*words, db=receiver.database, env=env, under=under)
    second.wait()
    wait_for(lambda: receiver.cursor(server) is not None)
    return HeldPull(running, second)


def assert_only_the_first_page(receiver: Receiver, server: PageServer) -> None:
    """What was committed is there, the page in flight is not, and the file is sound."""
    first = server.origin.rows[:PAGE]
    assert receiver.fact_ids(server) == {row.entry["fact"]["id"] for row in first}
    assert receiver.cursor(server) == first[-1].hlc
    assert receiver.state(server) == ("catching_up", None)
    assert receiver.query("PRAGMA integrity_check")[0][0] == "ok"


def heal(cli: Cli, receiver: Receiver, server: PageServer, **values: object) -> None:
    """Pull undisturbed; everything must be there, once."""
    words, env = ("pull", "--peer", server.node_id), settings(**values)
    cli(*words, db=receiver.database, env=env)
    assert len(receiver.assert_clean(server).admitted) == FACTS


# --- another file


def test_a_database_moved_away_and_another_put_in_its_place(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """The pull ends before its next write; neither the old file nor the new one changes."""
    path = adopted.database
    backup, old = path.with_name("backup.db"), path.with_name("old.db")
    shutil.copyfile(path, backup)
    pull = held_pull(start, adopted, server)
    before = adopted.dump()
    for side in SIDES:
        os.rename(f"{path}{side}", f"{old}{side}")  # noqa: PTH104 - a suffix, no path of its own
    shutil.copyfile(backup, path)
    line = pull.failed("database_replaced")
    assert f"{path} was replaced" in line
    assert path.read_bytes() == backup.read_bytes()
    assert not path.with_name(f"{path.name}-wal").exists()
    assert Receiver(old).dump() == before
    assert_only_the_first_page(Receiver(old), server)
    heal(cli, adopted, server)


def test_another_database_moved_over_it(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A log left behind by the old file is not written into the new one, and does not grow."""
    path = adopted.database
    new, log = path.with_name("new.db"), path.with_name(f"{path.name}-wal")
    shutil.copyfile(path, new)
    pull = held_pull(start, adopted, server)
    content, logged = new.read_bytes(), log.read_bytes()
    assert logged
    new.replace(path)
    pull.failed("database_replaced")
    assert path.read_bytes() == content
    assert log.read_bytes() == logged
    for side in SIDES[1:]:
        path.with_name(f"{path.name}{side}").unlink()
    heal(cli, adopted, server)


def test_a_database_that_is_removed(start: Start, adopted: Receiver, server: PageServer) -> None:
    """A file that is gone is not made anew."""
    pull = held_pull(start, adopted, server)
    adopted.database.unlink()
    line = pull.failed("database_replaced")
    assert f"{adopted.database} was removed" in line
    assert not adopted.database.exists()


# --- no permission


def test_a_database_that_is_turned_read_only(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """Taking the right to write away stops a pull that already has the file open."""
    pull = held_pull(start, adopted, server, under=bound_by_permissions())
    adopted.database.chmod(0o400)
    line = pull.failed("database_failed")
    assert f"{adopted.database} may only be read" in line
    adopted.database.chmod(0o600)
    assert_only_the_first_page(adopted, server)
    heal(cli, adopted, server)


# --- no room


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    with small_disk(tmp_path) as folder:
        yield folder


@pytest.fixture
def on_small_disk(disk: Path, adopted: Receiver) -> Receiver:
    copy = disk / "receiver.db"
    shutil.copyfile(adopted.database, copy)
    copy.chmod(0o600)
    return Receiver(copy)


@pytest.mark.parametrize(
    ("wanted_mib", "leave", "words"),
    [
        (0, 0, "the disk of {disk} is full"),
        (8, 4 * MIB, "the disk of {disk} has 4 MiB free, less than the 8 MiB"),
    ],
    ids=["full", "nearly full"],
)
def test_a_disk_that_fills_up(
    cli: Cli,
    start: Start,
    on_small_disk: Receiver,
    server: PageServer,
    wanted_mib: int,
    leave: int,
    words: str,
) -> None:
    """Too little room ends the pull; with room again the next one goes on from there."""
    disk = on_small_disk.database.parent
    pull = held_pull(start, on_small_disk, server, free_space_min_mb=wanted_mib)
    filler = fill(disk, leave)
    line = pull.failed("disk_low")
    assert words.format(disk=disk) in line
    filler.unlink()
    assert_only_the_first_page(on_small_disk, server)
    heal(cli, on_small_disk, server, free_space_min_mb=wanted_mib)


def test_a_disk_without_the_room_that_is_wanted(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """Below free_space_min_mb nothing is pulled at all; reading and dry runs go on."""
    server.origin.add_many(2)
    before = adopted.dump()
    words, env = ("pull", "--peer", server.node_id), settings(free_space_min_mb=10**9)
    result = cli(*words, db=adopted.database, env=env, check=False)
    (line,) = result.stderr.splitlines()
    assert "(disk_low)" in line
    assert str(adopted.database.parent) in line
    assert "less than the 1000000000 MiB of free_space_min_mb" in line
    assert result.returncode == 3
    assert server.requests == []
    assert adopted.dump() == before
    assert "would add" in cli(*words, "--dry-run", db=adopted.database, env=env).stdout


def test_a_file_that_may_not_grow(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A limit on the size of files fails the page that meets it, whole."""
    if shutil.which("prlimit") is None:
        pytest.skip("there is no prlimit")
    pull = held_pull(start, adopted, server)
    log = adopted.database.with_name(f"{adopted.database.name}-wal")
    limit = f"--fsize={log.stat().st_size + 4096}"
    subprocess.run(["prlimit", f"--pid={pull.running.pid}", limit], check=True)
    line = pull.failed("database_failed")
    assert "I/O error" in line
    assert_only_the_first_page(adopted, server)
    heal(cli, adopted, server)
