"""What a shell offers for `--peer` when Tab is pressed; the rest of completion is typer's.

A shell must not be disturbed: whatever goes wrong here offers nothing and says nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Final

import typer

from stigmem_replicator.cli.context import Invocation, all_peers, find_peer, opened
from stigmem_replicator.errors import UnknownPeerError
from stigmem_replicator.store.reads import PeerRow

# Some shells evaluate what they are offered, and a peer chooses its own names.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._/:-]{1,200}")


def peer_names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return names of peers that begin with what was typed, each with the peer's URL."""
    options = context.find_root().params
    flags = {"database": options.get("db"), "log_level": "critical"}
    invocation = Invocation(flags, options.get("config"), options.get("env_file"))
    with (
        suppress(Exception),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        opened(invocation.settings()) as database,
    ):
        return names(all_peers(database), incomplete)
    return []


def names(peers: Sequence[PeerRow], incomplete: str) -> list[tuple[str, str]]:
    """Return what to offer for a beginning: the last part of node ids, else whole ones."""
    offered = []
    for peer in peers:
        # Bash ends a word at every colon, so the part after the last one is offered first.
        last = peer.node_id.rpartition(":")[2]
        for name in (last, peer.node_id):
            if name.startswith(incomplete) and _names(peers, name, peer):
                shown = peer.node_url if _HARMLESS.fullmatch(peer.node_url) else ""
                offered.append((name, shown))
                break
    return offered


def _names(peers: Sequence[PeerRow], name: str, peer: PeerRow) -> bool:
    try:
        return bool(_HARMLESS.fullmatch(name)) and find_peer(peers, name) is peer
    except UnknownPeerError:
        return False
