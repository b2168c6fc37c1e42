"""A write that fails while the pages after it are on their way, under both async backends."""

from __future__ import annotations

from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest

from stigmem_replicator.engine.judging import Judge
from stigmem_replicator.engine.pages import PageWriter
from stigmem_replicator.errors import LocalError, Reason
from tests.engine.engine_room import assert_consistent, engine_of
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.mark.parametrize("steps", range(4))
async def test_a_write_fails_just_when_the_next_page_is_judged(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The failure of the write is what the pull tells, not that nobody took the next page."""
    server.origin.add_many(20)
    judging, failing = anyio.Event(), anyio.Event()
    judge_page, judged = Judge.page, 0

    async def page(self: Judge, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as it comes
        nonlocal judged
        inspected = await judge_page(self, *args, **options)
        judged += 1
        if judged == 2:
            judging.set()
            await failing.wait()
        return inspected

    async def write(_self: PageWriter, *_args: object) -> NoReturn:
        await judging.wait()
        failing.set()
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        raise LocalError(Reason.DATABASE_FAILED, "the database failed")

    monkeypatch.setattr(Judge, "page", page)
    monkeypatch.setattr(PageWriter, "write", write)
    with engine_of(adopted) as engine, pytest.raises(LocalError) as caught:
        await engine.pull(server).run()
    assert caught.value.reason is Reason.DATABASE_FAILED
    assert judged == 2
    assert adopted.count("facts") == 0
    assert_consistent(adopted, server)
