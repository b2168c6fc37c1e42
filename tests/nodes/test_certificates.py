"""What a TLS library makes of the certificates that tests use, in memory and without a socket."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from tests.nodes.certificates import EXPIRED, NOT_YET_VALID, Authority, TlsFiles

NODE_ID = "stigmem:node:6f4c6f0a-7c54-4f3e-9d1e-0a3d5a4b9c11"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shake_hands(
    server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLObject:
    """Return the client's side after a handshake with a server at 127.0.0.1."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    served = server.server_context(version).wrap_bio(to_server, to_client, server_side=True)
    asked = client.client_context().wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for side in (asked, served) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return asked


def test_two_nodes_of_one_authority_see_each_others_ids(authority: Authority) -> None:
    side = shake_hands(authority.issue(NODE_ID), authority.issue("stigmem:node:other"))
    certificate = side.getpeercert()
    assert certificate is not None
    assert ("URI", NODE_ID) in certificate["subjectAltName"]


def test_a_certificate_without_a_uri_names_a_place_only(authority: Authority) -> None:
    certificate = shake_hands(authority.issue(None), authority.issue(NODE_ID)).getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", "localhost"), ("IP Address", "127.0.0.1"))


def test_a_certificate_out_of_its_time_is_refused(authority: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(authority.issue(NODE_ID, EXPIRED), authority.issue(NODE_ID))
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        shake_hands(authority.issue(NODE_ID, NOT_YET_VALID), authority.issue(NODE_ID))


def test_a_certificate_of_another_authority_is_refused_on_both_sides(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        shake_hands(stranger.issue(NODE_ID), authority.issue(NODE_ID))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        shake_hands(authority.issue(NODE_ID), stranger.issue(NODE_ID, trusts=authority))


def test_a_server_of_an_old_version_speaks_no_other(authority: Authority) -> None:
    files = authority.issue(NODE_ID)
    assert shake_hands(files, files, ssl.TLSVersion.TLSv1_2).version() == "TLSv1.2"


def test_a_renewal_replaces_the_files_where_they_are(authority: Authority) -> None:
    old = authority.issue(NODE_ID)
    new = authority.issue(NODE_ID)
    renewed = old.replace(new)
    assert (renewed.certificate, renewed.serial) == (old.certificate, new.serial)
    assert old.certificate.read_bytes() == new.certificate.read_bytes()
    assert old.key.read_bytes() == new.key.read_bytes()
    assert stat.S_IMODE(old.key.stat().st_mode) == 0o600
