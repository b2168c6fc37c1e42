"""A running endpoint over a board that a test fills, and a client of it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from structlog.testing import capture_logs

from stigmem_replicator.clock import SystemClock
from stigmem_replicator.observe.board import Board
from stigmem_replicator.observe.metrics import Metrics
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.http import Endpoint
from stigmem_replicator.service.site import Application, Site
from stigmem_replicator.settings import Listen
from tests.pictures import NOW_MS, board, realistic

ANYWHERE = Listen("127.0.0.1", 0)
PATHS = ("/", "/status", "/metrics", "/healthz", "/readyz")


class NearlyStopped(SystemClock):
    """The wall clock stands a second after the pictures of the tests."""

    def now_ms(self) -> int:
        return NOW_MS + 1_000


@dataclass
class Served:
    """A running endpoint, its board, and a client."""

    board: Board
    endpoint: Endpoint
    log: list[dict[str, object]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.endpoint.address.port

    def get(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.endpoint.address.host, self.port, timeout=20)
        with closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()

    def text(self, path: str) -> tuple[int, str]:
        response, body = self.get(path)
        return response.status, body.decode()


@contextmanager
def serving(listen: Listen = ANYWHERE) -> Iterator[Served]:
    clock = NearlyStopped()
    hung = board(realistic(), looked_at=clock.monotonic())
    site = Site(hung, Metrics(hung, clock), clock, Patience(), clock.monotonic())
    with capture_logs() as log, Endpoint(listen, Application(site), clock) as endpoint:
        yield Served(hung, endpoint, log)  # type: ignore[arg-type] # an event is a dict
