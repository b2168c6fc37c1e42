"""Nobody works on any peer: how our own tables are changed under no running process.

Every peer's lock, and that of running daemons, is held while they change.  Locks for work on a
peer are in ``locks``; what is done to the tables is for ``migrations``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from stigmem_replicator.errors import PeerHeldError, Reason
from stigmem_replicator.store import standings, views
from stigmem_replicator.store.engine import Database, writing
from stigmem_replicator.store.locks import DAEMON, FileLocks
from stigmem_replicator.store.postgres import PostgresSchema

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:space, :number)")

TakePeers = Callable[[], None]
"""Takes every peer's lock and the daemons', without waiting.

Raises :class:`PeerHeldError`, which names the peer and who works on it, when one is not free.
"""


@contextmanager
def changing_tables(database: Database) -> Iterator[tuple[Connection, TakePeers]]:
    """Yield a connection in a writing transaction, and what then takes the lock of every peer.

    The locks fall only after the commit.  Since a peer is enlisted by writing, none can come
    meanwhile, and two processes that change tables wait for each other as writers do, never as
    holders of peers.  On SQLite this process must have no locks of its own open: they would fall
    with these.
    """
    backend = database.backend
    if isinstance(backend, PostgresSchema):
        space = backend.lock_space
        # Of the transaction, not of the session: the only session that writes is in use.
        with writing(database) as connection:

            def take_of_server(number: int) -> bool:
                peer = {"space": space, "number": number}
                return bool(connection.scalar(_TRY_LOCK, peer))

            yield connection, lambda: _take_all(connection, take_of_server)
        return
    assert database.path is not None  # noqa: S101 - there are two kinds
    with FileLocks(database.path) as locks, writing(database) as connection:
        yield connection, lambda: _take_all(connection, locks.take)


def _take_all(connection: Connection, take: Callable[[int], bool]) -> None:
    for node_id, number in sorted(views.peer_numbers(connection).items()):
        if not take(number):
            raise PeerHeldError(
                Reason.PEER_HELD,
                f"{_holder(connection, node_id)} works on peer {node_id}",
                hint="wait for it to end; nothing was changed",
            )
    # Of a daemon whose peers are all paused or with others nobody else would know.
    if not take(DAEMON):
        raise PeerHeldError(
            Reason.PEER_HELD, "a daemon runs", hint="stop it first; nothing was changed"
        )


def _holder(connection: Connection, node_id: str) -> str:
    # The name is for people only, and of tables to be dropped a column may be gone.
    with suppress(DBAPIError):
        return str(standings.holder(connection, node_id) or "another process")
    return "another process"
