"""Reading all settings from where they are written, and saying everything that is wrong there.

Each value is taken from the first place that has it: flags, our environment variable, the
credentials that systemd gives a service, the node's environment variable, the node's ``.env``
file, our TOML file, the default.  Relative paths start where they were written: the file's
folder, or the working directory.  A table for one peer in our TOML file is over all of them, for
that peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings import checks, sources
from stigmem_replicator.settings.effective import (
    DEFAULT_ORIGIN,
    DEFINITIONS,
    PER_PEER,
    Settings,
)
from stigmem_replicator.settings.sources import Found, Source
from stigmem_replicator.settings.transport_values import KeyFile
from stigmem_replicator.settings.values import (
    Database,
    Definition,
    OptionalDsn,
    is_postgres,
    shown,
    without_secrets,
)

_DEFAULTS: Final = Settings()
_FILES: Final = "files"
_DATABASE_SETTINGS: Final = frozenset(
    {_FILES, "database", "storage_backend", "pg_dsn", "pg_schema", "at_rest_encryption"}
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where settings are looked for; ``flags`` maps names to what was given, None for nothing."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    cwd: Path
    config_file: Path | None = None
    env_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """What was read, the default in place of each value that is wrong, and all that is wrong.

    ``database_is_known`` tells whether nothing that is wrong can change which database is meant.
    """

    settings: Settings
    problems: tuple[LocalError, ...]
    warnings: tuple[str, ...]
    database_is_known: bool


def load(places: Places) -> Settings:
    """Read all settings.

    Raises ``LocalError`` for the first problem: a file that cannot be read, a key of the TOML
    file that is no setting, a value that does not fit.
    """
    read = review(places)
    if read.problems:
        first, *others = read.problems
        if others:
            more = f"see this and {len(others)} more with: stigmem-replicate config check"
            first.hint = f"{first.hint}; {more}" if first.hint else more
        raise first
    return read.settings


def review(places: Places) -> Review:
    """Read all settings, and go on after what is wrong, to find all of it."""
    problems = _Problems()
    own_variables = sources.own_environment(places.environ, places.cwd)
    node_variables = sources.node_environment(places.environ, places.cwd)
    toml, config_file = None, None
    if places.config_file is not None:
        config_file = places.cwd / places.config_file
        with problems.noted(_FILES):
            toml = sources.toml_file(config_file)
    ours = [sources.flags(places.flags, places.cwd), own_variables]
    with problems.noted():
        ours.append(sources.credentials(places.environ, places.cwd, DEFINITIONS))
    below = [] if toml is None else [toml]
    of_node, env_file = [node_variables], None
    with problems.noted(_FILES):
        env_file = _env_file(places, [*ours, *of_node, *below])
        if env_file is not None:
            of_node.append(sources.env_file(env_file))

    order = [*ours, *of_node, *sources.fallbacks(of_node, DEFINITIONS), *below]
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for name in DEFINITIONS:
        values[name], origins[name] = _default(name, places.cwd), DEFAULT_ORIGIN
        with problems.noted(name):
            values[name], origins[name] = _value(name, order, places.cwd)
    peer_tables: Mapping[str, Mapping[str, object]] = {}
    if toml is not None and config_file is not None:
        peer_tables = _rest_of_toml(toml, config_file, problems)
    settings = Settings(
        **values,  # type: ignore[arg-type] # each kind gives its field's type
        config_file=config_file,
        env_file=env_file,
        peer_tables=MappingProxyType(peer_tables),
        origins=MappingProxyType(origins),
    )
    if not problems.errors:
        for error in checks.together(settings):
            problems.add(error)
        for error in checks.database(settings):
            problems.add(error, "database")
    return Review(
        settings=settings,
        problems=tuple(problems.errors),
        warnings=tuple(sources.unknown_variables(of_node, tuple(DEFINITIONS))),
        database_is_known=not problems.names & _DATABASE_SETTINGS,
    )


@dataclass(slots=True)
class _Problems:
    """What was found wrong, and which settings it concerns."""

    errors: list[LocalError] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def add(self, error: LocalError, name: str = "") -> None:
        """Note a problem, and the setting whose value is not known for it."""
        self.errors.append(error)
        self.names.add(name)

    @contextmanager
    def noted(self, name: str = "") -> Iterator[None]:
        """Note a problem instead of raising it."""
        try:
            yield
        except LocalError as error:
            self.add(error, name)


def _env_file(places: Places, order: Sequence[Source]) -> Path | None:
    """Return the node's ``.env`` file, as named or as found.  Raises :class:`LocalError`."""
    if places.env_file is not None:
        return places.cwd / places.env_file
    try:
        database, _ = _value("database", order, places.cwd)
    except LocalError:
        # Noted when all values are read.
        database = _default("database", places.cwd)
    return sources.find_env_file(str(database), places.cwd)


