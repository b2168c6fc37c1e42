"""The daemon dies again and again while it drains, and in the end every fact is there, once.

`make soak` kills it a hundred times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.killing import Plan, kill_and_drain, problems
from tests.pages.crowd import Crowd, Group
from tests.pages.measured_daemon import MeasuredDaemon
from tests.pages.receiver import Receiver

pytest_plugins = ["tests.pages.fixtures"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

PEERS, FACTS_EACH = 3, 600
KILLS = 5
SEED = 20260307


def test_killed_while_it_drains(receiver: Receiver, tmp_path: Path) -> None:
    """SIGKILL at random moments, also of its start: nothing is lost, doubled or half done."""
    with Crowd(tmp_path, [Group("p", PEERS, facts=FACTS_EACH)]) as crowd:
        crowd.join(receiver)
        with MeasuredDaemon(receiver, tmp_path, page_size=40) as daemon:
            kills = kill_and_drain(daemon, receiver, PEERS * FACTS_EACH, Plan(KILLS, SEED))
        assert any(0 < kill.admitted < PEERS * FACTS_EACH for kill in kills), kills
        assert problems(crowd, receiver) == []
