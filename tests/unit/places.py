"""Reading settings from places that a test lays out, and how they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from stigmem_replicator import settings
from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.settings import Places, Review, Settings


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    cwd: Path,
    config_file: Path | None = None,
    env_file: Path | None = None,
) -> Settings:
    """Read all settings from these places."""
    return settings.load(Places(flags, environ, cwd, config_file, env_file))


def review(
    cwd: Path, environ: Mapping[str, str] | None = None, config_file: Path | None = None
) -> Review:
    """Read all settings from these places, with all that is wrong there."""
    return settings.review(Places({}, environ or {}, cwd, config_file))


def write(path: Path, text: str) -> Path:
    """Write a file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(cwd: Path, **environ: str) -> str:
    """Return the message with which an environment is refused."""
    return _refused(Places({}, environ, cwd))


def refused_file(path: Path) -> str:
    """Return the message with which our TOML file is refused."""
    return _refused(Places({}, {}, path.parent, path))


def _refused(places: Places) -> str:
    with pytest.raises(LocalError) as caught:
        settings.load(places)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    return caught.value.message
