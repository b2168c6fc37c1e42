"""The architecture document shows the code as it is."""

from __future__ import annotations

from tests.state_table import DOCUMENT, rewritten


def test_the_state_table_is_the_code_s() -> None:
    """The table in docs/architecture.md is the one that the session works by."""
    written = DOCUMENT.read_text("utf-8")
    assert rewritten(written) == written, "run: python -m tests.state_table"
