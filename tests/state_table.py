"""The state table of the paging, from the code into docs/architecture.md.

Run: ``python -m tests.state_table``.  A test compares what it would write with what is there.
"""

from __future__ import annotations

from pathlib import Path

from stigmem_replicator.replication.session import (
    EVENT_DOCS,
    STATE_DOCS,
    TRANSITIONS,
    Event,
    State,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN = "<!-- state table: python -m tests.state_table -->"
END = "<!-- end of the state table -->"


def table() -> str:
    """Return the table in Markdown: states as rows, events as columns."""
    events = list(Event)
    lines = [
        "| state | " + " | ".join(f"`{event}`" for event in events) + " |",
        "| --- " * (len(events) + 1) + "|",
    ]
    for state in State:
        targets = [TRANSITIONS[state].get(event) for event in events]
        cells = [f"`{target}`" if target else "" for target in targets]
        lines.append(f"| `{state}` | " + " | ".join(cells) + " |")
    lines += ["", *(f"- `{state}`: {STATE_DOCS[state]}" for state in State)]
    lines += ["", *(f"- `{event}`: {EVENT_DOCS[event]}" for event in events)]
    return "\n".join(lines)


def rewritten(document: str) -> str:
    """Return the document with the table as the code has it."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text("utf-8")), "utf-8")
