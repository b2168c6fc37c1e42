"""The kind of setting that says where to listen: one address of this machine and a port.

Whether the address exists and the port is free shows when it is listened on, not here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from stigmem_replicator.settings.values import plain_text

_LISTEN: Final = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]+|localhost)):(?P<port>[0-9]{1,5})",
    re.ASCII | re.IGNORECASE,
)
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: an IP address and a port; port 0 is any that is free."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can call there."""
        return ip_address(self.host).is_loopback

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is one of IPv6."""
        return isinstance(ip_address(self.host), IPv6Address)

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.is_ipv6 else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address and a port, or nothing for not listening at all.

    A name is no address: what it stands for may change, and with it who can call.
    """

    allowed: str = "ADDRESS:PORT such as 127.0.0.1:9765 or [::1]:9765, or nothing to turn it off"

    def parse(self, raw: object, base: Path) -> Listen | None:
        """Return the address in its shortest spelling, or None for an empty text."""
        del base
        if raw is None or isinstance(raw, Listen):
            return raw
        text = plain_text(raw)
        if not text:
            return None
        found = _LISTEN.fullmatch(text)
        if found is None or int(found["port"]) > _PORT_MAX:
            raise ValueError
        host = found["six"] or found["four"].lower().replace("localhost", "127.0.0.1")
        address = ip_address(host)
        if isinstance(address, IPv6Address) != bool(found["six"]):
            raise ValueError
        return Listen(str(address), int(found["port"]))
