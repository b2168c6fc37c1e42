"""Paging against a model peer: whatever happens between two pages, no record stays unread.

The promise: a record that appears less than the overlap after its time is read by the first pass
that begins after it, a pass that was under way by then, given up or gone on with later, changes
nothing about that.  Along the way every pass delivers what was there when it began, sends only
times that the peer served, ends, and takes no position back; the model reader checks these.
"""

from __future__ import annotations

import random
from typing import Final
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication import tombstones
from tests.unit.model_tombstones import ModelPeer, ModelReader
from tests.unit.signed_records import iso

SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
LATEST: Final = tombstones.OVERLAP_MS - SECOND
"""How late a record may appear: texts of one second may come in another order than their times."""

PAGE_SIZE: Final = 4
KINDS: Final = st.sampled_from(list(Artifact))
FORMS: Final = st.sampled_from(["{}Z", "{}.5Z", "{}+00:00", "{}.1+00:00", "{}.12Z", "{}", "{}.25"])


class PassMachine(RuleBasedStateMachine):
    """Anything may happen, in any order, between any two pages."""

    def __init__(self) -> None:
        super().__init__()
        self._small_pages = mock.patch.object(tombstones, "PAGE_SIZE", PAGE_SIZE)
        self._small_pages.start()
        self.peer = ModelPeer()
        self.reader = ModelReader(self.peer)

    @initialize(
        dialect=st.sampled_from(list(Dialect)),
        our_offset_ms=st.sampled_from([-HOUR, -MINUTE, 0, MINUTE, HOUR]),
        tells_date=st.booleans(),
        collates=st.booleans(),
    )
    def begin(
        self, dialect: Dialect, our_offset_ms: int, *, tells_date: bool, collates: bool
    ) -> None:
        """Start with an empty peer; that it is behind our clock can only be known from it."""
        self.peer = ModelPeer(dialect, collates=collates)
        self.reader = ModelReader(self.peer, our_offset_ms, tells_date or our_offset_ms > 0)

    @rule(
        kind=KINDS,
        late_ms=st.sampled_from([0, 0, 1, 500, SECOND, 30 * SECOND, LATEST - 500, LATEST]),
        count=st.sampled_from([1, 1, 2, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 9]),
        apart_ms=st.sampled_from([0, 0, 0, 1, 100, SECOND, 30 * SECOND]),
    )
    def issue(self, kind: Artifact, late_ms: int, count: int, apart_ms: int) -> None:
        """Have records appear, late or not, of one time or of several."""
        for number in range(count):
            self.peer.issue_at(kind, self.peer.now_ms - min(late_ms + number * apart_ms, LATEST))

    @rule(kind=KINDS, form=FORMS, late_s=st.integers(0, LATEST // SECOND - 1), count=st.just(3))
    def issue_in_form(self, kind: Artifact, form: str, late_s: int, count: int) -> None:
        """Have records appear whose times compare otherwise as texts than as times."""
        at_s = self.peer.now_ms // SECOND - late_s
        self.peer.issue(kind, form.format(iso(at_s * SECOND)[:19]), count)

    @rule(kind=KINDS, number=st.integers(0, 2), count=st.sampled_from([1, PAGE_SIZE + 1]))
    def issue_odd(self, kind: Artifact, number: int, count: int) -> None:
        """Have records appear whose texts are ahead of all that a node writes, or are no times."""
        basic = iso(self.peer.now_ms)[:19].replace("-", "").replace(":", "")
        far_east = iso(self.peer.now_ms + 14 * HOUR)[:19]
        self.peer.issue(kind, [f"{basic}Z", f"{far_east}+14:00", "x"][number], count)

    @rule(
        duration_ms=st.sampled_from([1, 999, SECOND, MINUTE, 4 * MINUTE, 6 * MINUTE, 61 * MINUTE])
    )
    def wait(self, duration_ms: int) -> None:
        """Let time pass."""
        self.peer.now_ms += duration_ms

    @rule(pages=st.integers(1, 3), full=st.booleans())
    def ask(self, pages: int, *, full: bool) -> None:
        """Begin a pass or go on with one, for some pages."""
        self.reader.begin(full=full)
        assert self.reader.read_on(pages) is None

    @rule()
    def make_a_pass(self) -> None:
        """Begin a pass or go on with one, to its end."""
        assert self.reader.run() is None

    @rule(times=st.integers(1, 4))
    def time_out(self, times: int) -> None:
        """Let the peer answer too late, also several times in a row."""
        self.reader.begin()
        for _ in range(times):
            assert self.reader.ask(timeout=True) in (None, Reason.TIMEOUT)

    @rule()
    def give_up(self) -> None:
        """Die, and begin with what is stored."""
        self.reader.give_up()

    @rule()
    def die_writing(self) -> None:
        """Die between the tombstones of the next page and its revocations."""
        self.reader.dies_writing = True

    def teardown(self) -> None:
        """Finish what is under way; then one pass more, and nothing is unread."""
        try:
            self.reader.dies_writing = False
            assert self.reader.run() is None
            assert self.reader.run() is None
            assert not self.reader.missing()
        finally:
            self._small_pages.stop()


PassMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestPass = PassMachine.TestCase


HISTORIES: Final = 150
STEPS: Final = 40


def live(seed: int) -> ModelReader:
    """Let a peer and its reader live for some steps, always the same of one seed."""
    chance = random.Random(seed)
    offset_ms = chance.choice([-HOUR, 0, 0, HOUR])
    peer = ModelPeer(chance.choice(list(Dialect)))
    reader = ModelReader(peer, offset_ms, tells_date=offset_ms > 0 or chance.random() < 0.5)
    for _ in range(STEPS):
        step = chance.random()
        if step < 0.4:
            late_ms = chance.choice([0, chance.randrange(LATEST), LATEST])
            count = chance.choice([1, 2, PAGE_SIZE, 2 * PAGE_SIZE + 1])
            peer.issue_at(chance.choice(list(Artifact)), peer.now_ms - late_ms, count)
        elif step < 0.6:
            peer.now_ms += chance.choice(
                [SECOND, 30 * SECOND, 3 * MINUTE, 20 * MINUTE, 61 * MINUTE]
            )
        elif step < 0.85:
            reader.begin(full=chance.random() < 0.1)
            assert reader.read_on(chance.randrange(1, 4)) is None
        elif step < 0.92:
            reader.give_up()
        elif step < 0.95:
            reader.dies_writing = True
        else:
            assert reader.run() is None
    return reader


@pytest.mark.parametrize("first_seed", range(0, HISTORIES, 50))
def test_long_histories_lose_nothing(first_seed: int) -> None:
    """Long histories from seeds; a failing seed is named and repeats exactly."""
    with mock.patch.object(tombstones, "PAGE_SIZE", PAGE_SIZE):
        for seed in range(first_seed, first_seed + 50):
            reader = live(seed)
            reader.dies_writing = False
            assert reader.run() is None
            assert reader.run() is None
            assert not reader.missing(), f"seed {seed}"


def test_what_appears_later_than_the_overlap_is_for_a_full_pass_to_find() -> None:
    """A record that was relayed keeps its old time; no overlap covers that."""
    peer = ModelPeer()
    reader = ModelReader(peer)
    peer.issue_at(Artifact.TOMBSTONE, peer.now_ms)
    peer.now_ms += 2 * HOUR
    assert reader.run() is None
    peer.issue_at(Artifact.TOMBSTONE, peer.now_ms - 3 * HOUR)
    with pytest.raises(AssertionError, match="left out"):
        reader.run()
    assert reader.run(full=True) is None
    assert not reader.missing()
