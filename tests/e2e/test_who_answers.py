"""Over TLS: who answers is made sure of on every connection, before anything is sent.

The command runs in this process against page servers that write down every connection, whose
certificate it met and for whom the token of each request was.  Real nodes with good and bad
certificates, and TLS 1.2, are in test_mutual_tls.py; attacks by what is answered are in
test_hostile.py.
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.page_pulls import assert_untouched, settings
from tests.nodes.certificates import Authority, TlsFiles
from tests.pages import hostility, misbehaviour
from tests.pages.origin import Origin
from tests.pages.receiver import Receiver
from tests.pages.server import HOLD_S, Exchange, PageServer
from tests.pages.wire import Greeting, Identity

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.pages.fixtures", "tests.e2e.here")

ROUNDS_MAX: Final = 20


def honest_once(exchange: Exchange) -> None:
    """Answer as a node does, and have the next request come over another connection."""
    exchange.send(*exchange.honest(), headers={"Connection": "close"})


def test_both_sides_know_each_other(
    here: Here,
    receiver: Receiver,
    tls_server: PageServer,
    certificate: TlsFiles,
    mutual: dict[str, str],
) -> None:
    """A pull shows this node's certificate, speaks TLS 1.3, and its tokens are for the peer."""
    receiver.adopt(tls_server)
    tls_server.origin.add_many(5)
    env = mutual | settings(page_size=2)
    result = here("pull", "--peer", tls_server.node_id, db=receiver.database, env=env)
    assert (result.code, result.stderr) == (0, "")
    assert len(receiver.assert_clean(tls_server).admitted) == 5
    (connection,) = tls_server.connections
    assert connection.client_serial == certificate.serial
    assert connection.version == "TLSv1.3"
    assert {request.audience for request in tls_server.requests} == {tls_server.node_id}


# --- attacks on the handshake


def mute(_connection: socket.socket, stopped: threading.Event) -> None:
    """Take the connection and never say a word."""
    stopped.wait(HOLD_S)


def drip(connection: socket.socket, stopped: threading.Event) -> None:
    """Announce a long handshake record and send it byte by byte."""
    for byte in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + bytes(0x3FFC):
        connection.sendall(bytes((byte,)))
        if stopped.wait(hostility.DRIP_S):
            return


def hang_up(connection: socket.socket, _stopped: threading.Event) -> None:
    """Close the connection when the handshake begins."""
    connection.recv(1)


