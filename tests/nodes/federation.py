"""Introducing two nodes to each other, as their operators would.

It is for a pair that may pull from one another with verified identities. It is not the pulling.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.nodes.node import Node, NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.nodes.environment import NodeEnvironment

SCOPES = ("public", "company")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two running nodes, peers of each other."""

    origin: Node
    receiver: Node


@contextmanager
def pair_of_nodes(
    environment: NodeEnvironment,
    folder: Path | None = None,
    *,
    settings: dict[str, str] | None = None,
) -> Iterator[Pair]:
    """Bring up an origin and a receiver and introduce them; end both afterwards."""
    origin, receiver = (
        Node(environment, None if folder is None else folder / name, name=name, settings=settings)
        for name in ("origin", "receiver")
    )
    with ExitStack() as ending, ThreadPoolExecutor(2) as threads:
        for node in (origin, receiver):
            ending.callback(node.close)
        for started in [threads.submit(node.__enter__) for node in (origin, receiver)]:
            started.result()
        peer(origin, receiver)
        yield Pair(origin, receiver)


def peer(origin: Node, receiver: Node, *, scopes: Sequence[str] = SCOPES) -> None:
    """Make two running nodes peers, both ways, approved and with verified identities."""
    introduce(origin, receiver, scopes=scopes)
    introduce(receiver, origin, scopes=scopes)


def introduce(
    newcomer: Node, host: Node, *, scopes: Sequence[str] = SCOPES, timeout: float = 15.0
) -> None:
    """Make `newcomer` an approved peer of `host`.

    Done when the host has bound the newcomer's organisation to it: a background task of the host
    that reads the newcomer's manifest, without which no fact of it can be verified. With
    `TRUST_MODE=off` the host never does that, and this does not wait for it.
    """
    # The command reports a peer that still needs approval as a failure.
    said = newcomer.run_cli(
        "federation",
        "register-peer",
        "--remote-url",
        host.url,
        "--local-url",
        newcomer.url,
        "--scopes",
        ",".join(scopes),
        "--api-key",
        host.admin_key,
        check=False,
    )
    found = [row for row in host.peers() if row["node_id"] == newcomer.node_id]
    if not found or found[0]["status"] not in ("pending_approval", "active"):
        raise NodeError(f"{newcomer!r} did not register with {host!r}:\n{said.stderr}")
    if found[0]["status"] == "pending_approval":
        _approve(host, newcomer, found[0]["peer_id"])
    if host.settings["STIGMEM_TRUST_MODE"] != "off":
        _wait_for_identity(host, newcomer, timeout)


def _approve(host: Node, newcomer: Node, peer_id: str) -> None:
    fingerprint = "sha256:" + hashlib.sha256(newcomer.public_key.encode()).hexdigest()
    response = host.client.post(
        f"/v1/federation/peers/{peer_id}/approve",
        json={"pubkey_fingerprint": fingerprint},
        headers=host.admin,
    )
    if response.is_error:
        raise NodeError(f"{host!r} did not approve {newcomer!r}: {response.text[:500]}")


def _wait_for_identity(host: Node, newcomer: Node, timeout: float) -> None:
    columns = {row["name"] for row in host.query("PRAGMA table_info(peers)")}
    if "entity_uri" not in columns:
        return  # an older node, which does not bind organisations
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        rows = host.query("SELECT entity_uri FROM peers WHERE node_id = ?", [newcomer.node_id])
        if rows[0]["entity_uri"]:
            return
        time.sleep(0.05)
    raise NodeError(
        f"{host!r} did not bind the organisation of {newcomer!r} in {timeout:.0f} s\n"
        f"{host.log_tail()}"
    )
