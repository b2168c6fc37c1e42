"""What a pull looks up: identity, peers, positions, known rows, trust inputs.

Every function takes a connection and returns plain values.  Lookups for a page are in bulk, so
many ids a statement.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, case, func, literal_column, select

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.replication.session import Checkpoint, Position
from stigmem_replicator.store.node_models import (
    AgentKey,
    ApiKey,
    Fact,
    FederationManifest,
    NodeMeta,
    Peer,
    PeerTenantMap,
    QuarantineRule,
    ReplicationCursor,
)
from stigmem_replicator.store.own_models import (
    FACTS,
    DeadLetter,
    StreamCheckpoint,
    StreamCursor,
)
from stigmem_replicator.trust.facts import KnownFact
from stigmem_replicator.trust.source_trust import HISTORY_FACTS, History, Rule
from stigmem_replicator.trust.tenants import TenantPolicy

INBOUND: Final = "inbound"

IDS_AT_ONCE: Final = 500
"""How many ids one statement asks for."""


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A peer of the node's registry.

    ``id`` is the registry's, ``node_id`` the wire identity; ``scopes`` are those agreed with it.
    At a node of wire version 1 there is no ``ingest_tenant`` and no ``entity_uri``.
    """

    id: str
    node_id: str
    node_url: str
    status: str
    scopes: frozenset[str]
    ingest_tenant: str | None
    entity_uri: str | None
    relay_trusted: bool


@dataclass(frozen=True, slots=True)
class CursorRow:
    """The node's cursor row of one peer, compared whole before it is written."""

    cursor: str | None
    updated_at: str


@dataclass(frozen=True, slots=True)
class OwnCursor:
    """Where a stream stands that the node's table cannot hold, compared whole before it is written.

    ``cursor`` is the settled position, where the next pass begins.
    """

    frontier: str | None = None
    cursor: str | None = None


StreamRow = CursorRow | OwnCursor | None
"""What is compared of a stream: the node's row for the facts, else our own."""


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """Where a stream stands: the position to read from, and what else the tables say of it.

    ``row`` is the node's cursor row of the facts or None, ``own_frontier`` the cursor that we
    committed last, ``first_contact`` that we never read this stream before.
    """

    position: Position
    row: CursorRow | None
    own_frontier: str | None
    first_contact: bool


@dataclass(frozen=True, slots=True)
class KnownLetter:
    """A dead letter as far as it tells whether an entry was refused before."""

    reason: str
    payload_hash: str
    generation: str
    status: str
    last_seen_at_ms: int


@dataclass(frozen=True, slots=True)
class LetterUsage:
    """How much one stream's dead letters hold, and how many of the asked ids are among them."""

    rows: int
    payload_bytes: int
    known: int


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as the node's table holds it."""

    document: str
    updated_at: str


def node_meta(connection: Connection, key: str) -> str:
    """Return a value of the node's identity.  Raises :class:`LocalError` when it has none."""
    value = connection.scalar(select(NodeMeta.value).where(NodeMeta.key == key))
    if not value:
        raise LocalError(
            Reason.NODE_NOT_INITIALISED,
            f"the node has no {key}: it was never started with federation on",
            hint="start the node once with STIGMEM_FEDERATION_ENABLED=true",
        )
    return value


def peers(connection: Connection) -> list[PeerRow]:
    """Return all registered peers, ordered by node id."""
    return [_peer_row(row) for row in connection.execute(_PEERS.order_by(Peer.node_id))]


def peer(connection: Connection, peer_id: str) -> PeerRow | None:
    """Return one peer by its registry id, or None when it is gone."""
    row = connection.execute(_PEERS.where(Peer.id == peer_id)).first()
    return None if row is None else _peer_row(row)


# All columns, because a node of wire version 1 does not have all those of the model.
_PEERS: Final[Select[Any]] = select(literal_column("peers.*")).select_from(Peer)


def _peer_row(row: Row[Any]) -> PeerRow:
    columns = row._mapping  # noqa: SLF001 - public, named so that no column can hide it
    return PeerRow(
        id=columns["id"],
        node_id=columns["node_id"],
        node_url=columns["node_url"],
        status=columns["status"],
        scopes=_scopes(columns["allowed_scopes"]),
        ingest_tenant=columns.get("ingest_tenant"),
        entity_uri=(columns.get("entity_uri") or "").strip() or None,
        relay_trusted=bool(columns.get("relay_trusted")),
    )


