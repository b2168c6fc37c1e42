"""What tombstones leave in two databases of a node, side by side, but for chance and the clock.

The three tables in which they leave anything are compared row for row; on SQLite, where looking
is cheap, every other table of the node must be the same on both sides too. As in rows.py, what
still differs must be explained, and an explanation that explains nothing fails the test too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.differential.rows import SEQUENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tests.nodes.database import NodeDatabase

Row = dict[str, Any]

TOMBSTONES, REVOCATIONS, AUDIT = "tombstones", "tombstone_revocations", "fact_audit_log"
MANIFESTS = "federation_manifests"
RECORDS = (TOMBSTONES, REVOCATIONS)
TABLES = (*RECORDS, AUDIT)
REJECTED = "tombstone_federation_rejected"

_OWN_PREFIX = "replicator_"
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")
_SHOWN = 12


class Rows:
    """The rows of one side."""

    def __init__(self, database: NodeDatabase) -> None:
        self.tables = {table: database.rows(table) for table in TABLES}
        places = _places(database)
        for row in self.tables[AUDIT]:
            row["seq"] = "<its place>" if row["seq"] == places.get(row["id"]) else row["seq"]
            row["id"] = "<id>"
            row["ts"] = _ISO.sub("<now>", row["ts"])
            row["detail"] = json.loads(row["detail"])
        self.others = _others(database) if database.backend == "sqlite" else {}

    def ids(self, table: str) -> list[str]:
        """The ids of the records in a table, as they were inserted."""
        return [row["id"] for row in self.tables[table]]

    def take(self, table: str, unwanted: Callable[[Row], bool]) -> list[Row]:
        """Remove rows and return them."""
        taken = [row for row in self.tables[table] if unwanted(row)]
        self.tables[table] = [row for row in self.tables[table] if not unwanted(row)]
        return taken

    def take_record(self, record_id: str) -> bool:
        """Remove a record with the audit row of its arrival; says whether it was here."""
        taken = [
            row for table in RECORDS for row in self.take(table, lambda row: row["id"] == record_id)
        ]
        audits = self.take(AUDIT, lambda row: _told_of(row) == record_id)
        assert len(audits) == len(taken)
        return bool(taken)


def _others(database: NodeDatabase) -> dict[str, list[str]]:
    """What all the other tables of the node hold."""
    others = {
        table: rows
        for table, rows in database.dump().items()
        if not table.startswith(_OWN_PREFIX) and table not in (*TABLES, SEQUENCES)
    }
    # We read a manifest again when it is a while since, and when signatures fail.
    kept = database.rows(MANIFESTS, "entity_uri")
    return {**others, MANIFESTS: [row["manifest_json"] for row in kept]}


def _places(database: NodeDatabase) -> dict[str, int | None]:
    """What the node numbers audit rows by: their place in the table, on PostgreSQL nothing."""
    if database.backend == "postgres":
        return {name: None for (name,) in database.query(f"SELECT id FROM {AUDIT}")}  # noqa: S608
    return dict(database.query(f"SELECT id, rowid FROM {AUDIT}"))  # noqa: S608


def _told_of(row: Row) -> object:
    """The record of whose arrival an audit row tells."""
    if row["event_type"] == "tombstone_federation_ingested":
        return row["fact_id"]
    if row["event_type"] == "tombstone_revocation_federation_ingested":
        return row["detail"]["revocation_id"]
    return None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which we and the node differ, and why that is right.

    `explain` takes it out of both sides (the node's, ours) and returns how much it found.
    """

    why: str
    explain: Callable[[Rows, Rows], int]


def assert_same(node: Rows, ours: Rows, allowed: Sequence[Difference]) -> None:
    """Fail with every row that the two sides do not share and nothing explains."""
    assert node.others == ours.others
    idle = [item.why for item in allowed if not item.explain(node, ours)]
    assert not idle, f"allowed but not found: {idle}"
    problems = [
        line for table in TABLES for line in _unequal(table, node.tables[table], ours.tables[table])
    ]
    assert not problems, "\n".join(problems)


def _unequal(table: str, node: Collection[Row], ours: Collection[Row]) -> list[str]:
    theirs, mine = (
        Counter(json.dumps(row, sort_keys=True) for row in rows) for rows in (node, ours)
    )
    lines = [f"{table}: only the node: {row}" for row in (theirs - mine).elements()][:_SHOWN]
    return lines + [f"{table}: only we: {row}" for row in (mine - theirs).elements()][:_SHOWN]
