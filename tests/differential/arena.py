"""One receiver twice, set back to its beginning for each round of generated pages.

What takes long is done once: the node's process stays, and so does the server that both sides'
pages come from; only the two databases are fresh in each round. Ours is the engine in this
process, the node's is its own loop in its own.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel

from stigmem_replicator.clock import SystemClock, SystemRandom, system_new_id
from stigmem_replicator.engine.identity import load_identity
from stigmem_replicator.engine.pull import Pull, Streams, Wishes
from stigmem_replicator.engine.report import PullReport, TombstoneReport
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.trust_inputs import TrustBook
from stigmem_replicator.engine.writer import Writer
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import migrations, reads
from stigmem_replicator.store.engine import Database, open_database, reading
from stigmem_replicator.store.locks import PeerLocks, make_locks
from stigmem_replicator.store.standings import Holder
from stigmem_replicator.transport.network import open_network
from tests.differential.recorded import FACTS
from tests.nodes.bulk import InsideNode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.differential.drafts import Round
    from tests.nodes.federation import Pair

_MAP_TENANT = (
    "INSERT INTO peer_tenant_map (peer_id, origin_tenant, local_tenant)"
    " SELECT id, ?, ? FROM peers WHERE node_id = ?"
)

Sql = tuple[str, tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a round's pages, and where."""

    node_database: Path
    our_database: Path
    ended: list[list[str | None]]
    """For each entry of each page the exception that ended the node's loop there, or None."""
    report: PullReport
    reasons: dict[str, set[str]]
    """Our dead letters: entry id to the reasons for which it was refused."""


