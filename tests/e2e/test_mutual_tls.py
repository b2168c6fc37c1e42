"""Real nodes that demand mutual TLS, and our command between them with certificates good and bad.

The origin is a real node throughout; where the peer must do what a node does not (speak TLS 1.2
only, tell which of our certificates it saw), the page server takes its place.  Other attacks on
the wire are in test_who_answers.py.
"""

from __future__ import annotations

import shutil
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from stigmem_replicator.store import migrations
from stigmem_replicator.store.engine import open_database
from tests.e2e.tls_side import LOOPBACK_ALLOWED, Nodes, Side, heard, standing
from tests.nodes.certificates import EXPIRED, NOT_YET_VALID, Authority, TlsFiles
from tests.nodes.environment import node_environment as installed_environment
from tests.pages.receiver import Receiver
from tests.pages.server import Exchange, PageServer, honestly
from tests.pages.wire import Greeting, Identity

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.here import Here, Result
    from tests.nodes.environment import NodeEnvironment

pytest_plugins = ("tests.e2e.here",)

STRANGER: Final = "stigmem:node:00000000-0000-4000-8000-000000000000"
NOT_NAMED: Final = "peer certificate URI SAN does not match node_id"
"""What a node answers to a certificate that does not name the token's issuer."""


@pytest.fixture(scope="module")
def nodes(
    node_environment: NodeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("mutual-tls")
    with standing(node_environment, folder) as pair:
        snapshot = pair.receiver.copy_database(folder / "snapshot.db")
        database = open_database(snapshot, timeout_s=5.0)
        migrations.upgrade(database)
        database.close()
        yield Nodes(pair, Authority(folder / "stranger"), snapshot)


@pytest.fixture
def side(here: Here, nodes: Nodes, tmp_path: Path) -> Side:
    database = tmp_path / "receiver.db"
    shutil.copyfile(nodes.snapshot, database)
    database.chmod(0o600)
    return Side(here, nodes, Receiver(database))


@pytest.fixture
def server(nodes: Nodes) -> Iterator[PageServer]:
    """A page server with a certificate of the nodes' authority."""
    with PageServer(nodes.pair.authority) as pages:
        yield pages


# --- the right certificate


def assert_only_tombstones_are_missing(result: Result) -> None:
    """The pull succeeded; these nodes give their tombstones only for a token, which is all said."""
    assert result.code == 0
    (line,) = result.stderr.splitlines()
    assert "(capability_required)" in line


def test_facts_of_the_right_node_arrive(side: Side, nodes: Nodes) -> None:
    """With certificates that name both nodes a pull succeeds, and the peer's end is known."""
    fact = nodes.origin.assert_fact("user:ada", "likes", "the right certificate")
    before = heard(nodes.origin)
    result = side.pull()
    assert_only_tombstones_are_missing(result)
    assert side.has(fact)
    assert heard(nodes.origin).nonces > before.nonces

    shown = side.shown(nodes.origin.node_id)
    end_ms = round(nodes.origin.tls.not_after.timestamp() * 1000)
    assert shown["replication"]["certificate_not_after_ms"] == end_ms
    assert shown["own_certificate_not_after_ms"] == round(side.own.not_after.timestamp() * 1000)
    assert "its certificate" in side.run("peers", "show", nodes.origin.node_id).stdout


def test_facts_of_an_older_node_arrive(here: Here, tmp_path: Path) -> None:
    """0.9.0a10 serves with mutual TLS too."""
    with standing(installed_environment("0.9.0a10"), tmp_path / "old") as pair:
        fact = pair.origin.assert_fact("user:ada", "likes", "an old node")
        side = Side(
            here,
            Nodes(pair, pair.authority, pair.receiver.database),
            Receiver(pair.receiver.database),
        )
        result = side.pull()
        assert_only_tombstones_are_missing(result)
        assert side.has(fact)
        refused = pair.authority.issue(STRANGER)
        with pair.origin.presenting(refused):
            side.pull().failed("san_mismatch", 6)
        assert len(side.mismatches()) == 1


# --- the wrong one at the other end


@dataclass(frozen=True, slots=True)
class Wrong:
    """A certificate that an origin must not be believed with, and what is said about it."""

    name: str
    reason: str
    words: str

    def files(self, nodes: Nodes) -> TlsFiles:
        own, issue = nodes.origin.node_id, nodes.pair.authority.issue
        match self.name:
            case "of another node":
                return issue(STRANGER)
            case "of no node":
                return issue(None)
            case "expired":
                return issue(own, EXPIRED)
            case "not yet valid":
                return issue(own, NOT_YET_VALID)
            case _:
                return nodes.stranger.issue(own)


WRONG: Final = (
    Wrong("of another node", "san_mismatch", f"names {STRANGER}, not the peer"),
    Wrong("of no node", "san_mismatch", "names no node, not the peer"),
    Wrong("expired", "certificate_invalid", "has expired"),
    Wrong("not yet valid", "certificate_invalid", "is not valid yet"),
    Wrong("of an unknown issuer", "certificate_invalid", "an issuer that is not in the CA bundle"),
)


def test_an_origin_with_a_wrong_certificate_hears_nothing(side: Side, nodes: Nodes) -> None:
    """Whatever is wrong with it, no token is sent, the cursor stands, and the words say what."""
    origin = nodes.origin
    origin.assert_fact("user:ada", "likes", "what is pulled before")
    assert side.pull().code == 0
    cursor = side.cursor()
    assert cursor is not None
    withheld = origin.assert_fact("user:ada", "likes", "what nobody else may hand on")

    said = set()
    before = heard(origin)
    for number, wrong in enumerate(WRONG, 1):
        with origin.presenting(wrong.files(nodes)):
            line = side.pull().failed(wrong.reason, 6)
        assert wrong.words in line, (wrong.name, line)
        assert "nothing was sent to it" in line
        assert heard(origin) == before, wrong.name
        assert side.cursor() == cursor
        replication = side.shown(origin.node_id)["replication"]
        assert (replication["state"], replication["reason"]) == ("blocked", wrong.reason)
        mismatch = {"peer_node_id": origin.node_id, "direction": "pull"}
        assert side.mismatches() == [mismatch] * min(number, 2), wrong.name
        said.add(line)
    assert len(said) == len(WRONG)

    assert not side.has(withheld)
    assert side.pull().code == 0
    assert side.has(withheld)


def test_an_origin_without_tls_1_3_hears_nothing(side: Side, server: PageServer) -> None:
    """A peer that speaks TLS 1.2 at most is refused, and the words name the version."""
    side.receiver.adopt(server)
    files = side.nodes.pair.authority.issue(server.node_id)
    server.show(Identity(server.origin, files, ssl.TLSVersion.TLSv1_2))
    line = side.pull(server.node_id).failed("tls_failed", 6)
    assert "TLS 1.3" in line
    assert "nothing was sent to it" in line
    assert server.connections[0].broken
    assert server.requests == server.manifest_requests == []


# --- the wrong one on our side


def test_our_certificate_of_an_unknown_issuer(side: Side, nodes: Nodes) -> None:
    """A node hangs up on it, a server that says why is quoted; neither takes our token."""
    before = heard(nodes.origin)
    tls = nodes.stranger.issue(nodes.pair.receiver.node_id, trusts=nodes.pair.authority)
    result = side.pull(tls=tls)
    assert result.code in {5, 6}
    assert "our certificate" in result.stderr or "this node's certificate" in result.stderr
    assert heard(nodes.origin) == before


def refusing(files: TlsFiles) -> Greeting:
    """Make the handshake, and stay until the client has heard why it fails.

    Whoever hangs up at once may take back the alert that says so.
    """

    def greet(connection: socket.socket, _stopped: threading.Event) -> None:
        context = files.server_context()
        secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with secured:
            with pytest.raises(ssl.SSLError, match="certificate verify failed"):
                secured.do_handshake()
            while socket.socket.recv(secured, 4096):
                continue

    return greet


def test_our_certificate_of_an_unknown_issuer_where_they_say_so(
    side: Side, server: PageServer
) -> None:
    """A server that tells what it holds against our certificate is quoted."""
    side.receiver.adopt(server)
    nodes = side.nodes
    server.greeting = refusing(nodes.pair.authority.issue(server.node_id))
    tls = nodes.stranger.issue(nodes.pair.receiver.node_id, trusts=nodes.pair.authority)
    line = side.pull(server.node_id, tls=tls).failed_among("tls_failed", 6)
    assert "does not know the issuer of our certificate" in line


def test_our_certificate_of_another_node(side: Side, server: PageServer) -> None:
    """We warn about it ourselves; a peer that looks at it refuses us, and is quoted."""
    side.receiver.adopt(server)
    server.script(lambda exchange: exchange.send(401, {"detail": NOT_NAMED}))
    result = side.pull(server.node_id, tls=side.nodes.pair.authority.issue(STRANGER))
    assert NOT_NAMED in result.failed_among("unauthorized", 6)
    assert "does not name the node" in result.stderr
    assert STRANGER in result.stderr


def test_a_node_does_not_see_whom_our_certificate_names(side: Side, nodes: Nodes) -> None:
    """Its server does not show it the certificate, so it takes any of its authority.

    When this fails, nodes have begun to look, and the warning is what an operator has of it.
    """
    fact = nodes.origin.assert_fact("user:ada", "likes", "to be let in as another")
    result = side.pull(tls=nodes.pair.authority.issue(STRANGER))
    assert result.code == 0
    assert "does not name the node" in result.stderr
    assert side.has(fact)
    assert "certificate was not exposed by the ASGI server" in nodes.origin.log.read_text()


def test_without_a_certificate_nothing_is_pulled(side: Side, nodes: Nodes) -> None:
    """Neither mutual TLS nor the leave to go without: exit 3, and what must be set."""
    before = heard(nodes.origin)
    words = ("pull", "--peer", nodes.origin.node_id, "--wait", "0")
    result = side.here(*words, db=side.receiver.database, env=LOOPBACK_ALLOWED)
    line = result.failed("configuration_invalid", 3)
    for name in ("STIGMEM_TLS_CERT_PATH", "STIGMEM_TLS_KEY_PATH", "STIGMEM_TLS_CA_BUNDLE"):
        assert name in line
    assert heard(nodes.origin) == before


# --- a renewed one


def test_a_renewed_certificate_of_ours_is_used_without_a_restart(
    side: Side, server: PageServer
) -> None:
    """Requests of one pull after the renewal show the new certificate, and nothing is lost."""
    side.receiver.adopt(server)
    for _ in range(12):
        server.origin.add()
    authority, node_id = side.nodes.pair.authority, side.nodes.pair.receiver.node_id
    old, new = authority.issue(node_id), authority.issue(node_id)
    old_serial = old.serial

    def renewing(exchange: Exchange) -> None:
        old.replace(new)
        honestly(exchange)

    server.script(*[honestly] * 5, renewing)
    result = side.pull(server.node_id, tls=old, STIGMEM_REPLICATOR_PAGE_SIZE="1")
    assert result.code == 0
    seen = [request.connection.client_serial for request in server.requests]
    assert seen[:6] == [old_serial] * 6
    assert len(seen) > 10
    assert set(seen[6:]) == {new.serial}
    side.receiver.assert_clean(server)


def test_half_a_renewal_keeps_the_old_certificate(side: Side, server: PageServer) -> None:
    """A certificate without its key is not used: the old one goes on, and the log says so."""
    side.receiver.adopt(server)
    for _ in range(6):
        server.origin.add()
    authority, node_id = side.nodes.pair.authority, side.nodes.pair.receiver.node_id
    own = authority.issue(node_id)

    def half(exchange: Exchange) -> None:
        shutil.copyfile(authority.issue(node_id).certificate, own.certificate)
        honestly(exchange)

    server.script(honestly, half)
    result = side.pull(server.node_id, tls=own, STIGMEM_REPLICATOR_PAGE_SIZE="1")
    assert result.code == 0
    assert result.stderr.count("federation.tls.reload_failed") == 1
    assert {request.connection.client_serial for request in server.requests} == {own.serial}
    side.receiver.assert_clean(server)


# --- the wrong address


def test_a_peer_at_http_gets_no_connection(side: Side, server: PageServer) -> None:
    side.receiver.adopt(server, url=server.url_at("127.0.0.1", tls=False))
    line = side.pull(server.node_id).failed("unsafe_address", 6)
    assert "it is not https" in line
    assert server.connections == []


def test_a_peer_outside_the_allowed_networks_gets_no_connection(
    side: Side, server: PageServer
) -> None:
    side.receiver.adopt(server)
    result = side.pull(server.node_id, STIGMEM_REPLICATOR_ALLOWED_NETWORKS="10.0.0.0/8")
    line = result.failed("unsafe_address", 6)
    assert "allowed_networks" in line
    assert server.connections == []
