"""All settings of the program: one frozen ``Settings``, each value knowing its origin.

The class below is the table: a field's row holds its default, the kind of its value, what it is
for and, where the node has the same setting, the node's own variable.  From the name follow our
variable (``STIGMEM_REPLICATOR_`` and the name in capitals), the key in our TOML file (the name)
and the flag (the name with hyphens).

``load`` takes each value from the first place that has it: flags, our environment variable, the
node's environment variable, the node's ``.env`` file, our TOML file, the default.  Relative
paths start where they were written: the file's folder, or the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from stigmem_replicator import settings_sources as sources
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings_values import (
    DEFINITION,
    Choice,
    Database,
    Definition,
    Number,
    OptionalFile,
    OptionalKey,
    Switch,
    Text,
    Whole,
    option,
    own_variable,
    shown,
)

DEFAULT_ORIGIN = "default"

# Longer spans are refused, since from some length on no calendar can subtract them.
_CENTURY_HOURS = 100 * 365 * 24
_CENTURY_S = _CENTURY_HOURS * 3600

TrustMode = Literal["relaxed", "off", "strict"]
AttestationMode = Literal["off", "warn", "enforce"]
Encryption = Literal["off", "on"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


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
class Settings:
    """Every setting; ``Settings()`` has the defaults."""

    # the node's database
    database: str = option(
        "stigmem.db",
        Database(),
        "the node's database: a path or a URL",
        node="STIGMEM_DB_PATH",
        flag="--db",
    )
    storage_backend: str = option(
        "sqlite",
        Text(),
        "what the node keeps its data in",
        node="STIGMEM_STORAGE_BACKEND",
    )
    at_rest_encryption: Encryption = option(
        "off",
        Choice("off", "on"),
        "whether the node encrypts its database file",
        node="STIGMEM_AT_REST_ENCRYPTION",
    )
    database_timeout_s: float = option(
        5.0, Number(0.1, 300), "seconds to wait for a lock of the database"
    )

    # who the node is
    node_url: str = option(
        "http://localhost:8765", Text(), "the node's own address", node="STIGMEM_NODE_URL"
    )
    federation_pubkey: str = option(
        "",
        OptionalKey(),
        "the node's public key, in place of the one in its database",
        node="STIGMEM_FEDERATION_PUBKEY",
    )
    federation_privkey: str = option(
        "",
        OptionalKey(),
        "the node's private key, in place of the one in its database",
        node="STIGMEM_FEDERATION_PRIVKEY",
        secret=True,
    )
    token_ttl_s: int = option(120, Whole(60, 300), "seconds a token for a peer is good for")

    # what is admitted: the node's own rules
    trust_mode: TrustMode = option(
        "relaxed",
        Choice("relaxed", "off", "strict"),
        "whether the trust in a source is scored, and low trust quarantined",
        node="STIGMEM_TRUST_MODE",
    )
    trust_weight_identity: float = option(
        0.35,
        Number(0.0),
        "weight of a source's identity in its trust",
        node="STIGMEM_TRUST_WEIGHT_IDENTITY",
    )
    trust_weight_peer_history: float = option(
        0.30,
        Number(0.0),
        "weight of a source's history in its trust",
        node="STIGMEM_TRUST_WEIGHT_PEER_HISTORY",
    )
    trust_weight_scope_authority: float = option(
        0.25,
        Number(0.0),
        "weight of a source's authority over the scope in its trust",
        node="STIGMEM_TRUST_WEIGHT_SCOPE_AUTHORITY",
    )
    trust_weight_attestation_mode: float = option(
        0.10,
        Number(0.0),
        "weight of the node's attestation mode in a source's trust",
        node="STIGMEM_TRUST_WEIGHT_ATTESTATION_MODE",
    )
    trust_rules_file: Path | None = option(
        None,
        OptionalFile(),
        "YAML file of sources always or never trusted",
        node="STIGMEM_TRUST_RULES_FILE",
    )
    source_attestation_mode: AttestationMode = option(
        "off",
        Choice("off", "warn", "enforce"),
        "mode of the node's attestation plugin",
        node="STIGMEM_SOURCE_ATTESTATION_MODE",
    )
    source_attestation_enabled: bool = option(
        default=False,
        kind=Switch(),
        help_="whether the node runs the attestation plugin",
        node="STIGMEM_SOURCE_ATTESTATION_ENABLED",
        node_reads_env_file=False,
    )
    relay_enabled: bool = option(
        default=False,
        kind=Switch(),
        help_="whether facts of other origins are taken from a peer trusted to relay",
        node="STIGMEM_FEDERATION_RELAY_ENABLED",
    )
    hlc_max_future_skew_s: int = option(
        300,
        Whole(0),
        "seconds an entry may be ahead of our clock; 0: any",
        node="STIGMEM_FEDERATION_HLC_MAX_FUTURE_SKEW_S",
    )
    hlc_max_past_skew_s: int = option(
        2_592_000,
        Whole(0),
        "seconds an entry may be behind our clock; 0: any",
        node="STIGMEM_FEDERATION_HLC_MAX_PAST_SKEW_S",
    )
    key_rotation_grace_hours: int = option(
        168,
        Whole(0, _CENTURY_HOURS),
        "hours that a peer's previous key is still accepted after a rotation",
        node="STIGMEM_FEDERATION_KEY_ROTATION_GRACE_HOURS",
    )
    multi_tenant: bool = option(
        default=False,
        kind=Switch(),
        help_="whether the node runs the plugin that keeps tenants apart",
    )
    max_conflicts_per_fact: int = option(
        100, Whole(0), "conflicts written for one fact, newest siblings first; 0: all"
    )

    # what is asked of a peer, and how long we wait for it
    page_size: int = option(500, Whole(1, 500), "entries asked for at a time")
    page_bytes_max: int = option(
        8 * 2**20, Whole(2**16), "bytes of one answer, more is refused unread"
    )
    connect_timeout_s: float = option(10.0, Number(0.1, 3600), "seconds to wait for a connection")
    read_timeout_s: float = option(30.0, Number(0.1, 3600), "seconds to wait for more of an answer")
    page_timeout_s: float = option(60.0, Number(0.1, 3600), "seconds for one whole page")
    overlap_s: float = option(
        10.0, Number(0.0, 3600), "seconds that are read again, for what the peer committed late"
    )
    manifest_refresh_s: int = option(
        86_400, Whole(60, _CENTURY_S), "seconds after which a peer's manifest is fetched again"
    )
    backoff_base_s: float = option(1.0, Number(0.1, 3600), "wait after a first failure, in seconds")
    backoff_factor: float = option(2.0, Number(1.0, 10), "growth of the wait with each failure")
    backoff_cap_s: float = option(300.0, Number(0.1, 86_400), "longest such wait, in seconds")
    retry_after_cap_s: int = option(
        3600, Whole(1, 86_400), "longest wait that a peer may ask for, in seconds"
    )

    # what the database is asked to bear
    write_share_busy: float = option(
        0.5, Number(0.05, 0.95), "share of the time we may hold the write lock while others write"
    )
    write_share_idle: float = option(
        0.85, Number(0.05, 0.95), "share of the time we may hold the write lock otherwise"
    )
    transaction_target_ms: int = option(
        50, Whole(5, 2000), "milliseconds that one of our transactions should take"
    )
    dead_letter_rows_max: int = option(100_000, Whole(1), "dead letters kept for one peer")
    dead_letter_bytes_max: int = option(
        64 * 2**20, Whole(2**16), "bytes of dead letters' content kept for one peer"
    )
    reject_burst_run: int = option(
        50, Whole(0), "refused entries in a row that block a peer; 0: never"
    )
    reject_burst_percent: int = option(
        90, Whole(0, 100), "refused share of the last 500 entries that blocks a peer; 0: never"
    )

    # what is told
    log_level: LogLevel = option(
        "info",
        Choice("debug", "info", "warning", "error", "critical"),
        "least severity that is logged",
        node="STIGMEM_LOG_LEVEL",
    )

    # where it all came from
    config_file: Path | None = field(default=None, compare=False)
    env_file: Path | None = field(default=None, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def origin(self, name: str) -> str:
        """Return where a value came from, such as ``environment STIGMEM_DB_PATH``."""
        return self.origins.get(name, DEFAULT_ORIGIN)

    def describe(self) -> tuple[Described, ...]:
        """Return every setting as people see it, in the order of the table."""
        return tuple(
            Described(
                name=name,
                value=shown(definition, getattr(self, name)),
                origin=self.origin(name),
                help=definition.help,
                variable=own_variable(name),
                node_variable=definition.node_variable,
            )
            for name, definition in DEFINITIONS.items()
        )

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{row.name}={row.value!r}' for row in self.describe())})"


DEFINITIONS: Mapping[str, Definition] = MappingProxyType(
    {f.name: f.metadata[DEFINITION] for f in fields(Settings) if DEFINITION in f.metadata}
)
"""The table again, by name."""

_DEFAULTS = Settings()


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    config_file: Path | None = None,
    env_file: Path | None = None,
    cwd: Path,
) -> Settings:
    """Read all settings; ``flags`` maps names to what was given, None for what was not.

    Raises ``LocalError`` for a file that cannot be read, a key of the TOML file that is no
    setting, and a value that does not fit.
    """
    above = [sources.flags(flags, cwd), sources.environment(environ, cwd)]
    below = []
    if config_file is not None:
        config_file = cwd / config_file
        below = [sources.toml_file(config_file, tuple(DEFINITIONS))]

    if env_file is not None:
        env_file = cwd / env_file
    else:
        database, _ = _value("database", [*above, *below], cwd)
        env_file = sources.find_env_file(str(database), cwd)
    if env_file is not None:
        below.insert(0, sources.env_file(env_file))

    order = [*above, *below]
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for name in DEFINITIONS:
        values[name], origins[name] = _value(name, order, cwd)
    settings = Settings(
        **values,  # type: ignore[arg-type] # each kind gives its field's type
        config_file=config_file,
        env_file=env_file,
        origins=MappingProxyType(origins),
    )
    _check_together(settings)
    return settings


def _value(name: str, order: Sequence[sources.Source], cwd: Path) -> tuple[object, str]:
    """Return one setting's value and its origin."""
    definition = DEFINITIONS[name]
    found = sources.first(order, name, definition)
    if found is None:
        default: object = getattr(_DEFAULTS, name)
        if isinstance(definition.kind, Database):
            default = definition.kind.parse(default, cwd)
        return default, DEFAULT_ORIGIN
    try:
        return definition.kind.parse(found.raw, found.base), found.origin
    except ValueError:
        said = "" if definition.secret else f" is {shown(definition, found.raw)!r}, but"
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            f"{name} (from {found.origin}){said} must be {definition.kind.allowed}",
        ) from None


def _check_together(settings: Settings) -> None:
    """Refuse values that do not go together."""
    if bool(settings.federation_pubkey) != bool(settings.federation_privkey):
        there, missing = "federation_pubkey", "federation_privkey"
        if settings.federation_privkey:
            there, missing = missing, there
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            f"{there} is set (from {settings.origin(there)}) but {missing} is not",
            hint="set both to replace the keys in the node's database, or neither to use those",
        )
    for smaller, greater in (
        ("write_share_busy", "write_share_idle"),
        ("backoff_base_s", "backoff_cap_s"),
    ):
        low, high = getattr(settings, smaller), getattr(settings, greater)
        if low > high:
            raise LocalError(
                Reason.CONFIGURATION_INVALID,
                f"{smaller} is {low} (from {settings.origin(smaller)}), but must not be above "
                f"{greater}, which is {high} (from {settings.origin(greater)})",
            )
