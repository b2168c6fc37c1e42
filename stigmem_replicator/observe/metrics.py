"""What Prometheus is told: counts that the engine raises, and gauges out of the newest picture.

Names that the node has are kept, with its labels (``peer_id`` is a peer's node id); the rest
begin with ``stigmem_replicator_``.  Every label has a bounded set of values: peers are those of
the picture, and one that leaves it takes its series along; reasons are those of ``errors``.
The engine counts only what is committed.  Serving them is for ``service``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import DATABASE_TROUBLE, Reason
from stigmem_replicator.observe.board import Board, PeerPicture, Picture
from stigmem_replicator.observe.counting import Counting
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.settings.values import without_secrets

_OWN: Final = "stigmem_replicator_"
_PEER: Final = "peer_id"

_STAGE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LOCK_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)

_INGRESS: Final = "stigmem_federation_ingress"
_ANOMALY: Final = "stigmem_peer_hlc_anomaly"
_PAGES: Final = f"{_OWN}pages"
_REJECTED: Final = f"{_OWN}entries_rejected"
_CONFLICTS: Final = f"{_OWN}conflicts"
_LEFT_OUT: Final = f"{_OWN}conflicts_left_out"
_FAILED: Final = f"{_OWN}attempts_failed"

_COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    _INGRESS: ("Entries received by a pull, by what became of them", ("status",)),
    _ANOMALY: ("Entries refused because their clock is too far off", ("direction",)),
    _PAGES: ("Pages committed", ()),
    _REJECTED: ("Entries refused for the first time", ("reason",)),
    _CONFLICTS: ("Conflicts written", ()),
    _LEFT_OUT: ("Conflicts not written because of max_conflicts_per_fact", ()),
    _FAILED: ("Attempts to pull that ended in a failure", ("reason",)),
}

_Value = Callable[[PeerPicture], float | None]


class Metrics(Counting):
    """All metrics of one process, in a registry of their own; counts what ``counting`` says.

    Every method may be called by any thread and takes microseconds.
    """

    def __init__(self, board: Board, clock: Clock) -> None:
        self.registry = CollectorRegistry()
        self._counts = _PeerCounts()
        self.registry.register(_PictureCollector(board, clock, self._counts))
        ProcessCollector(registry=self.registry)
        self._stages = Histogram(
            f"{_OWN}page_stage_seconds",
            "Seconds that a page spent in a stage",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        for stage in ("fetch", "verify", "write"):
            self._stages.labels(stage)
        self._held = Histogram(
            f"{_OWN}write_lock_held_seconds",
            "Seconds that one of our transactions held the database's write lock",
            buckets=_LOCK_BUCKETS,
            registry=self.registry,
        )
        self._waited = Histogram(
            f"{_OWN}write_lock_waited_seconds",
            "Seconds that one of our transactions waited for the database's write lock",
            buckets=_LOCK_BUCKETS,
            registry=self.registry,
        )
        self._reloaded = Gauge(
            f"{_OWN}config_last_reload_successful",
            "Whether the configuration was in order when it was last read",
            registry=self.registry,
        )
        self._reloaded.set(1)

    def entries_committed(self, node_id: str, counts: Counts) -> None:
        """Count what became of some entries of a peer, once it is committed."""
        refused = sum(counts.rejected.values())
        self._counts.add(
            node_id,
            [
                ((_INGRESS, "ok"), counts.admitted),
                ((_INGRESS, "duplicate"), counts.duplicates),
                ((_INGRESS, "rejected"), refused),
                ((_INGRESS, "refused_before"), sum(counts.refused_before.values())),
                ((_CONFLICTS,), counts.conflicts),
                ((_LEFT_OUT,), counts.conflicts_capped),
                *(((_REJECTED, str(why)), number) for why, number in counts.rejected.items()),
                *(((_ANOMALY, side), number) for side, number in counts.skewed.items()),
            ],
        )

    def page_committed(self, node_id: str) -> None:
        """Count a page of a peer, once all of it is committed."""
        self._counts.add(node_id, [((_PAGES,), 1)])

    def attempt_failed(self, node_id: str, reason: Reason) -> None:
        """Count a failed attempt to pull from a peer."""
        self._counts.add(node_id, [((_FAILED, str(reason)), 1)])

    def page_fetched(self, seconds: float) -> None:
        """Note how long it took to ask for a page and to decode it."""
        self._stages.labels("fetch").observe(seconds)

    def page_verified(self, seconds: float) -> None:
        """Note how long it took to judge the entries of a page."""
        self._stages.labels("verify").observe(seconds)

    def page_written(self, seconds: float) -> None:
        """Note how long it took to write a page, waiting for its turn included."""
        self._stages.labels("write").observe(seconds)

    def write_lock(self, *, held_s: float, waited_s: float) -> None:
        """Note how long a transaction waited for the write lock and how long it held it."""
        self._held.observe(held_s)
        self._waited.observe(waited_s)

    def reloaded(self, *, successful: bool) -> None:
        """Note whether the configuration could be used when it was read again."""
        self._reloaded.set(successful)


class _PeerCounts:
    """Counts by peer, of which only those of peers in the picture are shown.

    The engine may count for a peer before it is in the picture: that is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[tuple[str, ...], int]] = {}
        self._absent: frozenset[str] = frozenset()
        self._picture_ms = 0

    def add(self, node_id: str, numbers: Iterable[tuple[tuple[str, ...], int]]) -> None:
        """Add to a peer's counts: each a metric's name with the values of its further labels."""
        with self._lock:
            counts = self._counts.setdefault(node_id, {})
            for key, number in numbers:
                if number:
                    counts[key] = counts.get(key, 0) + number

    def shown(self, picture: Picture) -> dict[str, dict[tuple[str, ...], int]]:
        """Return a copy of what there is of the picture's peers.

        A peer that is missing from two pictures in a row is forgotten.
        """
        with self._lock:
            absent = self._counts.keys() - picture.peers.keys()
            if picture.at_ms != self._picture_ms:
                for node_id in absent & self._absent:
                    del self._counts[node_id]
                self._absent, self._picture_ms = frozenset(absent), picture.at_ms
            return {n: dict(c) for n, c in self._counts.items() if n in picture.peers}


