"""What every command needs: settings, the opened database, the peer that was meant."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from stigmem_replicator.cli import render
from stigmem_replicator.errors import LocalError, Reason, UnknownPeerError, UsageError
from stigmem_replicator.observe import log
from stigmem_replicator.settings import DEFAULT_ORIGIN, Places, Review, Settings, load, review
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store import own_schema, reads
from stigmem_replicator.store.engine import Database, open_database, reading
from stigmem_replicator.store.guard import Files
from stigmem_replicator.store.reads import PeerRow


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options before the command, as given; settings are read when a command needs them."""

    flags: Mapping[str, object]
    config_file: Path | None
    env_file: Path | None

    def settings(self) -> Settings:
        """Read all settings and set up logging by them.  Raises :class:`LocalError`."""
        return _log_by(self.read())

    def read(self) -> Settings:
        """Read all settings and leave logging as it is.  Raises :class:`LocalError`."""
        return load(self._places())

    def review(self) -> Review:
        """Read all settings, set up logging by them, and say what is wrong with them."""
        read = review(self._places())
        _log_by(read.settings)
        return read

    def _places(self) -> Places:
        return Places(self.flags, os.environ, Path.cwd(), self.config_file, self.env_file)


def _log_by(settings: Settings) -> Settings:
    # A command speaks for itself; what goes on below is told to those who ask for it.
    asked = settings.origin("log_level") != DEFAULT_ORIGIN
    level = settings.log_level if asked else "warning"
    log.configure(level, terminal=sys.stderr.isatty())
    return settings


def settings_of(context: typer.Context) -> Settings:
    """Return the settings of this invocation."""
    invocation: Invocation = context.obj
    return invocation.settings()


def review_of(context: typer.Context) -> Review:
    """Return the settings of this invocation with what is wrong with them."""
    invocation: Invocation = context.obj
    return invocation.review()


def check_trust_mode(settings: Settings) -> None:
    """Refuse a node that quarantines facts of little trust.  Raises :class:`LocalError`."""
    if settings.trust_mode == "strict":
        raise LocalError(
            Reason.TRUST_MODE_UNSUPPORTED,
            "trust_mode is strict, which is not supported yet",
            hint="leave the pulling to the node's own loop, or run the node with relaxed",
        )


@contextmanager
def opened(
    settings: Settings, *, own_tables: bool = True, before: Files | None = None
) -> Iterator[Database]:
    """Open the node's database for a command.  Raises :class:`LocalError`.

    ``before`` are the files that this process had open in its place.  With ``own_tables`` the
    replicator's tables must fit this code, if they are there at all.
    """
    if settings.backend not in ("sqlite", "postgres"):
        raise LocalError(
            Reason.DATABASE_UNSUPPORTED,
            f"the node keeps its data in {settings.backend}, which cannot be shared",
            hint="only a node on SQLite or PostgreSQL can be pulled for; leave the pulling to the "
            "node's own loop",
        )
    if settings.backend == "sqlite" and settings.at_rest_encryption == "on":
        raise LocalError(
            Reason.DATABASE_UNSUPPORTED,
            "the node encrypts its database at rest, which cannot be shared",
            hint="leave the pulling to the node's own loop",
        )
    database = open_database(
        settings.location if settings.backend == "postgres" else Path(settings.location),
        timeout_s=settings.database_timeout_s,
        schema=settings.pg_schema,
        before=before,
    )
    try:
        if own_tables:
            with reading(database) as connection:
                own_schema.check(connection)
        yield database
    finally:
        database.close()


def all_peers(database: Database) -> list[PeerRow]:
    """Return the node's peers."""
    with reading(database) as connection:
        return reads.peers(connection)


def find_peer(peers: Sequence[PeerRow], wanted: str) -> PeerRow:
    """Return the one peer that ``wanted`` names: an id, node id, URL, or a unique part of one.

    Raises :class:`UnknownPeerError`, naming the candidates when there are several.
    """
    exact = [peer for peer in peers if wanted in (peer.id, peer.node_id, peer.node_url)]
    found = exact or [
        peer
        for peer in peers
        if any(wanted in text for text in (peer.id, peer.node_id, peer.node_url))
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(peer.node_id for peer in peers) or "none"
        raise UnknownPeerError(
            Reason.UNKNOWN_PEER,
            f"no peer matches {wanted!r}; known: {known}",
            hint="list them with: stigmem-replicate peers list",
        )
    candidates = ", ".join(f"{peer.node_id} at {without_secrets(peer.node_url)}" for peer in found)
    raise UnknownPeerError(
        Reason.AMBIGUOUS_PEER,
        f"{wanted!r} matches {len(found)} peers: {candidates}",
        hint="name more of the one you mean",
    )


def active_peer(peers: Sequence[PeerRow], wanted: str) -> PeerRow:
    """Return the peer that ``wanted`` names if it may be pulled.

    Raises :class:`UnknownPeerError`.
    """
    peer = find_peer(peers, wanted)
    if peer.status != "active":
        raise UnknownPeerError(
            Reason.PEER_NOT_ACTIVE,
            f"peer {peer.node_id} is {peer.status}, only an active peer is pulled",
            hint="approve it on the node first",
        )
    return peer


def confirm(question: str) -> None:
    """Ask, and go on only on a yes.  Raises :class:`UsageError`."""
    try:
        if typer.confirm(question, err=True):
            return
    except typer.Abort:
        print(file=sys.stderr)
    raise UsageError(
        Reason.USAGE, "nothing was changed: not confirmed", hint="--yes answers for you"
    )


def tell(words: str) -> None:
    """Say one sentence on standard error, which may hold words of a peer."""
    print(render.clean(words), file=sys.stderr)
