"""Real nodes of both versions: what is tombstoned at one is no longer told by the other.

The command runs in this process, the nodes do as processes. The receiver has the published
tombstone plugin, and remembers its tombstones for a second in place of a minute.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.nodes.environment import node_environment
from tests.nodes.federation import Pair, introduced, restart
from tests.nodes.node import Node
from tests.nodes.tombstone_plugin import SuppressingNode
from tests.nodes.tombstones import (
    hand_manifest,
    keep_from_pushing,
    recalled,
    revoke,
    told,
    tombstone,
)

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result

pytest_plugins = ("tests.e2e.here",)

pytestmark = pytest.mark.timeout(300)

VERSIONS = ("0.9.0a12", "0.9.0a10")
WAIT_S = 30.0


@dataclass(frozen=True)
class Replicator:
    """The command beside the receiver, in the receiver's trust mode."""

    here: Here
    pair: Pair
    config: Path
    trust_mode: str = "relaxed"

    def pull(self, *arguments: str) -> Result:
        return self.here(
            *("--config", str(self.config), "pull", "--peer", self.pair.origin.node_id),
            *arguments,
            db=self.pair.receiver.database,
            env={"STIGMEM_TRUST_MODE": self.trust_mode},
        )

    def do_as_told(self, message: str) -> None:
        """Do what the message about a missing token says, word for word but for the key."""
        origin = self.pair.origin
        told = re.search(r"the peer's operator runs: (.*); put what that prints into a ", message)
        assert told is not None, message
        program, *words = shlex.split(told[1])
        assert (program, words.count("KEY")) == ("stigmem", 1)
        words[words.index("KEY")] = origin.admin_key
        file = self.config.with_name("token.json")
        file.touch(0o600)
        file.write_text(origin.run_cli(*words).stdout)
        self.config.write_text(
            f'[peer."{origin.node_id}"]\ncapability_token_file = {json.dumps(str(file))}\n'
        )


@pytest.fixture(params=VERSIONS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """An origin and a receiver that leaves out what is tombstoned, in trust mode relaxed."""
    environment = node_environment(request.param)
    origin = Node(environment, tmp_path / "origin", name="origin")
    receiver = SuppressingNode(environment, tmp_path / "receiver", name="receiver")
    with introduced(origin, receiver) as nodes:
        keep_from_pushing(origin, receiver)
        if request.param == "0.9.0a10":
            # Such a node never reads a peer's manifest by itself: its operator hands it over.
            hand_manifest(origin, receiver)
        yield nodes


def until(condition: Callable[[], bool]) -> None:
    """Wait for the node to look at its tombstones again."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_entity_is_forgotten_and_told_of_again(here: Here, pair: Pair, tmp_path: Path) -> None:
    """Tombstoned at A through its API, B's query and recall leave it out; revoked, they do not.

    In trust mode relaxed A wants a capability token first, with the mode off it takes any.
    """
    config = tmp_path / "replicator.toml"
    config.write_text("")
    relaxed = Replicator(here, pair, config)
    tombstone_and_back(relaxed, do_as_told=relaxed.do_as_told)
    for node in (pair.origin, pair.receiver):
        restart(node, TRUST_MODE="off")
    config.write_text("")
    tombstone_and_back(Replicator(here, pair, config, "off"))


def tombstone_and_back(
    replicator: Replicator, *, do_as_told: Callable[[str], None] | None = None
) -> None:
    origin, receiver = replicator.pair.origin, replicator.pair.receiver
    entity, other = f"person:kim-{replicator.trust_mode}", f"person:lee-{replicator.trust_mode}"
    facts = {origin.assert_fact(entity, f"test:{n}", f"kimword {n}")["id"] for n in range(3)}
    kept = {origin.assert_fact(other, "test:name", "leeword")["id"]}
    assert replicator.pull("--stream", "facts").code == 0
    assert (told(receiver, entity), told(receiver, other)) == (facts, kept)
    assert entity in recalled(receiver, "kimword")

    record = tombstone(origin, entity)
    first = replicator.pull("--stream", "tombstones")
    if do_as_told is not None:
        do_as_told(first.failed("capability_required", 9))
        first = replicator.pull("--stream", "tombstones")
    assert (first.code, first.stderr) == (0, "")
    assert "1 new tombstone, 0 new revocations, 0 rejected" in first.stdout
    until(lambda: not told(receiver, entity))
    until(lambda: entity not in recalled(receiver, "kimword"))
    assert told(receiver, other) == kept

    revoke(origin, record["id"])
    second = replicator.pull()
    assert second.code == 0
    assert "0 new tombstones, 1 new revocation, 0 rejected" in second.stdout
    until(lambda: told(receiver, entity) == facts)
    until(lambda: entity in recalled(receiver, "kimword"))