def _scopes(text: str) -> frozenset[str]:
    # A peer whose scopes do not read is agreed nothing: its facts are refused, not guessed.
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    if not isinstance(items, list):
        return frozenset()
    return frozenset(item for item in items if isinstance(item, str))


def cursor_row(connection: Connection, peer_id: str, *, lock: bool = False) -> CursorRow | None:
    """Return the node's inbound cursor row of a peer.

    With ``lock`` nobody changes it before the transaction ends; SQLite's write lock does so too.
    """
    query = select(ReplicationCursor.cursor, ReplicationCursor.updated_at).where(
        ReplicationCursor.peer_id == peer_id, ReplicationCursor.direction == INBOUND
    )
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else CursorRow(row.cursor, row.updated_at)


def stream_row(
    connection: Connection, peer: PeerRow, stream: str, *, lock: bool = False
) -> StreamRow:
    """Return what is compared of a stream before it is written; ``lock`` as :func:`cursor_row`."""
    if stream == FACTS:
        return cursor_row(connection, peer.id, lock=lock)
    query = select(StreamCursor.frontier, StreamCursor.settled).where(
        StreamCursor.node_id == peer.node_id, StreamCursor.stream == stream
    )
    row = connection.execute(query.with_for_update() if lock else query).first()
    return OwnCursor() if row is None else OwnCursor(*row)


def stored_position(connection: Connection, peer: PeerRow, stream: str) -> StoredPosition:
    """Return where the stream of a peer stands.  Works before our own tables exist."""
    row = cursor_row(connection, peer.id)
    frontier = row.cursor if row is not None else None
    own = (
        connection.execute(
            select(
                StreamCursor.frontier,
                StreamCursor.settled,
                StreamCursor.origin_time_ms,
                StreamCursor.origin_time_at_ms,
            ).where(StreamCursor.node_id == peer.node_id, StreamCursor.stream == stream)
        ).first()
        if has_own_tables(connection)
        else None
    )
    if own is None:
        position = Position(frontier=frontier, settled=frontier)
        return StoredPosition(position, row, None, first_contact=True)
    kept = connection.execute(
        select(StreamCheckpoint.position, StreamCheckpoint.kept_at_ms)
        .where(StreamCheckpoint.node_id == peer.node_id, StreamCheckpoint.stream == stream)
        .order_by(StreamCheckpoint.kept_at_ms, StreamCheckpoint.position)
    )
    settled = None if frontier is None or own.settled is None else min(frontier, own.settled)
    position = Position(
        frontier=frontier,
        settled=settled,
        origin_time_ms=own.origin_time_ms,
        origin_time_at_ms=own.origin_time_at_ms,
        checkpoints=tuple(Checkpoint(item.position, item.kept_at_ms) for item in kept),
    )
    return StoredPosition(position, row, own.frontier, first_contact=False)


def has_own_tables(connection: Connection) -> bool:
    """Say whether our own tables exist in this database."""
    return connection.dialect.has_table(connection, StreamCursor.__tablename__)


def tenant_policy(connection: Connection, peer: PeerRow, *, plugin_active: bool) -> TenantPolicy:
    """Return what decides the local tenant of a peer's facts.

    A node of wire version 1 has no map of tenants, and writes all facts to its default one.
    """
    rows = (
        connection.execute(
            select(PeerTenantMap.origin_tenant, PeerTenantMap.local_tenant).where(
                PeerTenantMap.peer_id == peer.id
            )
        ).all()
        if connection.dialect.has_table(connection, PeerTenantMap.__tablename__)
        else []
    )
    hosts = connection.execute(
        select(ApiKey.id).where(ApiKey.tenant_id != "default").limit(1)
    ).first()
    return TenantPolicy(
        tenant_map={row.origin_tenant: row.local_tenant for row in rows},
        ingest_tenant=peer.ingest_tenant,
        hosts_tenants=hosts is not None,
        plugin_active=plugin_active,
    )


