"""What makes keys or peers less safe than they should be, and the command that mends it.

The rule is PostgreSQL's for its own key: a file of root's may be read by its group as well, any
other by its owner alone.  Breaking it is worth a warning and stops nothing.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from stigmem_replicator.settings.effective import DEFINITIONS, Settings
from stigmem_replicator.settings.values import HIDDEN, shown, without_secrets

_ROOT: Final = 0
_NOT_OF_ROOT, _NOT = 0o037, 0o077
"""Permission bits that a file with a key must not have."""


def complaints(path: Path, *, mode: int, owner: int, uid: int, of_node: bool = False) -> list[str]:
    """Return what is wrong with how a file with a key is kept, each with the command to mend it.

    ``mode`` is the permission bits, ``owner`` and ``uid`` are user ids: the file's and ours.  A
    file ``of_node`` belongs to whoever the node runs as, so any owner is right.
    """
    quoted = _quoted(path)
    said: list[str] = []
    if owner not in (_ROOT, uid) and not of_node:
        said.append(
            f"{path} belongs to user {owner}, who is neither root nor the user this runs as; "
            f"mend it with: chown {uid} {quoted}"
        )
    too_much = mode & (_NOT_OF_ROOT if owner == _ROOT else _NOT)
    if too_much:
        verb = "read" if too_much & 0o044 else "changed" if too_much & 0o022 else "run"
        # Root needs no group to read its own file; anybody else does.
        mended = "640" if owner == _ROOT != uid else "600"
        said.append(
            f"{path} can be {verb} by others than its owner; mend it with: chmod {mended} {quoted}"
        )
    return said


def _quoted(path: Path) -> str:
    """Return a path as a shell takes it, with nothing in it that a terminal would not show."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    octal = "".join(f"\\{byte:03o}" for byte in os.fsencode(path))
    return f"$'{octal}'"


def warnings_about_keys(settings: Settings, *, uid: int) -> list[str]:
    """Return a warning about each file with a key that is not kept from others.

    ``uid`` is the user that we run as.  A file that cannot be looked at is passed over: whoever
    reads it says why.
    """
    said: list[str] = []
    for path, of_node in dict(_files_with_keys(settings)).items():
        try:
            found = path.stat()
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(found.st_mode):
            mode = stat.S_IMODE(found.st_mode)
            said += complaints(path, mode=mode, owner=found.st_uid, uid=uid, of_node=of_node)
    return said


def _files_with_keys(settings: Settings) -> Iterator[tuple[Path, bool]]:
    """Yield each file that a secret is taken from, and whether it is one of the node's."""
    if settings.federation_privkey_file is not None:
        yield settings.federation_privkey_file, False
    if settings.tls_key_path is not None:
        named = settings.origin("tls_key_path")
        yield settings.tls_key_path, DEFINITIONS["tls_key_path"].node.name in named
    for node_id in settings.peer_tables:
        token = settings.for_peer(node_id).capability_token_file
        if token is not None:
            yield token, False
    origins = [
        settings.origin(name)
        for name, definition in DEFINITIONS.items()
        if HIDDEN in shown(definition, getattr(settings, name))
    ]
    for file, of_node in ((settings.env_file, True), (settings.config_file, False)):
        if file is not None and any(origin.endswith(f" in {file}") for origin in origins):
            yield file, of_node
    in_database = not settings.federation_privkey and settings.federation_privkey_file is None
    if in_database and settings.backend == "sqlite":
        yield Path(settings.location), True


def insecure_warning(settings: Settings) -> str | None:
    """Return what ``federation_insecure`` gives up as it is set, None when it is off."""
    if not settings.federation_insecure:
        return None
    if settings.mutual_tls:
        return (
            "federation_insecure is on: peers are called at any address, and over http they are "
            "not identified and nothing is encrypted; unset STIGMEM_FEDERATION_INSECURE"
        )
    return (
        "federation_insecure is on: peers are not identified and over http nothing is encrypted; "
        "unset STIGMEM_FEDERATION_INSECURE and set STIGMEM_TLS_CERT_PATH, STIGMEM_TLS_KEY_PATH "
        "and STIGMEM_TLS_CA_BUNDLE"
    )


def plain_token_warnings(settings: Settings, urls: Mapping[str, str]) -> list[str]:
    """Return a warning about each capability token that goes over a network in the clear.

    ``urls`` are the addresses of peers by node id.
    """
    if not settings.federation_insecure:
        # Then nothing is sent to such an address.
        return []
    return [
        f"the capability token of peer {without_secrets(node_id)} goes to {without_secrets(url)} "
        "in the clear: whoever sees it on the way can read there what the peer forgot, until it "
        "ends; have the peer at https before you use one"
        for node_id, url in urls.items()
        if settings.for_peer(node_id).capability_token_file is not None and _is_seen(url)
    ]


def _is_seen(url: str) -> bool:
    """Whether others can read what is sent to an address: http to another machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    host = parts.hostname or ""
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return parts.scheme == "http" and not here


def listening_warning(settings: Settings) -> str | None:
    """Return who else can see the daemon's page and metrics, None when nobody can."""
    listen = settings.http_listen
    if listen is None or listen.is_loopback:
        return None
    return (
        f"http_listen is {listen} (from {settings.origin('http_listen')}): whoever reaches that "
        "address can read the names, addresses and states of all peers, without a password and "
        "without encryption; set it to 127.0.0.1:9765 unless a firewall or a proxy keeps others out"
    )
