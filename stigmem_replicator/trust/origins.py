"""Who an entry comes from: the sender itself, or somebody whose entries it forwards."""

from __future__ import annotations

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.origin import Origin
from stigmem_replicator.trust.verdicts import Reject


def refuse_relayed(what: str, origin: Origin, *, enabled: bool, trusted: bool) -> Reject:
    """Return why an entry of another origin than the sender is not admitted.

    ``what`` the entry is is named; relay is ``enabled`` here, and the sender ``trusted`` with it.
    """
    detail = f"the {what} originates at {origin.node_id[:120]}"
    if not enabled:
        return Reject(Reason.ORIGIN_NOT_SENDER, f"{detail} and relay is off here")
    if not trusted:
        return Reject(Reason.RELAY_SENDER_NOT_TRUSTED, f"{detail} and the sender may not relay")
    return Reject(Reason.RELAY_UNSUPPORTED, f"{detail}; relayed {what}s are not admitted yet")
