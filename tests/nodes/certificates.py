"""A certificate authority for tests: certificates that name a node, good ones and bad ones.

It is for what federation over mutual TLS needs: a certificate whose URI names a node id, its key
and the bundle of the authority, as files in PEM.  It revokes nothing, and it is no model of how
an operator should keep an authority: its key lives in memory and ends with the test.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is valid, measured from the moment it is issued."""

    starts: timedelta
    ends: timedelta


VALID: Final = Validity(timedelta(hours=-1), timedelta(days=30))
EXPIRED: Final = Validity(timedelta(days=-2), timedelta(days=-1))
NOT_YET_VALID: Final = Validity(timedelta(days=1), timedelta(days=30))

_AUTHORITY_VALIDITY: Final = Validity(timedelta(days=-30), timedelta(days=60))
_KEY_MODE: Final = 0o600
_USES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate, its key and the bundle that its holder trusts, as files in PEM."""

    certificate: Path
    key: Path
    bundle: Path
    serial: int
    not_after: datetime

    @property
    def settings(self) -> dict[str, str]:
        """The settings that name these files, without the `STIGMEM_` prefix."""
        return {
            "TLS_CERT_PATH": str(self.certificate),
            "TLS_KEY_PATH": str(self.key),
            "TLS_CA_BUNDLE": str(self.bundle),
        }

    @property
    def environ(self) -> dict[str, str]:
        """The same as environment variables."""
        return {f"STIGMEM_{name}": value for name, value in self.settings.items()}

    def server_context(
        self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, demands: bool = True
    ) -> ssl.SSLContext:
        """The context of a server of one TLS version that `demands` a client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        context.minimum_version = version
        return self._loaded(context, ssl.CERT_REQUIRED if demands else ssl.CERT_NONE)

    def client_context(self) -> ssl.SSLContext:
        """The context of a client that presents this certificate and checks the server's name."""
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.CERT_REQUIRED)

    def replace(self, other: TlsFiles) -> TlsFiles:
        """Put another's certificate and key where these are, as a renewal does.

        Each file changes at once, the key first: who sees the new certificate finds its key.
        """
        for old, new in ((self.key, other.key), (self.certificate, other.certificate)):
            coming = old.with_suffix(".new")
            _write(coming, new.read_bytes())
            coming.replace(old)
        return TlsFiles(self.certificate, self.key, self.bundle, other.serial, other.not_after)

    def _loaded(self, context: ssl.SSLContext, mode: ssl.VerifyMode) -> ssl.SSLContext:
        context.verify_mode = mode
        context.load_cert_chain(self.certificate, self.key)
        context.load_verify_locations(self.bundle)
        return context


class Authority:
    """An authority with a key and a certificate of its own; `bundle` is the latter as a file."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.bundle = folder / f"{name}.pem"
        self._name = _common_name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issued = 0
        builder = _builder(self._name, self._key, _AUTHORITY_VALIDITY)
        certificate = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        ).add_extension(_key_usage(certificates=True), critical=True)
        self._write_certificate(self.bundle, certificate)

    def issue(
        self,
        node_id: str | None,
        validity: Validity = VALID,
        *,
        ips: tuple[str, ...] = ("127.0.0.1",),
        names: tuple[str, ...] = ("localhost",),
        trusts: Authority | None = None,
    ) -> TlsFiles:
        """Issue a certificate for a server and a client, in files of its own.

        `node_id` is its only URI; without one it has none.  `ips` and `names` say where a server
        with it may stand, for clients that check that.  Its holder `trusts` this authority, or
        the one that is given.
        """
        self._issued += 1
        folder = self.folder / f"{self.bundle.stem}-{self._issued}"
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        if node_id is not None:
            alternatives.append(x509.UniformResourceIdentifier(node_id))
        certificate = (
            _builder(_common_name("node"), key, validity)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_USES), critical=False)
        )
        made = self._write_certificate(folder / "node.pem", certificate)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(folder / "node.key", private)
        return TlsFiles(
            folder / "node.pem",
            folder / "node.key",
            (trusts or self).bundle,
            made.serial_number,
            made.not_valid_after_utc,
        )

    def _write_certificate(self, path: Path, builder: x509.CertificateBuilder) -> x509.Certificate:
        of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            builder.issuer_name(self._name)
            .add_extension(of_issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return certificate


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, validity: Validity
) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)  # certificates know whole seconds
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + validity.starts)
        .not_valid_after(now + validity.ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    """May sign certificates only, or anything but."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whatever was there."""
    path.unlink(missing_ok=True)
    path.touch(_KEY_MODE)
    path.write_bytes(data)
