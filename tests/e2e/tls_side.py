"""What tests between real nodes with mutual TLS share: our command beside a receiver, an origin.

Nothing here is allowed by `STIGMEM_FEDERATION_INSECURE`; only loopback is named as a network that
peers may be in.  What certificates are shown, and what comes of it, is for the tests to say.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.nodes.certificates import Authority, TlsFiles
from tests.nodes.mutual_tls import TlsNode, TlsPair, tls_pair
from tests.pages.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.here import Here, Result
    from tests.nodes.environment import NodeEnvironment

LOOPBACK_ALLOWED: Final = {"STIGMEM_REPLICATOR_ALLOWED_NETWORKS": "127.0.0.0/8"}


@dataclass(frozen=True, slots=True)
class Nodes:
    """Two nodes of which the receiver's serves no more, and its database before any pull."""

    pair: TlsPair
    stranger: Authority
    """An authority that neither node knows."""
    snapshot: Path

    @property
    def origin(self) -> TlsNode:
        return self.pair.origin


@dataclass(frozen=True, slots=True)
class Side:
    """Our command beside the receiver's node: a database of its own, and its settings."""

    here: Here
    nodes: Nodes
    receiver: Receiver

    @property
    def own(self) -> TlsFiles:
        """The receiver's own certificate."""
        return self.nodes.pair.receiver.tls

    def run(self, *words: str, tls: TlsFiles | None = None, **env: str) -> Result:
        """Run a command with the receiver's certificate, or another; `env` wins."""
        settings = {**LOOPBACK_ALLOWED, **(tls or self.own).environ, **env}
        return self.here(*words, db=self.receiver.database, env=settings)

    def pull(
        self, node_id: str | None = None, *, tls: TlsFiles | None = None, **env: str
    ) -> Result:
        """Pull from the origin, or another peer, without patience."""
        words = ("pull", "--peer", node_id or self.nodes.origin.node_id, "--wait", "0", "--json")
        return self.run(*words, tls=tls, **env)

    def shown(self, node_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.run("peers", "show", node_id, "--json").stdout)
        return shown

    def cursor(self) -> str | None:
        """Where the receiver's node would go on with the origin."""
        (row,) = self.receiver.query("SELECT cursor FROM replication_cursors")
        cursor: str | None = row["cursor"]
        return cursor

    def mismatches(self) -> list[dict[str, Any]]:
        """The details of every certificate of another that was written down."""
        rows = self.receiver.query(
            "SELECT detail FROM federation_audit WHERE event_type = 'san_mismatch'"
        )
        return [json.loads(row["detail"]) for row in rows]

    def has(self, fact: dict[str, Any]) -> bool:
        return bool(self.receiver.query("SELECT 1 FROM facts WHERE id = ?", [fact["id"]]))


@contextmanager
def standing(environment: NodeEnvironment, folder: Path) -> Iterator[TlsPair]:
    """A pair whose receiver has ended, its database ready for our command."""
    with tls_pair(environment, Authority(folder / "authority"), folder) as pair:
        pair.receiver.stop()
        yield pair


@dataclass(frozen=True, slots=True)
class Heard:
    """What an origin knows of requests with a token: nonces, audit rows, lines in its log."""

    nonces: int
    audited: int
    requests: int


def heard(node: TlsNode) -> Heard:
    (nonces,) = node.query("SELECT COUNT(*) AS number FROM nonce_cache")
    (audited,) = node.query("SELECT COUNT(*) AS number FROM federation_audit")
    requests = node.log.read_text().count("GET /v1/federation/facts")
    return Heard(nonces["number"], audited["number"], requests)
