"""The client by itself, on both backends: what it keeps, closes, and tells of a failure."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import anyio
import anyio.lowlevel
import httpcore
import pytest

from stigmem_replicator.clock import SystemClock, system_sleep
from stigmem_replicator.errors import PeerRefusedError, Reason, ReplicatorError
from stigmem_replicator.settings import Settings
from stigmem_replicator.transport.certificates import Certificates
from stigmem_replicator.transport.client import Limits, PeerClient
from stigmem_replicator.transport.guard import Guard, Rules
from stigmem_replicator.transport.network import Destination, open_network
from stigmem_replicator.transport.resolving import Resolver
from tests.nodes.certificates import Authority
from tests.pages import misbehaviour
from tests.pages.server import Behaviour, Exchange, PageServer

pytestmark = pytest.mark.anyio
pytest_plugins = ("tests.pages.fixtures",)

PATH = "/.well-known/stigmem-manifest.json"
LIMITS = Limits(5.0, 5.0, 5.0, 1 << 20, 60.0)


def client_of(url: str) -> PeerClient:
    network = open_network(Settings(federation_insecure=True), SystemClock(), system_sleep)
    return PeerClient(Destination(url, None), network, LIMITS)


def headed(**headers: str) -> Behaviour:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.send(200, {}, named)


async def test_no_cookie_is_kept(server: PageServer) -> None:
    """What a peer wants us to keep does not come back to it, and does not pile up."""
    heard: list[str | None] = []

    def listen(exchange: Exchange) -> None:
        heard.append(exchange.request.headers.get("Cookie"))
        headed(Set_Cookie="a=b")(exchange)

    server.script_manifest(listen, listen)
    async with client_of(server.url) as client:
        await client.get(PATH)
        await client.get(PATH)
    assert heard == [None, None]


@pytest.mark.parametrize("location", ["https://xn--/", "javascript:x", "/" + "x" * 70_000, "//"])
async def test_a_redirect_is_one_reason_wherever_it_leads(
    server: PageServer, location: str
) -> None:
    server.script_manifest(misbehaviour.redirect(location))
    async with client_of(server.url) as client:
        with pytest.raises(PeerRefusedError) as caught:
            await client.get(PATH)
    assert caught.value.reason is Reason.UNEXPECTED_ANSWER


@pytest.mark.parametrize("url", ["http://xn--/", "http://xn--a/", "http://[::1]x"])
async def test_a_host_that_is_no_name_is_refused(url: str) -> None:
    with pytest.raises(PeerRefusedError) as caught:
        client_of(url)
    assert caught.value.reason is Reason.UNSAFE_ADDRESS


async def test_a_token_is_not_repeated_in_a_failure(server: PageServer) -> None:
    """A peer that answers with our own header does not bring the token into the log."""

    def echo(exchange: Exchange) -> None:
        exchange.write(b"Authorization: Bearer hunter2\r\n\r\n")
        exchange.hang_up()

    server.script_manifest(echo)
    async with client_of(server.url) as client:
        with pytest.raises(ReplicatorError) as caught:
            await client.get(PATH, mint=lambda: "hunter2")
    assert caught.value.reason is Reason.MALFORMED_PAGE
    assert "hunter2" not in str(caught.value)


async def test_tiny_chunks_leave_others_their_turn(server: PageServer) -> None:
    """An answer in chunks of one byte is read in many turns of the loop."""

    def crumble(exchange: Exchange) -> None:
        exchange.head(200, {"Transfer-Encoding": "chunked"})
        exchange.write(b"1\r\n \r\n" * 50_000 + b"0\r\n\r\n")

    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    server.script_manifest(crumble)
    async with client_of(server.url) as client, anyio.create_task_group() as others:
        others.start_soon(count)
        answer = await client.get(PATH)
        others.cancel_scope.cancel()
    assert len(answer.body) == 50_000
    assert turns > 50_000 // 16 // 2


async def test_a_handshake_that_is_given_up_leaves_no_connection() -> None:
    """A peer that accepts and never speaks sees the end of the connection at once."""
    closed = threading.Event()

    def wait_for_end() -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(10)
            while accepted.recv(65536):
                continue
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = threading.Thread(target=wait_for_end)
        peer.start()
        async with client_of(f"https://127.0.0.1:{listener.getsockname()[1]}") as client:
            with anyio.move_on_after(0.5):
                await client.get(PATH)
        await anyio.to_thread.run_sync(peer.join)
    assert closed.is_set()


def _alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


async def test_a_broken_record_is_not_held_against_the_peer() -> None:
    """After the handshake only an alert about our certificate blocks the peer."""
    guard = Guard(Rules("https://peer.example", None, pinned=True, allowed=()), Resolver())
    broken = guard.failed_later(_alert("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"))
    assert isinstance(broken, httpcore.ReadError)
    refused = guard.failed_later(_alert("TLSV1_ALERT_UNKNOWN_CA"))
    assert isinstance(refused, PeerRefusedError)
    assert refused.reason is Reason.TLS_FAILED


async def test_a_certificate_that_is_no_text_is_refused() -> None:
    """A name that cannot be decoded names nobody."""

    class Unreadable(httpcore.AsyncMockStream):
        def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the base's
            assert info == "ssl_object"
            return self

        def getpeercert(self) -> None:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    guard = Guard(Rules("https://peer.example", "them", pinned=True, allowed=()), Resolver())
    with pytest.raises(PeerRefusedError) as caught:
        guard.identify(Unreadable([]))
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


async def test_rights_that_were_mended_are_a_change(authority: Authority) -> None:
    """A file whose content and time stay the same is read again after a chmod."""
    files = authority.issue("stigmem:node:mended")
    certificates = Certificates(files.certificate, files.key, files.bundle)
    before = await certificates.current()
    files.key.chmod(0o400)
    assert (await certificates.current()).generation == before.generation + 1


# names


async def test_a_lookup_that_hangs_is_not_started_again() -> None:
    """However often its name is asked for, one thread waits for the answer; others are answered."""
    hanging, asked = threading.Event(), []

    def look_up(host: str, _port: int) -> list[str]:
        asked.append(host)
        if host == "slow.example":
            hanging.wait(10)
        return ["127.0.0.1"]

    resolver = Resolver(look_up)
    for _ in range(3):
        with anyio.move_on_after(0.05):
            await resolver.addresses("slow.example", 1)
    assert await resolver.addresses("quick.example", 1) == ["127.0.0.1"]
    assert asked == ["slow.example", "quick.example"]
    hanging.set()
    with anyio.fail_after(10):
        await resolver.addresses("slow.example", 1)


async def test_a_name_that_is_not_known_is_an_error_each_time() -> None:
    asked = []

    def look_up(host: str, port: int) -> list[str]:
        asked.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    resolver = Resolver(look_up)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver.addresses("no.example", 1)
    assert len(asked) == 2
