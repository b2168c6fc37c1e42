"""The sender's manifest: which keys it signs with now, and when it is fetched anew.

The stored manifest is used while it verifies and has not expired.  A newer one is asked for
daily, before the stored one expires, and at once when the sender's signatures fail; it replaces
the stored one only when a signed chain of rotations leads to it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import anyio

from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import PeerBlockedError, Reason, ReplicatorError
from stigmem_replicator.observe.log import logger, printable
from stigmem_replicator.protocol.signatures import fingerprint
from stigmem_replicator.protocol.times import parse_time
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store import reads, records
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.reads import PeerRow, StoredManifest
from stigmem_replicator.transport import addresses
from stigmem_replicator.transport.client import Limits, PeerClient
from stigmem_replicator.transport.network import Destination
from stigmem_replicator.trust.keys import (
    Manifest,
    ManifestError,
    follows,
    parse_manifest,
    read_manifest,
    signing_keys,
)

PATH: Final = "/.well-known/stigmem-manifest.json"
ANSWER_SECONDS: Final = 10.0
BODY_BYTES: Final = 1 << 20
DETAIL_CHARACTERS: Final = 300
"""How much of a reason is shown, which may hold words of the peer."""
RETRY_SECONDS: Final = 60.0
"""A manifest is fetched at most this often, whatever the cause."""


_SOMEBODY_ELSE: Final = frozenset(
    {Reason.SAN_MISMATCH, Reason.CERTIFICATE_INVALID, Reason.UNSAFE_ADDRESS}
)
"""Who was asked for the manifest was not the peer: that says nothing about the peer's key."""


class KeyNotFollowingError(ManifestError):
    """A good manifest shows a key to which no chain leads from the stored one."""


