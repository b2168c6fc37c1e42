"""Who we are to a peer: the node's own id and key, never ones of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.protocol.signatures import (
    KeyFormatError,
    decode_base64url,
    private_key,
)
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import reads
from stigmem_replicator.store.engine import Database, reading

_FILE_BYTES_MAX: Final = 4096
"""Far more than a seed and the white space around it."""


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
    file, text = settings.federation_privkey_file, settings.federation_privkey
    # Before the database is asked: what is wrong with a file is told also while that is in trouble.
    key = None if file is None else _key_in(file, settings.federation_pubkey)
    with reading(database) as connection:
        node_id = reads.node_meta(connection, "node_id")
        if key is None:
            key = _key_of_node(text or reads.node_meta(connection, "federation_privkey"))
    return Identity(node_id, key, settings.token_ttl_s * 1000)


def doubt_about_key(database: Database, settings: Settings, identity: Identity) -> str | None:
    """Say so when the key of a file is not the one that the node's database goes with.

    That may be meant: a node whose keys are settings does not use those of its database.
    """
    file = settings.federation_privkey_file
    if file is None or settings.federation_pubkey:
        return None
    try:
        with reading(database) as connection:
            known = decode_base64url(reads.node_meta(connection, "federation_pubkey"))
    except (LocalError, KeyFormatError):
        return None
    if known == identity.key.public_key().public_bytes_raw():
        return None
    return (
        f"federation_privkey_file {file} holds another key than the node's database: unless the "
        "node has its keys from its settings, peers refuse every request (unauthorized)"
    )


def _key_of_node(text: str) -> Ed25519PrivateKey:
    try:
        return private_key(text)
    except KeyFormatError as error:
        raise LocalError(
            Reason.NODE_NOT_INITIALISED,
            f"the node's federation_privkey does not read: {error}",
            hint="it is a base64url seed of 32 bytes; the node makes one when it first starts",
        ) from error


def _key_in(path: Path, public: str) -> Ed25519PrivateKey:
    """Return the key in a file, which must be that of ``public`` unless that is empty.

    Raises :class:`LocalError`, which says nothing of what is in the file.
    """
    try:
        # Anything else than a file, such as a pipe, could keep us waiting.
        if not path.is_file():
            raise _unusable(path, "is no file" if path.exists() else "is not there")
        with path.open("rb") as file:
            raw = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    if len(raw) > _FILE_BYTES_MAX:
        raise _unusable(path, f"is larger than {_FILE_BYTES_MAX} bytes")
    try:
        key = private_key(raw.decode("ascii").strip())
    except (UnicodeDecodeError, KeyFormatError):
        raise _unusable(
            path,
            "does not hold a key",
            hint="a base64url seed of 32 bytes belongs there, as in the node's federation_privkey",
        ) from None
    if public and decode_base64url(public) != key.public_key().public_bytes_raw():
        raise _unusable(path, "holds another key than the one of federation_pubkey")
    return key


def _unusable(path: Path, what: str, *, hint: str = "") -> LocalError:
    return LocalError(
        Reason.CONFIGURATION_INVALID, f"federation_privkey_file {path} {what}", hint=hint
    )
