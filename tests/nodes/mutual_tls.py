"""Real nodes that serve with mutual TLS, and what the wire shows of their certificates.

It is for nodes with certificates of an authority of the tests (certificates.py), which may be
changed while the node serves.  It is not for servers that are no nodes.
"""

from __future__ import annotations

import signal
import socket
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from cryptography import x509

from tests.nodes.federation import introduced
from tests.nodes.node import Node, NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.nodes.certificates import Authority, TlsFiles
    from tests.nodes.environment import NodeEnvironment

_RELOAD_TIMEOUT_S = 10.0


class TlsNode(Node):
    """A node that serves https only, to holders of a certificate of its authority.

    `tls` are the files it serves with; our own requests to it and its own command present them
    too.
    """

    def __init__(
        self,
        environment: NodeEnvironment,
        authority: Authority,
        folder: Path | None = None,
        *,
        name: str = "node",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(environment, folder, name=name, settings=settings)
        self.client.close()
        self._authority = authority
        self.tls = authority.issue(self.node_id)
        self.own_settings = {**self.tls.settings, **self.own_settings}
        self.url = f"https://127.0.0.1:{self.port}"
        self.entity_uri = self.url
        self.client = httpx.Client(
            base_url=self.url,
            timeout=30.0,
            trust_env=False,
            verify=self.tls.client_context(),
            # A node that ends waits for us to say goodbye on every connection we keep.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self.register_options = (
            *("--tls-cert", str(self.tls.certificate)),
            *("--tls-key", str(self.tls.key)),
            *("--ca-bundle", str(self.tls.bundle)),
        )

    @contextmanager
    def presenting(self, other: TlsFiles) -> Iterator[None]:
        """Serve with another certificate for the length of a `with`, then with a good one again."""
        self._present(other)
        try:
            yield
        finally:
            self._present(self._authority.issue(self.node_id))

    def _present(self, other: TlsFiles) -> None:
        if self._process is None:
            raise NodeError(f"{self!r} is not running")
        self.tls = self.tls.replace(other)
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + _RELOAD_TIMEOUT_S
        while served_serial(self) != other.serial:
            if time.monotonic() > deadline:
                raise NodeError(f"{self!r} goes on with its old certificate\n{self.log_tail()}")
            time.sleep(0.02)


def served_serial(node: TlsNode) -> int:
    """The serial number of the certificate that a node shows, be it good or bad."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    address = ("127.0.0.1", node.port)
    with socket.create_connection(address, timeout=10) as plain, context.wrap_socket(plain) as tls:
        shown = tls.getpeercert(binary_form=True)
    if shown is None:
        raise NodeError(f"{node!r} shows no certificate")
    return x509.load_der_x509_certificate(shown).serial_number


@dataclass(frozen=True, slots=True)
class TlsPair:
    """Two nodes with certificates of one authority, peers of each other."""

    authority: Authority
    origin: TlsNode
    receiver: TlsNode


@contextmanager
def tls_pair(environment: NodeEnvironment, authority: Authority, folder: Path) -> Iterator[TlsPair]:
    """Bring up an origin and a receiver with certificates, introduce them; end both afterwards."""
    origin, receiver = (
        TlsNode(environment, authority, folder / name, name=name) for name in ("origin", "receiver")
    )
    with introduced(origin, receiver):
        yield TlsPair(authority, origin, receiver)
