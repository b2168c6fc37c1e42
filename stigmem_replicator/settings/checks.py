"""Values that fit alone and not together: keys, certificates, the wire, spans, the database.

It looks at values only, never at a file or a database.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings.effective import DEFAULT_ORIGIN, DEFINITIONS, Settings
from stigmem_replicator.settings.values import is_postgres, own_variable, without_secrets

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""The hosts at which the node, and so we, may do without mutual TLS."""


def together(settings: Settings) -> Iterator[LocalError]:
    """Yield what is wrong between settings, but for the database's."""
    yield from _keys(settings)
    yield from _certificates(settings)
    yield from _insecure(settings)
    for smaller, greater in (
        ("write_share_busy", "write_share_idle"),
        ("backoff_base_s", "backoff_cap_s"),
        ("backoff_throttled_base_s", "backoff_throttled_cap_s"),
        ("backoff_protocol_base_s", "backoff_protocol_cap_s"),
    ):
        low, high = getattr(settings, smaller), getattr(settings, greater)
        if low > high:
            yield _invalid(
                f"{smaller} is {low} (from {settings.origin(smaller)}), but must not be above "
                f"{greater}, which is {high} (from {settings.origin(greater)})",
            )


def database(settings: Settings) -> Iterator[LocalError]:
    """Yield what is wrong with a database that is not named, or named twice."""
    if settings.backend != "postgres" or is_postgres(settings.database):
        return
    named = settings.origin("storage_backend")
    if not settings.pg_dsn:
        yield _invalid(
            f"storage_backend is postgres (from {named}), but nothing says where that is",
            hint="set STIGMEM_PG_DSN as for the node, or give --db postgresql://HOST/DATABASE",
        )
        return
    path = settings.origin("database")
    if path != DEFAULT_ORIGIN and DEFINITIONS["database"].node.name not in path:
        yield _invalid(
            f"database is a file (from {path}), but storage_backend is postgres (from {named})",
            hint="name the database by a postgresql:// URL or not at all, "
            "or set STIGMEM_REPLICATOR_STORAGE_BACKEND=sqlite",
        )


def _keys(settings: Settings) -> Iterator[LocalError]:
    public, private = bool(settings.federation_pubkey), bool(settings.federation_privkey)
    if settings.federation_privkey_file is not None:
        if private:
            yield _invalid(
                f"federation_privkey is set (from {settings.origin('federation_privkey')}), and "
                "so is federation_privkey_file "
                f"(from {settings.origin('federation_privkey_file')})",
                hint="set one of them; an empty "
                f"{own_variable('federation_privkey')} leaves out what the node has",
            )
        return
    if public != private:
        there, missing = "federation_pubkey", "federation_privkey"
        if private:
            there, missing = missing, there
        yield _invalid(
            f"{there} is set (from {settings.origin(there)}) but {missing} is not",
            hint="set both to replace the keys in the node's database, or neither to use those",
        )


def _certificates(settings: Settings) -> Iterator[LocalError]:
    """Refuse half of what mutual TLS needs."""
    certificate, key = "tls_cert_path", "tls_key_path"
    has_certificate, has_key = settings.tls_cert_path is not None, settings.tls_key_path is not None
    if has_certificate != has_key:
        there, missing = (certificate, key) if has_certificate else (key, certificate)
        yield _invalid(
            f"{there} is set (from {settings.origin(there)}) but {missing} is not",
            hint="set both for mutual TLS, as the node's "
            f"{_of_node(certificate)} and {_of_node(key)}, or neither",
        )
    if has_certificate and has_key and settings.tls_ca_bundle is None:
        yield _invalid(
            f"{certificate} is set (from {settings.origin(certificate)}) and {key} "
            f"(from {settings.origin(key)}), but tls_ca_bundle is not",
            hint="name the file with the certificates of those who issue your peers' ones, as "
            f"the node's {_of_node('tls_ca_bundle')}",
        )


def _insecure(settings: Settings) -> Iterator[LocalError]:
    """Refuse to do without mutual TLS where the node would not start so."""
    if (
        not settings.federation_insecure
        or settings.mutual_tls
        or settings.local_dev_allow_insecure_non_loopback
        or _is_loopback(settings.node_url)
    ):
        return
    yield _invalid(
        f"federation_insecure is on (from {settings.origin('federation_insecure')}), but node_url "
        f"is {without_secrets(settings.node_url)} (from {settings.origin('node_url')}), which is "
        "not this machine: the node does not start so",
        hint=f"set up mutual TLS: {_of_node('tls_cert_path')}, {_of_node('tls_key_path')} and "
        f"{_of_node('tls_ca_bundle')}; or in a network for tests alone set "
        f"{_of_node('local_dev_allow_insecure_non_loopback')}=1",
    )


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host in _LOOPBACK


def _of_node(name: str) -> str:
    return DEFINITIONS[name].node.name


def _invalid(message: str, *, hint: str = "") -> LocalError:
    return LocalError(Reason.CONFIGURATION_INVALID, message, hint=hint)