@dataclass(slots=True)
class Arena:
    """Both sides, ready for one round after the other."""

    pair: Pair
    dialect: int
    settings: Settings
    _inside: InsideNode
    _server: _OneBody
    _snapshot: bytes
    _our_snapshot: bytes
    _folder: Path
    _threads: ThreadPoolExecutor
    _scores: dict[tuple[str, str], float] = field(default_factory=dict)

    def play(
        self, bodies: Sequence[bytes], *, prepared: Sequence[Sql] = (), row_budget: int | None
    ) -> Played:
        """Give the pages to both, each page in a pull of its own."""
        node_database, our_database = self._databases()
        self._fresh(node_database, self._snapshot, prepared)
        self._fresh(our_database, self._our_snapshot, prepared)
        self._inside.order("forget_scores")
        at_node = self._threads.submit(self._feed_node, bodies)
        report = anyio.run(self._pull, bodies, row_budget)
        ended = at_node.result()
        with closing(sqlite3.connect(our_database)) as connection:
            letters = connection.execute("SELECT entry_id, reason FROM replicator_dead_letters")
            reasons: dict[str, set[str]] = {}
            for entry_id, reason in letters:
                reasons.setdefault(entry_id, set()).add(reason)
        return Played(node_database, our_database, ended, report, reasons)

    def scores(self, keys: set[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """What the node scores each (source, scope) in a fresh database."""
        unknown = sorted(keys - self._scores.keys())
        if unknown:
            node_database, _ = self._databases()
            self._fresh(node_database, self._snapshot, ())
            self._scores.update(zip(unknown, self._inside.trust_scores(unknown), strict=True))
        return self._scores

    def registry(self, plan: Round) -> list[Sql]:
        """The statements by which the receiver's registry says what a round is about."""
        origin = self.pair.origin.node_id
        tenants = plan.tenants if self.dialect == 2 else ()  # an older node has but one
        return [
            (
                "UPDATE peers SET allowed_scopes = ? WHERE node_id = ?",
                (json.dumps(sorted(plan.scopes)), origin),
            ),
            *((_MAP_TENANT, (theirs, mine, origin)) for theirs, mine in tenants),
        ]

    def _databases(self) -> tuple[Path, Path]:
        return self._folder / "node-side.db", self._folder / "our-side.db"

    def _fresh(self, database: Path, content: bytes, prepared: Sequence[Sql]) -> None:
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        database.touch(mode=0o600)
        database.write_bytes(content)
        if not prepared:
            return
        with closing(sqlite3.connect(database)) as connection, connection:
            for sql, parameters in prepared:
                connection.execute(sql, parameters)

    def _feed_node(self, bodies: Sequence[bytes]) -> list[list[str | None]]:
        origin = self.pair.origin.node_id
        # The node opens and closes a connection for each thing it does; while another is open,
        # SQLite does not write everything to the disk each time.
        with closing(sqlite3.connect(self._databases()[0])) as another:
            another.execute("SELECT 1 FROM facts").fetchone()
            return [self._inside.ingest_pages(origin, [body]) for body in bodies]

    async def _pull(self, bodies: Sequence[bytes], row_budget: int | None) -> PullReport:
        _, path = self._databases()
        database = open_database(path, timeout_s=5.0)
        report = PullReport()
        try:
            with make_locks(database) as locks:
                around = surroundings(database, self.settings, locks, row_budget)
                with reading(database) as connection:
                    peers = reads.peers(connection)
                (peer,) = [peer for peer in peers if peer.node_id == self.pair.origin.node_id]
                for body in bodies:
                    self._server.body = body
                    wishes = Wishes(streams=Streams.FACTS)
                    beside = TombstoneReport()
                    pull = Pull(peer, wishes, around, report, beside, _ignore, _ignore)
                    await pull.run()
        finally:
            database.close()
        return report


@contextmanager
def arena_of(
    pair: Pair,
    snapshot: Path,
    folder: Path,
    *,
    dialect: int = 2,
    node_settings: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> Iterator[Arena]:
    """Make an arena for the receiver of `pair`, whose database `snapshot` has.

    `node_settings` (without prefix) and `settings` must say the same to the two sides.
    """
    server = _OneBody()
    node_side, our_side = folder / "node-side.db", folder / "our-side.db"
    for database in (node_side, our_side):
        database.touch(mode=0o600)
        database.write_bytes(snapshot.read_bytes())
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "UPDATE peers SET node_url = ? WHERE node_id = ?",
                (server.url, pair.origin.node_id),
            )
    opened = open_database(our_side, timeout_s=5.0)
    migrations.upgrade(opened)
    opened.close()
    for database in (node_side, our_side):
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # Refusals are what is looked for here: however many, they stop nothing.
    settings = replace(
        settings or Settings(),
        database=str(our_side),
        federation_insecure=True,
        node_url=pair.receiver.url,
        reject_burst_run=0,
        reject_burst_percent=0,
        max_conflicts_per_fact=0,
        transaction_target_ms=2000,
    )
    snapshots = (node_side.read_bytes(), our_side.read_bytes())
    with (
        server,
        ThreadPoolExecutor(1) as threads,
        InsideNode(pair.receiver, database=node_side, settings=node_settings) as inside,
    ):
        yield Arena(pair, dialect, settings, inside, server, *snapshots, folder, threads)


def surroundings(
    database: Database, settings: Settings, locks: PeerLocks, row_budget: int | None
) -> Surroundings:
    """The parts of a process of ours that waits for nothing."""
    clock = SystemClock()
    writer = Writer(database, settings, clock, _no_sleep, SystemRandom())
    if row_budget is not None:
        writer.row_budget = row_budget
    return Surroundings(
        database=database,
        settings=settings,
        writer=writer,
        trust=TrustBook(database, settings, clock),
        identity=load_identity(database, settings),
        locks=locks,
        network=open_network(settings, clock, _no_sleep),
        process=Holder(platform.node(), os.getpid(), "test", clock.now_ms()),
        clock=clock,
        sleep=_no_sleep,
        random=SystemRandom(),
        new_id=system_new_id,
    )


async def _no_sleep(_seconds: float, /) -> None:
    await anyio.lowlevel.checkpoint()


def _ignore(_told: object) -> None:
    pass


class _OneBody(ThreadingHTTPServer):
    """Answers every request for facts with one body, which the test sets."""

    daemon_threads = True
    body = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> _OneBody:  # noqa: PYI034 - the base class has no Self
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _OneBody

    def do_GET(self) -> None:
        if urlsplit(self.path).path != FACTS:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = self.server.body
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 - inherited
        pass
