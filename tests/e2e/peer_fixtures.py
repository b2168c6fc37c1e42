"""A receiver's peer for the tests of `peers`, taken with `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.announcing import announced
from tests.e2e.peer_commands import Peers
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here


@pytest.fixture
def peers(here: Here, adopted: Receiver, server: PageServer) -> Peers:
    """A peer that was never pulled."""
    return Peers(here, adopted, server.node_id)


@pytest.fixture
def known(peers: Peers) -> Peers:
    """A peer that has its row."""
    peers.act("resume")
    return peers


@pytest.fixture
def running(adopted: Receiver) -> Iterator[Path]:
    """A daemon runs on the receiver's database."""
    with announced(adopted.database):
        yield adopted.database
