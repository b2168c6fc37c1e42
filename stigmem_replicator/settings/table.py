"""The table of all settings: what there is, what it may be and what it is when nobody says so.

A field's row holds its default, the kind of its value, what it is for and, where the node has
the same setting, the node's own variable.  From the name follow our variable
(``STIGMEM_REPLICATOR_`` and the name in capitals), the key in our TOML file (the name) and the
flag (the name with hyphens).  What the values are in one run is in ``effective``, where they
come from in ``loading``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stigmem_replicator.settings.listening import Listen, ListenAddress
from stigmem_replicator.settings.transport_values import KeyFile, Network, Networks, Rate
from stigmem_replicator.settings.values import (
    Address,
    Backend,
    Choice,
    Database,
    NodeVariable,
    Number,
    OptionalDsn,
    OptionalFile,
    OptionalKey,
    SchemaName,
    Switch,
    Whole,
    option,
)

# Longer spans are refused, since from some length on no calendar can subtract them.
_CENTURY_HOURS = 100 * 365 * 24
_CENTURY_S = _CENTURY_HOURS * 3600

_REQUEST_RATE = Rate(Number(0.0, 1_000_000), 0.01)
_BYTE_RATE = Rate(Whole(0, 10**12), 1024)

TrustMode = Literal["relaxed", "off", "strict"]
AttestationMode = Literal["off", "warn", "enforce"]
Encryption = Literal["off", "on"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Table:
    """A row each setting; what is made of them is ``effective.Settings``."""

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
        Backend(),
        "what the node keeps its data in, unless database is a URL",
        node="STIGMEM_STORAGE_BACKEND",
    )
    pg_dsn: str = option(
        "",
        OptionalDsn(),
        "the node's PostgreSQL database, when storage_backend is postgres",
        node=NodeVariable("STIGMEM_PG_DSN", fallbacks=("STIGMEM_DATABASE_URL", "DATABASE_URL")),
    )
    pg_schema: str = option(
        "public",
        SchemaName(),
        "the PostgreSQL schema with the node's tables",
        node="STIGMEM_PG_SCHEMA",
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
        "http://localhost:8765", Address(), "the node's own address", node="STIGMEM_NODE_URL"
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
    federation_privkey_file: Path | None = option(
        None,
        KeyFile(),
        "file with the node's private key, in place of federation_privkey",
        credential="federation_privkey",
    )
    token_ttl_s: int = option(120, Whole(60, 300), "seconds a token for a peer is good for")

    # how the wire is secured, and which addresses are called
    tls_cert_path: Path | None = option(
        None,
        KeyFile(),
        "the node's certificate for mutual TLS, in PEM",
        node="STIGMEM_TLS_CERT_PATH",
        credential="tls_cert",
    )
    tls_key_path: Path | None = option(
        None,
        KeyFile(),
        "the private key of that certificate, in PEM",
        node="STIGMEM_TLS_KEY_PATH",
        credential="tls_key",
    )
    tls_ca_bundle: Path | None = option(
        None,
        KeyFile(),
        "the issuers whose certificates a peer may show, in PEM",
        node="STIGMEM_TLS_CA_BUNDLE",
        credential="tls_ca_bundle",
    )
    federation_insecure: bool = option(
        default=False,
        kind=Switch(),
        help_="whether peers are called without mutual TLS, at any address: for tests only",
        node="STIGMEM_FEDERATION_INSECURE",
    )
    local_dev_allow_insecure_non_loopback: bool = option(
        default=False,
        kind=Switch(),
        help_="whether federation_insecure may be on where node_url is not this machine",
        node="STIGMEM_LOCAL_DEV_ALLOW_INSECURE_NON_LOOPBACK",
    )
    capability_token_file: Path | None = option(
        None,
        KeyFile(),
        "file with the capability token that the peer's tombstones are asked for with",
        per_peer="only",
    )
    allowed_networks: tuple[Network, ...] = option(
        (), Networks(), "private networks that a peer's address may be in", per_peer=True
    )

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
        node=NodeVariable("STIGMEM_SOURCE_ATTESTATION_ENABLED", in_env_file=False),
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
    admit_legacy_cid: bool = option(
        default=False,
        kind=Switch(),
        help_="whether facts with a content id of wire version 1 are admitted by a node of "
        "version 2, content only",
    )
    require_cid: bool = option(
        default=False,
        kind=Switch(),
        help_="whether a node of wire version 1 refuses facts without a content id",
    )
    max_conflicts_per_fact: int = option(
        100,
        Whole(0, 1_000_000),
        "conflicts written for one fact, newest siblings first; 0: all",
        per_peer=True,
    )

    # when peers are asked, and how many at a time
    poll_interval_s: float = option(
        30.0,
        Number(0.1, 86_400),
        "seconds between two looks at a peer that has no more, a fifth more or less",
        per_peer=True,
    )
    peers_at_once: int = option(
        64,
        Whole(1, 10_000),
        "peers that are asked for facts, or whose pages are in work, at a time; as many again may "
        "be asked for tombstones",
    )
    quantum_pages: int = option(
        20, Whole(1, 1_000_000), "pages after which a peer lets others have its place"
    )

    # what is asked of a peer, and how long we wait for it
    page_size: int = option(500, Whole(1, 500), "entries asked for at a time", per_peer=True)
    page_bytes_max: int = option(
        8 * 2**20, Whole(2**16), "bytes of one answer, more is refused unread", per_peer=True
    )
    connect_timeout_s: float = option(
        10.0, Number(0.1, 3600), "seconds to wait for a connection", per_peer=True
    )
    read_timeout_s: float = option(
        30.0, Number(0.1, 3600), "seconds to wait for more of an answer", per_peer=True
    )
    page_timeout_s: float = option(
        60.0, Number(0.1, 3600), "seconds for one whole page", per_peer=True
    )
    requests_per_s: float = option(
        0.0,
        _REQUEST_RATE,
        "requests a second to all peers together; 0: no limit",
    )
    bytes_per_s: int = option(0, _BYTE_RATE, "bytes a second from all peers together; 0: no limit")
    peer_requests_per_s: float = option(
        0.0,
        _REQUEST_RATE,
        "requests a second to one peer; 0: no limit",
        per_peer=True,
    )
    peer_bytes_per_s: int = option(
        0, _BYTE_RATE, "bytes a second from one peer; 0: no limit", per_peer=True
    )
    overlap_s: float = option(
        10.0, Number(0.0, 3600), "seconds that are read again, for what the peer committed late"
    )
    tombstone_interval_s: float = option(
        30.0,
        Number(0.1, 86_400),
        "seconds between two looks at a peer's tombstones",
        per_peer=True,
    )
    tombstone_full_read_s: int = option(
        3600, Whole(1, _CENTURY_S), "seconds after which a peer's tombstones are all read again"
    )
    manifest_refresh_s: int = option(
        86_400, Whole(60, _CENTURY_S), "seconds after which a peer's manifest is fetched again"
    )
    backoff_base_s: float = option(1.0, Number(0.1, 3600), "wait after a first failure, in seconds")
    backoff_factor: float = option(2.0, Number(1.0, 10), "growth of the wait with each failure")
    backoff_cap_s: float = option(300.0, Number(0.1, 86_400), "longest such wait, in seconds")
    backoff_throttled_base_s: float = option(
        1.0, Number(0.1, 3600), "the first wait where a peer asks to wait and does not say how long"
    )
    backoff_throttled_cap_s: float = option(
        300.0, Number(0.1, 86_400), "longest such wait, in seconds"
    )
    backoff_protocol_base_s: float = option(
        1.0, Number(0.1, 3600), "wait after a first page that was no good, in seconds"
    )
    backoff_protocol_cap_s: float = option(
        300.0, Number(0.1, 86_400), "longest such wait, in seconds"
    )
    blocked_retry_s: float = option(
        300.0, Number(0.1, 86_400), "longest wait before a blocked peer is tried again, in seconds"
    )
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
    free_space_min_mb: int = option(
        512,
        Whole(0, 1_000_000_000),
        "MiB that must be free on the database's disk for a page; 0: any",
    )
    dead_letter_rows_max: int = option(
        100_000, Whole(1, 10**12), "dead letters kept of one stream of a peer"
    )
    dead_letter_bytes_max: int = option(
        64 * 2**20, Whole(2**16), "bytes of dead letters' content kept of one stream of a peer"
    )
    reject_burst_run: int = option(
        50, Whole(0, 10**9), "refused entries in a row that block a peer; 0: never"
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
    http_listen: Listen | None = option(
        Listen("127.0.0.1", 9765),
        ListenAddress(),
        "where the daemon serves its metrics and its status page",
    )
