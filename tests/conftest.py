"""What tests of every kind share: a PostgreSQL server, and which process runs which of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.nodes.postgres import PostgresServer
from tests.nodes.postgres import postgres_server as running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of the modules named here those of a group share nodes that take long to bring up.
TOGETHER = (
    ("tests/differential/",),
    (
        "tests/e2e/test_daemon_node_loop.py",
        "tests/e2e/test_real_nodes.py",
        "tests/e2e/test_real_pull.py",
    ),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep the tests of a module in one process, and the modules of a group in one too."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # noqa: PLC0415

    class Together(LoadFileScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            found = [group[0] for group in TOGETHER if nodeid.startswith(group)]
            return found[0] if found else nodeid.split("::", 1)[0]

    return Together(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server, started for the first test that asks for it."""
    with running_server() as server:
        yield server
