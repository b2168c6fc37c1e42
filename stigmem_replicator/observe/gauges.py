"""Gauges out of a picture: the daemon, its database, each peer and its streams.

Every label has a bounded set of values, and what cannot be told has no sample.  What is counted
is for ``metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import DATABASE_TROUBLE, Reason
from stigmem_replicator.observe.board import Board, PeerPicture, Picture
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.settings.values import without_secrets

OWN: Final = "stigmem_replicator_"
"""How names begin that the node does not have."""

PEER: Final = "peer_id"
"""The label of a peer; its value is the peer's node id."""

_STREAM: Final = "stream"
_TOMBSTONES: Final = "tombstones"

_STREAM_STATES: Final = (
    PeerState.CATCHING_UP,
    PeerState.IDLE,
    PeerState.THROTTLED,
    PeerState.BACKING_OFF,
    PeerState.BLOCKED,
)
"""What a stream beside the facts can be; to be paused or elsewhere is the peer's."""

_Value = Callable[[PeerPicture], float | None]


def of_engine(board: Board, picture: Picture, clock: Clock) -> Iterator[Metric]:
    """Yield what the engine shows of itself; ``picture`` is one that hung on the board."""
    up = picture.ready and picture.trouble is None
    yield _single("up", "Whether the engine can work: started, and its database serves", up)
    yield _info("build_info", "The version that runs", version=picture.version)
    age_s = max(0, clock.now_ms() - picture.at_ms) / 1000
    yield _single("picture_age_seconds", "Age of what these gauges are taken from", age_s)
    now, looked_at = clock.monotonic(), board.looked_at
    yield _single(
        "supervisor_age_seconds",
        "Seconds since the supervisor last finished its look at the tables",
        None if looked_at is None else max(0.0, now - looked_at),
    )
    since = board.writing_since
    yield _single(
        "writer_busy_seconds",
        "Seconds that the writer is busy with one piece of work; 0 while it is not",
        0.0 if since is None else max(0.0, now - since),
    )
    yield _single(
        "certificate_expiry_timestamp_seconds",
        "When the node's own certificate ends",
        _seconds(picture.own_certificate_not_after_ms),
    )


def of_database(picture: Picture) -> Iterator[Metric]:
    """Yield what is known of the node's database."""
    yield _info(
        "schema_info",
        "The node's schema",
        wire_version="" if picture.wire_version is None else str(picture.wire_version),
        newest_migration=picture.newest_migration or "",
    )
    trouble = GaugeMetricFamily(
        f"{OWN}local_db_trouble", "Whether the database cannot be used, by cause", labels=["cause"]
    )
    cause = None if picture.trouble is None else picture.trouble.cause
    for known in DATABASE_TROUBLE:
        trouble.add_metric([known.value], known == cause)
    if cause is not None and cause not in DATABASE_TROUBLE:
        other = cause if _is_reason(cause) else Reason.UNEXPECTED.value
        trouble.add_metric([other], 1)
    yield trouble


_BY_PEER: Final[tuple[tuple[str, str, _Value], ...]] = (
    (
        "stigmem_replication_lag_seconds",
        "How far we are behind a peer",
        lambda peer: _seconds(peer.lag_ms),
    ),
    (
        f"{OWN}peer_active",
        "Whether the node's registry lets the peer be pulled",
        lambda peer: peer.active,
    ),
    (f"{OWN}peer_held", "Whether this process works on the peer", lambda peer: peer.held),
    (
        f"{OWN}peer_failures",
        "Failures of a peer in a row; a good page halves them",
        lambda peer: peer.failures,
    ),
    (
        f"{OWN}peer_next_attempt_timestamp_seconds",
        "When a peer is asked next",
        lambda peer: _seconds(peer.next_attempt_ms),
    ),
    (
        f"{OWN}peer_last_success_timestamp_seconds",
        "When a peer was last caught up with",
        lambda peer: _seconds(peer.last_success_ms),
    ),
    (
        f"{OWN}peer_upstream_lag_seconds",
        "How far a peer says that it is behind its own sources",
        lambda peer: _seconds(peer.upstream_lag_ms),
    ),
    (
        f"{OWN}peer_certificate_expiry_timestamp_seconds",
        "When the certificate that a peer showed last ends",
        lambda peer: _seconds(peer.certificate_not_after_ms),
    ),
    (
        f"{OWN}peer_node_loop",
        "Whether the node's own loop still pulls the peer too",
        lambda peer: peer.node_loop,
    ),
    (
        f"{OWN}dead_letters_open",
        "Dead letters of a peer that nobody has dealt with",
        lambda peer: peer.dead_letters,
    ),
)


