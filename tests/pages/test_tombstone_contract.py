"""The page server serves tombstones as real nodes of both versions do: whole answers compared.

What is not here was compared by hand: a node whose trust mode is off takes any bearer value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.nodes.environment import node_environment
from tests.nodes.node import Node
from tests.nodes.tombstones import capability_token, revoke, take_back, tombstone
from tests.pages.capabilities import Capabilities
from tests.pages.doubles import double_of, plant
from tests.pages.origin import Origin, Raw
from tests.pages.server import TOMBSTONES, PageServer
from tests.pages.tombstones import (
    add_revocation,
    add_tombstone,
    make_revocation,
    make_tombstone,
    serve_revocation,
    serve_tombstone,
    tombstone_page,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

START = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = (1, 2, 2, 2, 3)
"""When the planted ones were made, seconds after the start; three at once."""


@dataclass(frozen=True, slots=True)
class Real:
    """A real node, and an origin with its key, its id and the records that it has."""

    node: Node
    double: Origin
    version: int

    def ask(self, bearer: str | None, **query: str | int) -> httpx.Response:
        return ask(self.node.url, bearer, **query)

    def page(self, token: str, query: dict[str, str | int]) -> object:
        headers = {"Authorization": f"Bearer {token}"}
        answer = self.node.client.get(TOMBSTONES, params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


def ask(url: str, bearer: str | None, **query: str | int) -> httpx.Response:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return httpx.get(f"{url}{TOMBSTONES}", params=query, headers=headers, trust_env=False)


@pytest.fixture(scope="module", params=["0.9.0a10", "0.9.0a12"])
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Real]:
    folder: Path = tmp_path_factory.mktemp("tombstones") / "node"
    with Node(node_environment(request.param), folder, name="origin") as node:
        double = double_of(node)
        give_both(node, double)
        yield Real(node, double, 1 if request.param == "0.9.0a10" else 2)


def give_both(node: Node, double: Origin) -> None:
    """Have the same records at both: some made by the double, some through the node's API."""
    for number, second in enumerate(SECONDS):
        at = (START + timedelta(seconds=second)).isoformat()
        made = add_tombstone(double, f"gone:{number}", "public", created_at=at, reason="asked")
        revoked = add_revocation(double, made["id"], created_at=at)
        plant(node, tombstones=[made], revocations=[revoked])
    for hold in (False, True):
        record = tombstone(node, f"held:{hold}", legal_hold=hold)
        revoked = revoke(node, record["id"])
        again = make_tombstone(
            double,
            record["entity_uri"],
            created_at=record["created_at"],
            legal_hold=hold,
            tombstone_id=record["id"],
        )
        withdrawn = make_revocation(
            double,
            record["id"],
            created_at=revoked["created_at"],
            revocation_id=revoked["id"],
        )
        serve_tombstone(double, again)
        serve_revocation(double, withdrawn)


@pytest.fixture(scope="module")
def token(real: Real) -> str:
    return capability_token(real.node)


@pytest.fixture
def server(real: Real) -> Iterator[PageServer]:
    with PageServer() as pages:
        pages.tombstone_endpoint.version = real.version
        pages.tombstone_endpoint.demands_capability = True
        yield pages


SINCES: tuple[str | None, ...] = (
    None,
    "",
    "2026",
    *((START + timedelta(seconds=second)).isoformat() for second in range(4)),
    (START + timedelta(seconds=2)).isoformat().replace("+00:00", "Z"),
    (START + timedelta(seconds=2, microseconds=1)).isoformat(),
    "2099-01-01T00:00:00+00:00",
    "zebra",
)


@pytest.mark.parametrize("limit", [-8, -2, -1, 0, 1, 2, 3, 7, 8, None])
def test_pages_are_a_nodes_to_the_last_byte(real: Real, token: str, limit: int | None) -> None:
    """The same records after the same `since`, cut alike; signatures, cursor and all."""
    for since in SINCES:
        query: dict[str, str | int] = {} if since is None else {"since": since}
        if limit is not None:
            query["limit"] = limit
        assert real.page(token, query) == tombstone_page(
            real.double, since=since, limit=200 if limit is None else limit, version=real.version
        ), since


@pytest.mark.parametrize("limit", ["many", "", "1.5"])
def test_a_limit_that_is_no_number_comes_before_the_token(
    real: Real, server: PageServer, limit: str
) -> None:
    """It is answered with 422 and its place, also for who may not ask."""
    for url in (real.node.url, server.url):
        answer = ask(url, None, limit=limit)
        (place,) = answer.json()["detail"]
        assert answer.status_code == 422
        assert (place["loc"], place["input"]) == (["query", "limit"], limit)


def test_bearer_values_are_refused_alike(real: Real, server: PageServer) -> None:
    """Who shows nothing, a peer token, noise or half a capability gets a node's answer."""
    for bearer in (None, "a.b.c", "noise", '{"verb":"tombstone:read"}', '{"verb":"x"}', '{"verb"'):
        real_answer, answer = real.ask(bearer), ask(server.url, bearer)
        assert told(answer) == told(real_answer)
    for header in ("bearer noise", "Basic noise", "Bearer"):
        for url in (real.node.url, server.url):
            answer = httpx.get(f"{url}{TOMBSTONES}", headers={"Authorization": header})
            assert answer.json() == {"detail": "capability token required"}


def test_capabilities_are_judged_alike(real: Real, server: PageServer, token: str) -> None:
    """A token that is good, for something else, past its end, taken back, changed or unknown."""
    capabilities = server.tombstone_endpoint.capabilities
    ours = capabilities.issue(server.origin)
    theirs_revoked, ours_revoked = issued(real.node), capabilities.issue(server.origin)
    take_back(real.node, theirs_revoked)
    capabilities.revoke(ours_revoked)
    for at_the_node, at_the_server in (
        (token, ours),
        (
            issued(real.node, verb="facts:read"),
            capabilities.issue(server.origin, verb="facts:read"),
        ),
        (issued(real.node, verb="x, admin"), capabilities.issue(server.origin, verb="x, admin")),
        (issued(real.node, ttl_seconds=-5), capabilities.issue(server.origin, ttl_s=-5)),
        (theirs_revoked, ours_revoked),
        (token.replace("//tombstones", "//facts"), ours.replace("//tombstones", "//facts")),
        (Capabilities().issue(real.double), Capabilities().issue(server.origin)),
    ):
        answer, real_answer = ask(server.url, at_the_server), real.ask(at_the_node)
        assert refusal(answer, at_the_server) == refusal(real_answer, at_the_node)


def issued(node: Node, **changed: object) -> str:
    """A capability token through the node's API, which costs less than its command."""
    body = {
        "issuer": node.entity_uri,
        "subject": node.entity_uri,
        "verb": "tombstone:read",
        "object": "stigmem://tombstones",
        **changed,
    }
    answer = node.client.post("/v1/federation/capability-tokens", json=body, headers=node.admin)
    token: str = answer.json()["token_json"]
    return token


def told(answer: httpx.Response) -> tuple[int, object]:
    """The status and what it comes with, which is a text where a node fails."""
    return answer.status_code, answer.text if answer.status_code == 500 else answer.json()


def refusal(answer: httpx.Response, bearer: str) -> str:
    """What a token is told, without what is its own; of a page only that there is one."""
    if answer.status_code == 200:
        return "a page"
    token: Raw = json.loads(bearer)
    assert answer.status_code == 401
    detail: str = answer.json()["detail"]
    return detail.replace(token["token_id"], "<id>").replace(token["expiry"], "<expiry>")
