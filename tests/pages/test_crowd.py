"""The crowd keeps the wire's rules: everything that it serves is admitted, and it counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.pages.crowd import HANGING, THROTTLED, Asked, Crowd, Group, jain_index
from tests.pages.receiver import Receiver
from tests.pages.server import FACTS, MANIFEST, TOMBSTONES
from tests.pages.tombstones import tombstone_page

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ["tests.pages.fixtures", "tests.e2e.here"]

pytestmark = pytest.mark.e2e

FACT_COUNT = 7


@pytest.fixture
def crowd(receiver: Receiver, tmp_path: Path) -> Iterator[Crowd]:
    groups = [
        Group("p", 3, facts=FACT_COUNT),
        Group("idle", 1),
        Group("hanging", 1, kind=HANGING),
        Group("throttled", 1, kind=THROTTLED),
    ]
    with Crowd(tmp_path, groups) as crowd:
        crowd.join(receiver)
        yield crowd


def test_everything_that_a_member_serves_is_admitted(
    crowd: Crowd, receiver: Receiver, here: Here
) -> None:
    """Pulled page by page, each member's ledger is clean, and nobody was given another's facts."""
    env = {"STIGMEM_REPLICATOR_PAGE_SIZE": "3", "STIGMEM_REPLICATOR_READ_TIMEOUT_S": "0.2"}
    result = here("pull", "--all", "--wait", "0", db=receiver.database, env=env)
    failed = [line for line in result.stderr.splitlines() if line.startswith("stigmem-replicate: ")]
    assert (result.code, len(failed)) == (5, 2), result.stderr
    for member in crowd.members.values():
        verdict = member.origin.ledger.assert_clean(receiver.database)
        assert len(verdict.admitted) == member.facts


def test_every_request_is_counted_with_its_member(crowd: Crowd) -> None:
    """Pages and entries are those of the member that was asked, at the time at which it was."""
    first, second = crowd.members["p0000"], crowd.members["p0001"]
    for member in (first, first, second):
        httpx.get(f"{member.url}{MANIFEST}", trust_env=False).raise_for_status()
    assert httpx.get(f"{first.url}{FACTS}", trust_env=False).status_code == 401
    report = crowd.report()
    assert [len(report[member.name].asked_at) for member in (first, second)] == [3, 1]
    assert report["p0000"].asked_at == sorted(report["p0000"].asked_at)
    assert (report["p0000"].refused, report["p0000"].pages, report["p0002"].asked_at) == (1, 0, [])


def test_a_throttled_member_says_for_how_long(crowd: Crowd) -> None:
    """It answers 429 with `Retry-After: 30`, whatever it is asked."""
    answer = httpx.get(f"{crowd.members['throttled0000'].url}{FACTS}", trust_env=False)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")


def test_a_hanging_member_takes_the_request_and_never_answers(crowd: Crowd) -> None:
    """The request is counted all the same."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{crowd.members['hanging0000'].url}{FACTS}", trust_env=False, timeout=0.2)
    assert len(crowd.report()["hanging0000"].asked_at) == 1


def test_how_even_a_share_is_and_how_short_a_wait() -> None:
    """Jain's index of known shares; the shortest of the gaps between requests."""
    assert jain_index([3, 3, 3]) == jain_index([0, 0]) == 1
    assert jain_index([4, 0, 0, 0]) == 0.25
    assert jain_index([1, 2, 3]) == pytest.approx(36 / 42)
    assert Asked([1.0, 31.0, 33.5], 0, 0, 0).shortest_wait_s == 2.5
    assert Asked([1.0], 0, 0, 0).shortest_wait_s == math.inf


def test_no_member_has_tombstones(crowd: Crowd) -> None:
    """Their path is answered with an honest empty page, and is not among what is counted."""
    member = crowd.members["p0000"]
    answer = httpx.get(f"{member.url}{TOMBSTONES}", trust_env=False)
    assert answer.json() == tombstone_page(member.origin, since=None, limit=200)
    assert crowd.report()[member.name].asked_at == []
