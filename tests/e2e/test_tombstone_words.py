"""How a pull says that its tombstones ended, to people: once, and whether more remains.

What is pulled, and the JSON of it, is in test_tombstone_pull.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstones import add_tombstones

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")

ALONE = ("--stream", "tombstones")


@pytest.mark.parametrize("whom", ["--peer stigmem:node:", "--all"])
def test_how_they_ended_is_said_once(
    here: Here, adopted: Receiver, server: PageServer, whom: str
) -> None:
    """In the summary of one peer, and on the line of each."""

    def said(*words: str, code: int = 0) -> str:
        result = here("pull", *whom.split(), "--dry-run", *words, db=adopted.database)
        assert result.code == code
        return result.stdout

    add_tombstones(server.origin, 201)
    counts = "200 new tombstones, 0 new revocations, 0 rejected"
    beside = said("--max-pages", "1")
    assert f"{counts}, more remains\n" in beside
    assert "caught up" in beside
    alone = said(*ALONE, "--max-pages", "1")
    assert f"{counts}\n" in alone
    assert alone.count("stopped as asked, more remains") == alone.count("more remains") == 1

    server.tombstone_endpoint.script(misbehaviour.status(404))
    stopped = said(*ALONE, code=6)
    assert stopped.count("unexpected_answer") == stopped.count("stopped: ") == 1

    for whole in (said(), said(*ALONE)):
        assert "201 new tombstones, 0 new revocations, 0 rejected\n" in whole
        assert "caught up" in whole
        assert "more remains" not in whole
