"""What the page server says of tombstones: its signatures, its pages, its tokens, its backlog."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.pages.backlog import add_backlog
from tests.pages.capabilities import Capabilities
from tests.pages.misbehaviour import status
from tests.pages.origin import Notice, Origin, Raw, from_base64url, key_id_of
from tests.pages.server import TOMBSTONES, PageServer
from tests.pages.tombstone_endpoint import CAPABILITY, NOTHING, OTHER, PEER_TOKEN
from tests.pages.tombstone_poison import (
    TOMBSTONE_POISONS,
    serve_poison,
    stranger,
    tombstone_poison,
)
from tests.pages.tombstones import (
    add_revocation,
    add_revocations,
    add_tombstone,
    add_tombstones,
    make_revocation,
    make_tombstone,
    revocation_body,
    revocation_entry,
    revocation_tuple,
    tombstone_body,
    tombstone_entry,
    tombstone_page,
    tombstone_tuple,
)

ENTITY = "stigmem://acme.example/user/bob"
TOMBSTONE_ID = "tomb_aaaaaaaa-0000-4000-8000-000000000001"
REVOCATION_ID = "tombrevoke_bbbbbbbb-0000-4000-8000-000000000002"

EXPECTED = {
    "tombstone": "PPK0Vl7La2rBrE8aKTT3MMvweP6cSZD9DuDW7xeS47Ed1wt8V3R5d6vcR_ID9v48C1i22DO50q_eeU"
    "RiywPOCw",
    "revocation": "tzpcyzkD08Ilchr1UUxMYUFZgvl4OQ1MRFm3mgE4AZd08vO3NeESmIWUM_vddr4p80ZC1S4qutI6Fz"
    "Un4KmIAA",
    "tombstone's origin": "bZQfwMhrrRf_27xWkrDACtkWdx_RRYV7vlPRgMzMF5KsOvwhzQwe83e48Q3ZPdGAYIztU3"
    "TfXZwiujwLW2TUCQ",
    "revocation's origin": "M0b3TYNIQGuhSi3JwHJ4fRb1uDDJR1JNRspsmIPXcUqPjFcP3i0Bb_XJIGGqN60PnYKUw"
    "pOvZj_GxlNcKQwMCg",
}
"""The signatures that the protocol gives for the key whose seed counts from 0 to 31."""


@pytest.fixture
def origin() -> Origin:
    return Origin("https://origin.example", node_id="stigmem:node:origin-1")


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer() as pages:
        yield pages


def verifies(key: Ed25519PrivateKey, signature: str, body: bytes) -> bool:
    try:
        key.public_key().verify(from_base64url(signature), body)
    except InvalidSignature:
        return False
    return True


# --- signatures


def test_records_and_envelopes_are_signed_as_the_protocol_has_it(origin: Origin) -> None:
    """With the key and the values of the protocol's vectors, its four signatures come out."""
    origin.key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert key_id_of(origin.key) == "56475aa75463474c"
    tombstone = make_tombstone(
        origin,
        ENTITY,
        "public",
        created_at="2026-01-02T03:04:05.678901+00:00",
        tombstone_id=TOMBSTONE_ID,
    )
    revocation = make_revocation(
        origin,
        TOMBSTONE_ID,
        created_at="2026-01-03T03:04:05.678901+00:00",
        revocation_id=REVOCATION_ID,
    )
    assert {
        "tombstone": tombstone["signature"],
        "revocation": revocation["signature"],
        "tombstone's origin": tombstone_entry(origin, tombstone)["origin_sig"],
        "revocation's origin": revocation_entry(origin, revocation)["origin_sig"],
    } == EXPECTED


def test_another_issuer_signs_its_records_and_the_origin_their_envelopes(origin: Origin) -> None:
    """The record names its issuer and is signed by it; the envelope is the origin's anyway."""
    issuer = Origin("https://issuer.example")
    record = add_tombstone(origin, ENTITY, issuer=issuer)
    (entry,) = tombstone_page(origin, since=None, limit=1)["tombstones"]
    assert record["signed_by"] == issuer.entity_uri
    assert verifies(issuer.key, record["signature"], tombstone_body(record))
    assert verifies(origin.key, entry["origin_sig"], tombstone_tuple(record, entry["origin"]))


# --- pages


def at(second: int) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).isoformat()


def ids(page: Raw, name: str, record: str) -> list[str]:
    return [entry[record]["id"] for entry in page[name]]


def test_a_page_is_what_is_after_since_in_the_order_of_the_text(origin: Origin) -> None:
    """Both lists follow `created_at` as text, strictly after `since`, whenever they were added."""
    made = [add_tombstone(origin, ENTITY, created_at=at(n)) for n in (3, 1, 2)]
    revoked = add_revocation(origin, made[0]["id"], created_at=at(3))
    page = tombstone_page(origin, since=at(1), limit=200)
    assert ids(page, "tombstones", "tombstone") == [made[2]["id"], made[0]["id"]]
    assert ids(page, "revocations", "revocation") == [revoked["id"]]
    assert (page["v"], page["cursor"], page["has_more"]) == (2, at(3), False)


