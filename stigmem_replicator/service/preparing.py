"""What must be ready before the first page: who we are, the network, our tables, the locks.

Used by a pull by hand and by the daemon alike.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stigmem_replicator.clock import (
    Clock,
    SystemClock,
    SystemRandom,
    system_new_id,
    system_sleep,
)
from stigmem_replicator.engine.identity import Identity, doubt_about_key, load_identity
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.trust_inputs import TrustBook
from stigmem_replicator.engine.writer import Writer
from stigmem_replicator.observe.board import Board
from stigmem_replicator.observe.counting import Counting
from stigmem_replicator.observe.log import logger
from stigmem_replicator.settings import (
    Settings,
    insecure_warning,
    plain_token_warnings,
    warnings_about_keys,
)
from stigmem_replicator.store import own_schema, reads
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.store.locks import make_locks
from stigmem_replicator.store.standings import Holder
from stigmem_replicator.transport.certificates import doubts
from stigmem_replicator.transport.network import Network, open_network


@contextmanager
def prepared(
    database: Database,
    settings: Settings,
    command: str,
    make_tables: Callable[[], object],
    *,
    counting: Counting | None = None,
    board: Board | None = None,
) -> Iterator[Surroundings]:
    """Yield what work on peers needs; at the end every peer is free.

    ``command`` is how this process names itself to others; ``counting`` and ``board`` are for
    whoever watches it.  ``make_tables`` brings our own tables into order, once all else is, and
    before a lock is taken.  Raises ``LocalError``.
    """
    clock = SystemClock()
    identity = load_identity(database, settings)
    network = open_network(settings, clock, system_sleep)
    _warn(database, settings, network, identity, clock)
    trust = TrustBook(database, settings, clock)
    make_tables()
    with make_locks(database) as locks:
        yield Surroundings(
            database=database,
            settings=settings,
            writer=Writer(
                database,
                settings,
                clock,
                system_sleep,
                SystemRandom(),
                counting=counting,
                board=board,
            ),
            trust=trust,
            identity=identity,
            locks=locks,
            network=network,
            process=Holder(platform.node(), os.getpid(), command, clock.now_ms()),
            clock=clock,
            sleep=system_sleep,
            random=SystemRandom(),
            new_id=system_new_id,
            counting=counting or Counting(),
            board=board,
        )


def check(database: Database, settings: Settings, clock: Clock) -> None:
    """Check that work could begin with these settings.

    What rests on the database is looked at last.  Raises ``LocalError``.
    """
    open_network(settings, clock, system_sleep)
    TrustBook(database, settings, clock)
    load_identity(database, settings)


def require_tables(database: Database, *, present: bool = True) -> None:
    """Check that our own tables fit; with ``present`` they must be there.

    Raises ``LocalError``.
    """
    with reading(database) as connection:
        own_schema.check(connection, required=present)


def _warn(
    database: Database, settings: Settings, network: Network, identity: Identity, clock: Clock
) -> None:
    """Say in the log what makes peers or keys less safe than they should be."""
    if insecure := insecure_warning(settings):
        logger().warning("federation.insecure", detail=insecure)
    for warning in warnings_about_keys(settings, uid=os.getuid()):
        logger().warning("federation.key_exposed", detail=warning)
    with reading(database) as connection:
        urls = {peer.node_id: peer.node_url for peer in reads.peers(connection)}
    for warning in plain_token_warnings(settings, urls):
        logger().warning("federation.capability.exposed", detail=warning)
    if (doubt := doubt_about_key(database, settings, identity)) is not None:
        logger().warning("federation.key_doubted", detail=doubt)
    if network.certificates is not None:
        for doubt in doubts(network.certificates.own, identity.node_id, clock.now_ms()):
            logger().warning("federation.tls.own_certificate", detail=doubt)
