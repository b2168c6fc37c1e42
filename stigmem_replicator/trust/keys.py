"""Which keys an origin may sign with: manifests, their rotation chain, the grace of an old key.

A manifest is an organisation's self-signed statement of its key and its nodes.  This module
reads and verifies one and says which keys it stands for at a moment; where manifests come from
and when they are fetched anew is not its concern.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from stigmem_replicator.protocol.signatures import canonical_json, verifies
from stigmem_replicator.protocol.times import parse_time

VALIDITY_MAX: Final = timedelta(days=730)
ROTATIONS_MAX: Final = 100
_SHOWN_CHARACTERS: Final = 100


class ManifestError(ValueError):
    """A manifest does not parse, does not verify, or does not follow from the stored one."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """One step from a key to the next, signed by the key that retires."""

    previous_key_id: str
    new_key_id: str
    new_public_key: str
    rotated_at: str
    signature: str
    previous_public_key: str

    def document(self) -> dict[str, str]:
        """Return the step as the manifest's signature covers it."""
        fields = {
            "new_key_id": self.new_key_id,
            "new_public_key": self.new_public_key,
            "previous_key_id": self.previous_key_id,
            "rotated_at": self.rotated_at,
            "signature": self.signature,
        }
        if self.previous_public_key:
            fields["previous_public_key"] = self.previous_public_key
        return fields


@dataclass(frozen=True, slots=True)
class Manifest:
    """An organisation's manifest; times are ISO 8601, keys base64url."""

    entity_uri: str
    key_id: str
    public_key: str
    issued_at: str
    expires_at: str
    entities: tuple[str, ...]
    rotations: tuple[Rotation, ...]
    signature: str

    def document(self) -> dict[str, object]:
        """Return the manifest as the wire and the node's table carry it."""
        return {**self._signed_body(), "signature": self.signature}

    def _signed_body(self) -> dict[str, object]:
        return {
            "entities": list(self.entities),
            "entity_uri": self.entity_uri,
            "expires_at": self.expires_at,
            "issued_at": self.issued_at,
            "key_id": self.key_id,
            "public_key": self.public_key,
            "rotation_events": [rotation.document() for rotation in self.rotations],
        }

    def verify(self) -> None:
        """Check validity window, number of rotations and self-signature.

        Whether it has expired is a question of the moment: :meth:`expired`.  Raises
        :class:`ManifestError`.
        """
        issued, expires = parse_time(self.issued_at), parse_time(self.expires_at)
        if issued is None or expires is None:
            raise ManifestError("issued_at or expires_at is not a time")
        if not issued < expires or expires - issued > VALIDITY_MAX:
            raise ManifestError(f"its validity is not between 0 and {VALIDITY_MAX.days} days")
        if len(self.rotations) > ROTATIONS_MAX:
            raise ManifestError(f"it lists more than {ROTATIONS_MAX} rotations")
        try:
            body = canonical_json(self._signed_body())
        except UnicodeEncodeError as error:
            raise ManifestError("it holds a lone surrogate") from error
        if not verifies(self.signature, body, [self.public_key]):
            raise ManifestError("its signature does not fit its own key")

    def expired(self, now: datetime) -> bool:
        """Say whether the manifest is past its end at ``now`` (an unreadable end is)."""
        expires = parse_time(self.expires_at)
        return expires is None or expires <= now


def parse_manifest(document: object) -> Manifest:
    """Read a manifest from decoded JSON.  Raises :class:`ManifestError`; verifies nothing."""
    if not isinstance(document, Mapping):
        raise ManifestError("it is not an object")
    entities, rotations = document.get("entities", []), document.get("rotation_events", [])
    if not isinstance(entities, list) or not all(isinstance(item, str) for item in entities):
        raise ManifestError("entities is not a list of texts")
    if not isinstance(rotations, list):
        raise ManifestError("rotation_events is not a list")
    return Manifest(
        entity_uri=_text(document, "entity_uri"),
        key_id=_text(document, "key_id"),
        public_key=_text(document, "public_key"),
        issued_at=_text(document, "issued_at"),
        expires_at=_text(document, "expires_at"),
        entities=tuple(entities),
        rotations=tuple(_parse_rotation(item) for item in rotations),
        signature=_text(document, "signature"),
    )


