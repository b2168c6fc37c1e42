"""What is measured: our pull and the node's own, each as a process over a given database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.nodes.node import Node

NODE_LOOP: Final = Path(__file__).with_name("node_loop.py")


@dataclass(frozen=True, slots=True)
class Rate:
    """Facts received and the seconds that took, as the process itself measured them."""

    facts: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Facts a second."""
        return self.facts / self.seconds


def start_own_pull(
    receiver: Node, origin: Node, database: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start ``stigmem-replicate pull`` into a database, which the node's settings name."""
    command = [sys.executable, "-m", "stigmem_replicator"]
    return subprocess.Popen(
        [*command, "pull", "--peer", origin.node_id, "--json"],
        env=receiver.environ | dict(database) | {"STIGMEM_LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
    )


def start_node_loop(
    receiver: Node, database: Mapping[str, str], wanted: int, bound_s: float
) -> subprocess.Popen[str]:
    """Start the node's own pull, called in a loop, into a database."""
    return subprocess.Popen(
        [str(receiver.environment.python), str(NODE_LOOP), str(wanted), str(bound_s)],
        env=receiver.environ | dict(database),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def rate_of(process: subprocess.Popen[str], *, timeout_s: float) -> Rate:
    """Wait for a subject to end and return its rate."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    document = json.loads(output[output.index("{") :])
    if document.get("error"):
        raise SystemExit(f"the pull ended with {document['error']}")
    return Rate(document.get("facts", document.get("new")), document["seconds"])
