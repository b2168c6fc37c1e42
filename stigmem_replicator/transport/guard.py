"""Where a request may go.

Until peers are identified by mutual TLS, only a loopback address is: whoever listens there was
started on this machine.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from stigmem_replicator.errors import PeerRefusedError, Reason
from stigmem_replicator.settings.values import without_secrets


def check(url: str) -> None:
    """Refuse a URL that is not http or https to a loopback address.

    Raises :class:`PeerRefusedError` with ``unsafe_address``.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        why = "it does not read" if "@" in url else f"it does not read ({error})"
        raise _refused(url, why) from error
    if parts.scheme not in ("http", "https"):
        raise _refused(url, "it is neither http nor https")
    if parts.username is not None or parts.password is not None:
        raise _refused(url, "it holds credentials")
    if "?" in url or "#" in url:
        raise _refused(url, "it holds more than an address")
    if not _is_loopback(host):
        raise _refused(
            url,
            "only peers on this machine (localhost, 127.0.0.0/8, ::1) can be pulled until "
            "mutual TLS is supported",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(url: str, why: str) -> PeerRefusedError:
    shown = without_secrets(url)
    return PeerRefusedError(
        Reason.UNSAFE_ADDRESS,
        f"the address {shown[:200]} is refused: {why}",
        hint="nothing was sent to it",
    )
