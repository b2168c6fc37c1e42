"""How tests call nodes that have no TLS: plain loopback is allowed, as the node's own setting says.

Nothing listens unless a test asks for it: two daemons of two tests would want one port.

The command warns of it each time, and commands that look say each time that no daemon runs; both
are kept apart, so that tests of what else is said stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

QUIET: Final = {"STIGMEM_REPLICATOR_HTTP_LISTEN": ""}
LOOPBACK: Final = {"STIGMEM_FEDERATION_INSECURE": "true"}
WIRE: Final = (*LOOPBACK, "STIGMEM_TLS_", "STIGMEM_REPLICATOR_ALLOWED_NETWORKS")
WARNING: Final = "federation_insecure is on: "
DOWN: Final = "stigmem-replicate: the daemon is not running; this is what was written last\n"


def is_plain(env: Mapping[str, str] | None) -> bool:
    """Tell whether an environment leaves open how peers are called."""
    return not any(name.startswith(WIRE) for name in env or {})


def allowed(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return an environment, with plain loopback allowed unless it says how peers are called."""
    return {**QUIET, **(LOOPBACK if is_plain(env) else {}), **(env or {})}


def apart(said: str, env: Mapping[str, str] | None) -> tuple[str, str]:
    """Return what a command said, and apart from it what it says each time."""
    lines = said.splitlines(keepends=True)
    warned = [line for line in lines if line == DOWN or (is_plain(env) and WARNING in line)]
    return "".join(line for line in lines if line not in warned), "".join(warned)
