"""The node's own loop, left on beside the daemon: harmless, seen, and named to the operator."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import daemon
from tests.nodes.bulk import InsideNode
from tests.nodes.fact_corpus import plain_facts
from tests.nodes.ledger import Ledger
from tests.nodes.node import NodeError
from tests.pages.receiver import Receiver

if TYPE_CHECKING:
    from tests.e2e.here import Here
    from tests.nodes.federation import Pair

pytest_plugins = ("tests.e2e.here",)
pytestmark = pytest.mark.slow

TURNS = 2


def test_both_pull(pair: Pair, fresh_receiver_db: Path, here: Here, tmp_path: Path) -> None:
    """Each fact is there once, whoever brought it; the other who moves the cursor is named."""
    ledger, origin = Ledger(pair.origin.node_id), pair.origin

    def shown() -> Any:  # noqa: ANN401 - what JSON holds
        said = here("peers", "show", origin.node_id, "--json", db=fresh_receiver_db)
        return json.loads(said.stdout)

    env = {"STIGMEM_NODE_URL": pair.receiver.url}
    # The daemon looks by itself only once: then it sees that the cursor has been moved.
    with (
        InsideNode(origin) as inside,
        InsideNode(pair.receiver, database=fresh_receiver_db) as loop,
        daemon(tmp_path, fresh_receiver_db, env=env, poll_interval_s=3600) as running,
    ):
        running.wait_for_state(origin, "idle")
        assert not shown()["node_loop"]
        numbers = itertools.count()

        def turn_of_the_loop() -> bool:
            """Let it read new facts; whether the daemon has seen that it moved the cursor."""
            namespace = f"node-loop-{next(numbers)}"
            ledger.acknowledge(inside.assert_facts(plain_facts(5, namespace=namespace)))
            try:
                loop.pull_all_peers_once()
            except NodeError as error:
                # Its loop looks before it writes, and not again inside: a fact that the daemon
                # writes meanwhile ends its cycle, and the next one goes on.
                assert "UNIQUE constraint failed: facts.id" in str(error)  # noqa: PT017 - no other
            return moves(fresh_receiver_db, origin.node_id) >= TURNS

        # The daemon may be the first to read them, and then sees no move.
        running.wait(turn_of_the_loop, "the daemon to see that the cursor was moved twice")
        running.wait_for_state(origin, "idle")
        assert shown()["node_loop"]
        running.stop()
    with daemon(tmp_path, fresh_receiver_db, env=env) as running:
        running.wait_for_line("federation.peer.node_loop", peer=origin.node_id)
        (line,) = running.said("federation.peer.node_loop")
        assert "STIGMEM_FEDERATION_PULL_INTERVAL_S" in line["detail"]
        running.stop()
    ledger.adopt(origin.database)
    ledger.assert_clean(fresh_receiver_db)


def moves(database: Path, node_id: str) -> int:
    """How often the daemon saw that somebody else had moved the cursor."""
    rows = Receiver(database).query(
        "SELECT id FROM replicator_events WHERE event = 'cursor_moved_elsewhere' AND node_id = ?",
        [node_id],
    )
    return len(rows)
