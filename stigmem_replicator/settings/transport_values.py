"""Kinds of values of the transport: networks of addresses, and files that hold a private key.

Like those in ``values`` they read one raw value; whether a file is there and what is in it is
not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from stigmem_replicator.settings.values import OptionalFile, OptionalKey, plain_text

Network = IPv4Network | IPv6Network

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
    """The path of a file that holds a private key, or nothing.

    A key in place of its path is refused, since a path is shown to everybody.
    """

    allowed: str = "the path of a file, not the key itself, or nothing"

    def parse(self, raw: object, base: Path) -> Path | None:
        """Return an absolute path, or None for an empty text."""
        text = plain_text(raw)
        if text and (_is_key(text) or "-----BEGIN" in text):
            raise ValueError
        return OptionalFile().parse(text, base)


def _network(text: str) -> Network:
    # The library also reads masks, and some of those in two ways, and interfaces of a machine.
    if not _NETWORK.fullmatch(text):
        raise ValueError
    return ip_network(text)


def _is_key(text: str) -> bool:
    if "/" in text:  # base64url has none
        return False
    try:
        OptionalKey().parse(text, Path())
    except ValueError:
        return False
    return True
