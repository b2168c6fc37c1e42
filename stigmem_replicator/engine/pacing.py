"""The waits after failures as the settings have them; the arithmetic is in ``replication``."""

from __future__ import annotations

from stigmem_replicator.replication.pacing import Backoff
from stigmem_replicator.replication.states import Paces
from stigmem_replicator.settings import Settings


def paces_of(settings: Settings) -> Paces:
    """Return how long is waited after failures of each class."""
    factor = settings.backoff_factor
    return Paces(
        transient=Backoff(settings.backoff_base_s, factor, settings.backoff_cap_s),
        throttled=Backoff(
            settings.backoff_throttled_base_s, factor, settings.backoff_throttled_cap_s
        ),
        protocol=Backoff(settings.backoff_protocol_base_s, factor, settings.backoff_protocol_cap_s),
        blocked_s=settings.blocked_retry_s,
        longest_s=max(
            settings.retry_after_cap_s,
            settings.backoff_cap_s,
            settings.backoff_throttled_cap_s,
            settings.backoff_protocol_cap_s,
            settings.blocked_retry_s,
        ),
    )