class _PictureCollector(Collector):
    """Makes samples of the picture that hangs on the board at the time of a scrape."""

    def __init__(self, board: Board, clock: Clock, counts: _PeerCounts) -> None:
        self._board = board
        self._clock = clock
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """Return what there is to collect, so that single metrics can be asked for by name."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its samples, also those that have none now."""
        picture = self._board.picture
        yield from self._of_engine(picture)
        yield from _of_database(picture)
        yield from _of_peers(picture)
        yield from _counted(self._counts.shown(picture))

    def _of_engine(self, picture: Picture) -> Iterator[Metric]:
        up = picture.ready and picture.trouble is None
        yield _single("up", "Whether the engine can work: started, and its database serves", up)
        yield _info("build_info", "The version that runs", version=picture.version)
        age_s = max(0, self._clock.now_ms() - picture.at_ms) / 1000
        yield _single("picture_age_seconds", "Age of what these gauges are taken from", age_s)
        now, looked_at = self._clock.monotonic(), self._board.looked_at
        yield _single(
            "supervisor_age_seconds",
            "Seconds since the supervisor last finished its look at the tables",
            None if looked_at is None else max(0.0, now - looked_at),
        )
        since = self._board.writing_since
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


def _of_database(picture: Picture) -> Iterator[Metric]:
    yield _info(
        "schema_info",
        "The node's schema",
        wire_version="" if picture.wire_version is None else str(picture.wire_version),
        newest_migration=picture.newest_migration or "",
    )
    trouble = GaugeMetricFamily(
        f"{_OWN}local_db_trouble", "Whether the database cannot be used, by cause", labels=["cause"]
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
        f"{_OWN}peer_active",
        "Whether the node's registry lets the peer be pulled",
        lambda peer: peer.active,
    ),
    (f"{_OWN}peer_held", "Whether this process works on the peer", lambda peer: peer.held),
    (
        f"{_OWN}peer_failures",
        "Failures of a peer in a row; a good page halves them",
        lambda peer: peer.failures,
    ),
    (
        f"{_OWN}peer_next_attempt_timestamp_seconds",
        "When a peer is asked next",
        lambda peer: _seconds(peer.next_attempt_ms),
    ),
    (
        f"{_OWN}peer_last_success_timestamp_seconds",
        "When a peer was last caught up with",
        lambda peer: _seconds(peer.last_success_ms),
    ),
    (
        f"{_OWN}peer_upstream_lag_seconds",
        "How far a peer says that it is behind its own sources",
        lambda peer: _seconds(peer.upstream_lag_ms),
    ),
    (
        f"{_OWN}peer_certificate_expiry_timestamp_seconds",
        "When the certificate that a peer showed last ends",
        lambda peer: _seconds(peer.certificate_not_after_ms),
    ),
    (
        f"{_OWN}peer_node_loop",
        "Whether the node's own loop still pulls the peer too",
        lambda peer: peer.node_loop,
    ),
    (
        f"{_OWN}dead_letters_open",
        "Dead letters of a peer that nobody has dealt with",
        lambda peer: peer.dead_letters,
    ),
)


def _of_peers(picture: Picture) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        f"{_OWN}peer_info", "Where a peer is asked, for people to know it by", labels=[_PEER, "url"]
    )
    for node_id, peer in picture.peers.items():
        info.add_metric([node_id, without_secrets(peer.url)], 1)
    yield info
    for name, meaning, value_of in _BY_PEER:
        family = GaugeMetricFamily(name, meaning, labels=[_PEER])
        for node_id, peer in picture.peers.items():
            value = value_of(peer)
            if value is not None:
                family.add_metric([node_id], value)
        yield family
    state = GaugeMetricFamily(
        f"{_OWN}peer_state", "Whether an active peer is in a state", labels=[_PEER, "state"]
    )
    reason = GaugeMetricFamily(
        f"{_OWN}peer_reason", "Why an active peer is in its state", labels=[_PEER, "reason"]
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


def _counted(counts: Mapping[str, Mapping[tuple[str, ...], int]]) -> Iterator[Metric]:
    families = {
        name: CounterMetricFamily(name, meaning, labels=[_PEER, *labels])
        for name, (meaning, labels) in _COUNTERS.items()
    }
    for node_id, of_peer in counts.items():
        for (name, *values), number in of_peer.items():
            families[name].add_metric([node_id, *values], number)
    yield from families.values()


def _single(name: str, meaning: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"{_OWN}{name}", meaning)
    if value is not None:
        family.add_metric([], value)
    return family


def _info(name: str, meaning: str, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"{_OWN}{name}", meaning, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _is_reason(word: str) -> bool:
    return word in Reason.__members__.values()
