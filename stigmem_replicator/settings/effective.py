"""The settings of one run: one frozen ``Settings``, each value knowing its origin.

What settings there are is in ``table``; where their values come from is in ``loading``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType

from stigmem_replicator.settings.table import Table
from stigmem_replicator.settings.values import (
    DEFINITION,
    Definition,
    is_postgres,
    own_variable,
    shown,
    without_secrets,
)

DEFAULT_ORIGIN = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One setting as people see it; secrets are hidden."""

    name: str
    value: str
    origin: str
    help: str
    variable: str
    node_variable: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings(Table):
    """Every setting; ``Settings()`` has the defaults."""

    # where it all came from
    config_file: Path | None = field(default=None, compare=False)
    env_file: Path | None = field(default=None, compare=False)
    peer_tables: Mapping[str, Mapping[str, object]] = field(default_factory=dict, compare=False)
    """What our TOML file says for single peers: values by name, by node id."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def mutual_tls(self) -> bool:
        """Tell whether peers are called with a certificate of ours, and must show theirs."""
        return self.tls_cert_path is not None and self.tls_key_path is not None

    @property
    def backend(self) -> str:
        """What to open: ``sqlite``, ``postgres`` or the name of something that we cannot open."""
        if is_postgres(self.database):
            return "postgres"
        scheme, url, _ = self.database.partition("://")
        return scheme if url else self.storage_backend

    @property
    def location(self) -> str:
        """Where the node's data is: a path, or for PostgreSQL a ``postgresql://`` URL.

        The URL may hold a password: show people ``location_shown``.
        """
        if self.backend == "postgres" and not is_postgres(self.database):
            return self.pg_dsn
        return self.database

    @property
    def location_shown(self) -> str:
        """The location as people may see it."""
        location = self.location
        return without_secrets(location) if "://" in location else location

    def origin(self, name: str) -> str:
        """Return where a value came from, such as ``environment STIGMEM_DB_PATH``."""
        return self.origins.get(name, DEFAULT_ORIGIN)

    def for_peer(self, node_id: str) -> Settings:
        """Return the settings for one peer: its own table in our TOML file over all else."""
        values = self.peer_tables.get(node_id, {})
        if not values:
            return self
        origins = {**self.origins, **dict.fromkeys(values, f"peer table in {self.config_file}")}
        return replace(
            self,
            origins=MappingProxyType(origins),
            **values,  # type: ignore[arg-type] # each kind gives its field's type
        )

    def describe_peers(self) -> Mapping[str, tuple[Described, ...]]:
        """Return what is set for single peers, as people see it, by node id.

        An id is hidden like a URL: somebody may have taken the peer's address for its id.
        """
        return {
            without_secrets(node_id): tuple(
                row for row in self.for_peer(node_id).describe() if row.name in values
            )
            for node_id, values in self.peer_tables.items()
        }

    def describe(self) -> tuple[Described, ...]:
        """Return every setting as people see it, in the order of the table."""
        return tuple(
            Described(
                name=name,
                value=shown(definition, getattr(self, name)),
                origin=self.origin(name),
                help=definition.help,
                variable="" if definition.peer_only else own_variable(name),
                node_variable=definition.node.name,
            )
            for name, definition in DEFINITIONS.items()
        )

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{row.name}={row.value!r}' for row in self.describe())})"


DEFINITIONS: Mapping[str, Definition] = MappingProxyType(
    {f.name: f.metadata[DEFINITION] for f in fields(Settings) if DEFINITION in f.metadata}
)
"""The table again, by name."""

PER_PEER: tuple[str, ...] = tuple(n for n, definition in DEFINITIONS.items() if definition.per_peer)
"""The settings that a peer may have a value of its own for."""