def test_each_list_is_cut_at_the_limit_and_only_tombstones_say_so(origin: Origin) -> None:
    """More revocations than the limit are not told of; the cursor is the last tombstone's."""
    made = add_tombstones(origin, 3)
    add_revocations(origin, [record["id"] for record in made[:2]])
    cut = tombstone_page(origin, since=None, limit=1)
    assert (len(cut["tombstones"]), len(cut["revocations"]), cut["has_more"]) == (1, 1, True)
    assert cut["cursor"] == made[0]["created_at"]
    assert tombstone_page(origin, since=None, limit=3)["has_more"] is False


def test_a_page_without_tombstones_has_no_cursor(origin: Origin) -> None:
    """The cursor is null where there is no tombstone, however many revocations there are."""
    add_revocation(origin, TOMBSTONE_ID)
    page = tombstone_page(origin, since=None, limit=200)
    assert (len(page["revocations"]), page["cursor"]) == (1, None)


def test_wire_version_1_has_records_and_nothing_around_them(origin: Origin) -> None:
    """The older dialect has neither a version nor envelopes, and never says that there is more."""
    record = add_tombstone(origin, ENTITY)
    revoked = add_revocation(origin, record["id"])
    assert tombstone_page(origin, since=None, limit=200, version=1) == {
        "tombstones": [record],
        "revocations": [revoked],
        "cursor": record["created_at"],
    }


def test_many_share_their_time_in_groups(origin: Origin) -> None:
    """Of a thousand in groups of 300 there are four times, in order."""
    times = [record["created_at"] for record in add_tombstones(origin, 1_000, group=300)]
    assert times == sorted(times)
    assert [times.count(time) for time in sorted(set(times))] == [300, 300, 300, 100]


# --- the path


def ask(server: PageServer, bearer: str | None = "any", **query: str | int) -> httpx.Response:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return httpx.get(f"{server.url}{TOMBSTONES}", params=query, headers=headers, trust_env=False)


def refusal(answer: httpx.Response) -> str:
    assert answer.status_code == 401, answer.text
    detail: str = answer.json()["detail"]
    return detail


def test_every_request_is_written_down(server: PageServer) -> None:
    """With what it asked for and the kind of its bearer value, and beside those for facts."""
    ask(server, "a.b.c")
    ask(server, "noise", since=at(1), limit=7)
    ask(server, server.tombstone_endpoint.capabilities.issue(server.origin))
    ask(server, None)
    requests = server.tombstone_endpoint.requests
    assert [request.bearer for request in requests] == [PEER_TOKEN, OTHER, CAPABILITY, NOTHING]
    assert [(request.since, request.limit) for request in requests[:2]] == [
        (None, 200),
        (at(1), 7),
    ]
    assert server.requests == []


def test_a_script_answers_and_then_it_is_honest_again(server: PageServer) -> None:
    """A behaviour of the facts path's kind takes the place of one answer."""
    server.tombstone_endpoint.script(status(503))
    assert [ask(server).status_code for _ in range(2)] == [503, 200]


def test_a_capability_is_demanded_where_it_is_switched_on(server: PageServer) -> None:
    """Then no peer token will do, but a token that this server issued for this does."""
    endpoint = server.tombstone_endpoint
    endpoint.demands_capability = True
    assert refusal(ask(server, None)) == "capability token required"
    assert refusal(ask(server, "a.b.c")) == "tombstone:read capability required"
    facts_only = endpoint.capabilities.issue(server.origin, verb="facts:read")
    assert refusal(ask(server, facts_only)) == "tombstone:read capability required"
    assert ask(server, endpoint.capabilities.issue(server.origin)).status_code == 200


def test_a_capability_ends_when_it_expires_or_is_revoked(server: PageServer) -> None:
    """Each is told in a node's words."""
    endpoint = server.tombstone_endpoint
    endpoint.demands_capability = True
    expired = endpoint.capabilities.issue(server.origin, ttl_s=-1)
    assert refusal(ask(server, expired)).startswith("token expired at ")
    revoked = endpoint.capabilities.issue(server.origin)
    endpoint.capabilities.revoke(revoked)
    assert refusal(ask(server, revoked)).endswith("has been revoked")


def test_a_capability_that_this_server_did_not_issue_is_refused(
    server: PageServer, origin: Origin
) -> None:
    """Of another server, of another key, about somebody else, or broken."""
    endpoint = server.tombstone_endpoint
    endpoint.demands_capability = True
    issue = endpoint.capabilities.issue
    assert refusal(ask(server, Capabilities().issue(server.origin))).endswith("not found in store")
    assert refusal(ask(server, issue(origin))).startswith("issuer manifest not found")
    forged = issue(server.origin, key=Ed25519PrivateKey.generate())
    assert refusal(ask(server, forged)) == "token signature verification failed"
    assert "entities list" in refusal(ask(server, issue(server.origin, subject="agent:other")))
    assert ask(server, '{"verb": "tombstone:read"').status_code == 500


