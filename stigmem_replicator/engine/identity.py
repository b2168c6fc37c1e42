"""Who we are to a peer: the node's own id and key, never ones of ours."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.protocol.signatures import KeyFormatError, private_key
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import reads
from stigmem_replicator.store.engine import Database, reading


@dataclass(frozen=True, slots=True)
class Identity:
    """Our node id, the key that signs our tokens, and how long a token lives."""

    node_id: str
    key: Ed25519PrivateKey
    token_lifetime_ms: int


def load_identity(database: Database, settings: Settings) -> Identity:
    """Read the node's identity; its settings win over its database, as for the node.

    Raises :class:`LocalError` when the node was never initialised or its key does not read.
    """
    with reading(database) as connection:
        node_id = reads.node_meta(connection, "node_id")
        text = settings.federation_privkey or reads.node_meta(connection, "federation_privkey")
    try:
        key = private_key(text)
    except KeyFormatError as error:
        raise LocalError(
            Reason.NODE_NOT_INITIALISED,
            f"the node's federation_privkey does not read: {error}",
            hint="it is a base64url seed of 32 bytes; the node makes one when it first starts",
        ) from error
    return Identity(node_id, key, settings.token_ttl_s * 1000)