def read_manifest(text: str) -> Manifest:
    """Read and verify a stored manifest.  Raises :class:`ManifestError`, whatever is wrong."""
    try:
        manifest = parse_manifest(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ManifestError(str(error)) from error
    manifest.verify()
    return manifest


def _parse_rotation(document: object) -> Rotation:
    if not isinstance(document, Mapping):
        raise ManifestError("a rotation event is not an object")
    return Rotation(
        previous_key_id=_text(document, "previous_key_id"),
        new_key_id=_text(document, "new_key_id"),
        new_public_key=_text(document, "new_public_key"),
        rotated_at=_text(document, "rotated_at"),
        signature=_text(document, "signature"),
        previous_public_key=_text(document, "previous_public_key", default=""),
    )


def _text(document: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = document.get(key, default)
    if not isinstance(value, str):
        raise ManifestError(f"{key} is not a text")
    return value


def follows(new: Manifest, stored: Manifest) -> None:
    """Check that ``new`` may replace ``stored``: the same key, or a chain of rotations from it.

    The chain must be contiguous from the stored key, each step signed by the key before it, no
    key id twice, and end at the new manifest's key.  Raises :class:`ManifestError`.
    """
    if new.entity_uri != stored.entity_uri:
        raise ManifestError(f"it is the manifest of {_shown(new.entity_uri)}")
    if (new.key_id, new.public_key) == (stored.key_id, stored.public_key):
        return
    key_id, key, seen = stored.key_id, stored.public_key, {stored.key_id}
    steps = _steps_from(new.rotations, stored.key_id)
    for step in steps:
        if step.previous_key_id != key_id:
            raise ManifestError(f"its rotation chain has a gap after key {_shown(key_id)}")
        if step.new_key_id in seen:
            raise ManifestError(f"its rotation chain uses key {_shown(step.new_key_id)} twice")
        body = {
            "new_key_id": step.new_key_id,
            "new_public_key": step.new_public_key,
            "previous_key_id": step.previous_key_id,
            "rotated_at": step.rotated_at,
        }
        if not verifies(step.signature, canonical_json(body), [key]):
            new_id, old_id = _shown(step.new_key_id), _shown(key_id)
            raise ManifestError(f"its rotation to key {new_id} is not signed by {old_id}")
        seen.add(step.new_key_id)
        key_id, key = step.new_key_id, step.new_public_key
    if (key_id, key) != (new.key_id, new.public_key):
        old_id, new_id = _shown(stored.key_id), _shown(new.key_id)
        raise ManifestError(f"no rotation chain leads from key {old_id} to {new_id}")


def _shown(text: str) -> str:
    """Return a text of the peer as errors show it: not endlessly, and escaped."""
    return repr(text[:_SHOWN_CHARACTERS])


def _steps_from(rotations: tuple[Rotation, ...], key_id: str) -> tuple[Rotation, ...]:
    for index, rotation in enumerate(rotations):
        if rotation.previous_key_id == key_id:
            return rotations[index:]
    return ()


def signing_keys(manifest: Manifest, now: datetime, grace: timedelta) -> frozenset[str]:
    """Return the keys that may have signed at ``now``.

    The current key, and the key it replaced while its rotation is no older than ``grace``; a
    rotation whose time does not read drops the old key.
    """
    keys = {manifest.public_key}
    if manifest.rotations:
        last = manifest.rotations[-1]
        rotated = parse_time(last.rotated_at)
        if last.previous_public_key and rotated is not None and now - rotated <= grace:
            keys.add(last.previous_public_key)
    return frozenset(keys)


def issuer_key(manifest: Manifest, key_id: str) -> str | None:
    """Return the key of an organisation that it calls ``key_id``, None when it names none so.

    That is its current key or one that it ever rotated to; unlike :func:`signing_keys` this
    knows no time, since what it signs, a tombstone, is kept for good.
    """
    if manifest.key_id == key_id:
        return manifest.public_key
    for rotation in manifest.rotations:
        if rotation.new_key_id == key_id:
            return rotation.new_public_key
    return None
