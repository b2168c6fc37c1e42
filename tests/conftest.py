"""Fixtures that tests of every kind share: one PostgreSQL server for each process of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.nodes.postgres import PostgresServer
from tests.nodes.postgres import postgres_server as running_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server, started for the first test that asks for it."""
    with running_server() as server:
        yield server
