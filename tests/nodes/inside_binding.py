"""Runs inside a node's own environment: binds the organisations of its approved peers, over TLS.

A node binds an organisation when its peer is approved, and reads the peer's manifest for that
with a client that has no certificate, so that it cannot where mutual TLS is demanded.  This runs
the very same function of the node with its client for mutual TLS in that one's place.  It
imports nothing but the standard library and the node.
"""

# What belongs to the node has no types here: the tests' own environment does not have it.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import types
from functools import partial

import httpx
from stigmem_node.db import db
from stigmem_node.federation.tls import build_client_ssl_context
from stigmem_node.routes import _federation_impl
from stigmem_node.settings import settings


async def main() -> None:
    files = settings.tls_cert_path, settings.tls_key_path, settings.tls_ca_bundle
    client = partial(httpx.AsyncClient, verify=build_client_ssl_context(*files), trust_env=False)
    _federation_impl.httpx = types.SimpleNamespace(AsyncClient=client)
    bind = _federation_impl._check_tl_inclusion_for_peer  # noqa: SLF001 - the node's own
    with db() as connection:
        found = connection.execute(
            "SELECT node_id, node_url, id FROM peers WHERE status = 'active' AND entity_uri IS NULL"
        ).fetchall()
    for row in found:
        await bind(*tuple(row))


if __name__ == "__main__":
    asyncio.run(main())
