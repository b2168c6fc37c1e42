"""The tombstones and revocations of one peer, while this process holds its lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.places import Places
from stigmem_replicator.engine.report import TombstoneReport
from stigmem_replicator.engine.stream import Watcher
from stigmem_replicator.engine.stream_task import Floor, Shared, StreamTask
from stigmem_replicator.engine.telling import Teller
from stigmem_replicator.engine.tombstone_stream import TombstoneStream
from stigmem_replicator.errors import Reason, ReplicatorError
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store.own_models import TOMBSTONES
from stigmem_replicator.store.streams import StreamNote

TOKEN_LOOK_SECONDS: Final = 5.0
"""How often the token's file is looked at while the peer does not take what is in it."""


class TombstoneTask(StreamTask):
    """Works on the tombstones of one peer."""

    def __init__(
        self,
        connection: PeerConnection,
        standing: Standing,
        shared: Shared,
        floor: Floor,
        still_held: Callable[[], bool],
    ) -> None:
        teller = Teller(connection.peer.node_id, connection.around.clock, standing, TOMBSTONES)
        report = TombstoneReport()
        super().__init__(connection, standing, teller, report, shared, floor)
        watcher = Watcher(self._on_page, teller.noted)
        self._tombstones = TombstoneStream(connection, report, watcher, still_held=still_held)

    @property
    def _stream(self) -> TombstoneStream:
        return self._tombstones

    @property
    def _interval_s(self) -> float:
        return self._around.settings.tombstone_interval_s

    @property
    def _places(self) -> Places:
        return self._shared.tombstone_places

    @property
    def _is_news(self) -> bool:
        # What is read again at each look says that there is more, and brings nothing.
        return self._new > 0 or self._standing.state is not PeerState.IDLE

    @property
    def token_not_after_ms(self) -> int | None:
        """When the capability token ends, milliseconds since 1970; None where there is none."""
        return self._tombstones.credential.not_after_ms or None

    @property
    def token_is_expiring(self) -> bool:
        """Whether the capability token has ended or soon will."""
        return self._tombstones.credential.is_expiring

    async def run(self) -> None:
        """Take turns, and take one early when the token's file was replaced."""
        async with anyio.create_task_group() as tasks:
            if self._tombstones.credential.has_file:
                tasks.start_soon(self._watch_token)
            await super().run()

    async def _watch_token(self) -> None:
        credential, threads = self._tombstones.credential, self._around.threads
        stamp = await threads.look_up(credential.stamp)
        while True:
            await self._around.sleep(TOKEN_LOOK_SECONDS)
            if self._standing.reason != Reason.CAPABILITY_REQUIRED:
                continue
            now = await threads.look_up(credential.stamp)
            if now != stamp:
                stamp = now
                self._wake()

    async def _audit(self, error: ReplicatorError) -> None:
        """Nothing: that somebody else answers for the peer is noted with its facts."""

    def _note(self) -> StreamNote:
        return StreamNote(
            self.peer.node_id,
            TOMBSTONES,
            self._standing,
            attempted_ms=self._attempted_ms,
            caught_up_ms=self._report.caught_up_ms,
            token_not_after_ms=self._tombstones.credential.not_after_ms,
        )
