"""The table of all settings, from the code into docs/configuration.md.

Run: ``python -m tests.settings_table``.  A test compares what it would write with what is there.
"""

from __future__ import annotations

from pathlib import Path

from stigmem_replicator.settings import DEFINITIONS, PER_PEER, Settings
from stigmem_replicator.settings.values import own_variable, shown

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- settings: python -m tests.settings_table -->"
END = "<!-- end of the settings -->"


def table() -> str:
    """Return the table in Markdown: a row each setting, in the order of the code."""
    defaults = Settings()
    lines = [
        "| setting | default | what it is | what it may be | the node's variable |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, definition in DEFINITIONS.items():
        default = shown(definition, getattr(defaults, name))
        variables = (definition.node.name, *definition.node.fallbacks)
        mark = " **" if definition.peer_only else " *" if name in PER_PEER else ""
        cells = (
            f"`{name}`{mark}",
            f"`{default}`" if default else "",
            definition.help,
            definition.kind.allowed,
            ", ".join(f"`{variable}`" for variable in variables if variable),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "\\* may be set for one peer, \\*\\* only for one peer, in our TOML file.",
        f"Our variable of a setting is `{own_variable('NAME')}`.",
    ]
    return "\n".join(lines)


def rewritten(document: str) -> str:
    """Return the document with the table as the code has it."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text("utf-8")), "utf-8")
