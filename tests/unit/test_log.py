"""Log lines: what of a peer's text reaches a terminal."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.observe import log
from stigmem_replicator.observe.log import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain text", "plain text"),
        ("Crème ☕", "Crème ☕"),
        ("a\x1b[31mred", "a [31mred"),
        ("a\nb\r\tc\x00d", "a b  c d"),
        ("right\u202eleft", "right left"),
        ("lone \ud800", "lone  "),
        ("x" * 120, "x" * 120),
        ("x" * 121, "x" * 119 + "…"),
    ],
)
def test_foreign_text_cannot_speak_to_a_terminal(text: str, expected: str) -> None:
    """Control characters become spaces and long text is cut."""
    assert printable(text) == expected


@given(st.text(st.characters()), st.integers(min_value=1, max_value=200))
def test_printable_text_is_printable_and_short(text: str, characters: int) -> None:
    """Whatever a peer sends, what is shown prints, encodes and has a bounded length."""
    shown = printable(text, characters)
    assert len(shown) <= characters
    assert shown.isprintable()
    shown.encode()


def test_lines_are_json_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Away from a terminal a line is one JSON object with its event, level and time."""
    try:
        log.configure("info", terminal=False)
        bound = log.logger(peer="stigmem:node:x")
        bound.debug("unheard")
        bound.info("federation.pull.ok", pages=2)
    finally:
        structlog.reset_defaults()
    out, err = capsys.readouterr()
    assert out == ""
    line = json.loads(err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "federation.pull.ok",
        "level": "info",
        "peer": "stigmem:node:x",
        "pages": 2,
    }
    assert sys.stderr is not None


def test_a_line_that_cannot_be_written_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a full disk nor a reader that is gone is the business of whoever logs."""
    ours, theirs = os.pipe()
    os.close(ours)
    with Path("/dev/full").open("w", encoding="utf-8") as full, os.fdopen(theirs, "w") as unread:
        for stream in (full, unread):
            monkeypatch.setattr(sys, "stderr", stream)
            try:
                log.configure("info", terminal=False)
                log.logger().info("federation.pull.ok", detail="lone \ud800")
            finally:
                structlog.reset_defaults()
