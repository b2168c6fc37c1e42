"""What the log says of one peer: a line for each change, repeats folded, recoveries with a count.

The node's own names of events are kept where it has them.  What a standing means is decided in
``replication.states``; how a line looks in ``observe.log``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stigmem_replicator.clock import Clock
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.errors import Reason
from stigmem_replicator.observe.log import logger
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.replication.states import PeerState, Standing
from stigmem_replicator.store.own_models import FACTS

STATE: Final = "federation.peer.state"
PULLED: Final = "federation.pull.ok"
NOTED: Final = "federation.pull.note"

STILL_SECONDS: Final = 3600.0
"""How often a failure that goes on is told again, with how often it came meanwhile."""

PULLED_SECONDS: Final = 60.0
"""How often a peer that is drained for long says how much has come."""

_NODES_NAMES: Final[Mapping[str, str]] = {
    Reason.UNREACHABLE: "federation.pull.peer_unreachable",
    Reason.TIMEOUT: "federation.pull.peer_unreachable",
    Reason.KEY_CHANGED: "federation.pull.signature_mismatch",
}


class Teller:
    """Tells what becomes of one stream of a peer; make one for each task."""

    def __init__(self, node_id: str, clock: Clock, standing: Standing, stream: str = FACTS) -> None:
        # What is said of a peer without more is said of its facts, as the node says it.
        self._log = logger(peer=node_id) if stream == FACTS else logger(peer=node_id, stream=stream)
        self._clock = clock
        self._failing_since: float | None = None
        self._failures = 0
        self._reason = standing.reason
        self._told_at = clock.monotonic()
        self._untold = 0
        if standing.failures and standing.reason is not None:
            # It went on from a task, or a process, before this one.
            ago_ms = clock.now_ms() - (standing.since_ms or clock.now_ms())
            self._failing_since = clock.monotonic() - max(0, ago_ms) / 1000
            self._failures = standing.failures
        self._pages = 0
        self._counts = Counts()
        self._counted_at = clock.monotonic()

    def stood(self, before: Standing, after: Standing) -> None:
        """Take note of a standing; tells a change, and what goes on for long now and then."""
        changed = (before.state, before.reason) != (after.state, after.reason)
        if after.reason is None:
            # A good page among bad ones is no recovery: that is told when it is caught up.
            if changed and (self._failing_since is None or after.state is PeerState.IDLE):
                self._tell_good(before, after)
            return
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since, self._failures = now, 0
        self._failures += 1
        if after.reason == self._reason:
            self._untold += 1
            if now - self._told_at < STILL_SECONDS:
                return
        self._reason = after.reason
        repeats = {"repeats": self._untold} if self._untold else {}
        self._told_at, self._untold = now, 0
        self._log.warning(
            _NODES_NAMES.get(after.reason, STATE),
            state=after.state,
            before=before.state,
            reason=after.reason,
            detail=after.detail,
            hint=after.hint,
            failures=after.failures,
            next_attempt_ms=after.next_attempt_ms,
            **repeats,
        )

    def _tell_good(self, before: Standing, after: Standing) -> None:
        recovered = {}
        if self._failing_since is not None:
            took = round(self._clock.monotonic() - self._failing_since, 1)
            times = f"{self._failures} failure{'' if self._failures == 1 else 's'}"
            recovered = {"detail": f"recovered after {times} in {took} s"}
            self._failing_since, self._reason, self._untold = None, None, 0
        self._log.info(STATE, state=after.state, before=before.state, **recovered)

    def pulled(self, report: PullReport, state: PeerState) -> None:
        """Tell what came since it was last told: when caught up, or now and then on the way."""
        now = self._clock.monotonic()
        counts, before = report.counts, self._counts
        new = counts.admitted - before.admitted
        rejected = sum(counts.rejected.values()) - sum(before.rejected.values())
        on_the_way = state is not PeerState.IDLE
        if not (new or rejected) or (on_the_way and now - self._counted_at < PULLED_SECONDS):
            return
        self._log.info(
            PULLED,
            new=new,
            duplicates=counts.duplicates - before.duplicates,
            rejected=rejected,
            pages=report.pages - self._pages,
            cursor=report.cursor,
            more=on_the_way,
        )
        self._counts, self._pages, self._counted_at = counts, report.pages, now

    def noted(self, words: str) -> None:
        """Tell one sentence about a pull."""
        self._log.info(NOTED, detail=words)
