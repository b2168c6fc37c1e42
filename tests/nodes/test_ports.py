"""A port that is given out is free for its server and for nobody else."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from tests.nodes.ports import free_port


def test_a_server_may_listen_on_it_again_and_again() -> None:
    """A node that is stopped and started comes back to its port."""
    port = free_port()
    for _ in range(2):
        with (
            closing(socket.create_server(("127.0.0.1", port))) as server,
            closing(socket.create_connection(("127.0.0.1", port))),
        ):
            server.accept()[0].close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_nobody_else_takes_it() -> None:
    """Neither as any free port, nor by name without saying that addresses are reused."""
    port = free_port()
    with closing(socket.socket()) as other, pytest.raises(OSError, match="already in use"):
        other.bind(("127.0.0.1", port))
    assert port not in {free_port() for _ in range(20)}
