"""The guard: which addresses a request may go to."""

from __future__ import annotations

import pytest

from stigmem_replicator.errors import ExitCode, PeerRefusedError, Reason
from stigmem_replicator.transport import guard


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "http://localhost:8765/",
        "https://LOCALHOST:8765/base",
        "http://127.0.0.1:1",
        "http://127.255.255.254",
        "http://[::1]:8765",
    ],
)
def test_an_address_of_this_machine_may_be_asked(url: str) -> None:
    """Loopback by name or number, with http or https, is allowed."""
    guard.check(url)


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
        "http://peer.example",
        "http://10.0.0.1",
        "http://192.168.1.1:8765",
        "http://169.254.169.254/latest",
        "http://0.0.0.0",
        "http://[::]",
        "http://[fe80::1]",
        "http://[::ffff:10.0.0.1]",
        "http://8.8.8.8",
        "http://127.1",
        "http://2130706433",
        "http://0x7f000001",
        "http://localhost.peer.example",
        "http://localhost.",
        "http://127.0.0.1.peer.example",
        "http://localhost@peer.example",
        "http://peer.example#@localhost",
        "http://peer.example?@localhost",
        "http://peer.example\\@localhost",
        "http://localhost\\@peer.example",
        "http://user@localhost",
        "http://@localhost",
        "http://localhost:99999",
        "http://localhost:port",
        "http://[::1",
        "http://ⓛocalhost",
        "http://localhost?a=b",
        "http://localhost#a",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    """Other hosts, other schemes, credentials and what does not read are refused unasked."""
    with pytest.raises(PeerRefusedError) as caught:
        guard.check(url)
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
        guard.check(url)
    for text in (str(caught.value), caught.value.message, caught.value.hint):
        assert "hunter2" not in text
        assert "ter2" not in text


def test_a_refusal_does_not_repeat_an_endless_address() -> None:
    """A peer cannot fill the log through its address."""
    with pytest.raises(PeerRefusedError) as caught:
        guard.check("http://" + "x" * 10_000)
    assert len(str(caught.value)) < 500
