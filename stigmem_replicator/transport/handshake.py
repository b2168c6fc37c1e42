"""What went wrong in a TLS handshake, in words for the operator who must mend it."""

from __future__ import annotations

import ssl
from typing import Final

from stigmem_replicator.errors import PeerRefusedError, Reason
from stigmem_replicator.observe.log import printable

_BY_VERIFY_CODE: Final = {
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by itself, not by an issuer in the CA bundle",
    19: "comes from an issuer that is not in the CA bundle",
    20: "comes from an issuer that is not in the CA bundle",
    21: "comes from an issuer that is not in the CA bundle",
    23: "was revoked",
    26: "is not meant for servers",
    62: "is for another host name",
    64: "is for another address",
}
"""OpenSSL's verification results (openssl-verification-options), by number."""

_NO_COMMON_VERSION: Final = frozenset(
    {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"}
)
_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
_OURS_REFUSED: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it demands a certificate and got none from us",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the issuer of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that our certificate was revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not accept our kind of certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "it does not let our certificate in",
}
"""TLS alerts about a client's certificate (RFC 8446 section 6.2), as OpenSSL calls them."""


def is_end(error: ssl.SSLError) -> bool:
    """Tell whether a failure is the end of the connection, which some OpenSSL report as one."""
    ended = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    return ended or "EOF" in (error.reason or "")


def refusal_of(error: ssl.SSLError, url: str) -> PeerRefusedError:
    """Return the failure of a peer with which no TLS connection can be made.

    Its reason is ``certificate_invalid`` for the peer's certificate, else ``tls_failed``.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _BY_VERIFY_CODE.get(error.verify_code)
        return PeerRefusedError(
            Reason.CERTIFICATE_INVALID,
            f"the certificate at {url} {why or 'is refused'} "
            f"({printable(error.verify_message, 80)})",
            hint="nothing was sent to it; the peer's operator must renew it, or this node's CA "
            "bundle lacks its issuer",
        )
    if (ours := refusal_of_ours(error, url)) is not None:
        return ours
    reason = error.reason or ""
    if reason in _NO_COMMON_VERSION:
        why = "it does not speak TLS 1.3, which federation demands"
        hint = "nothing was sent to it; the peer's operator must allow TLS 1.3"
    elif reason in _NO_TLS:
        why = "what answers there does not speak TLS"
        hint = "nothing was sent to it; check the peer's address and port"
    else:
        why = f"the TLS handshake failed ({printable(reason or str(error), 80)})"
        hint = "check the certificates of both nodes"
    return _failed(url, why, hint)


def refusal_of_ours(error: ssl.SSLError, url: str) -> PeerRefusedError | None:
    """Return the failure of a peer that refuses our certificate, None if it is anything else.

    With TLS 1.3 the peer says so when our side of the handshake is already done.
    """
    why = _OURS_REFUSED.get(error.reason or "")
    return None if why is None else _failed(url, why, "check this node's certificate and issuer")


def _failed(url: str, why: str, hint: str) -> PeerRefusedError:
    return PeerRefusedError(Reason.TLS_FAILED, f"{url} cannot be spoken to: {why}", hint=hint)
