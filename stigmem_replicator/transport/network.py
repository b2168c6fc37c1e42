"""What the connections to all peers of a process share, made once from the settings."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache

from stigmem_replicator.clock import Clock, Sleep
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings import Settings, transport_values
from stigmem_replicator.transport.certificates import Certificates
from stigmem_replicator.transport.rates import Rates
from stigmem_replicator.transport.resolving import Resolver


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a peer is and who it must be.

    ``node_id`` is what its certificate must name.  None is for a public web site: there a
    certificate of a public issuer for the host's name is asked for, and ours is not shown.
    ``allowed`` are the networks in which its address may be though they are not public.
    """

    url: str
    node_id: str | None
    allowed: Collection[transport_values.Network] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """Our certificates, whether plain http and any address will do, names, and how fast."""

    certificates: Certificates | None
    insecure: bool
    clock: Clock
    sleep: Sleep
    rates: Rates
    resolver: Resolver = field(default_factory=Resolver)


def open_network(settings: Settings, clock: Clock, sleep: Sleep) -> Network:
    """Read the node's certificates and say how peers are reached.

    Raises ``LocalError`` with ``configuration_invalid`` when the certificates cannot be used, or
    when there are none and nothing says that none are meant.
    """
    certificates = None
    cert, key, bundle = settings.tls_cert_path, settings.tls_key_path, settings.tls_ca_bundle
    if cert is not None and key is not None and bundle is not None:
        certificates = Certificates(cert, key, bundle)
    elif not settings.federation_insecure:
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            "nothing says how peers are known: mutual TLS is not set up",
            hint="set STIGMEM_TLS_CERT_PATH, STIGMEM_TLS_KEY_PATH and STIGMEM_TLS_CA_BUNDLE as "
            "for the node; between nodes on one machine STIGMEM_FEDERATION_INSECURE=true will do",
        )
    return Network(
        certificates=certificates,
        insecure=settings.federation_insecure,
        clock=clock,
        sleep=sleep,
        rates=Rates(settings.requests_per_s, settings.bytes_per_s, clock, sleep),
    )


@cache
def public_context() -> ssl.SSLContext:
    """Return a context that trusts the system's public issuers and checks the host's name."""
    return ssl.create_default_context()
