"""A pull of tombstones that ends anywhere: what is there is whole, and the rest comes later."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from stigmem_replicator.engine.pull import Streams, Wishes
from tests.engine.engine_room import CountingClock, engine_of
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstones import add_revocation, add_tombstones

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

WAIT_S = 20.0
STEPS = 8
BESIDE = Wishes(streams=Streams.TOMBSTONES)


async def cancelled_at(receiver: Receiver, server: PageServer, number: int | None) -> int:
    """Pull, cancelled when the clock is asked for that time; returns how often it was asked."""
    clock = CountingClock()
    with engine_of(receiver, clock=clock) as engine:
        pull = engine.pull(server, BESIDE)
        with anyio.fail_after(WAIT_S), anyio.CancelScope() as scope:
            clock.scope, clock.cancel_at = scope, number
            await pull.run()
        clock.scope = None
        here = receiver.tombstone_ids() | receiver.revocation_ids()
        assert engine.tombstone_report.counts.admitted == len(here), number
    return clock.asked


async def test_cancelled_anywhere_the_next_pull_completes_it(
    template: Path, tmp_path: Path, server: PageServer, anyio_backend: str
) -> None:
    """No record is passed over or there twice, nobody keeps the peer, and the counts are true."""
    records = add_tombstones(server.origin, 5, group=2)
    revoked = {add_revocation(server.origin, record["id"])["id"] for record in records[:2]}

    def fresh(name: str) -> Receiver:
        receiver = Receiver(Path(shutil.copyfile(template, tmp_path / f"{name}.db")))
        receiver.adopt(server)
        return receiver

    whole = await cancelled_at(fresh("whole"), server, None)
    step = max(1, whole // STEPS)
    # The two backends take turns, so that together they look twice as closely.
    first = 1 if anyio_backend == "asyncio" else 1 + step // 2
    for number in range(first, whole, step):
        receiver = fresh(f"cancelled-{number}")
        await cancelled_at(receiver, server, number)
        assert receiver.holder(server) is None
        with engine_of(receiver) as again:
            await again.pull(server, BESIDE).run()
        assert receiver.tombstone_ids() == {record["id"] for record in records}
        assert receiver.revocation_ids() == revoked
        assert receiver.letters(server) == {}
        events = receiver.query(
            "SELECT COUNT(*) AS number FROM fact_audit_log WHERE event_type LIKE '%tombstone%'"
        )
        assert events[0]["number"] == len(records) + len(revoked), number
