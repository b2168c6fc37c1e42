"""The tables of docs/cli-json.md, and what a document has or lacks against its table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli-json.md"
TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    list: "array",
    dict: "object",
    type(None): "null",
}

Table = dict[str, frozenset[str]]
Seen = dict[str, set[str]]


def tables() -> dict[str, Table]:
    """Return the tables: command or address, then path, then the types that it may have."""
    found: dict[str, Table] = {}
    command = ""
    for line in DOCUMENT.read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"## `([a-z /-]+)`", line):
            command = heading[1].removesuffix(" --json")
            found[command] = {}
        elif row := re.fullmatch(r"\| `([^`]+)` \| ([a-z ]+) \|.*\|", line):
            assert row[1] not in found[command], f"{command}: {row[1]} twice"
            found[command][row[1]] = frozenset(row[2].split(" or "))
    return found


def paths(value: object, table: Table, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each path of a document with its type; keys that are not fixed are as the table has."""
    if path:
        yield path, TYPES[type(value)]
    if "any" in table.get(path, ()):
        return
    if isinstance(value, list):
        for item in value:
            yield from paths(item, table, f"{path}[]")
    elif isinstance(value, dict):
        begin = f"{path}." if path else ""
        free = next((name for name in table if name.startswith(f"{begin}<")), None)
        name = None if free is None else free[: free.index(">") + 1]
        for key, item in value.items():
            yield from paths(item, table, name or f"{begin}{key}")


def deviations(command: str, documents: list[Any], table: Table) -> list[str]:
    """Return what the documents of a command have, or lack, against its table."""
    seen: Seen = {}
    for document in documents:
        for path, kind in paths(document, table):
            seen.setdefault(path, set()).add(kind)
    wrong = [f"{command}: {path} is not described" for path in sorted(seen.keys() - table.keys())]
    for path, allowed in table.items():
        kinds = frozenset(seen.get(path, ()))
        missing, unknown = allowed - kinds, kinds - allowed
        if "any" in allowed:
            missing, unknown = frozenset(() if kinds else allowed), frozenset()
        elif "number" in allowed:
            unknown -= {"integer"}
        wrong += [f"{command}: {path} is never {kind}" for kind in sorted(missing)]
        wrong += [f"{command}: {path} is {kind}" for kind in sorted(unknown)]
    return wrong
