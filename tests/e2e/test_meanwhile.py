"""What others do while a pull is under way: other processes, operators, and Ctrl-C.

The command runs as a subprocess against the page server. Every case looks at what the operator
sees and at what became of the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.page_pulls import (
    assert_failed,
    assert_untouched,
    pull_all_new,
    settings,
    wait_for,
)
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, honestly

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.pages.fixtures",)


def test_one_process_at_a_time(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A second pull of a peer is exit 8, names who works on it and asks the peer nothing."""
    server.origin.add_many(2)
    held = server.hold()
    first = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    words = ("pull", "--peer", server.node_id, "--wait", "1")
    second = cli(*words, db=adopted.database, check=False)
    line = assert_failed(second, "peer_held", 8)
    assert f"process {first.pid} on " in line
    assert adopted.holder(server) == first.pid
    # A dry run only reads, and needs no lock.
    assert "would add" in cli(*words, "--dry-run", db=adopted.database).stdout
    held.let_go()
    assert first.end()[2] == 0
    assert len(adopted.assert_clean(server).admitted) == 2
    assert adopted.holder(server) is None


def test_a_killed_process_lets_go(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """The death of a process frees its peer at once, whatever the table still says."""
    server.origin.add_many(2)
    held = server.hold()
    first = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    first.kill()
    assert first.end()[2] == -9
    assert adopted.holder(server) == first.pid
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 2
    assert adopted.holder(server) is None


# --- while a page is in flight


def test_a_peer_revoked_while_its_page_is_in_flight(
    start: Start, adopted: Receiver, server: PageServer
) -> None:
    """Nothing of a page is admitted when its peer is revoked before the commit."""
    server.origin.add_many(3)
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    adopted.execute("UPDATE peers SET status = 'revoked'")
    held.let_go()
    _stdout, stderr, code = running.end()
    assert code == 4
    assert "(peer_not_active)" in stderr
    assert_untouched(adopted, server, None)


def test_scopes_narrowed_while_a_page_is_in_flight(
    start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A scope that is withdrawn before a page is judged is not admitted from that page."""
    public = server.origin.add()
    company = server.origin.add(scope="company")
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    adopted.execute("""UPDATE peers SET allowed_scopes = '["public"]'""")
    held.let_go()
    assert running.end()[2] == 0
    assert adopted.fact_ids(server) == {public}
    assert adopted.letters(server) == {company: "scope_not_permitted"}


def test_a_cursor_reset_while_a_page_is_in_flight(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A reset is not overwritten by the page under way: the same pull reads everything again."""
    server.origin.add_many(8)
    server.script(honestly)
    held = server.hold()
    running = start(
        *("pull", "--peer", server.node_id), db=adopted.database, env=settings(page_size=3)
    )
    held.wait()
    wait_for(lambda: adopted.cursor(server) is not None)
    cli("cursor", "reset", "--peer", server.node_id, "--yes", db=adopted.database)
    assert adopted.cursor(server) is None
    held.let_go()
    stdout, stderr, code = running.end()
    assert (code, stderr) == (0, "")
    assert "cursor changed  1 times by somebody else" in stdout
    assert [request.cursor for request in server.requests].count(None) == 2
    assert len(adopted.assert_clean(server).admitted) == 8
    assert adopted.cursor(server) == server.origin.rows[-1].hlc
    events = adopted.events(server)
    assert events.index("cursor_reset") < events.index("cursor_moved_elsewhere")


def test_a_cursor_reset_beside_an_idle_page_survives(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A reset beside a page that brings nothing is still there afterwards, and is followed."""
    server.origin.add_many(4)
    pull_all_new(cli, adopted)
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    cli("cursor", "reset", "--peer", server.node_id, "--yes", db=adopted.database)
    held.let_go()
    assert running.end()[2] == 0
    pull_all_new(cli, adopted)
    # By whichever of the two pulls: everything was read once more.
    assert [request.cursor for request in server.requests].count(None) == 2
    assert adopted.cursor(server) == server.origin.rows[-1].hlc
    adopted.assert_clean(server)


def test_interrupted_between_pages(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """Ctrl-C is exit 130 with a summary; the pages before it are whole, and the lock is free."""
    server.origin.add_many(12)
    server.script(honestly, honestly)
    held = server.hold()
    running = start(
        *("pull", "--peer", server.node_id), db=adopted.database, env=settings(page_size=4)
    )
    held.wait()
    wait_for(lambda: len(adopted.fact_ids(server)) == 7)
    running.interrupt()
    stdout, stderr, code = running.end()
    assert code == 130
    assert "Traceback" not in stderr
    assert "interrupted after" in stdout
    assert "7 new facts" in stdout
    cursor = adopted.cursor(server)
    assert cursor is not None
    verdict = server.origin.ledger.judge(adopted.database)
    assert verdict.admitted == {
        row.entry["fact"]["id"] for row in server.origin.rows if row.hlc <= cursor
    }
    assert not verdict.duplicated
    assert not verdict.incomplete
    assert adopted.holder(server) is None
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 12
