"""What operators and readers do about tombstones at a real node: its API and its own commands.

    keep_from_pushing(pair.origin, pair.receiver)
    token = capability_token(pair.origin)              # for the receiver's configuration
    record = tombstone(pair.origin, "person:kim")
    ...                                                # pull
    assert not told(pair.receiver, "person:kim")       # a SuppressingNode, see tombstone_plugin.py
    revoke(pair.origin, record["id"])

A node pushes each new tombstone, never a revocation, to its active peers at once, and a peer that
holds its manifest takes it. Where a test is about pulling, keep it from that first.

A receiver of 0.9.0a10 never reads a peer's manifest by itself, so that it can verify no issuer:
its operator gives it one with `hand_manifest`. What is told of an entity is read from the database
each time, what is recalled and shown by id from the node's memory (tombstone_plugin.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.nodes.node import Node, NodeError
from tests.nodes.ports import free_port

if TYPE_CHECKING:
    import httpx

TOMBSTONE_READ = "tombstone:read"


# --- at the origin


def tombstone(
    node: Node,
    entity_uri: str,
    scope: str = "*",
    *,
    reason: str | None = None,
    legal_hold: bool = False,
) -> dict[str, Any]:
    """Tombstone an entity through the node's API; returns the node's record of it.

    An equal one that is still in force is not made again: the node returns the first one.
    """
    return _done(
        node.client.post(
            "/v1/tombstones",
            json={
                "entity_uri": entity_uri,
                "scope": scope,
                "reason": reason,
                "legal_hold": legal_hold,
            },
            headers=node.admin,
        )
    )


def revoke(node: Node, tombstone_id: str, *, reason: str = "reinstated") -> dict[str, Any]:
    """Revoke a tombstone through the node's API; returns the node's record of the revocation.

    For a moment before this returns, the node serves the revocation with `pending` for a signature.
    """
    path = f"/v1/tombstones/{tombstone_id}/revoke"
    return _done(node.client.post(path, json={"reason": reason}, headers=node.admin))


def keep_from_pushing(origin: Node, receiver: Node) -> None:
    """Have the origin know a dead address of a peer, which may go on asking it for pages."""
    origin.store.run(
        "UPDATE peers SET node_url = ? WHERE node_id = ?",
        f"http://127.0.0.1:{free_port()}",
        receiver.node_id,
    )


def hand_manifest(origin: Node, receiver: Node) -> None:
    """Give a receiver the origin's manifest, as operators do where no node fetches it.

    Only 0.9.0a10 takes it; the later nodes accept nobody's manifest but their own and read a
    peer's when they approve it.
    """
    path = f"/v1/federation/manifest/{quote(origin.entity_uri, safe='')}"
    manifest = _done(origin.client.get(path, headers=origin.admin))
    manifest.pop("log_entry", None)
    _done(receiver.client.put("/v1/federation/manifest", json=manifest, headers=receiver.admin))


def capability_token(node: Node, *, verb: str = TOMBSTONE_READ, ttl_s: int = 3600) -> str:
    """A capability token as the node's operator makes one with its own command: a line of JSON."""
    return str(issued(node, verb=verb, ttl_s=ttl_s)["token_json"])


def issued(node: Node, *, verb: str = TOMBSTONE_READ, ttl_s: int = 3600) -> dict[str, Any]:
    """All that the command tells of a new token: `token_id`, `expiry`, `token_json` and more."""
    said = node.run_cli(
        "capability",
        "issue",
        *("--issuer", node.entity_uri),
        *("--subject", node.entity_uri),
        *("--verb", verb),
        *("--object", "stigmem://tombstones"),
        *("--ttl-seconds", str(ttl_s)),
        *("--node-url", node.url),
        *("--api-key", node.admin_key),
        "--json",
    )
    told: dict[str, Any] = json.loads(said.stdout)
    return told


def take_back(node: Node, token: str) -> None:
    """Revoke a capability token with the node's own command."""
    node.run_cli(
        "capability",
        "revoke",
        json.loads(token)["token_id"],
        *("--node-url", node.url),
        *("--api-key", node.admin_key),
    )


# --- at the receiver


def told(node: Node, entity: str, scope: str = "public") -> set[str]:
    """The ids of the facts about an entity that the node tells who asks for them.

    The scope is part of the question: without one, a node heeds only tombstones of all scopes.
    """
    return {fact["id"] for fact in node.facts(entity=entity, scope=scope)}


def recalled(node: Node, query: str, scope: str = "public") -> set[str]:
    """The entities that the node recalls something of, on a question in words.

    Not facts: what it recalls of an entity can be a card that it has made of several.
    """
    request = {"query": query, "scope": scope, "limit": 500}
    answer = _done(node.client.post("/v1/recall", json=request))
    return {scored["fact"]["entity"] for scored in answer["facts"]}


def tombstone_ids(node: Node) -> set[str]:
    """The tombstones that the node holds, suppressing or not."""
    return {row["id"] for row in node.query("SELECT id FROM tombstones")}


def revocation_ids(node: Node) -> set[str]:
    """The revocations that the node holds."""
    return {row["id"] for row in node.query("SELECT id FROM tombstone_revocations")}


def status(node: Node, entity_uri: str) -> dict[str, Any]:
    """What the node's administrator is told of an entity: `tombstoned`, and the records behind."""
    return _done(node.client.get(f"/v1/tombstones/{entity_uri}", headers=node.admin))


def _done(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        request = response.request
        raise NodeError(
            f"{request.method} {request.url} was answered with {response.status_code}:"
            f" {response.text[:500]}"
        )
    answer: dict[str, Any] = response.json()
    return answer
