"""A capability token as a peer's operator hands it over: JSON in, the text of a header out.

A peer mints it and verifies it; here it is only read, to send it in a form that fits a header
and to know when it ends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from stigmem_replicator.protocol.times import parse_time

FILE_BYTES: Final = 16_384
"""The longest file that is read as a token."""

READ_TOMBSTONES: Final = "tombstone:read"
_VERBS: Final = frozenset({READ_TOMBSTONES, "admin"})

_WARN_SHARE: Final = 0.2
_WARN_MS: Final = 7 * 24 * 3_600_000


class CapabilityFormatError(ValueError):
    """The text is no capability token that lets tombstones be read."""


@dataclass(frozen=True, slots=True)
class CapabilityToken:
    """A token to be sent as it is: one line of ASCII JSON.

    ``issuer`` is the organisation that made it, None where it names none.  ``not_after_ms`` is
    when it ends, None where it does not say, and ``warn_from_ms`` when that comes near: for the
    last fifth of its life, a week at most.  Milliseconds since 1970.
    """

    text: str
    issuer: str | None
    not_after_ms: int | None
    warn_from_ms: int | None

    def is_expiring(self, now_ms: int) -> bool:
        """Say whether its end has come or is near."""
        return self.warn_from_ms is not None and now_ms >= self.warn_from_ms

    def has_ended(self, now_ms: int) -> bool:
        """Say whether its end has come."""
        return self.not_after_ms is not None and now_ms >= self.not_after_ms

    def __repr__(self) -> str:
        """Show everything but the token."""
        return f"CapabilityToken(not_after_ms={self.not_after_ms})"


def parse(text: str) -> CapabilityToken:
    """Read a token, or what the node's command prints when it issues one as JSON.

    Raises :class:`CapabilityFormatError`, whose message holds nothing of the text.
    """
    token = _object(text)
    if isinstance(token.get("token_json"), str):
        token = _object(token["token_json"])
    verbs = token.get("verbs", token.get("verb", ""))
    if isinstance(verbs, str):
        verbs = [verb.strip() for verb in verbs.split(",")]
    if not isinstance(verbs, list) or not any(verb in verbs for verb in _VERBS):
        raise CapabilityFormatError(f"it does not grant {READ_TOMBSTONES}")
    issued, ends = _ms(token, "issued_at"), _ms(token, "expiry")
    warn_from = None
    if ends is not None:
        life = _WARN_MS if issued is None else max(ends - issued, 0)
        warn_from = ends - min(round(life * _WARN_SHARE), _WARN_MS)
    issuer = token.get("issuer")
    return CapabilityToken(
        text=json.dumps(token, separators=(",", ":")),
        issuer=issuer if isinstance(issuer, str) else None,
        not_after_ms=ends,
        warn_from_ms=warn_from,
    )


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise CapabilityFormatError("it is not JSON") from None
    if not isinstance(found, dict):
        raise CapabilityFormatError("it is JSON but no object")
    return found


def _ms(token: dict[str, Any], key: str) -> int | None:
    text = token.get(key)
    moment = parse_time(text) if isinstance(text, str) else None
    return None if moment is None else round(moment.timestamp() * 1000)
