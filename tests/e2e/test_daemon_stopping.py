"""Stopping the daemon, whatever it is doing: at once and well, or at once and safe.

Every test ends the same way: the peer is free, and a pull brings what was left undone.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.daemon import STOP_S, Daemon, daemon, is_free
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, honestly

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")
pytestmark = pytest.mark.slow

PAGE: Final = 5
FACTS: Final = 200
AT_ONCE_S: Final = 2.0


def assert_left_in_order(daemon: Daemon, receiver: Receiver, server: PageServer) -> None:
    """Nobody holds the peer, and what was written is whole, up to the cursor and no further."""
    row = daemon.row(server)
    assert (row["holder_pid"], row["holder_host"], row["holder_command"]) == (None, None, None)
    assert is_free(receiver.database, row["number"])
    assert_whole(receiver, server)


def assert_whole(receiver: Receiver, server: PageServer) -> None:
    """No page is half there, and the cursor passed nothing by."""
    cursor = receiver.cursor(server) or ""
    expected = {row.entry["fact"]["id"] for row in server.origin.rows if row.hlc <= cursor}
    assert receiver.fact_ids(server) == expected
    verdict = server.origin.ledger.judge(receiver.database)
    assert not [line for line in verdict.problems() if " lost: " not in line]


def heal(here: Here, receiver: Receiver, server: PageServer) -> None:
    """Pull to the end, without waiting for anybody."""
    server.always = honestly
    said = here("pull", "--peer", server.node_id, "--wait", "0", db=receiver.database)
    assert said.code == 0, said.stderr
    assert len(receiver.assert_clean(server).admitted) == FACTS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_middle_of_a_drain(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path, number: signal.Signals
) -> None:
    """No further page is asked for; what was being written is."""
    server.origin.add_many(FACTS)
    server.always = misbehaviour.slow(0.02)
    with daemon(tmp_path, adopted.database, page_size=PAGE) as running:
        running.wait(lambda: len(server.requests) > 10, "ten pages")
        print(f"stopped in {running.stop(number):.2f} s")
        asked = len(server.requests)
        assert 0 < len(adopted.fact_ids(server)) < FACTS
        assert_left_in_order(running, adopted, server)
        assert running.state(server) == ("catching_up", None)
        assert len(server.requests) == asked
    heal(here, adopted, server)


def test_while_an_answer_does_not_come(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """A request under way is given up, and does not count against the peer."""
    server.origin.add_many(FACTS)
    server.script(honestly, honestly)
    server.always = misbehaviour.hang
    with daemon(tmp_path, adopted.database, page_size=PAGE) as running:
        running.wait(lambda: len(server.requests) > 2, "the third page to be asked for")
        print(f"stopped in {running.stop():.2f} s")
        assert_left_in_order(running, adopted, server)
        assert running.row(server)["failures"] == 0
    heal(here, adopted, server)


def test_with_nothing_to_do(
    here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """An idle daemon ends, and the peer stays idle."""
    server.origin.add_many(FACTS)
    with daemon(tmp_path, adopted.database, poll_interval_s=3600) as running:
        running.wait_for_state(server, "idle")
        print(f"stopped in {running.stop():.2f} s")
        assert_left_in_order(running, adopted, server)
        assert running.state(server) == ("idle", None)
    heal(here, adopted, server)


def test_before_it_has_begun(adopted: Receiver, server: PageServer, tmp_path: Path) -> None:
    """A signal while the program is still being loaded ends it without a word of Python."""
    with daemon(tmp_path, adopted.database) as running:
        time.sleep(0.1)
        running.send(signal.SIGTERM)
        assert running.ended() in {0, -signal.SIGTERM}
        assert "Traceback" not in running.tail()
        assert running.row(server).get("holder_pid") is None


class TestWhileTheDatabaseIsLocked:
    """Another process holds the write lock just when the daemon wants to write."""

    def test_it_still_ends_in_time(
        self, here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
    ) -> None:
        """The page that could not be written is not; who is gone holds nothing."""
        server.origin.add_many(FACTS)
        held = server.hold()
        with daemon(tmp_path, adopted.database, page_size=PAGE) as running:
            held.wait()
            with locked(adopted.database):
                held.let_go()
                running.wait(lambda: len(server.requests) > 0, "the page")
                time.sleep(0.3)  # it may be waiting for the lock, or not yet: it ends either way
                began = time.monotonic()
                running.send(signal.SIGTERM)
                assert running.ended(STOP_S + 1.0) == 0, running.tail()
                print(f"stopped in {time.monotonic() - began:.2f} s")
            assert is_free(adopted.database, running.row(server)["number"])
            assert_whole(adopted, server)
        heal(here, adopted, server)

    def test_a_second_signal_ends_it_at_once(
        self, here: Here, adopted: Receiver, server: PageServer, tmp_path: Path
    ) -> None:
        """It does not wait for the lock, and leaves nothing half done."""
        server.origin.add_many(FACTS)
        held = server.hold()
        with daemon(tmp_path, adopted.database, page_size=PAGE) as running:
            held.wait()
            with locked(adopted.database):
                held.let_go()
                time.sleep(0.3)
                running.send(signal.SIGTERM)
                time.sleep(0.3)  # a second signal, not the first one again
                began = time.monotonic()
                running.send(signal.SIGTERM)
                code = running.ended()
                took = time.monotonic() - began
            print(f"ended in {took:.2f} s with {code}")
            assert took < AT_ONCE_S
            assert is_free(adopted.database, running.row(server)["number"])
            assert_whole(adopted, server)
        heal(here, adopted, server)


def locked(database: Path) -> closing[sqlite3.Connection]:
    """Hold the database's write lock until the end of the `with`."""
    connection = sqlite3.connect(database, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    return closing(connection)
