"""The guard: which URLs and addresses a peer may have."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from stigmem_replicator.errors import ExitCode, PeerRefusedError, Reason
from stigmem_replicator.transport import addresses


@pytest.mark.parametrize(
    "url", ["https://localhost", "https://peer.example:8765/base", "https://[2001:db8::1]:1"]
)
def test_https_to_a_host_may_be_asked(url: str) -> None:
    addresses.check_url(url, plain=False)


def test_plain_http_is_for_those_who_allow_it() -> None:
    addresses.check_url("http://localhost:8765", plain=True)
    with pytest.raises(PeerRefusedError) as caught:
        addresses.check_url("http://localhost:8765", plain=False)
    assert caught.value.reason is Reason.UNSAFE_ADDRESS
    assert "not https" in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "//localhost",
        "file:///etc/passwd",
        "unix:/run/node.sock",
        "ftp://localhost",
        "http://",
        "http://:8765",
        "http://peer.example#@localhost",
        "http://peer.example?@localhost",
        "http://peer.example\\@localhost",
        "http://localhost\\@peer.example",
        "http://localhost\\peer",
        "http://user@localhost",
        "http://@localhost",
        "http://localhost:99999",
        "http://localhost:port",
        "http://[::1",
        "http://ⓛocalhost",
        "http://local host",
        "http://localhost\r\nX: y",
        "http://localhost?a=b",
        "http://localhost#a",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    """Other schemes, credentials, no host and what does not read are refused unasked."""
    with pytest.raises(PeerRefusedError) as caught:
        addresses.check_url(url, plain=True)
    assert caught.value.reason is Reason.UNSAFE_ADDRESS
    assert caught.value.exit_code is ExitCode.REFUSED
    assert "nothing was sent" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@localhost",
        "http://user:hunter2@peer.example:8765/x",
        "ftp://user:hunter2@localhost",
        "http://user:hunter2@localhost:99999",
        "http://user:hunter2@[::1",
        "http://user:hun/ter2@localhost",
        "http://localhost?token=hunter2",
        "http://user:hunter2@localhost?token=hunter2",
    ],
)
def test_credentials_in_an_address_are_not_repeated(url: str) -> None:
    """A password that somebody wrote into a peer's address does not reach the log."""
    with pytest.raises(PeerRefusedError) as caught:
        addresses.check_url(url, plain=True)
    for text in (str(caught.value), caught.value.message, caught.value.hint):
        assert "hunter2" not in text
        assert "ter2" not in text


def test_a_refusal_does_not_repeat_an_endless_address() -> None:
    """A peer cannot fill the log through its address."""
    with pytest.raises(PeerRefusedError) as caught:
        addresses.check_url("gopher://" + "x" * 10_000, plain=True)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "203.0.114.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
        "64:ff9b::808:808",
    ],
)
def test_a_public_address_is_safe(address: str) -> None:
    """Also one that stands for a public address of IPv4."""
    assert addresses.why_unsafe(address, ()) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",  # noqa: S104 - nothing is bound to it
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::10.0.0.1",
        "::8.8.8.8",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "2606:4700::5efe:10.0.0.1",
        "fe80::5efe:8.8.8.8",
    ],
)
def test_any_other_address_is_unsafe(address: str) -> None:
    """Private, loopback, link-local, reserved, or standing for one; the address is named."""
    assert address in (addresses.why_unsafe(address, ()) or "")


@pytest.mark.parametrize(
    ("address", "network", "safe"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        ("::ffff:10.2.2.3", "10.1.0.0/16", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "10.0.0.0/8", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("fe80::5efe:10.0.0.1", "10.0.0.0/8", False),
        ("2606:4700::5efe:10.0.0.1", "10.0.0.0/8", True),
    ],
)
def test_an_allowed_network_is_no_longer_refused(address: str, network: str, safe: bool) -> None:  # noqa: FBT001
    assert (addresses.why_unsafe(address, (ip_network(network),)) is None) is safe


def test_an_origin_is_scheme_host_and_port() -> None:
    assert addresses.same_origin("https://Peer.example", "https://peer.example:443/x")
    assert not addresses.same_origin("https://peer.example", "http://peer.example")
    assert not addresses.same_origin("https://peer.example", "https://peer.example:8443")
