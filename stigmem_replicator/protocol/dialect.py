"""The two wire versions, by name.

A node speaks exactly one, and which one is told by its database (``store.schema``).  Here is
also which releases speak which; what the versions differ in is in ``envelope``, ``tombstone``,
``cid`` and ``trust``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Dialect(StrEnum):
    """A wire version; the value is the number that its pages carry (version 1 carries none)."""

    V1 = "1"
    V2 = "2"

    @property
    def releases(self) -> str:
        """Who speaks it, as people know them."""
        return _RELEASES[self]


_RELEASES: Final = {
    Dialect.V1: "stigmem-node 0.9.0a10 and before",
    Dialect.V2: "stigmem-node 0.9.0a11 and later",
}
