"""From page to page: a pull comes to the end, and its cursor passes nothing by.

The command runs as a subprocess against the page server. Every case looks at what the operator
sees and at what became of the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.page_pulls import (
    assert_failed,
    pull,
    pull_all_new,
    settings,
)
from tests.pages import misbehaviour
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, honestly

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli

pytest_plugins = ("tests.pages.fixtures",)


def test_a_stalled_cursor(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """The same cursor with more to come is a failed page, exit 5; the page before it stays."""
    server.origin.add_many(6)
    server.script(honestly)
    server.always = misbehaviour.stalled
    assert_failed(pull(cli, adopted, env=settings(page_size=3)), "cursor_stalled", 5)
    assert len(adopted.fact_ids(server)) == 3
    assert adopted.cursor(server) == server.origin.rows[2].hlc
    assert len(server.requests) == 2


def test_empty_pages_with_more_go_on(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """Pages without entries that say there is more are read past."""
    server.origin.add_many(2)
    server.origin.add_unsent(9)
    server.origin.add_many(2)
    server.origin.add_unsent(2)
    pull_all_new(cli, adopted, env=settings(page_size=3))
    assert len(adopted.assert_clean(server).admitted) == 4
    assert adopted.cursor(server) == server.origin.rows[-1].hlc


def test_a_cursor_of_null_never_takes_a_cursors_place(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A last page without a cursor is taken, and the stored cursor does not fall."""
    server.origin.add_many(3)
    pull_all_new(cli, adopted)
    before = adopted.cursor(server)
    server.origin.add_many(2)
    server.always = misbehaviour.without_cursor
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 5
    after = adopted.cursor(server)
    assert before is not None
    assert after is not None
    assert after >= before


def test_equal_stamps_on_both_sides_of_a_pages_end(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """Entries that share one HLC across the end of a page all arrive."""
    server.origin.add_many(2)
    stamp = server.origin.stamp()
    server.origin.add_many(2, hlc=stamp)
    server.origin.add_many(3)
    pull_all_new(cli, adopted, env=settings(page_size=3))
    assert len(adopted.assert_clean(server).admitted) == 7


def test_max_pages(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """--max-pages ends after so many pages with exit 0 and says that more remains."""
    server.origin.add_many(9)
    result = pull_all_new(cli, adopted, "--max-pages", "2", env=settings(page_size=3))
    assert len(server.requests) == 2
    assert "stopped as asked, more remains" in result.stdout
    assert adopted.state(server) == ("catching_up", None)
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 9


def test_pulling_again_brings_nothing_twice(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A second pull reads what may still change once more, and writes nothing of it again."""
    for _ in range(4):
        server.origin.add(hlc=f"{now_ms()}.{len(server.origin.rows)}")
    pull_all_new(cli, adopted)
    facts = adopted.count("facts")
    result = pull_all_new(cli, adopted)
    assert "duplicates  4" in result.stdout
    assert adopted.count("facts") == facts
    adopted.assert_clean(server)
