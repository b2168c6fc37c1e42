"""What is pulled into: the database of a node that was prepared and does not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stigmem_replicator.store import migrations
from stigmem_replicator.store.engine import open_database
from tests.nodes.environment import node_environment
from tests.nodes.node import Node
from tests.pages.crowd import Crowd, Group
from tests.pages.receiver import Receiver


def prepared_receiver(folder: Path) -> Receiver:
    """Make a database with the replicator's tables, no peers and no facts."""
    node = Node(node_environment(tell=print), folder / "node", name="receiver")
    try:
        node.prepare()
        path = node.copy_database(folder / "receiver.db")
    finally:
        node.close()
    path.chmod(0o600)
    database = open_database(path, timeout_s=5.0)
    migrations.upgrade(database)
    database.close()
    return Receiver(path)


@contextmanager
def receiver_of_crowd(folder: Path, groups: Sequence[Group]) -> Iterator[tuple[Receiver, Crowd]]:
    """Have a crowd as the peers of a receiver; both live in the folder."""
    receiver = prepared_receiver(folder)
    facts = sum(group.count * group.facts for group in groups)
    print(f"signing {facts} facts of {sum(group.count for group in groups)} peers", flush=True)
    with Crowd(folder, groups) as crowd:
        crowd.join(receiver)
        yield receiver, crowd
