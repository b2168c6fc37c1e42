"""The double of a real node: an origin with its key and its name, which signs what it would sign.

For records that the node's API would take too long to make, or would not make as they are wanted:
many at once, many of one moment, of a time long past.

    double = double_of(pair.origin)
    made = [make_tombstone(double, f"gone:{n}", created_at=AT) for n in range(1_000)]
    plant(pair.origin, tombstones=made)

The node serves them as its own. SQLite nodes only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.nodes.node import Node
from tests.pages.origin import Origin, Raw, from_base64url


def double_of(node: Node) -> Origin:
    """An origin that signs with the node's key; it serves nothing."""
    (row,) = node.query("SELECT value FROM node_meta WHERE key = 'federation_privkey'")
    double = Origin(node.entity_uri, node_id=node.node_id)
    double.key = Ed25519PrivateKey.from_private_bytes(from_base64url(row["value"]))
    double.manifest = double.signed_manifest()
    return double


def plant(node: Node, *, tombstones: Sequence[Raw] = (), revocations: Sequence[Raw] = ()) -> None:
    """Put signed records into the node's database, all in one transaction."""
    with closing(sqlite3.connect(node.database, timeout=30)) as connection, connection:
        for table, records in (
            ("tombstones", tombstones),
            ("tombstone_revocations", revocations),
        ):
            for record in records:
                columns, marks = ",".join(record), ",".join("?" * len(record))
                sql = f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - our own
                connection.execute(sql, list(record.values()))