class SenderKeys:
    """The keys of one directly connected peer."""

    def __init__(self, peer: PeerRow, around: Surroundings, *, read_only: bool) -> None:
        self._peer = peer
        self._around = around
        self._read_only = read_only
        self._refreshed_at: float | None = None
        self._manifest: Manifest | None = None
        self._log = logger(peer=peer.node_id)
        self._one_look = anyio.Lock()

    async def current(self) -> frozenset[str]:
        """Return the keys the peer may sign with now, its manifest fetched anew when it is due.

        Raises :class:`PeerBlockedError` with ``origin_unresolvable`` when there are none.
        """
        stored, manifest = await self._load()
        now = self._now()
        due = timedelta(seconds=self._around.settings.manifest_refresh_s)
        updated = parse_time(stored.updated_at)
        old = updated is None or now - updated >= due or manifest.expired(now + due)
        if old:
            async with self._one_look:
                manifest = await self._refreshed(stored, manifest)
        if manifest.expired(now):
            raise self._unresolvable(f"its manifest expired at {manifest.expires_at}")
        return self._keys(manifest)

    async def _refreshed(self, stored: StoredManifest, manifest: Manifest) -> Manifest:
        """Return the manifest that is stored now, a new one if it can be had."""
        if self._just_refreshed():
            return (await self._load())[1]
        try:
            return await self._refresh(stored, manifest)
        except (ReplicatorError, ManifestError) as error:
            self._log.warning(
                "federation.manifest.refresh_failed",
                detail=printable(str(error), DETAIL_CHARACTERS),
            )
            return manifest

    async def after_bad_signatures(
        self, used: frozenset[str], *, proven: bool
    ) -> frozenset[str] | None:
        """Look for a newer manifest because signatures did not verify by the keys ``used``.

        The streams of a peer look one after the other, so that what one found serves the other.
        Returns the new keys, or None when there are none and the entries themselves are bad,
        as far as can be told; ``proven`` says that some signature on the page was good.  Raises
        :class:`PeerBlockedError` with ``key_changed`` when the peer shows a key to which no
        chain leads, or when nothing was proven and no good manifest can be had, and
        :class:`PeerRefusedError` when nothing was proven and somebody else answers for the peer.
        """
        async with self._one_look:
            stored, manifest = await self._load()
            before = self._keys(manifest)
            if before != used:
                return before
            if self._just_refreshed():
                return None
            return await self._newer(stored, manifest, before, proven=proven)

    async def _newer(
        self,
        stored: StoredManifest,
        manifest: Manifest,
        before: frozenset[str],
        *,
        proven: bool,
    ) -> frozenset[str] | None:
        try:
            newer = await self._refresh(stored, manifest)
        except ManifestError as error:
            if not proven or isinstance(error, KeyNotFollowingError):
                raise self.key_changed(f"its manifest is refused: {error}", before) from error
            return None
        except ReplicatorError as error:
            if proven:
                return None
            if error.reason in _SOMEBODY_ELSE:
                raise
            raise self.key_changed(f"its manifest cannot be had: {error}", before) from error
        after = self._keys(newer)
        return after if after != before else None

    def _just_refreshed(self) -> bool:
        if self._refreshed_at is None:
            return False
        return self._around.clock.monotonic() - self._refreshed_at < RETRY_SECONDS

    async def _load(self) -> tuple[StoredManifest, Manifest]:
        stored = await self._around.threads.look_up(self._read)
        if self._manifest is not None and self._read_only:
            return stored, self._manifest
        try:
            manifest = read_manifest(stored.document)
        except ManifestError as error:
            raise self._unresolvable(f"its stored manifest is bad: {error}") from error
        return stored, manifest

    def _read(self) -> StoredManifest:
        if self._peer.entity_uri is None:
            raise self._unresolvable("no organisation is bound to it (peers.entity_uri is empty)")
        with reading(self._around.database) as connection:
            stored = reads.manifest(connection, self._peer.entity_uri)
        if stored is None:
            organisation = without_secrets(self._peer.entity_uri)
            raise self._unresolvable(f"no manifest of {organisation} is stored")
        return stored

    async def _refresh(self, stored: StoredManifest, before: Manifest) -> Manifest:
        """Fetch, verify and store the manifest; raises on any failure."""
        self._refreshed_at = self._around.clock.monotonic()
        manifest = await self._fetch(before.entity_uri)
        manifest.verify()
        if manifest.expired(self._now()):
            raise ManifestError(f"it expired at {manifest.expires_at[:40]!r}")
        try:
            follows(manifest, before)
        except ManifestError as error:
            raise KeyNotFollowingError(str(error)) from error
        if self._read_only:
            self._manifest = manifest
        else:
            await self._around.writer.run(
                records.store_manifest,
                self._peer,
                manifest,
                stored,
                self._around.clock,
                self._around.new_id,
            )
        if manifest.key_id != before.key_id:
            self._log.info("federation.manifest.rotated", key_id=manifest.key_id)
        return manifest

    async def _fetch(self, entity_uri: str) -> Manifest:
        limits = Limits(
            connect_s=min(self._around.settings.connect_timeout_s, ANSWER_SECONDS),
            read_s=min(self._around.settings.read_timeout_s, ANSWER_SECONDS),
            answer_s=ANSWER_SECONDS,
            body_bytes=BODY_BYTES,
            retry_after_cap_s=float(self._around.settings.retry_after_cap_s),
        )
        there = self._where(entity_uri)
        async with PeerClient(there, self._around.network, limits) as client:
            answer = await client.get(PATH)
        try:
            return parse_manifest(json.loads(answer.body))
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"it does not read: {printable(str(error))}") from error

    def _where(self, entity_uri: str) -> Destination:
        """Return who has the manifest: the organisation's web site, or the peer if that is it.

        The manifest vouches for itself, so any public certificate of the site's name will do; a
        node that demands mutual TLS is asked as it is for facts.
        """
        peer, allowed = self._peer, self._around.settings.allowed_networks
        try:
            parts = urlsplit(entity_uri)
            is_site = parts.scheme in ("http", "https")
            if not is_site or addresses.same_origin(entity_uri, peer.node_url):
                return Destination(peer.node_url, peer.node_id, allowed)
        except ValueError as error:
            raise ManifestError("its organisation is no URL") from error
        return Destination(f"{parts.scheme}://{parts.netloc}", None, allowed)

    def _keys(self, manifest: Manifest) -> frozenset[str]:
        grace = timedelta(hours=self._around.settings.key_rotation_grace_hours)
        return signing_keys(manifest, self._now(), grace)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._around.clock.now_ms() / 1000, UTC)

    def _unresolvable(self, why: str) -> PeerBlockedError:
        return PeerBlockedError(
            Reason.ORIGIN_UNRESOLVABLE,
            f"the keys of peer {self._peer.node_id} cannot be told: "
            f"{printable(why, DETAIL_CHARACTERS)}",
            hint="the peer publishes its manifest; then approve it again with trust_mode not off",
        )

    def key_changed(self, why: str, before: frozenset[str]) -> PeerBlockedError:
        """Return the failure of a peer that no longer signs with ``before``."""
        known = ", ".join(sorted(fingerprint(key)[:23] for key in before))
        return PeerBlockedError(
            Reason.KEY_CHANGED,
            f"peer {self._peer.node_id} no longer signs with a key that this node accepted: "
            f"{printable(why, DETAIL_CHARACTERS)}",
            hint=f"accepted: {known}…; ask the peer's operator whether its key changed, "
            "and approve the peer again if it did",
        )