def test_a_capability_outlives_a_rotation_of_the_key(server: PageServer) -> None:
    """The key that signed it was replaced a moment ago, so it is good for ninety days more."""
    server.tombstone_endpoint.demands_capability = True
    token = server.tombstone_endpoint.capabilities.issue(server.origin)
    server.origin.rotate()
    assert ask(server, token).status_code == 200


# --- a backlog of facts


def test_a_million_facts_wait_without_being_made() -> None:
    """Pages follow each other to the last fact; each is signed, and the same when read again."""
    origin = Origin("https://origin.example")
    backlog = add_backlog(origin, 1_000_000)
    scopes = frozenset({"public"})
    first = origin.page(cursor=None, limit=3, scopes=scopes)
    assert (len(first["facts"]), first["cursor"], first["has_more"]) == (3, backlog.hlc(2), True)
    assert origin.page(cursor=None, limit=3, scopes=scopes) == first
    second = origin.page(cursor=first["cursor"], limit=1, scopes=scopes)
    (entry,) = second["facts"]
    assert entry["fact"]["id"] == backlog.fact_id(3)
    assert entry["origin_sig"] == origin.signature(entry["fact"], entry["origin"])
    last = origin.page(cursor=backlog.hlc(999_997), limit=3, scopes=scopes)
    assert (len(last["facts"]), last["has_more"]) == (2, False)


def test_facts_that_are_added_come_after_a_backlog() -> None:
    """A fact of the origin's own stands in its place of the order, behind those that wait."""
    origin = Origin("https://origin.example")
    backlog = add_backlog(origin, 1_000)
    fact_id = origin.add()
    page = origin.page(cursor=backlog.hlc(997), limit=5, scopes=frozenset({"public"}))
    assert [entry["fact"]["id"] for entry in page["facts"]] == [
        backlog.fact_id(998),
        backlog.fact_id(999),
        fact_id,
    ]


# --- poisons


def test_poisons_have_names_of_their_own() -> None:
    """Each can be told from the others in the output of a test."""
    names = [poison.name for poison in TOMBSTONE_POISONS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("version", [1, 2])
def test_every_poison_is_served(server: PageServer, version: int) -> None:
    """JSON carries each of them in its list, whatever it holds."""
    server.tombstone_endpoint.version = version
    headers = {"Authorization": "Bearer any"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
        for poison in TOMBSTONE_POISONS:
            serve_poison(server.origin, poison)
            page = client.get(TOMBSTONES).json()
            assert len(page[poison.stream]) == 1, poison.name
            server.origin.tombstones.clear()
            server.origin.revocations.clear()


def built(origin: Origin, name: str) -> Notice:
    return tombstone_poison(name).build(origin)


@pytest.mark.parametrize(
    "name", ["a scope that the origin did not grant", "an issuer that nobody knows"]
)
def test_an_origin_signature_is_right_where_it_is_not_the_point(origin: Origin, name: str) -> None:
    """What is wrong with these only shows behind the check of the origin's signature."""
    entry = built(origin, name).entry
    signed = tombstone_tuple(entry["tombstone"], entry["origin"])
    assert verifies(origin.key, entry["origin_sig"], signed)


def test_an_ungranted_scope_is_signed_by_everybody(origin: Origin) -> None:
    """Both signatures are right, so that nothing but the grant can refuse it."""
    entry = built(origin, "a scope that the origin did not grant").entry
    record = entry["tombstone"]
    assert verifies(origin.key, record["signature"], tombstone_body(record))
    assert record["scope"] not in entry["origin"]["allowed_scopes"]


def test_a_foreign_revocation_is_signed_by_everybody(origin: Origin) -> None:
    """Both signatures are right, and the issuer is not the tombstone's."""
    entry = built(origin, "a foreign revocation").entry
    record = entry["revocation"]
    assert verifies(stranger(origin).key, record["signature"], revocation_body(record))
    signed = revocation_tuple(record, entry["origin"])
    assert verifies(origin.key, entry["origin_sig"], signed)
    (held,) = origin.tombstones
    assert held.record["id"] == record["tombstone_id"]
    assert held.record["signed_by"] != record["signed_by"]


def test_a_forged_issuer_is_the_only_thing_wrong(origin: Origin) -> None:
    """The origin vouches for a record that its issuer did not sign."""
    entry: Any = built(origin, "a forged issuer").entry
    record = entry["tombstone"]
    assert not verifies(origin.key, record["signature"], tombstone_body(record))
    signed = tombstone_tuple(record, entry["origin"])
    assert verifies(origin.key, entry["origin_sig"], signed)
