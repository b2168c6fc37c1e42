"""Two databases side by side: every table, every column, but for chance and the clock.

A dump replaces what no two runs share (ids made by chance, times of the moment) by what it
stands for, so that equal meaning is equal text. What still differs must be explained by a
`Difference`, each with its reason; one that explains nothing fails the test too.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

Row = dict[str, Any]

OWN_PREFIX = "replicator_"
# Index internals of the full text search: its rows are compared as what they index.
FTS_SHADOWS = frozenset(f"facts_fts_{part}" for part in ("config", "data", "idx", "docsize"))
# Counters of AUTOINCREMENT, which only our own tables use.
SEQUENCES = "sqlite_sequence"

_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")
_HLC = re.compile(r"\d{13}\.\d+")
_SHOWN = 12


class Dump:
    """What a node's database says, chance and clock aside; tables of ours are not in it."""

    def __init__(self, database: Path) -> None:
        self.database = database
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            self.tables: dict[str, list[Row]] = {
                name: _rows(connection, name)
                for (name,) in sorted(tuple(row) for row in names)
                if not name.startswith(OWN_PREFIX) and name not in FTS_SHADOWS | {SEQUENCES}
            }
        self.received = [row["id"] for row in self["facts"] if row["received_from"] is not None]
        self.hlcs = [_parts(row["hlc"]) for row in self["facts"] if row["hlc"] is not None]
        names_of = _names(self.tables)
        for table, rows in self.tables.items():
            for row in rows:
                _forget_chance(table, row, names_of)
                _forget_clock(table, row)

    def __getitem__(self, table: str) -> list[Row]:
        return self.tables[table]

    def take(self, table: str, unwanted: Callable[[Row], bool]) -> list[Row]:
        """Remove rows and return them."""
        taken = [row for row in self[table] if unwanted(row)]
        self.tables[table] = [row for row in self[table] if not unwanted(row)]
        return taken

    def take_facts(self, ids: set[str]) -> int:
        """Remove facts with all that belongs to them: meta facts, conflicts, what indexes them."""
        conflicts = {
            row["id"]
            for row in self.take(
                "conflicts", lambda row: {row["fact_a_id"], row["fact_b_id"]} & ids != set()
            )
        }
        gone = {
            row["id"]
            for row in self.take(
                "facts", lambda row: row["id"] in ids or row["entity"] in ids | conflicts
            )
        }
        for table, column in (("facts_fts", "fact_id"), ("facts_fts_content", "c0")):
            self.take(table, lambda row, column=column: row[column] in gone)  # type: ignore[misc]
        self.received = [fact_id for fact_id in self.received if fact_id not in ids]
        return len(gone)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which we and the node differ, and why that is right.

    `explain` takes it out of the two dumps (the node's, ours) and returns how much it found.
    """

    why: str
    explain: Callable[[Dump, Dump], int]


def assert_same(
    node_database: Path, our_database: Path, allowed: Sequence[Difference] = ()
) -> None:
    """Fail with every row that the two databases do not share and nothing explains."""
    found = compare(node_database, our_database, allowed)
    idle = [item.why for item, number in zip(allowed, found, strict=True) if not number]
    assert not idle, f"allowed but not found: {idle}"


def compare(node_database: Path, our_database: Path, allowed: Sequence[Difference]) -> list[int]:
    """Fail like `assert_same`, and say of each difference that is allowed how much it explained."""
    node, ours = Dump(node_database), Dump(our_database)
    explained = [item.explain(node, ours) for item in allowed]
    assert node.tables.keys() == ours.tables.keys()
    problems = [line for table in node.tables for line in _unequal(table, node[table], ours[table])]
    assert not problems, "\n".join(problems)
    assert node.received == ours.received, "the facts stand in another order"
    for dump in (node, ours):
        assert dump.hlcs == sorted(set(dump.hlcs)), f"HLCs do not count up in {dump.database}"
    return explained


def _unequal(table: str, node: Iterable[Row], ours: Iterable[Row]) -> list[str]:
    theirs, mine = (
        Counter(json.dumps(row, sort_keys=True) for row in rows) for rows in (node, ours)
    )
    lines = [f"{table}: only the node: {row}" for row in (theirs - mine).elements()][:_SHOWN]
    return lines + [f"{table}: only we: {row}" for row in (mine - theirs).elements()][:_SHOWN]


def _rows(connection: sqlite3.Connection, table: str) -> list[Row]:
    try:
        found = connection.execute(f"SELECT rowid AS rowid_, * FROM {table} ORDER BY rowid")  # noqa: S608
    except sqlite3.OperationalError:  # a table without rowids
        found = connection.execute(f"SELECT * FROM {table}")  # noqa: S608
    return [
        {
            key: value.hex() if isinstance(value, bytes) else value
            for key, value in dict(row).items()
        }
        for row in found
    ]


def _parts(hlc: str) -> tuple[int, int]:
    wall, counter = hlc.split(".")
    return int(wall), int(counter)


def _names(tables: dict[str, list[Row]]) -> dict[str, str]:
    """What each id made by chance stands for."""
    names = {
        row["id"]: f"conflict of {row['fact_a_id']} with {row['fact_b_id']}"
        for row in tables["conflicts"]
    }
    for row in tables["facts"]:
        if row["source"] == "system:stigmem":
            entity = names.get(row["entity"], row["entity"])
            names[row["id"]] = f"{row['relation']} of {entity}"
    return names


def _forget_chance(table: str, row: Row, names: dict[str, str]) -> None:
    columns = {
        "facts": ("id", "entity"),
        "conflicts": ("id",),
        "facts_fts": ("fact_id", "entity"),
        "facts_fts_content": ("c0", "c1"),
    }
    for column in columns.get(table, ()):
        row[column] = names.get(row[column], row[column])
    if table in ("fact_audit_log", "federation_audit"):
        row["id"] = "<id>"
    if table == "fact_audit_log" and row["seq"] is not None:
        row["seq"] = "<its rowid>" if row["seq"] == row["rowid_"] else f"not its rowid: {row}"
    row.pop("rowid_", None)
    if table == "facts_fts_content":
        row.pop("id")


def _forget_clock(table: str, row: Row) -> None:
    columns = {
        "conflicts": ("detected_at",),
        "fact_audit_log": ("ts",),
        "federation_audit": ("ts",),
        "replication_cursors": ("updated_at",),
        "federation_manifests": ("updated_at",),
    }
    if table == "facts" and row["source"] == "system:stigmem":
        columns["facts"] = ("timestamp",)
    for column in columns.get(table, ()):
        row[column] = _ISO.sub("<now>", row[column])
    if table == "facts" and row["hlc"] is not None:
        row["hlc"] = _HLC.sub("<hlc>", row["hlc"])
    if table in ("fact_audit_log", "federation_audit") and row["detail"] is not None:
        detail = json.loads(row["detail"])
        for key in ("skew_ms", "local_wall_ms"):
            if key in detail:
                detail[key] = type(detail[key]).__name__
        row["detail"] = detail
