"""Which URLs and addresses a peer may have.

Judged by value alone: nothing is resolved and nothing connected to here.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from stigmem_replicator.errors import PeerRefusedError, Reason
from stigmem_replicator.settings.transport_values import Network
from stigmem_replicator.settings.values import without_secrets

Address: TypeAlias = IPv4Address | IPv6Address

# Not every Python counts each of these as private.
_NEVER_PUBLIC: Final = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "3fff::/20",
        "fc00::/7",
        "fec0::/10",
    )
)
_TRANSLATED: Final = ip_network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last bits
_LAST_32: Final = 0xFFFF_FFFF
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214 section 6.1: before the IPv4 address


def check_url(url: str, *, plain: bool) -> None:
    """Refuse a URL that is not https (or http where ``plain`` allows it) to a host alone.

    Raises :class:`PeerRefusedError` with ``unsafe_address``.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        why = "it does not read" if "@" in url else f"it does not read ({error})"
        raise refused(url, why) from error
    if parts.scheme not in ("http", "https"):
        raise refused(url, "it is neither http nor https")
    if parts.scheme == "http" and not plain:
        raise refused(url, "it is not https, so nobody can tell who answers")
    if parts.username is not None or parts.password is not None:
        raise refused(url, "it holds credentials")
    if "?" in url or "#" in url:
        raise refused(url, "it holds more than an address")
    if not host or "\\" in url or not url.isascii() or not url.isprintable() or " " in url:
        raise refused(url, "it names no host")


def why_unsafe(address: str, allowed: Collection[Network]) -> str | None:
    """Say why an address (text of an IPv4 or IPv6 address) must not be connected to, or None.

    Whatever is not a public address of a single host is unsafe, and so is what carries such an
    IPv4 address inside, unless it lies in one of the ``allowed`` networks.
    """
    ip = ip_address(address)
    inner = _embedded(ip)
    if inner is not None and not _within(ip, allowed) and not _within(inner, allowed):
        kind = _kind(inner)
        if kind is not None:
            return f"{address} stands for {inner}, which is {kind}"
    if inner is not None and not _is_isatap(ip):
        return None
    kind = _kind(ip)
    if kind is None or _within(ip, allowed):
        return None
    return f"{address} is {kind}"


def refused(url: str, why: str, *, hint: str = "nothing was sent to it") -> PeerRefusedError:
    """Return the failure of an address that is not connected to, credentials in it hidden."""
    return PeerRefusedError(
        Reason.UNSAFE_ADDRESS,
        f"the address {without_secrets(url)[:200]} is refused: {why}",
        hint=hint,
    )


def same_origin(one: str, other: str) -> bool:
    """Tell whether two URLs name the same scheme, host and port (RFC 6454 section 4)."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _embedded(ip: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to."""
    if isinstance(ip, IPv4Address):
        return None
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _TRANSLATED or _is_isatap(ip):
        return IPv4Address(int(ip) & _LAST_32)
    return None


def _is_isatap(ip: Address) -> bool:
    return isinstance(ip, IPv6Address) and (int(ip) >> 32) & _LAST_32 in _ISATAP


def _kind(ip: Address) -> str | None:
    """Name what keeps an address from being a public one of a single host."""
    for word, holds in (
        ("unspecified", ip.is_unspecified),
        ("loopback", ip.is_loopback),
        ("link-local", ip.is_link_local),
        ("multicast", ip.is_multicast),
        ("private", ip.is_private),
        ("reserved", ip.is_reserved or not ip.is_global or _within(ip, _NEVER_PUBLIC)),
    ):
        if holds:
            return word
    return None


def _within(ip: Address, networks: Collection[Network]) -> bool:
    return any(ip in network for network in networks)
