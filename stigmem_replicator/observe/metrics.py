"""What Prometheus is told: counts that the engine raises, and gauges out of the newest picture.

Names that the node has are kept, with its labels (``peer_id`` is a peer's node id); the rest
begin with ``stigmem_replicator_``.  Every label has a bounded set of values: peers are those of
the picture, and one that leaves it takes its series along; reasons are those of ``errors``.
The engine counts only what is committed.  Serving them is for ``service``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import Reason
from stigmem_replicator.observe import gauges
from stigmem_replicator.observe.board import Board, Picture
from stigmem_replicator.observe.counting import Counting
from stigmem_replicator.observe.gauges import OWN, PEER
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import Counts

_STAGE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LOCK_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)

_INGRESS: Final = "stigmem_federation_ingress"
_ANOMALY: Final = "stigmem_peer_hlc_anomaly"
_PAGES: Final = f"{OWN}pages"
_REJECTED: Final = f"{OWN}entries_rejected"
_CONFLICTS: Final = f"{OWN}conflicts"
_LEFT_OUT: Final = f"{OWN}conflicts_left_out"
_FAILED: Final = f"{OWN}attempts_failed"
_TOMBSTONES: Final = f"{OWN}tombstones"

_COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    _INGRESS: ("Entries received by a pull, by what became of them", ("status",)),
    _TOMBSTONES: (
        "Tombstones and revocations received by a pull, by what became of them",
        ("artifact", "status"),
    ),
    _ANOMALY: ("Entries refused because their clock is too far off", ("direction",)),
    _PAGES: ("Pages of facts committed", ()),
    _REJECTED: ("Entries refused for the first time", ("reason",)),
    _CONFLICTS: ("Conflicts written", ()),
    _LEFT_OUT: ("Conflicts not written because of max_conflicts_per_fact", ()),
    _FAILED: ("Attempts to pull that ended in a failure", ("reason",)),
}


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
            f"{OWN}page_stage_seconds",
            "Seconds that a page spent in a stage",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        for stage in ("fetch", "verify", "write"):
            self._stages.labels(stage)
        self._held = Histogram(
            f"{OWN}write_lock_held_seconds",
            "Seconds that one of our transactions held the database's write lock",
            buckets=_LOCK_BUCKETS,
            registry=self.registry,
        )
        self._waited = Histogram(
            f"{OWN}write_lock_waited_seconds",
            "Seconds that one of our transactions waited for the database's write lock",
            buckets=_LOCK_BUCKETS,
            registry=self.registry,
        )
        self._reloaded = Gauge(
            f"{OWN}config_last_reload_successful",
            "Whether the configuration was in order when it was last read",
            registry=self.registry,
        )
        self._reloaded.set(1)

    def entries_committed(self, node_id: str, counts: Counts) -> None:
        """Count what became of some entries of a peer, once it is committed."""
        self._counts.add(
            node_id,
            [
                *_fates((_INGRESS,), counts),
                ((_CONFLICTS,), counts.conflicts),
                ((_LEFT_OUT,), counts.conflicts_capped),
                *(((_ANOMALY, side), number) for side, number in counts.skewed.items()),
            ],
        )

    def records_committed(self, node_id: str, artifact: Artifact, counts: Counts) -> None:
        """Count what became of some tombstones or revocations of a peer, once committed."""
        self._counts.add(node_id, _fates((_TOMBSTONES, artifact.value), counts))

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


def _fates(name: tuple[str, ...], counts: Counts) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield how many entries there were of each status, and the refused ones by reason."""
    yield (*name, "ok"), counts.admitted
    yield (*name, "duplicate"), counts.duplicates
    yield (*name, "rejected"), sum(counts.rejected.values())
    yield (*name, "refused_before"), sum(counts.refused_before.values())
    for reason, number in counts.rejected.items():
        yield (_REJECTED, str(reason)), number


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
        yield from gauges.of_engine(self._board, picture, self._clock)
        yield from gauges.of_database(picture)
        yield from gauges.of_peers(picture)
        yield from gauges.of_streams(picture)
        yield from _counted(self._counts.shown(picture))


def _counted(counts: Mapping[str, Mapping[tuple[str, ...], int]]) -> Iterator[Metric]:
    families = {
        name: CounterMetricFamily(name, meaning, labels=[PEER, *labels])
        for name, (meaning, labels) in _COUNTERS.items()
    }
    for node_id, of_peer in counts.items():
        for (name, *values), number in of_peer.items():
            families[name].add_metric([node_id, *values], number)
    yield from families.values()