def of_peers(picture: Picture) -> Iterator[Metric]:
    """Yield how each peer stands, which is how its facts do."""
    info = GaugeMetricFamily(
        f"{OWN}peer_info", "Where a peer is asked, for people to know it by", labels=[PEER, "url"]
    )
    for node_id, peer in picture.peers.items():
        info.add_metric([node_id, without_secrets(peer.url)], 1)
    yield info
    for name, meaning, value_of in _BY_PEER:
        family = GaugeMetricFamily(name, meaning, labels=[PEER])
        for node_id, peer in picture.peers.items():
            value = value_of(peer)
            if value is not None:
                family.add_metric([node_id], value)
        yield family
    state = GaugeMetricFamily(
        f"{OWN}peer_state", "Whether an active peer is in a state", labels=[PEER, "state"]
    )
    reason = GaugeMetricFamily(
        f"{OWN}peer_reason", "Why an active peer is in its state", labels=[PEER, "reason"]
    )
    for node_id, peer in picture.peers.items():
        if not peer.active:
            continue
        for each in PeerState:
            state.add_metric([node_id, each.value], each is peer.state)
        if peer.reason is not None and _is_reason(peer.reason):
            reason.add_metric([node_id, peer.reason], 1)
    yield state
    yield reason


def of_streams(picture: Picture) -> Iterator[Metric]:
    """Yield how the streams of active peers stand that are read beside their facts."""
    streams = {
        node_id: peer.tombstones
        for node_id, peer in picture.peers.items()
        if peer.active and peer.tombstones is not None
    }
    state = GaugeMetricFamily(
        f"{OWN}stream_state",
        "Whether a stream of an active peer is in a state",
        labels=[PEER, _STREAM, "state"],
    )
    reason = GaugeMetricFamily(
        f"{OWN}stream_reason",
        "Why a stream of an active peer is in its state",
        labels=[PEER, _STREAM, "reason"],
    )
    success = GaugeMetricFamily(
        f"{OWN}stream_last_success_timestamp_seconds",
        "When a stream was last caught up with",
        labels=[PEER, _STREAM],
    )
    for node_id, stream in streams.items():
        for each in _STREAM_STATES:
            state.add_metric([node_id, _TOMBSTONES, each.value], each is stream.state)
        if stream.reason is not None and _is_reason(stream.reason):
            reason.add_metric([node_id, _TOMBSTONES, stream.reason], 1)
        if stream.caught_up_ms is not None:
            success.add_metric([node_id, _TOMBSTONES], stream.caught_up_ms / 1000)
    yield from (state, reason, success)
    ends = GaugeMetricFamily(
        f"{OWN}capability_token_expiry_timestamp_seconds",
        "When the capability token ends that a peer's tombstones are asked for with",
        labels=[PEER],
    )
    expiring = GaugeMetricFamily(
        f"{OWN}capability_token_expiring",
        "Whether that token has ended or soon will",
        labels=[PEER],
    )
    for node_id, stream in streams.items():
        if stream.token_not_after_ms is None:
            continue
        ends.add_metric([node_id], stream.token_not_after_ms / 1000)
        # How long it was made for is known only to who reads it.
        if picture.peers[node_id].held:
            expiring.add_metric([node_id], stream.token_is_expiring)
    yield from (ends, expiring)


def _single(name: str, meaning: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"{OWN}{name}", meaning)
    if value is not None:
        family.add_metric([], value)
    return family


def _info(name: str, meaning: str, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"{OWN}{name}", meaning, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _is_reason(word: str) -> bool:
    return word in Reason.__members__.values()
