"""The node's own certificate and whom it trusts, as files that are read again when they change.

It makes TLS contexts; who is at the other end of a connection is judged in ``guard``.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from cryptography import x509

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.observe.log import logger

SOON_MS: Final = 14 * 86_400_000
"""How long before its end a certificate is warned about, in milliseconds."""

_FILE_BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """Until when our certificate is good (milliseconds since 1970), and the URIs in its SAN."""

    not_after_ms: int
    uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One state of the files; ``generation`` grows with each that is usable."""

    generation: int
    context: ssl.SSLContext
    own: OwnCertificate


class Certificates:
    """Certificate, private key and CA bundle of the node, all PEM.

    Raises ``LocalError`` with ``configuration_invalid`` when they cannot be used to begin with.
    A later state that cannot be used leaves the one before in use and is logged once.
    """

    def __init__(self, certificate: Path, key: Path, ca_bundle: Path) -> None:
        self._files = (certificate, key, ca_bundle)
        self._turn = threading.Lock()
        self._reading = anyio.CapacityLimiter(1)
        self._seen = self._stamps()
        self._loaded = Loaded(1, *self._load())

    @property
    def own(self) -> OwnCertificate:
        """Our certificate as it was last read."""
        return self._loaded.own

    async def current(self) -> Loaded:
        """Return the newest usable state, having looked whether the files changed."""
        return await anyio.to_thread.run_sync(
            self._look, limiter=self._reading, abandon_on_cancel=True
        )

    def _look(self) -> Loaded:
        with self._turn:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                self._reload()
            return self._loaded

    def _reload(self) -> None:
        try:
            context, own = self._load()
        except LocalError as error:
            logger().warning(
                "federation.tls.reload_failed", reason=error.reason.value, detail=error.message
            )
            return
        self._loaded = Loaded(self._loaded.generation + 1, context, own)
        logger().info("federation.tls.reloaded", not_after_ms=own.not_after_ms)

    def _stamps(self) -> Sequence[tuple[int, ...] | None]:
        return [_stamp(path) for path in self._files]

    def _load(self) -> tuple[ssl.SSLContext, OwnCertificate]:
        certificate, key, ca_bundle = self._files
        for what, path in (("TLS key", key), ("CA bundle", ca_bundle)):
            _check_file(what, path)
        own = own_certificate(certificate)
        # The node's own rule: TLS 1.3, its CA bundle alone, and who it is by the URI SAN.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        _load_chain(context, certificate, key)
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("CA bundle", ca_bundle, error, "holds no certificate") from error
        return context, own


def own_certificate(path: Path) -> OwnCertificate:
    """Read what must be known of a certificate of ours, the first in a PEM file.

    Raises ``LocalError`` with ``configuration_invalid``.
    """
    _check_file("certificate", path)
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX)
        certificate = x509.load_pem_x509_certificate(data)
        uris = _uris(certificate)
    except (OSError, ValueError) as error:
        raise _unusable("certificate", path, error, "is no certificate in PEM") from error
    return OwnCertificate(round(certificate.not_valid_after_utc.timestamp() * 1000), uris)


def not_after_ms(path: Path) -> int:
    """Return until when a certificate of ours is good, in milliseconds since 1970.

    Raises ``LocalError`` with ``configuration_invalid``.
    """
    return own_certificate(path).not_after_ms


def doubts(own: OwnCertificate, node_id: str, now_ms: int) -> list[str]:
    """Return what peers will not like about our certificate, a sentence each."""
    found = []
    if node_id not in own.uris:
        named = ", ".join(own.uris) or "none"
        found.append(
            f"the node's certificate does not name the node: peers look for the URI {node_id} "
            f"in its subject alternative names (it has {named}) and refuse any other"
        )
    left_ms = own.not_after_ms - now_ms
    if left_ms <= 0:
        found.append("the node's certificate has expired: peers refuse it; renew it")
    elif left_ms < SOON_MS:
        found.append(f"the node's certificate expires in {left_ms // 86_400_000} days; renew it")
    return found


def _uris(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.value.get_values_for_type(x509.UniformResourceIdentifier))


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # Without a password to give, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedKeyError:
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            f"the TLS key {key} is encrypted",
            hint="the node and the replicator read it unattended: store it without a passphrase, "
            "readable by the node's user alone",
        ) from None
    except ssl.SSLError as error:
        why = "does not fit the certificate, or is no private key in PEM"
        raise _unusable("TLS key", key, error, f"{why} ({certificate})") from error
    except OSError as error:
        raise _unusable("TLS key", key, error, "") from error


def _check_file(what: str, path: Path) -> None:
    """Refuse what is no file: a pipe, for one, would keep us waiting."""
    try:
        there, is_file = path.exists(), path.is_file()
    except OSError as error:
        raise _unusable(what, path, error, "") from error
    if not is_file:
        raise _unusable(what, path, ValueError(), "is no file" if there else "is not there")


class _EncryptedKeyError(Exception):
    """OpenSSL asked for a passphrase."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _unusable(what: str, path: Path, error: Exception, why: str) -> LocalError:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        why = f"cannot be read: {error.strerror}"
    return LocalError(
        Reason.CONFIGURATION_INVALID,
        f"the {what} {path} {why}",
        hint="see the TLS settings with: stigmem-replicate config show",
    )


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a plain call for a plain tuple
    except OSError:
        return None
    # The change of status too: rights that were mended make a file worth another look.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
