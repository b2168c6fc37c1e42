"""What tests of pulls between real nodes share: running one, and what it left at the receiver.

It is for pairs of whatever version; what a pull should have done is for the tests to say.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.conftest import Cli
    from tests.nodes.federation import Pair
    from tests.nodes.node import Node

# What makes a fact what it is and must reach the receiver to the letter.
CARRIED = (
    "id, entity, relation, value_type, value_v, source, timestamp, valid_until, confidence,"
    " scope, interpret_as, cid"
)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What one pull said, and where the receiver's cursor stood after it."""

    summary: dict[str, Any]
    stderr: str
    returncode: int
    cursor: str | None

    @property
    def reason(self) -> str | None:
        """Why it failed, None if it did not."""
        error = self.summary["error"]
        return None if error is None else error["reason"]


def pull(
    cli: Cli, pair: Pair, *, env: Mapping[str, str] | None = None, check: bool = True
) -> Pulled:
    """Pull from the origin into the receiver's database, to the end if `check` is on.

    `env` is added to the settings that a replicator shares with the receiver's node.
    """
    settings = {"STIGMEM_NODE_URL": pair.receiver.url, **(env or {})}
    words = ("pull", "--peer", pair.origin.node_id, "--wait", "0", "--json")
    said = cli(*words, db=pair.receiver.database, env=settings, check=check)
    summary: dict[str, Any] = json.loads(said.stdout)
    assert summary["caught_up"] or not check
    return Pulled(summary, said.stderr, said.returncode, node_cursor(pair))


def reset(cli: Cli, pair: Pair) -> None:
    """Have the next pull read everything from the beginning."""
    words = ("cursor", "reset", "--peer", pair.origin.node_id, "--yes")
    cli(*words, db=pair.receiver.database)


def state(cli: Cli, pair: Pair) -> tuple[str, str | None]:
    """State and reason of the origin as `peers show` has them."""
    words = ("peers", "show", pair.origin.node_id, "--json")
    said = json.loads(cli(*words, db=pair.receiver.database).stdout)["replication"]
    return said["state"], said["reason"]


def assert_wrong_dialect(pulled: Pulled, *, peer: int, node: int) -> None:
    """The pull failed because of the wire versions, named both in one line, and what to do."""
    lines = pulled.stderr.splitlines()
    # Nodes that keep to a trust mode give tombstones only for a token, which is said as well.
    (line,) = [
        line
        for line in lines
        if line.startswith("stigmem-replicate: ") and "(capability_required)" not in line
    ]
    assert re.search(rf"the peer speaks wire version {peer}\b.*this node's database {node}\b", line)
    assert "(wrong_dialect); upgrade the older node" in line
    assert "Traceback" not in pulled.stderr
    assert (pulled.returncode, pulled.reason) == (9, "wrong_dialect")
    assert pulled.summary["new"] == 0


def node_cursor(pair: Pair) -> str | None:
    """Where the receiver's node would go on."""
    found = pair.receiver.query("SELECT cursor FROM replication_cursors")
    return found[0]["cursor"] if found else None


def carried(node: Node, source: str) -> dict[str, dict[str, Any]]:
    """What makes each fact of a source what it is, by id."""
    sql = f"SELECT {CARRIED} FROM facts WHERE source = ?"  # noqa: S608
    return {row["id"]: row for row in node.query(sql, [source])}


def content_id(row: Mapping[str, Any]) -> str:
    """The content id of a stored fact, computed anew from its columns."""
    keys = ("entity", "relation", "value_type", "value_v", "source", "scope", "confidence")
    body = {key: row[key] for key in (*keys, "interpret_as")}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def node_tables(node: Node) -> dict[str, list[dict[str, Any]]]:
    """Every row of what pulling writes into the node's own tables."""
    tables = ("facts", "conflicts", "fact_audit_log", "federation_audit")
    return {table: node.store.rows(table, "id") for table in tables}
