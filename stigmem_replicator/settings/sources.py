"""Where raw values of settings come from, in order: the first source that has one wins.

Flags, the environment, the ``.env`` file of the node, our TOML file.  This module reads the
files and finds raw values with their origin; what a value may be is in ``settings_values``.
"""

from __future__ import annotations

import difflib
import io
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings_values import Definition, own_variable

ENV_FILE_NAME = ".env"

Keys = Callable[[str, Definition], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Found:
    """A raw value, the words for where it came from, and where its relative paths start."""

    raw: object
    origin: str
    base: Path


@dataclass(frozen=True, slots=True)
class Source:
    """One place with raw values: how a setting is called there, and how to name the place."""

    values: Mapping[str, object]
    keys: Keys
    origin: Callable[[str, Definition], str]
    base: Path

    def find(self, name: str, definition: Definition) -> Found | None:
        """Return the raw value of one setting, if it is here."""
        for key in self.keys(name, definition):
            if self.values.get(key) is not None:
                return Found(self.values[key], self.origin(key, definition), self.base)
        return None


def first(sources: Iterable[Source], name: str, definition: Definition) -> Found | None:
    """Return what the first source says that has the setting."""
    return next((found for s in sources if (found := s.find(name, definition))), None)


def flags(values: Mapping[str, object], cwd: Path) -> Source:
    """Return what the command line said, by the names of the settings; None is not said."""
    return Source(values, _names, lambda name, definition: f"flag {flag(name, definition)}", cwd)


def environment(environ: Mapping[str, str], cwd: Path) -> Source:
    """Return the environment: our own variable of a setting before the node's."""
    return Source(_upper(environ), _variables, lambda key, _: f"environment {key}", cwd)


def env_file(path: Path) -> Source:
    """Read a ``.env`` file exactly as the node does, whose working directory is the file's.

    Like the node's reader it puts the variables of this process in place of ``${NAME}``.
    """
    try:
        text = path.read_text(encoding="utf-8")  # dotenv_values takes a missing file for empty
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    values = dotenv_values(stream=io.StringIO(text))
    return Source(
        _upper(values), _env_file_variables, lambda key, _: f"{key} in {path}", path.parent
    )


def toml_file(path: Path, names: Sequence[str]) -> Source:
    """Read our TOML file; its keys are the names of the settings, and no other is allowed."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    except tomllib.TOMLDecodeError as error:
        raise LocalError(
            Reason.CONFIGURATION_INVALID, f"{path} is not valid TOML: {error}"
        ) from error
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            raise LocalError(
                Reason.CONFIGURATION_INVALID,
                f"{path} sets {key!r}, which is no setting"
                + (f"; did you mean {near[0]!r}?" if near else ""),
                hint=f"the settings are {', '.join(sorted(names))}",
            )
    return Source(values, _names, lambda key, _: f"{key} in {path}", path.parent)


def find_env_file(database: str, cwd: Path) -> Path | None:
    """Return the node's ``.env``: beside its database, else in the working directory."""
    folders = [cwd] if "://" in database else [Path(database).parent, cwd]
    for folder in folders:
        path = folder / ENV_FILE_NAME
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise _unreadable(path, error) from error
    return None


def flag(name: str, definition: Definition) -> str:
    """Return how a setting is spelled on the command line."""
    return definition.flag or "--" + name.replace("_", "-")


def _names(name: str, definition: Definition) -> Sequence[str]:
    del definition
    return (name,)


def _variables(name: str, definition: Definition) -> Sequence[str]:
    own = own_variable(name)
    return (own, definition.node_variable) if definition.node_variable else (own,)


def _env_file_variables(name: str, definition: Definition) -> Sequence[str]:
    return _variables(name, definition) if definition.node_reads_env_file else (own_variable(name),)


def _upper(values: Mapping[str, str | None]) -> dict[str, object]:
    """Return the variables in capitals: the node takes them in any case of letters."""
    return {name.upper(): value for name, value in values.items()}


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> LocalError:
    why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return LocalError(Reason.CONFIGURATION_INVALID, f"cannot read {path}: {why}")
