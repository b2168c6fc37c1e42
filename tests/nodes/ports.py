"""A free port of loopback, for a server that a test starts."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that nobody listens on; somebody else may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