def known_facts(connection: Connection, ids: Collection[str]) -> dict[str, KnownFact]:
    """Return what stands under those of ``ids`` that exist."""
    columns = select(Fact.id, Fact.cid, Fact.valid_until)
    return {
        row.id: KnownFact(row.cid, row.valid_until)
        for some in chunks(ids)
        for row in connection.execute(columns.where(Fact.id.in_(some)))
    }


def chunks(ids: Collection[str]) -> Iterator[list[str]]:
    """Yield some of the ids at a time: a statement takes only so many parameters."""
    every = list(ids)
    for first in range(0, len(every), IDS_AT_ONCE):
        yield every[first : first + IDS_AT_ONCE]


def known_letters(
    connection: Connection, node_id: str, stream: str, ids: Collection[str]
) -> dict[str, KnownLetter]:
    """Return the dead letters of a peer's stream under those of ``ids`` that have one."""
    if not ids or not has_own_tables(connection):
        return {}
    columns = select(
        DeadLetter.entry_id,
        DeadLetter.reason,
        DeadLetter.payload_hash,
        DeadLetter.generation,
        DeadLetter.status,
        DeadLetter.last_seen_at_ms,
    ).where(DeadLetter.node_id == node_id, DeadLetter.stream == stream)
    return {
        row.entry_id: KnownLetter(*row[1:])
        for some in chunks(ids)
        for row in connection.execute(columns.where(DeadLetter.entry_id.in_(some)))
    }


def letter_usage(
    connection: Connection, node_id: str, stream: str, ids: Collection[str]
) -> LetterUsage:
    """Return how many unsettled dead letters a stream has, and how many of ``ids`` have one.

    Each stream has room of its own: refused facts must not keep an order to forget out.
    """
    rows, size = connection.execute(
        select(func.count(), func.sum(func.length(DeadLetter.payload))).where(
            DeadLetter.node_id == node_id,
            DeadLetter.stream == stream,
            DeadLetter.status != "resolved",
        )
    ).one()
    letters = known_letters(connection, node_id, stream, ids)
    known = sum(letter.status != "resolved" for letter in letters.values())
    return LetterUsage(rows, size or 0, known)


def manifest(connection: Connection, entity_uri: str) -> StoredManifest | None:
    """Return the stored manifest of an organisation."""
    row = connection.execute(
        select(FederationManifest.manifest_json, FederationManifest.updated_at).where(
            FederationManifest.entity_uri == entity_uri
        )
    ).first()
    return None if row is None else StoredManifest(row.manifest_json, row.updated_at)


def trust_rules(connection: Connection) -> tuple[Rule, ...]:
    """Return the node's trust rules in the order in which it reads them."""
    rows = connection.execute(
        select(QuarantineRule.org_uri, QuarantineRule.scope, QuarantineRule.rule_type)
    )
    return tuple(
        Rule(row.org_uri, row.scope, row.rule_type == "always_trust")
        for row in rows
        if row.rule_type in ("always_trust", "never_trust")
    )


def proven_organisations(connection: Connection) -> dict[str, bool]:
    """Return the organisations with a manifest, and whether it has a transparency-log proof."""
    proven = FederationManifest.log_entry_json.is_not(None)
    rows = connection.execute(select(FederationManifest.entity_uri, proven))
    return {row[0]: bool(row[1]) for row in rows}


def active_agents(connection: Connection) -> frozenset[str]:
    """Return the sources that have an active agent key."""
    rows = connection.scalars(select(AgentKey.entity_uri).where(AgentKey.status == "active"))
    return frozenset(rows)


def source_history(connection: Connection, since_iso: str) -> Mapping[str, History]:
    """Return how many facts of each source are no older than ``since_iso``, and failures.

    Sources with fewer facts than make a history are left out: they score as unknown ones do.
    """
    failures = func.sum(case((Fact.attested == 0, 1), else_=0))
    rows = connection.execute(
        select(Fact.source, func.count(), failures)
        .where(Fact.timestamp >= since_iso)
        .group_by(Fact.source)
        .having(func.count() >= HISTORY_FACTS)
    )
    return {row[0]: History(row[1], row[2] or 0) for row in rows}
