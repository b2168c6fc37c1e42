"""A node that is upgraded while a pull is under way: the pull ends, and what it wrote stays."""

from __future__ import annotations

import pytest

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import Point
from tests.engine.engine_room import Points, assert_consistent, engine_of
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


async def test_a_migration_during_a_pull_ends_it(
    adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages judged before are written; the next one could be of another wire version."""
    server.origin.add_many(20)
    points = Points()
    monkeypatch.setattr(apply, "reached", points)

    def migrate() -> None:
        adopted.execute(
            "INSERT INTO schema_migrations (version, applied_at) VALUES ('059_later', 'now')"
        )

    points.on(Point.BEFORE_BEGIN, 1, migrate)
    with engine_of(adopted) as engine:
        with pytest.raises(LocalError) as caught:
            await engine.pull(server).run()
        assert caught.value.reason is Reason.SCHEMA_UNSUPPORTED
        assert "059_later" in caught.value.message
        assert "run the command again" in caught.value.hint
        assert 4 <= engine.report.counts.admitted < 20
    assert_consistent(adopted, server)
    with engine_of(adopted) as engine:
        await engine.pull(server).run()
    assert len(adopted.assert_clean(server).admitted) == 20
