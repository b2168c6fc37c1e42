"""Runs inside a node's own environment: its own code takes a peer's tombstones and revocations.

One JSON object in, `{"node_id": ..., "steps": [...]}`, one list out. A step is a statement for
the database, a page of the peer, or something of the node's settings to turn on or off. Of a
page it tells for each entry what the node's function said: null where it had no objection, the
reason that it gave, or the exception that ended it. It imports nothing but the standard library
and the node, and changes nothing of the node but how it comes to its database, and
what a step says.
"""

# What belongs to the node has no types here: the tests' own environment does not have it.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from stigmem_node import db as node_db
from stigmem_node.db import db
from stigmem_node.federation import federation_pull
from stigmem_node.lifecycle import tombstones
from stigmem_node.models.tombstones import TombstoneRecord, TombstoneRevocationRecord
from stigmem_node.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

Raw = dict[str, Any]  # whatever JSON an entry is
Said = dict[str, list[str | None]]

LISTS = ("tombstones", "revocations")


def take(node_id: str, page: dict[str, Any]) -> Said:
    """Have the node take one page, as its loop does: the tombstones, then the revocations."""
    with db() as connection:
        row = connection.execute("SELECT * FROM peers WHERE node_id = ?", (node_id,)).fetchone()
    peer = dict(row)
    if not hasattr(federation_pull, "ingest_tombstone_entry"):
        return _each(page, [_apply_tombstone, _apply_revocation])
    from stigmem_node.federation.peer_policy import (  # noqa: PLC0415 - 0.9.0a10 has none
        PeerPolicyError,
        resolve_ingest_tenant_for_peer,
    )

    try:
        with db() as connection:
            tenant = resolve_ingest_tenant_for_peer(peer, connection)
    except PeerPolicyError:
        # The loop takes nothing of such a page.
        return {name: ["PeerPolicyError"] * len(page[name]) for name in LISTS}
    given = {
        "sender_node_id": node_id,
        "peer": peer,
        "relay_enabled": settings.federation_relay_enabled,
        "relay_trusted": bool(peer["relay_trusted"]),
        "relay_cache": {},
    }

    def tombstone(entry: Raw) -> str | None:
        result = federation_pull.ingest_tombstone_entry(
            entry=entry, direct_tenant_id=tenant, **given
        )
        return None if result.applied else str(result.reason)

    def revocation(entry: Raw) -> str | None:
        result = federation_pull.ingest_revocation_entry(entry=entry, **given)
        return None if result.applied else str(result.reason)

    return _each(page, [tombstone, revocation])


def _apply_tombstone(entry: Raw) -> None:
    tombstones.apply_inbound_tombstone(TombstoneRecord(**entry))


def _apply_revocation(entry: Raw) -> None:
    tombstones.apply_inbound_revocation(TombstoneRevocationRecord(**entry))


def _each(page: dict[str, Any], take_one: list[Callable[[Raw], str | None]]) -> Said:
    return {
        name: [_said(one, entry) for entry in page[name]]
        for name, one in zip(LISTS, take_one, strict=True)
    }


def _said(take_one: Callable[[Raw], str | None], entry: Raw) -> str | None:
    try:
        return take_one(entry)
    except Exception as error:  # noqa: BLE001 - told to the test, whatever it is
        return type(error).__name__


def keep_backend() -> None:
    """Have the node keep its way to the database, which on PostgreSQL is a pool of connections.

    It makes one for everything that it looks up; transactions begin and end as they did.
    """
    backend = node_db.make_backend(_settings=settings)
    node_db.make_backend = lambda *_arguments, **_named: backend


def turn(switch: str, *, on: bool) -> None:
    """Turn relaying on or off, or have the node find its plugin for several tenants, or not."""
    if switch == "relay":
        settings.federation_relay_enabled = on
        return
    from stigmem_node import multi_tenant_gate  # noqa: PLC0415 - 0.9.0a10 has none

    multi_tenant_gate.multi_tenant_plugin_registered = lambda: on


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the node prints; answers stay clean
    order = json.load(sys.stdin)
    keep_backend()
    said: list[Said | None] = []
    for step in order["steps"]:
        done: Said | None = None
        if "sql" in step:
            with db() as connection:
                connection.execute(step["sql"], step["parameters"])
        elif "switch" in step:
            turn(step["switch"], on=step["on"])
        else:
            done = take(order["node_id"], json.loads(step["body"]))
        said.append(done)
    json.dump(said, answers)


if __name__ == "__main__":
    main()
