"""Introducing two nodes to each other, as their operators would.

It is for a pair that may pull from one another with verified identities. It is not the pulling.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.nodes.node import Node, NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.nodes.environment import NodeEnvironment

SCOPES = ("public", "company")

_INSIDE_BINDING = Path(__file__).with_name("inside_binding.py")


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
    receiver_environment: NodeEnvironment | None = None,
    settings: dict[str, str] | None = None,
) -> Iterator[Pair]:
    """Bring up an origin and a receiver and introduce them; end both afterwards.

    `receiver_environment` makes a pair of two node versions: they accept each other as two of one
    version do, although neither's loop can read what the other serves.
    """
    environments = {"origin": environment, "receiver": receiver_environment or environment}
    origin, receiver = (
        Node(version, None if folder is None else folder / name, name=name, settings=settings)
        for name, version in environments.items()
    )
    with introduced(origin, receiver) as pair:
        yield pair


@contextmanager
def introduced(origin: Node, receiver: Node) -> Iterator[Pair]:
    """Bring up two nodes that are only made yet and introduce them; end both afterwards."""
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
    that reads the newcomer's manifest, without which no fact of it can be verified. This does not
    wait for it where it never comes: with `TRUST_MODE=off`, from a host of 0.9.0a10, which binds
    no organisation, and for a newcomer of 0.9.0a10, which serves no manifest.
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
        *newcomer.register_options,
        check=False,
    )
    found = [row for row in host.peers() if row["node_id"] == newcomer.node_id]
    if not found or found[0]["status"] not in ("pending_approval", "active"):
        raise NodeError(f"{newcomer!r} did not register with {host!r}:\n{said.stderr}")
    if found[0]["status"] == "pending_approval":
        _approve(host, newcomer, found[0]["peer_id"])
    if host.settings["STIGMEM_TRUST_MODE"] != "off" and _serves_manifest(newcomer):
        _wait_for_identity(host, newcomer, timeout)


def upgrade(node: Node, environment: NodeEnvironment) -> None:
    """Bring a running node up again as another version, whose migrations run on its database."""
    node.stop()
    node.environment = environment
    node.start()


def restart(node: Node, **settings: str) -> None:
    """Bring a running node up again, with more settings: names without the `STIGMEM_` prefix."""
    node.stop()
    node.own_settings.update(settings)
    node.start()


def approve_again(host: Node, newcomer: Node, *, timeout: float = 15.0) -> None:
    """Have an upgraded host bind the organisation of a peer that it has had since 0.9.0a10.

    The node binds at approval only and approves only who waits for it, so its operator sets the
    peer's row back. The row keeps its id, and with it the cursor.
    """
    host.store.run(
        "UPDATE peers SET status = 'pending_approval' WHERE node_id = ?", newcomer.node_id
    )
    (row,) = host.query("SELECT id FROM peers WHERE node_id = ?", [newcomer.node_id])
    _approve(host, newcomer, row["id"])
    _wait_for_identity(host, newcomer, timeout)


def _serves_manifest(node: Node) -> bool:
    return node.client.get("/.well-known/stigmem-manifest.json").is_success


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
    if "entity_uri" not in host.store.columns("peers"):
        return  # an older node, which does not bind organisations
    if newcomer.url.startswith("https:"):
        host.run_inside(_INSIDE_BINDING)  # by itself it cannot read the manifest
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
