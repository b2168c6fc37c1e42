"""The page server answers as a real node does: the same questions put to both."""

from __future__ import annotations

import itertools
import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.nodes.environment import node_environment
from tests.nodes.fact_corpus import plain_facts
from tests.nodes.node import Node
from tests.pages.origin import (
    Origin,
    Raw,
    base64url,
    content_id,
    from_base64url,
    now_ms,
    public_text,
    stored_text,
)
from tests.pages.server import FACTS, MANIFEST, PageServer, Reader

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FACT_COUNT = 7
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who asks, registered at both origins under the same name and key."""

    node_id: str
    key: Ed25519PrivateKey
    status: str = "active"
    scopes: frozenset[str] = frozenset({"company", "public"})


ACTIVE = Caller("stigmem:node:active", Ed25519PrivateKey.generate())
PENDING = Caller("stigmem:node:pending", Ed25519PrivateKey.generate(), "pending_approval")
COMPANY = Caller(
    "stigmem:node:company", Ed25519PrivateKey.generate(), scopes=frozenset({"company", "team"})
)
UNKNOWN = Caller("stigmem:node:unknown", Ed25519PrivateKey.generate())


@dataclass(frozen=True, slots=True)
class Subject:
    """One origin that is asked: the page server or a real node."""

    url: str
    node_id: str

    def ask(self, headers: dict[str, str] | None = None, **query: str | int) -> httpx.Response:
        return httpx.get(f"{self.url}{FACTS}", params=query, headers=headers, trust_env=False)

    def claims(self, caller: Caller = ACTIVE) -> Raw:
        now = now_ms()
        return {
            "iss": caller.node_id,
            "sub": self.node_id,
            "iat": now,
            "exp": now + 120_000,
            "nonce": str(uuid.uuid4()),
            "scopes": sorted(caller.scopes),
        }

    def page(self, caller: Caller = ACTIVE, **query: str | int) -> Raw:
        answer = self.ask(bearer(self.claims(caller), caller), **query)
        assert answer.status_code == 200, answer.text
        page: Raw = answer.json()
        return page


def token(claims: Raw, caller: Caller = ACTIVE) -> str:
    head = base64url(b'{"alg":"EdDSA","typ":"JWT"}')
    signed = f"{head}.{base64url(json.dumps(claims).encode())}"
    return f"{signed}.{base64url(caller.key.sign(signed.encode()))}"


def bearer(claims: Raw, caller: Caller = ACTIVE) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(claims, caller)}"}


@pytest.fixture(scope="module")
def real_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("contract")
    with Node(node_environment(), folder / "node", name="origin") as node:
        for caller in (ACTIVE, PENDING, COMPANY):
            _register(node, caller)
        for number, fact in enumerate(plain_facts(FACT_COUNT, namespace="contract")):
            scope = "company" if number % 2 else "public"
            node.post_fact({**fact.request(), "scope": scope})
        yield node


def _register(node: Node, caller: Caller) -> None:
    now = datetime.now(UTC).isoformat()
    with closing(sqlite3.connect(node.database, timeout=30)) as connection, connection:
        connection.execute(
            "INSERT INTO peers (id, node_id, node_url, federation_pubkey, allowed_scopes, status,"
            " established_at, declaration_sig, signed_at) VALUES (?,?,?,?,?,?,?,?,?)",
            [
                str(uuid.uuid4()),
                caller.node_id,
                "http://127.0.0.1:1",
                public_text(caller.key),
                json.dumps(sorted(caller.scopes)),
                caller.status,
                now,
                "signature",
                now,
            ],
        )


@pytest.fixture(scope="module")
def page_server() -> Iterator[PageServer]:
    with PageServer() as pages:
        for caller in (ACTIVE, PENDING, COMPANY):
            pages.know(
                Reader(caller.node_id, public_text(caller.key), caller.scopes, caller.status)
            )
        for number in range(FACT_COUNT):
            pages.origin.add(scope="company" if number % 2 else "public")
        yield pages


@pytest.fixture(params=["page server", "real node"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "real node":
        node: Node = request.getfixturevalue("real_node")
        return Subject(node.url, node.node_id)
    pages: PageServer = request.getfixturevalue("page_server")
    return Subject(pages.url, pages.node_id)


# --- tokens


@pytest.mark.parametrize("header", [None, "Basic abc", "Bearer"])
def test_without_a_bearer_token_it_says_so(subject: Subject, header: str | None) -> None:
    """A request without a bearer token is told that one is required."""
    answer = subject.ask({} if header is None else {"Authorization": header})
    assert (answer.status_code, answer.json()) == (401, {"detail": "peer token required"})


@pytest.mark.parametrize("text", ["garbage", "a.b.c", "e30.W10.e30", "W10.e30.e30"])
def test_a_token_that_does_not_decode_is_malformed(subject: Subject, text: str) -> None:
    """What is no JWT is called malformed, whoever sent it."""
    answer = subject.ask({"Authorization": f"Bearer {text}"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "malformed token"})


@pytest.mark.parametrize(
    ("caller", "detail"), [(UNKNOWN, "peer not registered"), (PENDING, "peer_not_approved")]
)
def test_only_an_approved_peer_is_served(subject: Subject, caller: Caller, detail: str) -> None:
    """Who is not registered, or not approved yet, is told which of the two."""
    answer = subject.ask(bearer(subject.claims(caller), caller))
    assert (answer.status_code, answer.json()) == (401, {"detail": detail})


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        ({"exp": -MINUTE_MS}, "token_expired"),
        ({"sub": "stigmem:node:another"}, "invalid_sub"),
        ({"iat": MINUTE_MS}, "iat_in_future"),
        ({"iat": -25 * 60 * MINUTE_MS}, "iat_too_old"),
        ({"nbf": MINUTE_MS}, "nbf_in_future"),
        ({"nonce": ""}, "missing_nonce"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_claim_is_checked(subject: Subject, changed: Raw, detail: str) -> None:
    """Each claim that does not hold is refused with a word of its own (times from now, in ms)."""
    claims = subject.claims()
    for name, value in changed.items():
        claims[name] = now_ms() + value if isinstance(value, int) else value
    answer = subject.ask(bearer(claims))
    assert (answer.status_code, answer.json()) == (401, {"detail": detail})


def test_a_signature_of_another_key_is_refused(subject: Subject) -> None:
    """A token signed by another key than the registered one is refused."""
    answer = subject.ask(bearer(subject.claims(), COMPANY))
    assert (answer.status_code, answer.json()) == (401, {"detail": "invalid_signature"})


def test_another_algorithm_is_refused(subject: Subject) -> None:
    """A token that is not signed with EdDSA is refused, whatever its signature."""
    head = base64url(b'{"alg":"none","typ":"JWT"}')
    text = f"{head}.{base64url(json.dumps(subject.claims()).encode())}."
    answer = subject.ask({"Authorization": f"Bearer {text}"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "invalid_token"})


def test_the_margin_of_the_clocks_is_half_a_minute(subject: Subject) -> None:
    """A token that ended ten seconds ago, or begins in ten seconds, is still good."""
    late = {**subject.claims(), "exp": now_ms() - 10_000}
    early = {**subject.claims(), "iat": now_ms() + 10_000}
    assert subject.ask(bearer(late)).status_code == 200
    assert subject.ask(bearer(early)).status_code == 200


def test_a_token_is_good_for_one_request(subject: Subject) -> None:
    """The second request with one token is refused, whatever it asks."""
    headers = bearer(subject.claims())
    assert subject.ask(headers).status_code == 200
    again = subject.ask(headers, limit=1)
    assert (again.status_code, again.json()) == (401, {"detail": "nonce_already_seen"})


def test_a_bad_request_uses_its_token_up(subject: Subject) -> None:
    """The nonce is consumed before the query is looked at."""
    headers = bearer(subject.claims())
    assert subject.ask(headers, limit=0).status_code == 422
    assert subject.ask(headers).json() == {"detail": "nonce_already_seen"}


# --- queries


@pytest.mark.parametrize("limit", ["0", "501", "-1", "many", "1.5", ""])
def test_a_limit_out_of_bounds_is_unprocessable(subject: Subject, limit: str) -> None:
    """A limit that is not a whole number from 1 to 500 is answered with 422 and the place."""
    answer = subject.ask(bearer(subject.claims()), limit=limit)
    assert answer.status_code == 422
    (told,) = answer.json()["detail"]
    assert told["loc"] == ["query", "limit"]
    assert told["input"] == limit


def test_a_bad_limit_without_a_token_is_a_bad_token(subject: Subject) -> None:
    """Who may ask is looked at before what is asked."""
    assert subject.ask({}, limit=0).status_code == 401


def test_without_a_common_scope_nothing_is_permitted(subject: Subject) -> None:
    """Scopes of token and registry that have nothing in common are answered with 403."""
    for scopes in ([], ["local"], ["team"]):
        answer = subject.ask(bearer({**subject.claims(COMPANY), "scopes": scopes}, COMPANY))
        assert (answer.status_code, answer.json()) == (403, {"detail": "no permitted scopes"})


def test_a_scope_that_is_not_permitted_is_refused(subject: Subject) -> None:
    """Asking for a scope beyond the agreed ones is answered with 403."""
    answer = subject.ask(bearer(subject.claims(COMPANY), COMPANY), scope="public")
    assert answer.status_code == 403
    assert answer.json() == {"detail": "scope not permitted for this peer"}


def test_only_facts_of_permitted_scopes_are_served(subject: Subject) -> None:
    """The registry, the token and the query each narrow the scopes that are served."""

    def scopes(page: Raw) -> set[str]:
        return {entry["fact"]["scope"] for entry in page["facts"]}

    assert scopes(subject.page()) == {"company", "public"}
    assert scopes(subject.page(COMPANY)) == {"company"}
    assert scopes(subject.page(scope="public")) == {"public"}


# --- paging


@pytest.mark.parametrize("limit", [1, 2, 3, FACT_COUNT - 1, FACT_COUNT, 500])
def test_paging_reads_everything_once_in_text_order(subject: Subject, limit: int) -> None:
    """Pages follow each other by their cursors, hold as many as asked for, and end on has_more."""
    stamps: list[str] = []
    after: dict[str, str] = {}
    for asked in itertools.count(1):
        page = subject.page(ACTIVE, limit=limit, **after)
        got = [entry["fact"]["hlc"] for entry in page["facts"]]
        assert len(got) == min(limit, FACT_COUNT - len(stamps))
        assert page["cursor"] == got[-1]
        stamps += got
        if not page["has_more"]:
            break
        assert asked < 2 * FACT_COUNT
        after = {"cursor": page["cursor"]}
    assert len(stamps) == FACT_COUNT
    assert stamps == sorted(set(stamps))


def test_a_cursor_is_exclusive_and_any_text(subject: Subject) -> None:
    """What is served is strictly greater as text, also after a cursor that was never given."""
    stamps = [entry["fact"]["hlc"] for entry in subject.page()["facts"]]
    third = stamps[2]
    assert subject.page(cursor=third, limit=1)["facts"][0]["fact"]["hlc"] == stamps[3]
    assert subject.page(cursor=third[:-1], limit=1)["facts"][0]["fact"]["hlc"] == third
    assert subject.page(cursor="", limit=1)["facts"][0]["fact"]["hlc"] == stamps[0]


@pytest.mark.parametrize("cursor", ["9", "zebra", "☕"])
def test_past_the_end_the_cursor_comes_back(subject: Subject, cursor: str) -> None:
    """An empty page says that there is no more and returns the cursor that it was asked with."""
    page = subject.page(cursor=cursor)
    assert page == {"v": 2, "facts": [], "cursor": cursor, "has_more": False}


# --- entries


def test_entries_have_the_same_shape(page_server: PageServer, real_node: Node) -> None:
    """Every object of an entry holds the same keys at both origins."""
    pages = Subject(page_server.url, page_server.node_id).page(limit=1)
    real = Subject(real_node.url, real_node.node_id).page(limit=1)
    assert keys(pages) == keys(real)


def keys(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {name: keys(item) for name, item in sorted(value.items())}
    if isinstance(value, list):
        return [keys(item) for item in value[:1]]
    return None


def test_a_real_nodes_entry_is_built_again_byte_for_byte(real_node: Node) -> None:
    """From a node's key and a fact that it served, the same id, origin block and signature come."""
    (row,) = real_node.query("SELECT value FROM node_meta WHERE key = 'federation_privkey'")
    double = Origin(real_node.entity_uri, node_id=real_node.node_id)
    double.key = Ed25519PrivateKey.from_private_bytes(from_base64url(row["value"]))
    for served in Subject(real_node.url, real_node.node_id).page()["facts"]:
        fact, origin = served["fact"], served["origin"]
        kind, value = fact["value"]["type"], fact["value"]["v"]
        assert content_id(fact, stored_text(kind, value)) == fact["cid"]
        assert double.origin_block(fact) == origin
        assert double.signature(fact, origin) == served["origin_sig"]


def test_a_real_nodes_manifest_has_the_same_keys(page_server: PageServer, real_node: Node) -> None:
    """A manifest holds the same keys at both origins, and names the key that signs facts."""
    pages = httpx.get(f"{page_server.url}{MANIFEST}", trust_env=False).json()
    real = httpx.get(f"{real_node.url}{MANIFEST}", trust_env=False).json()
    assert pages.keys() == real.keys()
    assert real["public_key"] == real_node.public_key
    assert pages["public_key"] == public_text(page_server.origin.key)
