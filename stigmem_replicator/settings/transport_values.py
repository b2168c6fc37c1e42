"""Kinds of values of the transport: networks of addresses, and files of keys and tokens.

Like those in ``values`` they read one raw value; whether a file is there and what is in it is
not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Generic, TypeVar

from stigmem_replicator.settings.values import Kind, OptionalFile, plain_text

Network = IPv4Network | IPv6Network
N = TypeVar("N", bound=float)

_KEYS = (
    re.compile(r"[0-9a-fA-F]{64}"),
    re.compile(r"[A-Za-z0-9_+/-]{43}=?"),  # 32 bytes in either alphabet of base64
    re.compile(r"M[A-Za-z0-9+/\s]{43,}={0,2}"),  # what stands between the lines of a PEM file
)
_NETWORK = re.compile(r"[0-9a-fA-F:.]+(?:/[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks of addresses: a text with commas between them, or a list of texts."""

    allowed: str = (
        "networks such as 10.0.0.0/8, with no bits set past the prefix, in a list or with commas "
        "between them"
    )

    def parse(self, raw: object, base: Path) -> tuple[Network, ...]:
        """Return each network once, as they were given."""
        del base
        if isinstance(raw, list | tuple):
            texts = [plain_text(item) for item in raw]
        else:
            text = plain_text(raw)
            texts = [part.strip() for part in text.split(",")] if text else []
        return tuple(dict.fromkeys(map(_network, texts)))


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The path of a file that holds a key, certificates or a token, or nothing.

    A key or token in place of its path is refused, since a path is shown to everybody.
    """

    allowed: str = "the path of a file, not what is in it, or nothing"

    def parse(self, raw: object, base: Path) -> Path | None:
        """Return an absolute path, or None for an empty text."""
        text = plain_text(raw)
        if _looks_like_key(text.strip("'\"")):
            raise ValueError
        return OptionalFile().parse(text, base)


class Rate(Generic[N]):
    """So much a second, or 0 for any, of the numbers that ``kind`` reads.

    Below ``least`` a pull would stand still for minutes between two pages and look hung.
    """

    def __init__(self, kind: Kind[N], least: N) -> None:
        self._kind = kind
        self._least = least

    @property
    def allowed(self) -> str:
        """The bounds."""
        return f"{self._kind.allowed}, and at least {self._least} unless it is 0"

    def parse(self, raw: object, base: Path) -> N:
        """Return the number."""
        value = self._kind.parse(raw, base)
        if 0 < value < self._least:
            raise ValueError
        return value


def _network(text: str) -> Network:
    # The library also reads masks, and some of those in two ways, and interfaces of a machine.
    if not _NETWORK.fullmatch(text):
        raise ValueError
    return ip_network(text)


def _looks_like_key(text: str) -> bool:
    """Tell whether a text is a key rather than where one is, in any of the usual spellings."""
    if "-----BEGIN" in text or text.startswith("{"):
        return True
    if text.startswith(("/", "./", "../", "~")):
        return False
    return any(form.fullmatch(text) for form in _KEYS)
