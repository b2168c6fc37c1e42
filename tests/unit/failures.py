"""What the tests of a peer's standing share: a moment, waits by class, chance and wishes."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from stigmem_replicator.replication.pacing import Backoff
from stigmem_replicator.replication.states import Paces

NOW: Final = 1_767_323_045_000
PACES: Final = Paces(
    transient=Backoff(1.0, 2.0, 300.0),
    throttled=Backoff(2.0, 2.0, 400.0),
    protocol=Backoff(3.0, 2.0, 500.0),
    blocked_s=600.0,
)

chances = st.floats(min_value=0.0, max_value=1.0)
wishes = st.one_of(st.just(0.0), st.floats(min_value=0.0, max_value=3600.0))
