"""Names and addresses: what a name answers when it is asked is what counts, and nothing else.

The command runs in this process with a table in the place of the system's resolver.  Servers
listen where the unsafe answers lead, and count the connections that come.  Which single address
is unsafe is for the unit tests of the addresses.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.page_pulls import assert_untouched, settings
from tests.e2e.test_who_answers import honest_once
from tests.nodes.certificates import Authority, TlsFiles
from tests.pages.receiver import Receiver
from tests.pages.server import HOLD_S, PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.pages.fixtures", "tests.e2e.here")

PUBLIC: Final = "93.184.215.14"
NAME: Final = "peer.example"


class Names:
    """A resolver by table: each name has its answers in turn, of which the last stays."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._answers: dict[str, list[Sequence[str]]] = {}
        self._held: dict[str, threading.Event] = {}

    def set(self, name: str, *answers: Sequence[str]) -> None:
        """Say what a name answers, from now on."""
        self._answers[name] = list(answers)

    def hold(self, name: str) -> threading.Event:
        """Have nothing come back for a name until the event is set."""
        return self._held.setdefault(name, threading.Event())

    def look_up(self, host: str, port: int | str | None, *_: Any, **__: Any) -> list[Any]:  # noqa: ANN401 - as the real one
        """Take the place of `socket.getaddrinfo`."""
        self.asked[host] += 1
        if host in self._held:
            self._held[host].wait(HOLD_S)
        answers = self._answers.get(host, [[host]] if _is_address(host) else None)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [_information(address, int(port or 0)) for address in found]

    def let_go(self) -> None:
        for event in self._held.values():
            event.set()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _information(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The table in the place of the system's resolver."""
    table = Names()
    monkeypatch.setattr(socket, "getaddrinfo", table.look_up)
    yield table
    table.let_go()


UNSAFE: Final[dict[str, Sequence[str]]] = {
    "loopback": ["127.0.0.1"],
    "loopback-of-six": ["::1"],
    "mapped": ["::ffff:127.0.0.1"],
    "compatible": ["::127.0.0.1"],
    "six-to-four": ["2002:7f00:1::"],
    "translated": ["64:ff9b::7f00:1"],
    "unspecified": ["0.0.0.0"],  # noqa: S104 - nothing listens there, it is refused
    "unspecified-of-six": ["::"],
    "link-local": ["169.254.169.254"],
    "link-local-of-six": ["fe80::1"],
    "link-local-zoned": ["fe80::1%lo"],
    "private": ["10.0.0.1"],
    "unique-local": ["fd00::1"],
    "carrier": ["100.64.0.1"],
    "public-first": [PUBLIC, "127.0.0.1"],
    "public-last": ["127.0.0.1", PUBLIC],
    "public-and-mapped": [PUBLIC, "::ffff:127.0.0.1"],
}
"""Names by what is wrong with their answer; most lead to a server that listens on loopback."""


def test_a_name_that_leads_to_an_unsafe_address_gets_no_connection(
    here: Here, receiver: Receiver, authority: Authority, certificate: TlsFiles, names: Names
) -> None:
    """One unsafe address among the answers is enough, and a public answer of yesterday none.

    Each name is resolved once a request, and the servers that listen there see no connection.
    """
    answers = {**UNSAFE, "public-at-approval": ["127.0.0.1"]}
    with ExitStack() as stack:
        peers = {name: stack.enter_context(PageServer(authority)) for name in answers}
        for name, server in peers.items():
            receiver.adopt(server, url=server.url_at(f"{name}.example"))
            names.set(f"{name}.example", answers[name])
        names.set("public-at-approval.example", [PUBLIC], ["127.0.0.1"])
        assert socket.getaddrinfo("public-at-approval.example", 443)[0][4][0] == PUBLIC
        names.asked.clear()
        words = ("pull", "--all", "--json", "--wait", "0")
        result = here(*words, db=receiver.database, env=certificate.environ)
        assert result.code == 6, result.stderr
        told = {item["peer"]: item["error"]["reason"] for item in json.loads(result.stdout)}
        for name, server in peers.items():
            assert told[server.node_id] == "unsafe_address", name
            # Once for its tombstones, once for its facts.
            assert names.asked[f"{name}.example"] == 2, name
            assert server.connections == [], name
            assert receiver.state(server) == ("blocked", "unsafe_address"), name
            assert_untouched(receiver, server, None)


def test_a_name_that_changes_its_answer_between_connections(
    here: Here, receiver: Receiver, authority: Authority, certificate: TlsFiles, names: Names
) -> None:
    """Each connection is judged anew: what is private now gets none, whatever it was before.

    The page that came from the allowed address is kept.
    """
    with PageServer(authority, ("127.0.0.2", 0)) as allowed:
        with PageServer(authority, ("127.0.0.1", allowed.port)) as trap:
            names.set(NAME, ["127.0.0.2"], ["127.0.0.1"])
            receiver.adopt(allowed, url=allowed.url_at(NAME))
            allowed.origin.add_many(4)
            allowed.always = honest_once
            env = certificate.environ | settings(page_size=2, allowed_networks="127.0.0.2/32")
            words = ("pull", "--peer", allowed.node_id, "--wait", "0")
            result = here(*words, db=receiver.database, env=env)
            line = result.failed("unsafe_address", 6)
            assert "127.0.0.1" in line
            assert trap.connections == []
        assert len(allowed.requests) == 1
        assert len(receiver.fact_ids(allowed)) == 2
        assert receiver.cursor(allowed) == allowed.origin.rows[1].hlc


def test_the_connection_goes_to_the_resolved_address_under_the_name(
    here: Here, receiver: Receiver, tls_server: PageServer, mutual: dict[str, str], names: Names
) -> None:
    """An allowed address is connected to as it is, with Host and SNI of the name.

    There is one resolution for each connection.
    """
    names.set(NAME, ["127.0.0.1"])
    receiver.adopt(tls_server, url=tls_server.url_at(NAME))
    tls_server.origin.add_many(6)
    tls_server.script(honest_once, honest_once)
    env = mutual | settings(page_size=2)
    result = here("pull", "--peer", tls_server.node_id, db=receiver.database, env=env)
    assert (result.code, result.stderr) == (0, "")
    assert len(receiver.assert_clean(tls_server).admitted) == 6
    assert [connection.server_name for connection in tls_server.connections] == [NAME] * 3
    hosts = {request.headers["Host"] for request in tls_server.requests}
    assert hosts == {f"{NAME}:{tls_server.port}"}
    assert names.asked == {NAME: 3}


def test_a_second_address_is_tried_when_the_first_takes_no_connection(
    here: Here, receiver: Receiver, tls_server: PageServer, mutual: dict[str, str], names: Names
) -> None:
    """Of several allowed addresses the first that takes the connection serves."""
    names.set(NAME, ["127.0.0.3", "127.0.0.1"])
    receiver.adopt(tls_server, url=tls_server.url_at(NAME))
    tls_server.origin.add()
    result = here("pull", "--peer", tls_server.node_id, db=receiver.database, env=mutual)
    assert (result.code, result.stderr) == (0, "")
    assert len(receiver.assert_clean(tls_server).admitted) == 1
    assert names.asked == {NAME: 1}


def test_a_name_that_does_not_come_back_holds_up_nobody_else(
    here: Here, receiver: Receiver, authority: Authority, mutual: dict[str, str], names: Names
) -> None:
    """A resolver that hangs, or knows nothing, is `unreachable` to its own peer alone."""
    names.hold("lost.example")
    names.set(NAME, ["127.0.0.1"])
    with ExitStack() as stack:
        lost, unknown, honest = (stack.enter_context(PageServer(authority)) for _ in range(3))
        urls = ("lost.example", "unknown.example", NAME)
        for server, name in zip((lost, unknown, honest), urls, strict=True):
            receiver.adopt(server, url=server.url_at(name))
            server.origin.add()
        words = ("pull", "--all", "--json", "--wait", "0")
        env = mutual | settings(connect_timeout_s=0.5)
        result = here(*words, db=receiver.database, env=env)
        assert result.code == 5
        errors = {item["peer"]: item["error"] for item in json.loads(result.stdout)}
        assert errors[honest.node_id] is None
        assert errors[lost.node_id]["reason"] == "unreachable"
        assert errors[unknown.node_id]["reason"] == "unreachable"
        assert "unknown.example does not resolve" in errors[unknown.node_id]["message"]
        assert len(receiver.assert_clean(honest).admitted) == 1


def test_a_manifest_is_fetched_under_the_same_rules(
    here: Here, receiver: Receiver, authority: Authority, certificate: TlsFiles, names: Names
) -> None:
    """An organisation's name that leads to a private address gets no connection either.

    The stored manifest is still good, so the pull goes on.
    """
    with PageServer(authority) as server, PageServer(authority, ("127.0.0.2", 0)) as trap:
        names.set("organisation.example", ["127.0.0.2"])
        origin = server.origin
        origin.entity_uri = trap.url_at("organisation.example")
        origin.manifest = origin.signed_manifest()
        receiver.adopt(server)
        yesterday = datetime.now(UTC) - timedelta(days=2)
        receiver.store_manifest(origin.manifest, updated_at=yesterday.isoformat())
        origin.add()
        env = certificate.environ | settings(allowed_networks="127.0.0.1/32")
        result = here("pull", "--peer", server.node_id, db=receiver.database, env=env)
        assert result.code == 0, result.stderr
        assert "federation.manifest.refresh_failed" in result.stderr
        assert "unsafe_address" in result.stderr
        assert names.asked["organisation.example"] == 1
        assert trap.connections == []
        assert len(receiver.assert_clean(server).admitted) == 1
