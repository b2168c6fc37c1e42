"""Judging a peer's pages: under which policy, and when a page blocks the whole peer.

The policy is looked up for every page, so that a change an operator makes is seen; bad
signatures lead to one look at the sender's manifest before they count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stigmem_replicator.engine.inspection import inspect
from stigmem_replicator.engine.manifests import SenderKeys
from stigmem_replicator.engine.refusals import Inspected
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import PeerBlockedError, Reason
from stigmem_replicator.protocol.envelope import Entry
from stigmem_replicator.replication.pacing import RejectWindow
from stigmem_replicator.store import reads, schema
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.trust.facts import Admit, FactPolicy, origin_fits
from stigmem_replicator.trust.verdicts import Reject

_HINTS: Final = {
    Reason.TENANT_POLICY_UNSAFE: "set the peer's ingest_tenant or its tenant map on the node",
}


class Judge:
    """Judges the pages of one peer, in order.

    ``keys`` are None where entries carry no signatures.
    """

    def __init__(
        self,
        peer: PeerRow,
        stream: str,
        around: Surroundings,
        keys: SenderKeys | None,
        *,
        backfill: bool,
    ) -> None:
        self._peer = peer
        self._stream = stream
        self._around = around
        self._keys = keys
        self._backfill = backfill
        self._window = RejectWindow(
            run=around.settings.reject_burst_run, percent=around.settings.reject_burst_percent
        )

    async def page(self, entries: Sequence[object], *, first: bool) -> Inspected:
        """Judge one page; ``first`` says that it is the stream's very first.

        Raises :class:`PeerBlockedError` when going on needs an operator; then nothing of this
        page may be written.
        """
        clock = self._around.clock
        began = clock.monotonic()
        inspected = await self.again(entries)
        self._around.counting.page_verified(clock.monotonic() - began)
        self._check_burst(inspected)
        if first:
            self._check_history(inspected)
        return inspected

    async def again(self, entries: Sequence[object]) -> Inspected:
        """Judge entries against what the database holds now, without counting them again."""
        sender = self._keys
        keys = frozenset[str]() if sender is None else await sender.current()
        inspected = await self._around.threads.check(self._inspect, entries, keys)
        if sender is not None and inspected.count(Reason.ORIGIN_SIG_INVALID):
            inspected = await self._after_bad_signatures(sender, entries, keys, inspected)
        if inspected.blocked is not None:
            raise PeerBlockedError(
                inspected.blocked.reason,
                f"nothing from peer {self._peer.node_id} can be admitted: "
                f"{inspected.blocked.detail}",
                hint=_HINTS.get(inspected.blocked.reason, ""),
            )
        return inspected

    async def _after_bad_signatures(
        self,
        sender: SenderKeys,
        entries: Sequence[object],
        keys: frozenset[str],
        inspected: Inspected,
    ) -> Inspected:
        """Tell bad entries from a changed key.

        A node signs each of its facts anew when it serves it, so one good signature on the page,
        also of a fact that is known, proves that the keys are the right ones.
        """
        check = self._around.threads.check
        proven = await check(self._any_signature_fits, entries, keys)
        newer = await sender.after_bad_signatures(keys, proven=proven)
        if newer is not None:
            keys = newer
            inspected = await check(self._inspect, entries, keys)
            proven = await check(self._any_signature_fits, entries, keys)
        if inspected.count(Reason.ORIGIN_SIG_INVALID) and not proven:
            raise sender.key_changed("no signature on its page fits", keys)
        return inspected

    def _any_signature_fits(self, entries: Sequence[object], keys: frozenset[str]) -> bool:
        policy = self.policy(keys)
        return any(
            isinstance(item, Entry) and origin_fits(item, policy)
            for item in map(self._around.envelope.decode_entry, entries)
        )

    def _inspect(self, entries: Sequence[object], keys: frozenset[str]) -> Inspected:
        policy = self.policy(keys)
        return inspect(
            self._around.database,
            self._peer.node_id,
            self._stream,
            entries,
            self._around.envelope,
            policy,
            self._around.clock.now_ms(),
        )

    def policy(self, keys: frozenset[str]) -> FactPolicy:
        """Look up what this peer's facts are judged by.  Blocks: call it in a thread."""
        settings, database = self._around.settings, self._around.database
        with reading(database) as connection:
            # The wire version was told when the database was opened; an upgrade may change it.
            schema.require_unchanged(connection, database.schema, database.name)
            # A peer that is gone by now is found out when its page is written.
            peer = reads.peer(connection, self._peer.id) or self._peer
            tenants = reads.tenant_policy(connection, peer, plugin_active=settings.multi_tenant)
        return FactPolicy(
            sender_node_id=peer.node_id,
            keys=keys,
            scopes=peer.scopes,
            tenants=tenants,
            relay_enabled=settings.relay_enabled,
            relay_trusted=peer.relay_trusted,
            future_skew_ms=settings.hlc_max_future_skew_s * 1000,
            past_skew_ms=0 if self._backfill else settings.hlc_max_past_skew_s * 1000,
            trust=self._around.trust.scorer(),
            signed=self._around.envelope.signed,
            admit_legacy_cid=settings.admit_legacy_cid,
            require_cid=settings.require_cid,
        )

    def _check_burst(self, inspected: Inspected) -> None:
        for item in inspected.judged:
            if isinstance(item.verdict, Admit):
                self._window.add(None)
            elif isinstance(item.verdict, Reject) and self._window.add(item.verdict.reason):
                raise PeerBlockedError(
                    Reason.REJECT_BURST,
                    f"too many entries of peer {self._peer.node_id} are refused, most for "
                    f"{self._window.commonest()} (last: {item.verdict.detail})",
                    hint="the cursor stays; to dead-letter them all, set reject_burst_run and "
                    "reject_burst_percent to 0",
                )

    def _check_history(self, inspected: Inspected) -> None:
        new = [
            item.verdict for item in inspected.judged if isinstance(item.verdict, Admit | Reject)
        ]
        if new and all(
            isinstance(verdict, Reject)
            and verdict.reason is Reason.HLC_SKEW
            and verdict.facts.get("direction") == "past"
            for verdict in new
        ):
            days = self._around.settings.hlc_max_past_skew_s // 86_400
            raise PeerBlockedError(
                Reason.HISTORY_TOO_OLD,
                f"the history of peer {self._peer.node_id} begins more than {days} days ago, "
                "which this node does not admit",
                hint="to take it in, run: stigmem-replicate pull --backfill "
                f"--peer {self._peer.node_id}",
            )