def speak_ssh(connection: socket.socket, _stopped: threading.Event) -> None:
    """Speak something else than TLS."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
    connection.recv(1)


def speak_plainly(connection: socket.socket, _stopped: threading.Event) -> None:
    """Send, before any handshake, an answer that would move the cursor."""
    connection.sendall(hostility.forged_answer())
    connection.recv(1)


HANDSHAKES: Final[dict[str, tuple[Greeting, str]]] = {
    "silence": (mute, "unreachable"),
    "a drip": (drip, "unreachable"),
    "no handshake at all": (hang_up, "unreachable"),
    "another protocol": (speak_ssh, "tls_failed"),
    "an answer without TLS": (speak_plainly, "tls_failed"),
}


def test_without_a_handshake_nothing_is_sent_or_read(
    here: Here, receiver: Receiver, authority: Authority, mutual: dict[str, str]
) -> None:
    """Whatever a peer does in place of a handshake has its name, and none costs more than time."""
    with ExitStack() as stack:
        peers = {name: stack.enter_context(PageServer(authority)) for name in HANDSHAKES}
        for name, server in peers.items():
            server.greeting = HANDSHAKES[name][0]
            server.origin.add()
            receiver.adopt(server)
        words = ("pull", "--all", "--json", "--wait", "0")
        env = mutual | settings(connect_timeout_s=0.7)
        result = here(*words, db=receiver.database, env=env)
        told = {item["peer"]: item["error"]["reason"] for item in json.loads(result.stdout)}
        assert {name: told[server.node_id] for name, server in peers.items()} == {
            name: reason for name, (_greeting, reason) in HANDSHAKES.items()
        }
        assert result.code == 6
        for server in peers.values():
            assert server.connections
            assert server.requests == []
            assert_untouched(receiver, server, None)


# --- certificates that change


def test_a_certificate_swapped_between_connections(
    here: Here,
    receiver: Receiver,
    tls_server: PageServer,
    authority: Authority,
    mutual: dict[str, str],
) -> None:
    """Whoever meets another certificate on a later connection sends nothing there.

    The page that came over the first one is kept.
    """
    receiver.adopt(tls_server)
    tls_server.origin.add_many(4)
    own = tls_server.identity(authority)
    stranger = authority.issue("stigmem:node:00000000-0000-4000-8000-000000000000")
    tls_server.show(own, Identity(tls_server.origin, stranger))
    tls_server.always = honest_once
    env = mutual | settings(page_size=2)
    words = ("pull", "--peer", tls_server.node_id, "--wait", "0")
    result = here(*words, db=receiver.database, env=env)
    line = result.failed("san_mismatch", 6)
    assert "names stigmem:node:00000000-" in line
    assert [request.connection.number for request in tls_server.requests] == [0]
    assert len(tls_server.connections) == 2
    assert len(receiver.fact_ids(tls_server)) == 2
    assert receiver.cursor(tls_server) == tls_server.origin.rows[1].hlc
    assert receiver.state(tls_server) == ("blocked", "san_mismatch")


def test_a_redirect_from_https_to_http(
    here: Here,
    receiver: Receiver,
    tls_server: PageServer,
    server: PageServer,
    mutual: dict[str, str],
) -> None:
    """A redirect to plain http on the same machine is refused; where it leads hears nothing."""
    receiver.adopt(tls_server)
    tls_server.script(misbehaviour.redirect(f"{server.url}/v1/federation/facts"))
    words = ("pull", "--peer", tls_server.node_id, "--wait", "0")
    result = here(*words, db=receiver.database, env=mutual)
    result.failed("unexpected_answer", 6)
    assert server.connections == []
    assert_untouched(receiver, tls_server, None)


# --- two peers at one host and port


@pytest.fixture
def neighbour(receiver: Receiver, tls_server: PageServer) -> Origin:
    """Another peer of the receiver, at the same address as the page server, with one fact."""
    receiver.adopt(tls_server)
    origin = Origin(f"{tls_server.url}/neighbour")
    receiver.adopt(tls_server, origin=origin)
    tls_server.origin.add_many(3)
    origin.add_many(3)
    return origin


def test_who_is_not_there_is_not_served_by_its_neighbour(
    here: Here,
    receiver: Receiver,
    tls_server: PageServer,
    neighbour: Origin,
    mutual: dict[str, str],
) -> None:
    """Where the certificate names one of two peers, that one is pulled and the other refused.

    No token for the other is ever sent.
    """
    words = ("pull", "--all", "--json", "--wait", "0")
    result = here(*words, db=receiver.database, env=mutual)
    assert result.code == 6
    told = {item["peer"]: item for item in json.loads(result.stdout)}
    assert told[tls_server.node_id]["error"] is None
    assert told[neighbour.node_id]["error"]["reason"] == "san_mismatch"
    assert len(receiver.assert_clean(tls_server).admitted) == 3
    assert receiver.fact_ids(neighbour) == set()
    assert {request.audience for request in tls_server.requests} == {tls_server.node_id}
    assert receiver.state(neighbour) == ("blocked", "san_mismatch")


def served_by_both(receiver: Receiver, server: PageServer, neighbour: Origin) -> bool:
    return all(len(receiver.fact_ids(peer)) == 3 for peer in (server.origin, neighbour))


def test_every_token_goes_to_whom_it_is_for(
    here: Here,
    receiver: Receiver,
    tls_server: PageServer,
    neighbour: Origin,
    authority: Authority,
    mutual: dict[str, str],
) -> None:
    """With both peers behind one address by turns, no request of one goes to the other.

    Each gets there in the end, since its position stands whenever it meets the other.
    """
    identities = [tls_server.identity(authority), tls_server.identity(authority, neighbour)]
    tls_server.show(*identities)
    tls_server.always = honest_once
    env = mutual | settings(page_size=2)
    rounds = 0
    while not served_by_both(receiver, tls_server, neighbour):
        rounds += 1
        assert rounds <= ROUNDS_MAX
        for node_id in (tls_server.node_id, neighbour.node_id):
            words = ("pull", "--peer", node_id, "--wait", "0", "--max-pages", "1")
            result = here(*words, db=receiver.database, env=env)
            if result.code:
                result.failed("san_mismatch", 6)
        # An odd number of connections in a round, so that the turns do not stay with one.
        here("pull", "--peer", neighbour.node_id, "--wait", "0", db=receiver.database, env=env)
    assert {request.audience for request in tls_server.requests} == {
        identity.origin.node_id for identity in identities
    }
    for request in tls_server.requests:
        assert request.audience == request.connection.origin.node_id
    with_requests = {request.connection.number for request in tls_server.requests}
    assert len(with_requests) < len(tls_server.connections)
