"""Where raw values of settings come from, in order: the first source that has one wins.

Flags, the environment, the credentials of a systemd service, the ``.env`` file of the node, our
TOML file.  This module reads the files, finds raw values with their origin, and knows the words
that are no setting; what a value may be is in ``values``.
"""

from __future__ import annotations

import difflib
import io
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dotenv import dotenv_values

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings.values import (
    NODE_PREFIX,
    OWN_PREFIX,
    Definition,
    own_variable,
)

ENV_FILE_NAME = ".env"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Where systemd says in which folder the credentials of a service are."""
PEER_TABLES = "peer"
"""The one key of our TOML file that is no setting: it holds a table each peer."""

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
    origin: Callable[[str, Definition | None], str]
    base: Path

    def find(self, name: str, definition: Definition) -> Found | None:
        """Return the raw value of one setting, if it is here."""
        for key in self.keys(name, definition):
            value = self.values.get(key)
            blank = definition.node.fallbacks and value == ""
            if value is not None and not blank:
                return Found(self.values[key], self.origin(key, definition), self.base)
        return None


def first(sources: Iterable[Source], name: str, definition: Definition) -> Found | None:
    """Return what the first source says that has the setting."""
    return next((found for s in sources if (found := s.find(name, definition))), None)


def flags(values: Mapping[str, object], cwd: Path) -> Source:
    """Return what the command line said, by the names of the settings; None is not said."""
    return Source(values, _names, lambda name, definition: f"flag {flag(name, definition)}", cwd)


def own_environment(environ: Mapping[str, str], cwd: Path) -> Source:
    """Return our own variables in the environment."""
    return Source(_upper(environ), _own_variable, lambda key, _: f"environment {key}", cwd)


def node_environment(environ: Mapping[str, str], cwd: Path) -> Source:
    """Return the node's variables in the environment."""
    return Source(_upper(environ), _node_variable, lambda key, _: f"environment {key}", cwd)


def credentials(
    environ: Mapping[str, str], cwd: Path, definitions: Mapping[str, Definition]
) -> Source:
    """Return the files that systemd gives this service as credentials, if any.

    Raises :class:`LocalError` when one of them cannot be looked at.
    """
    folder = environ.get(CREDENTIALS_VARIABLE, "")
    names = [d.credential for d in definitions.values() if d.credential] if folder else []
    values = {name: str(path) for name in names if _is_file(path := cwd / folder / name)}
    return Source(values, _credential, lambda key, _: f"systemd credential {key}", cwd)


def fallbacks(
    node_sources: Sequence[Source], definitions: Mapping[str, Definition]
) -> list[Source]:
    """Return where the node looks for a setting next, one source each variable and place.

    The node looks for a variable in its environment and then in its ``.env`` file, before it
    looks for the next one; in the file it sees only what begins with its prefix.
    """
    return [
        replace(source, keys=partial(_fallback, variable))
        for definition in definitions.values()
        for variable in definition.node.fallbacks
        for source in node_sources[: None if variable.startswith(NODE_PREFIX) else 1]
    ]


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


def toml_file(path: Path) -> Source:
    """Read our TOML file; its keys are the names of the settings."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    except tomllib.TOMLDecodeError as error:
        raise LocalError(
            Reason.CONFIGURATION_INVALID, f"{path} is not valid TOML: {error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            f"{path} is not usable TOML: a number is too long or a list nested too deeply",
        ) from error
    return Source(values, _names, lambda key, _: f"{key} in {path}", path.parent)


def unknown_keys(path: Path, toml: Source, names: Sequence[str]) -> Iterator[LocalError]:
    """Return what is wrong with each key of our TOML file that is none of ``names``."""
    for key in toml.values:
        if key not in names:
            yield unknown_key(str(path), key, names)


def unknown_key(place: str, key: str, names: Sequence[str]) -> LocalError:
    """Return the failure that a key is no setting, with the nearest name that is one."""
    near = _nearest(key, names)
    return LocalError(
        Reason.CONFIGURATION_INVALID,
        f"{place} sets {key!r}, which is no setting"
        + (f"; did you mean {near!r}?" if near else ""),
        hint=f"the settings are {', '.join(sorted(names))}",
    )


def unknown_variables(sources: Iterable[Source], names: Sequence[str]) -> Iterator[str]:
    """Return a warning about each variable that looks like ours and is no setting."""
    known = {own_variable(name) for name in names}
    for source in sources:
        for variable in source.values:
            if variable.startswith(OWN_PREFIX) and variable not in known:
                place = source.origin(variable, None)
                near = _nearest(variable.removeprefix(OWN_PREFIX).lower(), names)
                yield f"{place} is no setting" + (
                    f"; did you mean {own_variable(near)}?" if near else ""
                )


def _nearest(word: str, words: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, words, n=1)), None)


def find_env_file(database: str, cwd: Path) -> Path | None:
    """Return the node's ``.env``: beside its database, else in the working directory."""
    folders = [cwd] if "://" in database else [Path(database).parent, cwd]
    for folder in folders:
        path = folder / ENV_FILE_NAME
        if _is_file(path):
            return path
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise _unreadable(path, error) from error


def flag(name: str, definition: Definition | None) -> str:
    """Return how a setting is spelled on the command line."""
    return (definition.flag if definition else "") or "--" + name.replace("_", "-")


def _names(name: str, definition: Definition) -> Sequence[str]:
    del definition
    return (name,)


def _own_variable(name: str, definition: Definition) -> Sequence[str]:
    del definition
    return (own_variable(name),)


def _node_variable(name: str, definition: Definition) -> Sequence[str]:
    del name
    return (definition.node.name,) if definition.node.name else ()


def _credential(name: str, definition: Definition) -> Sequence[str]:
    del name
    return (definition.credential,) if definition.credential else ()


def _fallback(variable: str, name: str, definition: Definition) -> Sequence[str]:
    del name
    return (variable,) if variable in definition.node.fallbacks else ()


def _env_file_variables(name: str, definition: Definition) -> Sequence[str]:
    own = _own_variable(name, definition)
    return (*own, *_node_variable(name, definition)) if definition.node.in_env_file else own


def _upper(values: Mapping[str, str | None]) -> dict[str, object]:
    """Return the variables in capitals: the node takes them in any case of letters."""
    return {name.upper(): value for name, value in values.items()}


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> LocalError:
    why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return LocalError(Reason.CONFIGURATION_INVALID, f"cannot read {path}: {why}")
