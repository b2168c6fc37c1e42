"""The architecture document shows the code as it is."""

from __future__ import annotations

from tests.state_table import DOCUMENT, rewritten


def test_the_state_tables_are_the_code_s() -> None:
    """Tables and diagram in docs/architecture.md are those that sessions and peers work by."""
    written = DOCUMENT.read_text("utf-8")
    assert rewritten(written) == written, "run: python -m tests.state_table"
