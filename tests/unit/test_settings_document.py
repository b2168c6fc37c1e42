"""The page about configuration shows the settings as they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from stigmem_replicator.settings import Settings
from tests.nodes.environment import REPOSITORY
from tests.settings_table import DOCUMENT, rewritten
from tests.unit.places import load, write


def test_the_table_of_settings_is_the_code_s() -> None:
    """The table in docs/configuration.md is made from the definitions."""
    written = DOCUMENT.read_text("utf-8")
    assert rewritten(written) == written, "run: python -m tests.settings_table"


def examples(document: Path) -> list[str]:
    """The TOML that a document shows."""
    return re.findall(
        r"^ *```toml\n(.*?)^ *```", document.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )


def read(example: str, tmp_path: Path) -> Settings:
    """The settings that an example makes for its one peer."""
    (node_id,) = tomllib.loads(example)["peer"]
    config = write(tmp_path / "replicator.toml", example)
    return load({}, {}, config_file=config, cwd=tmp_path).for_peer(node_id)


def test_the_example_of_a_toml_file_is_read(tmp_path: Path) -> None:
    example, _ = examples(DOCUMENT)
    config = write(tmp_path / "all.toml", example)
    assert load({}, {}, config_file=config, cwd=tmp_path).page_size == 200
    assert read(example, tmp_path).page_size == 20


@pytest.mark.parametrize(
    ("document", "place"),
    [
        (DOCUMENT, "munich.token"),
        (REPOSITORY / "README.md", "/etc/stigmem-replicator/munich.token"),
        (
            REPOSITORY / "docs" / "systemd.md",
            "/run/credentials/stigmem-replicator.service/munich.token",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_examples_of_a_capability_token_are_read(
    document: Path, place: str, tmp_path: Path
) -> None:
    """A relative path begins at the folder of the TOML file."""
    assert read(examples(document)[-1], tmp_path).capability_token_file == tmp_path / place
