"""The page about configuration shows the settings as they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.settings_table import DOCUMENT, rewritten
from tests.unit.places import load, write


def test_the_table_of_settings_is_the_code_s() -> None:
    """The table in docs/configuration.md is made from the definitions."""
    written = DOCUMENT.read_text("utf-8")
    assert rewritten(written) == written, "run: python -m tests.settings_table"


def test_the_example_of_a_toml_file_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (node_id,) = tomllib.loads(example)["peer"]
    config = write(tmp_path / "replicator.toml", example)
    settings = load({}, {}, config_file=config, cwd=tmp_path)
    assert settings.page_size == 200
    assert settings.for_peer(node_id).page_size == 20
