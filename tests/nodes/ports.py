"""A free port of loopback, for a server that a test starts."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that nobody listens on, kept from all others until this process ends.

    A server that reuses addresses, as asyncio's and PostgreSQL do, may listen on it, once or
    many times; until then a connection to it is refused.
    """
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port: int = kept.getsockname()[1]
        # Left bound: tests run in several processes, and a node takes seconds to come to its port.
        kept.detach()
        return port
