"""What the daemon shows of itself: one frozen picture, published by the engine, read by anybody.

Readers are other threads: the endpoint, the watchdog.  They get a whole picture or the one
before it, also when the engine is stuck, and then see how old it is.  What a state means is in
``replication.states``; nothing here is written to the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from stigmem_replicator.replication.states import PeerState

HISTORY_SECONDS: Final = 30
HISTORY_POINTS: Final = 60
"""A history of lag has so many points at most, so many seconds apart."""


@dataclass(frozen=True, slots=True)
class StreamPicture:
    """A stream that is worked on beside a peer's facts.  Times are milliseconds since 1970.

    ``token_not_after_ms`` is when the capability token that it is asked with ends, None without
    one; ``token_is_expiring`` says that this has come or is near.
    """

    state: PeerState
    reason: str | None = None
    detail: str | None = None
    hint: str | None = None
    since_ms: int | None = None
    failures: int = 0
    next_attempt_ms: int | None = None
    caught_up_ms: int | None = None
    token_not_after_ms: int | None = None
    token_is_expiring: bool = False


@dataclass(frozen=True, slots=True)
class PeerPicture:
    """One peer.  Times are milliseconds since 1970, ``lag_ms`` a duration in milliseconds.

    ``status`` is the node's registry's word.  ``held`` says that this process works on it.
    ``lag_history`` has the lags of the last half hour, oldest first, one each HISTORY_SECONDS;
    None where it could not be told.  ``rate_per_s`` is of new facts while it catches up, else None.
    ``node_loop`` says that the node's own loop is still seen to move its cursor.
    ``dead_letters`` is how many of them are open, None where nobody counted.  ``tombstones`` is
    how that stream stands, None where nothing is known of it yet.
    """

    node_id: str
    url: str
    status: str
    state: PeerState
    held: bool
    reason: str | None = None
    detail: str | None = None
    hint: str | None = None
    since_ms: int | None = None
    failures: int = 0
    next_attempt_ms: int | None = None
    not_before_ms: int | None = None
    caught_up_ms: int | None = None
    last_success_ms: int | None = None
    lag_ms: int | None = None
    lag_history: tuple[int | None, ...] = ()
    rate_per_s: float | None = None
    cursor: str | None = None
    certificate_not_after_ms: int | None = None
    upstream_lag_ms: int | None = None
    node_loop: bool = False
    dead_letters: int | None = None
    tombstones: StreamPicture | None = None

    @property
    def active(self) -> bool:
        """Whether the node's registry lets the peer be pulled."""
        return self.status == "active"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why our own database cannot be used: ``cause`` is a reason code."""

    cause: str
    detail: str
    hint: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Picture:
    """The daemon at one moment; ``at_ms`` is that moment, ``started_ms`` when it began.

    ``peers`` come by node id, in its order; ``trouble`` is None while the database serves.
    ``wire_version`` and ``newest_migration`` are those of the node's schema, ``database`` its
    name without secrets.  ``own_certificate_not_after_ms`` is when the node's own certificate
    ends, None without one.
    """

    version: str
    pid: int
    started_ms: int
    at_ms: int
    database: str
    wire_version: int | None = None
    newest_migration: str | None = None
    insecure: bool = False
    own_certificate_not_after_ms: int | None = None
    ready: bool = False
    trouble: Trouble | None = None
    peers: Mapping[str, PeerPicture] = field(default_factory=dict)


class Board:
    """Where the newest picture hangs, and when the engine last made progress; one per process.

    Moments of progress are seconds by the clock that never steps.  Setting an attribute is one
    step for every other thread.
    """

    def __init__(self, first: Picture) -> None:
        self.picture = first
        self.looked_at: float | None = None
        """When the supervisor last finished a look; None before the first."""
        self.writing_since: float | None = None
        """Since when the writer's thread is busy with one piece of work; None while it is not."""
