"""The credential that one peer's tombstones are asked for with.

A capability token where the operator has one for the peer, read anew for every pass so that a
file that was replaced counts at once; else the token that facts are asked for with, which a peer
in the trust mode ``off`` takes.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from stigmem_replicator.engine.connection import PeerConnection
from stigmem_replicator.errors import PeerBlockedError, Reason, ReplicatorError
from stigmem_replicator.observe.log import logger, printable
from stigmem_replicator.protocol import capability
from stigmem_replicator.protocol.capability import CapabilityFormatError, CapabilityToken
from stigmem_replicator.settings.values import without_secrets

TTL_SECONDS: Final = 90 * 86_400
"""The longest life that a node gives a token."""

EXPIRING: Final = "federation.capability.expiring"


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_token(path: Path) -> str:
    """Return the text of a token's file.  Blocks: call it in a thread.

    Raises :class:`CapabilityFormatError` where there is none: also for what is no plain file,
    since a pipe would keep its reader for good.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(capability.FILE_BYTES + 1) if plain else b""
    except OSError as error:
        raise CapabilityFormatError(error.strerror or "it cannot be read") from error
    if not plain:
        raise CapabilityFormatError("it is no plain file")
    if len(data) > capability.FILE_BYTES:
        raise CapabilityFormatError("it is too long")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise CapabilityFormatError("it is not UTF-8") from None


def token_for(organisation: str | None, path: Path) -> CapabilityToken:
    """Return the token in the file of a peer of that organisation.  Blocks, as :func:`read_token`.

    Raises :class:`CapabilityFormatError` also for what another peer issued: whoever gets it can
    use it there.  Of the token its message has the issuer alone.
    """
    token = capability.parse(read_token(path))
    if None not in (organisation, token.issuer) and token.issuer != organisation:
        issuer = printable(str(token.issuer))
        raise CapabilityFormatError(f"it is one of {issuer}, and this peer is {organisation}")
    return token


class Credential:
    """What one peer's tombstones are asked for with."""

    def __init__(self, connection: PeerConnection) -> None:
        self._connection = connection
        self._peer = connection.peer
        self._path = connection.around.settings.capability_token_file
        self._token: CapabilityToken | None = None
        self._told: int | None = None

    @property
    def has_file(self) -> bool:
        """Whether the operator has named a file for the peer's token."""
        return self._path is not None

    @property
    def not_after_ms(self) -> int:
        """When the token ends, milliseconds since 1970; 0 where there is none or it never says."""
        return 0 if self._token is None else self._token.not_after_ms or 0

    @property
    def is_expiring(self) -> bool:
        """Whether the token has ended or soon will."""
        return self._token is not None and self._token.is_expiring(self._now_ms())

    def stamp(self) -> tuple[int, int, int] | None:
        """Return what changes when the token's file does.  Blocks: call it in a thread."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def load(self) -> None:
        """Read the file again, where there is one.  Blocks: call it in a thread.

        Raises :class:`PeerBlockedError` with ``capability_required`` when there is no token in it.
        """
        if self._path is None:
            return
        try:
            token = token_for(self._peer.entity_uri, self._path)
        except CapabilityFormatError as error:
            self._token = None
            message = f"{self._path} has no capability token for peer {self._peer.node_id}: {error}"
            raise self._required(message) from error
        self._token = token
        self._warn(token)

    def mint(self) -> str:
        """Return what the next request is made with."""
        return self._connection.mint() if self._token is None else self._token.text

    def refused(self, error: ReplicatorError) -> PeerBlockedError:
        """Return what it means that the peer did not take the credential, as ``error`` says."""
        if self._token is None:
            message = (
                f"peer {self._peer.node_id} gives its tombstones only for a capability token: "
                f"{error.message}"
            )
            return self._required(message)
        ended = ", which has ended" if self._token.has_ended(self._now_ms()) else ""
        message = (
            f"peer {self._peer.node_id} does not take the capability token in {self._path}{ended}: "
            f"{error.message}"
        )
        return self._required(message)

    def _required(self, message: str) -> PeerBlockedError:
        return PeerBlockedError(Reason.CAPABILITY_REQUIRED, message, hint=self._hint())

    def _hint(self) -> str:
        node_url = without_secrets(self._peer.node_url)
        organisation = without_secrets(self._peer.entity_uri or self._peer.node_url)
        command = [
            *("stigmem", "capability", "issue"),
            *("--issuer", organisation, "--subject", organisation),
            *("--verb", capability.READ_TOMBSTONES, "--object", "stigmem://tombstones"),
            *("--ttl-seconds", str(TTL_SECONDS), "--node-url", node_url),
        ]
        table = f'[peer."{without_secrets(self._peer.node_id)}"]'
        put = (
            "put what that prints into a file of mode 600 and name that as "
            f"capability_token_file under {table} of our TOML file"
            if self._path is None
            else f"put what that prints into {self._path}"
        )
        return f"the peer's operator runs: {shlex.join(command)} --api-key KEY --json; {put}"

    def _warn(self, token: CapabilityToken) -> None:
        """Tell once of a token that its end comes."""
        now_ms = self._now_ms()
        if not token.is_expiring(now_ms) or self._told == token.not_after_ms:
            return
        self._told = token.not_after_ms
        verb = "has ended" if token.has_ended(now_ms) else "ends soon"
        logger(peer=self._peer.node_id).warning(
            EXPIRING,
            detail=f"the capability token in {self._path} {verb}",
            not_after_ms=token.not_after_ms,
            hint=self._hint(),
        )

    def _now_ms(self) -> int:
        return self._connection.around.clock.now_ms()
