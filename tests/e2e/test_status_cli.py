"""``status``: the whole daemon at a glance, and what it tells a script by its exit code."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stigmem_replicator.cli import status
from stigmem_replicator.replication.states import PeerState
from tests.e2e.announcing import announced
from tests.e2e.conftest import cli_environ
from tests.e2e.cursors import put_cursor
from tests.e2e.peer_commands import Peers
from tests.pages.origin import now_ms
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result

pytest_plugins = ("tests.e2e.here", "tests.e2e.peer_fixtures", "tests.pages.fixtures")

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
BLOCKED: dict[str, Any] = {
    "detail": "another key",
    "hint": "ask its operator",
    "next_attempt_ms": 1,
}


class Status:
    """The command on a receiver with one peer."""

    def __init__(self, here: Here, peers: Peers) -> None:
        self._here = here
        self.peers = peers

    def __call__(self, *words: str, **env: str) -> Result:
        return self._here("status", *words, db=self.peers.receiver.database, env=env)

    def text(self) -> str:
        result = self()
        assert (result.code, result.stderr) == (0, "")
        return result.stdout

    def head(self) -> dict[str, str]:
        """Its first part, by name."""
        return pairs(self.text().partition("\n\n")[0])

    def check(self, *words: str, **env: str) -> tuple[int, str]:
        """The code of a check, and its one line."""
        result = self("--check", *words, **env)
        assert result.stderr == ""
        (line,) = result.stdout.splitlines()
        return result.code, line

    def document(self, *words: str) -> dict[str, Any]:
        result = self("--json", *words)
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def idle(self, **columns: Any) -> None:  # noqa: ANN401 - what a column holds
        self.peers.stand(PeerState.IDLE, caught_up_ms=now_ms(), **columns)

    def lag(self, lag_ms: int, state: PeerState = PeerState.BACKING_OFF) -> None:
        """Have the peer be so far behind."""
        put_cursor(self.peers.receiver, self.peers.node_id, f"{now_ms() - lag_ms}.0")
        reason = None if state is PeerState.CATCHING_UP else "timeout"
        self.peers.stand(state, reason, caught_up_ms=now_ms() - lag_ms)


def pairs(text: str) -> dict[str, str]:
    return {name: rest.strip() for name, rest in re.findall(r"(?m)^(.+?)  +(.*)$", text)}


@pytest.fixture
def shown(here: Here, known: Peers) -> Status:
    return Status(here, known)


# --- at a glance


@pytest.mark.usefixtures("running")
def test_all_is_well(shown: Status) -> None:
    """Counts, lag, dead letters and the table of peers, on one screen."""
    shown.idle(holder_pid=4242, holder_host="node-1", holder_command="run")
    assert shown.head() == {
        "daemon": "running, process 4242 on node-1",
        "database": str(shown.peers.receiver.database),
        "peers": "1 active peer, 1 idle",
        "largest lag": "0 s",
        "dead letters": "0 open",
    }
    assert shown.check() == (
        0,
        "ok: 1 active peer, 1 idle; largest lag 0 s; 0 open dead letters",
    )


def test_the_daemon_is_down(shown: Status) -> None:
    """It is said in the first line, and what was written last is shown."""
    shown.idle()
    first, *_ = shown.text().splitlines()
    assert first == "daemon        not running; this is what was written last"
    assert shown.head()["peers"] == "1 active peer, 1 idle"
    assert shown.check() == (3, "down: the daemon is not running")


@pytest.mark.usefixtures("running")
def test_who_needs_an_operator_comes_first(shown: Status) -> None:
    """With the reason and the next step, in the words of `peers list` and `peers show`."""
    shown.peers.receiver.register("stigmem:node:0-first-by-name", "http://127.0.0.1:2")
    shown.peers.stand(PeerState.BLOCKED, "key_changed", failures=2, **BLOCKED)
    _, needing, table = shown.text().split("\n\n")
    lines = shown.peers.lines()
    assert pairs(needing) == {
        name: lines[name] for name in ("peer", "state", "since", "last error", "next step")
    }
    listed = shown.peers("list").splitlines()
    assert table.splitlines() == [listed[0], listed[2], listed[1]]
    code, line = shown.check()
    assert code == 9
    assert line == (
        f"blocked: {shown.peers.node_id} is blocked (key_changed): {lines['next step']}; "
        "how far we are behind stigmem:node:0-first-by-name is not known"
    )


@pytest.mark.usefixtures("running")
def test_of_many_that_need_an_operator_a_few_are_named_by_a_check(shown: Status) -> None:
    """One line stays one line."""
    receiver = shown.peers.receiver
    shown.peers.stand(PeerState.BLOCKED, "forbidden")
    for number in range(1, 30):
        name = f"stigmem:node:{number}"
        receiver.register(name, "http://127.0.0.1:2")
        receiver.execute(
            "INSERT INTO replicator_peers (node_id, number, state, reason, since_ms, failures,"
            " pages, admitted, duplicates, rejected)"
            " SELECT ?, number + ?, state, reason, since_ms, 1, 0, 0, 0, 0"
            " FROM replicator_peers WHERE node_id = ?",
            [name, number, shown.peers.node_id],
        )
    code, line = shown.check()
    assert code == 9
    assert line.count("is blocked (forbidden)") == 5
    assert "and 25 more peers need an operator" in line
    assert "and 10 more peers need an operator" in shown.text()


@pytest.mark.usefixtures("running")
def test_the_node_s_own_loop_needs_an_operator(
    here: Here, shown: Status, server: PageServer
) -> None:
    """A peer that is pulled twice is told, with what to set."""
    server.origin.add_many(2)
    for moved in range(3):
        assert here("pull", "--all", db=shown.peers.receiver.database).code == 0
        put_cursor(shown.peers.receiver, shown.peers.node_id, f"{moved}.0")
    code, line = shown.check()
    assert code == 9
    assert "STIGMEM_FEDERATION_PULL_INTERVAL_S" in line
    assert "node's loop" in pairs(shown.text().split("\n\n")[1])
    (needing,) = shown.document()["needs_operator"]
    assert needing["node_loop"]


def test_open_dead_letters_are_counted(here: Here, shown: Status, server: PageServer) -> None:
    """Those that nobody has dealt with; they are no failure of the daemon."""
    for kind in ("a content beside its id", "an entry that is a text"):
        serve(server.origin, poison(kind))
    assert here("pull", "--all", db=shown.peers.receiver.database).code == 0
    assert shown.head()["dead letters"] == "2 open"
    shown.peers.receiver.execute(
        "UPDATE replicator_dead_letters SET status = 'discarded'"
        " WHERE entry_id = (SELECT min(entry_id) FROM replicator_dead_letters)"
    )
    with announced(shown.peers.receiver.database):
        assert shown.check() == (
            0,
            "ok: 1 active peer, 1 idle; largest lag 0 s; 1 open dead letter",
        )


def test_before_anything_was_pulled(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """Without our tables, and without peers."""
    shown = Status(here, Peers(here, bare_receiver, server.node_id))
    assert "this node has no peers; register one on the node first" in shown.text()
    with announced(bare_receiver.database):
        assert shown.check() == (
            0,
            "ok: 0 active peers; largest lag not known; 0 open dead letters",
        )
    bare_receiver.adopt(server)
    assert "never pulled" in shown.text()
    bare_receiver.execute("UPDATE peers SET status = 'revoked'")
    assert shown.head()["peers"] == "0 active peers; 1 not active"


# --- the verdict


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("state", [PeerState.BACKING_OFF, PeerState.THROTTLED, PeerState.IDLE])
def test_a_peer_that_is_behind(shown: Status, state: PeerState) -> None:
    """Whatever the state, the bound decides: five minutes unless another is given."""
    shown.lag(4 * MINUTE_MS, state)
    assert shown.check()[0] == 0
    assert shown.check("--max-lag", "3m") == (
        5,
        f"behind: we are 4 min behind {shown.peers.node_id}",
    )
    shown.lag(6 * MINUTE_MS, state)
    assert shown.check()[0] == 5
    assert shown.check("--max-lag", "1h")[0] == 0
    assert shown.head()["largest lag"] == f"6 min ({shown.peers.node_id})"


@pytest.mark.usefixtures("running")
def test_a_lag_that_cannot_be_told_is_no_small_one(shown: Status) -> None:
    """A peer that never answered is behind; a paused one, or one that is not active, is not."""
    shown.peers.stand(PeerState.BACKING_OFF, "unreachable")
    code, line = shown.check("--max-lag", "2d")
    assert (code, line) == (5, f"behind: how far we are behind {shown.peers.node_id} is not known")
    shown.peers.act("pause")
    assert shown.check()[0] == 0
    shown.peers.act("resume")
    shown.peers.receiver.execute("UPDATE peers SET status = 'revoked'")
    assert shown.check()[0] == 0


def test_the_worst_gives_the_code(shown: Status) -> None:
    """Down before blocked before behind, and all of it is said in that order."""
    shown.peers.receiver.register("stigmem:node:never-pulled", "http://127.0.0.1:2")
    shown.peers.stand(PeerState.BLOCKED, "key_changed", **BLOCKED)
    with announced(shown.peers.receiver.database):
        code, blocked = shown.check()
        assert code == 9
    assert shown.check() == (
        3,
        f"down: the daemon is not running; {blocked.removeprefix('blocked: ')}",
    )
    judged = shown.document()["check"]
    assert judged["exit_code"] == 3
    assert len(judged["problems"]) == 3


@pytest.mark.usefixtures("running")
def test_a_database_that_cannot_be_written(shown: Status) -> None:
    """What holds the daemon up is said with its cause."""
    shown.idle()
    full = {"STIGMEM_REPLICATOR_FREE_SPACE_MIN_MB": str(10**9)}
    code, line = shown.check(**full)
    assert code == 3
    assert line.startswith("down: the database cannot be used: ")
    assert line.endswith(" (disk_low)")
    rows = pairs(shown(**full).stdout.partition("\n\n")[0])
    assert rows["held up by"].endswith(" (disk_low)")
    assert rows["next step"]


def test_where_it_cannot_be_told_whether_a_daemon_runs(shown: Status) -> None:
    """That is no daemon that runs."""
    shown.idle()
    file = shown.peers.receiver.database.with_name(
        f"{shown.peers.receiver.database.name}.replicator-lock"
    )
    file.unlink(missing_ok=True)
    file.symlink_to(file)
    code, line = shown.check()
    assert code == 3
    assert f"the lock file {file} cannot be read" in line
    assert "cannot be read" in shown.head()["daemon"]
    assert shown.document()["daemon_running"] is None


@pytest.mark.parametrize("words", [("--check",), ("--check", "--max-lag", "1h")])
def test_a_database_that_is_not_there(here: Here, tmp_path: Path, words: tuple[str, ...]) -> None:
    """A check says it in its one line, on standard output where monitoring looks."""
    result = here("status", *words, db=tmp_path / "nowhere.db")
    assert (result.code, result.stderr) == (3, "")
    (line,) = result.stdout.splitlines()
    assert line.startswith("down: ")
    assert line.endswith("(database_missing)")
    here("status", db=tmp_path / "nowhere.db").failed("database_missing", 3)


def test_settings_that_do_not_fit_are_a_verdict_too(shown: Status) -> None:
    code, line = shown.check(STIGMEM_REPLICATOR_PAGE_SIZE="0")
    assert code == 3
    assert "page_size" in line


def test_json_has_the_same_verdict(shown: Status) -> None:
    """It ends with 0 unless a check is asked for."""
    shown.peers.stand(PeerState.BLOCKED, "key_changed", **BLOCKED)
    assert shown("--json").code == 0
    assert shown("--json", "--check").code == 3
    with announced(shown.peers.receiver.database):
        assert shown("--json", "--check").code == 9
        found = shown.document("--max-lag", "1h")
    assert found["states"] == {"blocked": 1}
    assert found["needs_operator"][0]["next_step"] == shown.peers.lines()["next step"]


@pytest.mark.parametrize(
    "words",
    ["--watch --check", "--watch --json", "--max-lag 5m", "--check --max-lag soon", "extra"],
)
def test_words_that_do_not_fit(shown: Status, words: str) -> None:
    result = shown(*words.split())
    assert (result.code, result.stdout) == (2, "")


# --- again and again


@dataclass
class Pauses:
    """Stands in for the waits of a watch: does something in each, and interrupts in the last."""

    doing: list[Any] = field(default_factory=list)

    def __call__(self, _seconds: float) -> None:
        if not self.doing:
            raise KeyboardInterrupt
        self.doing.pop(0)()


@pytest.mark.usefixtures("running")
def test_watching_without_a_terminal_is_a_line_each_time(
    shown: Status, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It outlives a database that cannot be used, and Ctrl-C ends it well."""
    database, aside = shown.peers.receiver.database, tmp_path / "aside.db"
    shown.idle()
    pauses = Pauses(
        [
            lambda: shown.lag(HOUR_MS),
            lambda: database.rename(aside),
            lambda: aside.rename(database),
        ]
    )
    monkeypatch.setattr(status, "system_pause", pauses)
    result = shown("--watch")
    assert (result.code, result.stderr) == (0, "")
    first, behind, gone, back = result.stdout.splitlines()
    assert re.fullmatch(r"20[0-9TZ:-]+ ok: 1 active peer, 1 idle; .*", first)
    assert f"behind: we are 60 min behind {shown.peers.node_id}" in behind
    assert "(database_missing)" in gone
    assert "behind: " in back
    monkeypatch.setattr(status, "system_pause", Pauses())
    assert " ok: 1 active peer, 1 backing_off;" in shown("--watch", "--max-lag", "1d").stdout