def _default(name: str, cwd: Path) -> object:
    default: object = getattr(_DEFAULTS, name)
    kind = DEFINITIONS[name].kind
    return kind.parse(default, cwd) if isinstance(kind, Database) else default


def _value(name: str, order: Sequence[Source], cwd: Path) -> tuple[object, str]:
    """Return one setting's value and its origin.  Raises :class:`LocalError`."""
    definition = DEFINITIONS[name]
    found = sources.first(order, name, definition)
    if found is None:
        return _default(name, cwd), DEFAULT_ORIGIN
    if definition.peer_only:
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            f"{name} is set for all peers (by {found.origin}), and is different for each",
            hint=f'set it in our TOML file, under [peer."NODE ID"]: {name} = ...',
        )
    return _parsed(name, definition, found), found.origin


def _parsed(name: str, definition: Definition, found: Found) -> object:
    try:
        return definition.kind.parse(found.raw, found.base)
    except ValueError:
        said = (
            f" is {shown(definition, found.raw)!r}, but" if _may_be_said(definition, found) else ""
        )
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            f"{name} (from {found.origin}){said} must be {definition.kind.allowed}",
        ) from None


def _may_be_said(definition: Definition, found: Found) -> bool:
    """Tell whether a value that does not fit may be shown: where in it a secret is, is unknown."""
    kind, raw = definition.kind, found.raw
    url = isinstance(kind, Database) and isinstance(raw, str) and is_postgres(raw.strip())
    return not (definition.secret or url or isinstance(kind, OptionalDsn | KeyFile))


def _rest_of_toml(toml: Source, path: Path, problems: _Problems) -> dict[str, Mapping[str, object]]:
    """Note keys of our TOML file that are no settings, and read its tables for single peers."""
    names = (*DEFINITIONS, sources.PEER_TABLES)
    for error in sources.unknown_keys(path, toml, names):
        problems.add(error)
    return _peer_tables(toml, path, problems)


def _peer_tables(toml: Source, path: Path, problems: _Problems) -> dict[str, Mapping[str, object]]:
    """Read what our TOML file says for single peers."""
    tables = toml.values.get(sources.PEER_TABLES, {})
    if not isinstance(tables, dict):
        tables = {"": tables}
    read: dict[str, Mapping[str, object]] = {}
    for node_id, table in tables.items():
        if not isinstance(table, dict):
            problems.add(_no_peer_table(path, str(node_id)))
            continue
        place = f'[peer."{without_secrets(node_id)}"] of {path}'
        values: dict[str, object] = {}
        for key, raw in table.items():
            with problems.noted(key):
                if key not in PER_PEER:
                    raise _not_per_peer(place, key)
                found = Found(raw, place, toml.base)
                values[key] = _parsed(key, DEFINITIONS[key], found)
        read[node_id] = MappingProxyType(values)
    return read


def _no_peer_table(path: Path, key: str) -> LocalError:
    what = f"{without_secrets(key)!r} under [peer]" if key else "'peer'"
    return LocalError(
        Reason.CONFIGURATION_INVALID,
        f"{path} sets {what}, which must be a table for one peer",
        hint='head it [peer."NODE ID"], with the quotes',
    )


def _not_per_peer(place: str, key: str) -> LocalError:
    if key not in DEFINITIONS:
        return sources.unknown_key(place, key, PER_PEER)
    return LocalError(
        Reason.CONFIGURATION_INVALID,
        f"{place} sets {key!r}, which is the same for all peers",
        hint=f"a peer may have its own {', '.join(sorted(PER_PEER))}",
    )
