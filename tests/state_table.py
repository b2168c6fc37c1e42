"""The state tables of the paging and of the peers, from the code into docs/architecture.md.

Run: ``python -m tests.state_table``.  A test compares what it would write with what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from stigmem_replicator.replication import session, states
from stigmem_replicator.replication.states import Happening, PeerState

DOCUMENT = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN = "<!-- {}: python -m tests.state_table -->"
END = "<!-- end of the {} -->"
S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


def table(
    transitions: Mapping[S, Mapping[E, S]], state_docs: Mapping[S, str], event_docs: Mapping[E, str]
) -> str:
    """Return a table in Markdown: states as rows, what moves them as columns."""
    lines = [
        "| state | " + " | ".join(f"`{event}`" for event in event_docs) + " |",
        "| --- " * (len(event_docs) + 1) + "|",
    ]
    for state in state_docs:
        targets = [transitions[state].get(event) for event in event_docs]
        cells = [f"`{target}`" if target else "" for target in targets]
        lines.append(f"| `{state}` | " + " | ".join(cells) + " |")
    lines += ["", *(f"- `{state}`: {words}" for state, words in state_docs.items())]
    lines += ["", *(f"- `{event}`: {words}" for event, words in event_docs.items())]
    return "\n".join(lines)


def diagram() -> str:
    """Return the states of a peer and what leads from one to another, as Mermaid draws them.

    What leads to one state from wherever a peer is, or from all states but one, is one arrow.
    """
    names: dict[str, str] = {}
    arrows: dict[tuple[str, str], list[Happening]] = {}
    for happening in Happening:
        for target in PeerState:
            sources = {
                state for state in PeerState if states.TRANSITIONS[state][happening] is target
            }
            for source in _together(sources, names):
                if source != target:
                    arrows.setdefault((source, target), []).append(happening)
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            "    direction LR",
            *(f'    state "{words}" as {name}' for name, words in names.items()),
            f"    [*] --> {states.Standing().state}",
            *(f"    {a} --> {b}: {', '.join(moves)}" for (a, b), moves in arrows.items()),
            "```",
        ]
    )


def _together(sources: set[PeerState], names: dict[str, str]) -> list[str]:
    """Return where the arrows of one move begin; a name for many states is added to ``names``."""
    others = [state for state in PeerState if state not in sources]
    if len(others) > 1:
        return sorted(sources)
    name = "_but_".join(["any", *others])
    names[name] = " but ".join(["any state", *others])
    return [name]


def parts() -> dict[str, str]:
    """Return what the document shows of the code, by the name in its markers."""
    paging = table(session.TRANSITIONS, session.STATE_DOCS, session.EVENT_DOCS)
    peers = table(states.TRANSITIONS, states.STATE_DOCS, states.HAPPENING_DOCS)
    return {"state table": paging, "states of a peer": f"{diagram()}\n\n{peers}"}


def rewritten(document: str) -> str:
    """Return the document with the tables as the code has them."""
    for name, shown in parts().items():
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = document.split(begin)
        _, after = rest.split(end)
        document = f"{before}{begin}\n{shown}\n{end}{after}"
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text("utf-8")), "utf-8")