class Terminal:
    """A command on a terminal of 30 lines of 100 characters."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self._end = end
        self.seen = ""

    def wait_for(self, words: str, seconds: float = 20.0) -> None:
        """Wait until words are drawn that were not there before."""
        until = time.monotonic() + seconds
        self.seen = ""
        while words not in self.seen:
            assert time.monotonic() < until, f"no {words!r} in {self.seen!r}"
            if select.select([self._end], [], [], 0.2)[0]:
                self.seen += os.read(self._end, 65536).decode(errors="replace")


@contextmanager
def on_a_terminal(folder: Path, *words: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "stigmem_replicator", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=cli_environ(folder, {"TERM": "xterm"}),
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.usefixtures("running")
def test_watching_on_a_terminal(shown: Status, tmp_path: Path) -> None:
    """The screen is drawn again as things change; Ctrl-C gives the terminal back, exit 0."""
    shown.idle()
    words = ("--db", str(shown.peers.receiver.database), "status", "--watch")
    with on_a_terminal(tmp_path, *words) as terminal:
        terminal.wait_for("1 active peer, 1 idle")
        shown.peers.stand(PeerState.BLOCKED, "key_changed", **BLOCKED)
        terminal.wait_for("1 active peer, 1 blocked")
        terminal.wait_for("ask its operator; then: stigmem-replicate peers resume")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("\x1b[?1049l")
        assert terminal.process.wait(20) == 0
        assert "Traceback" not in terminal.seen
