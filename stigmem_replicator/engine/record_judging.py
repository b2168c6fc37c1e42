"""Judging a peer's tombstones and revocations: under which policy, and by which keys.

Unlike for facts, no share of bad ones blocks the peer: the lists are read again from their
beginning at times, so that nothing is lost by going on, and an order to forget must not wait
behind bad ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.engine.manifests import SenderKeys
from stigmem_replicator.engine.record_inspection import Batch, inspect
from stigmem_replicator.engine.refusals import Inspected
from stigmem_replicator.errors import PeerBlockedError, Reason
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.store import reads, schema
from stigmem_replicator.store.engine import reading
from stigmem_replicator.trust.tombstones import AdmitRecord, KnownRecord, RecordPolicy

_HINT: Final = "set the peer's ingest_tenant on the node"


class RecordJudge:
    """Judges the records of one peer, in order."""

    def __init__(self, connection: PeerConnection) -> None:
        self._connection = connection
        self._peer = connection.peer
        self._around = connection.around
        self._admitted: dict[Artifact, dict[str, KnownRecord]] = {a: {} for a in Artifact}

    async def page(self, artifact: Artifact, entries: Sequence[object]) -> Inspected:
        """Judge the entries of one kind on a page.

        Raises :class:`PeerBlockedError` when going on needs an operator; then nothing of them
        may be written.
        """
        clock = self._around.clock
        began = clock.monotonic()
        inspected = await self.again(artifact, entries)
        self._around.counting.page_verified(clock.monotonic() - began)
        if self._connection.read_only:
            self._remember(artifact, inspected)
        return inspected

    async def again(self, artifact: Artifact, entries: Sequence[object]) -> Inspected:
        """Judge entries against what the database holds now."""
        sender = self._connection.keys
        if sender is None or not entries:
            keys = frozenset[str]()
        else:
            keys = await sender.current()
        inspected = await self._inspect(artifact, entries, keys)
        if sender is not None and inspected.refuses(Reason.ORIGIN_SIG_INVALID):
            inspected = await self._with_newer_keys(sender, artifact, entries, keys, inspected)
        if inspected.blocked is not None:
            raise PeerBlockedError(
                inspected.blocked.reason,
                f"no tombstone of peer {self._peer.node_id} can be admitted: "
                f"{inspected.blocked.detail}",
                hint=_HINT,
            )
        return inspected

    async def _with_newer_keys(
        self,
        sender: SenderKeys,
        artifact: Artifact,
        entries: Sequence[object],
        keys: frozenset[str],
        inspected: Inspected,
    ) -> Inspected:
        """Look whether the sender has other keys by now; else the entries are bad, for now."""
        newer = await sender.after_bad_signatures(keys, proven=True)
        return inspected if newer is None else await self._inspect(artifact, entries, newer)

    async def _inspect(
        self, artifact: Artifact, entries: Sequence[object], keys: frozenset[str]
    ) -> Inspected:
        batch = Batch(
            node_id=self._peer.node_id,
            artifact=artifact,
            entries=entries,
            dialect=self._around.envelope.dialect,
            now_ms=self._around.clock.now_ms(),
            admitted={kind: dict(known) for kind, known in self._admitted.items()},
        )
        return await self._around.threads.check(self._judge, batch, keys)

    def _judge(self, batch: Batch, keys: frozenset[str]) -> Inspected:
        return inspect(self._around.database, batch, self._policy(keys))

    def _policy(self, keys: frozenset[str]) -> RecordPolicy:
        """Look up what this peer's records are judged by, but for their issuers' manifests."""
        settings, database = self._around.settings, self._around.database
        with reading(database) as connection:
            schema.require_unchanged(connection, database.schema, database.name)
            peer = reads.peer(connection, self._peer.id) or self._peer
            tenants = reads.tenant_policy(connection, peer, plugin_active=settings.multi_tenant)
        return RecordPolicy(
            sender_node_id=peer.node_id,
            keys=keys,
            issuers={},
            tenants=tenants,
            relay_enabled=settings.relay_enabled,
            relay_trusted=peer.relay_trusted,
            signed=self._around.envelope.signed,
        )

    def _remember(self, artifact: Artifact, inspected: Inspected) -> None:
        """Keep what a dry run would have written, for what follows."""
        for item in inspected.judged:
            if isinstance(item.verdict, AdmitRecord):
                record = item.verdict.entry.record
                known = KnownRecord(record.signed_by, record.signature)
                self._admitted[artifact][record.id] = known
