"""What clients can do to the endpoint, and where it listens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.service import http as served
from stigmem_replicator.service.http import CONNECTIONS_MAX
from stigmem_replicator.settings import Listen
from tests.integration.serving import PATHS, Served, serving


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """One endpoint for the tests that only ask."""
    with serving() as running:
        yield running


@pytest.fixture
def alone() -> Iterator[Served]:
    """One for a test that hurts it."""
    with serving() as running:
        yield running


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something, with a generous bound."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


# clients that do not behave


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def ended(client: socket.socket) -> bool:
    """Wait for the other side to end a connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_clients_that_say_nothing_hold_up_nobody(alone: Served) -> None:
    """As many as it takes at a time and more: each new one ends the oldest."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(alone.port)) for _ in range(CONNECTIONS_MAX)]
        for each in slow:
            each.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        began = time.monotonic()
        for path in PATHS:
            assert alone.text(path)[0] == 200
        assert time.monotonic() - began < served.SILENCE_SECONDS / 2
        assert ended(slow[0]), "the oldest gives way"
        before = threading.active_count()
        more = [stack.enter_context(connected(alone.port)) for _ in range(2 * CONNECTIONS_MAX)]
        assert more[-1] is not None
        assert alone.text("/healthz")[0] == 200
        until(lambda: threading.active_count() <= before + CONNECTIONS_MAX)


def test_a_silent_client_is_ended(alone: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served._Handler, "timeout", 0.05)  # noqa: SLF001 - or it lasts 15 s
    with connected(alone.port) as silent:
        assert ended(silent)


def test_so_is_one_that_sends_a_little_now_and_then(
    alone: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "CONNECTION_SECONDS", 0.1)
    with connected(alone.port) as trickling:
        trickling.sendall(b"GET / HT")
        assert ended(trickling)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /status HTTP/1.1\r\nContent-Length: 10000000000\r\n\r\n",
        b"GET /readyz?max_lag=%ff%fe HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_request_harms_nobody(shared: Served, sent: bytes) -> None:
    """It is answered or hung up on, nothing is written to the log, and the next one is served."""
    with connected(shared.port) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while more := client.recv(65_536):
                answer += more
        except ConnectionResetError:
            pass
    assert b"Traceback" not in answer
    assert shared.text("/healthz")[0] == 200
    assert [event["event"] for event in shared.log] == ["replicator.http"]


def test_a_mistake_of_ours_is_an_answer_and_a_line_in_the_log(
    alone: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("stigmem_replicator.service.status.document", broken)
    assert alone.text("/status") == (500, "failed; the log shows where\n")
    assert alone.log[-1]["event"] == "replicator.unexpected"
    assert alone.text("/healthz")[0] == 200


# where it listens


def test_a_port_in_use_is_said_with_what_to_do(shared: Served) -> None:
    listen = shared.endpoint.address
    with pytest.raises(LocalError) as caught, serving(listen):
        pass
    error = caught.value
    assert error.reason is Reason.CONFIGURATION_INVALID
    assert error.exit_code is ExitCode.CONFIGURATION
    assert f"http_listen is {listen} (from default)" in error.message
    assert "Address already in use" in error.message
    assert "another process listens there" in error.hint
    assert "http_listen" in error.hint


def test_an_address_of_another_machine_is_said_too() -> None:
    with pytest.raises(LocalError) as caught, serving(Listen("192.0.2.1", 0)):
        pass
    assert caught.value.hint == "set http_listen to an address that this machine has"


def test_it_listens_on_ipv6_where_there_is_one() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(Listen("::1", 0)) as running:
        assert running.text("/healthz") == (200, "ok\n")
        assert str(running.endpoint.address).startswith("[::1]:")


def test_after_the_stop_the_port_is_free_and_connections_are_ended() -> None:
    with serving() as running:
        address = running.endpoint.address
        waiting = connected(running.port)
    with closing(waiting):
        assert ended(waiting)
    with serving(address) as again:
        assert again.endpoint.address == address
        again.endpoint.stop()
        again.endpoint.stop()
