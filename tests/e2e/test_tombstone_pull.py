"""Pulling tombstones by hand against the page server: what arrives, once, and what is said.

The command runs in this process. How the peer is asked for them, with which token, is in
test_capability.py; what real nodes make of them in test_real_tombstones.py.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.e2e.page_pulls import settings
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import Exchange, PageServer, honestly
from tests.pages.tombstone_poison import (
    REVOCATIONS,
    TOMBSTONE_POISONS,
    TOMBSTONES,
    serve_poison,
    stranger,
    tombstone_poison,
    unsigned_yet,
)
from tests.pages.tombstones import (
    add_revocation,
    add_revocations,
    add_tombstone,
    add_tombstones,
    make_tombstone,
    serve_tombstone,
)

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


def pull(
    here: Here,
    receiver: Receiver,
    server: PageServer,
    *arguments: str,
    env: dict[str, str] | None = None,
) -> Result:
    return here(
        "pull",
        "--peer",
        server.node_id,
        *arguments,
        db=receiver.database,
        env=env,
    )


def pulled(here: Here, receiver: Receiver, server: PageServer, *arguments: str) -> dict[str, Any]:
    """What a good pull says of the tombstones."""
    result = pull(here, receiver, server, "--json", *arguments)
    assert result.code == 0, result.stderr
    said: dict[str, Any] = json.loads(result.stdout)["tombstones"]
    return said


def ids(records: list[dict[str, Any]]) -> set[str]:
    return {record["id"] for record in records}


def sinces(server: PageServer) -> list[str | None]:
    return [request.since for request in server.tombstone_endpoint.requests]


def test_both_lists_arrive_with_the_facts(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """One pull brings facts, a tombstone and its revocation; the next one changes nothing."""
    server.origin.add_many(3)
    record = add_tombstone(server.origin, "person:kim")
    revoked = add_revocation(server.origin, record["id"])
    first = pull(here, adopted, server)
    assert (first.code, first.stderr) == (0, "")
    assert "tombstones  1 new tombstone, 1 new revocation, 0 rejected" in first.stdout
    assert adopted.tombstone_ids() == {record["id"]}
    assert adopted.revocation_ids() == {revoked["id"]}
    assert len(adopted.assert_clean(server).admitted) == 3
    before = adopted.dump()
    again = pulled(here, adopted, server)
    assert again["tombstones"]["new"] == again["revocations"]["new"] == 0
    assert again["tombstones"]["duplicates"] == again["revocations"]["duplicates"] == 1
    changed = set(adopted.dump()) ^ set(before)
    # How the peer stands is written anew; nothing of the node's is.
    assert all("replicator_" in line for line in changed), changed


def test_a_thousand_of_each_arrive_once(here: Here, adopted: Receiver, server: PageServer) -> None:
    """1,000 tombstones and 1,000 revocations, 300 of a time, 200 on a page: all, each once."""
    records = add_tombstones(server.origin, 1_000, group=300)
    revoked = add_revocations(server.origin, [record["id"] for record in records], group=300)
    said = pulled(here, adopted, server)
    assert said["tombstones"]["new"] == said["revocations"]["new"] == 1_000
    assert adopted.tombstone_ids() == ids(records)
    assert adopted.revocation_ids() == ids(revoked)
    asked = server.tombstone_endpoint.requests
    assert {request.limit for request in asked} == {200, 400}
    for table in ("tombstones", "tombstone_revocations"):
        (row,) = adopted.query(
            "SELECT count(*) AS rows FROM fact_audit_log WHERE event_type = ?",
            [f"{table.removesuffix('s')}_federation_ingested"],
        )
        assert row["rows"] == 1_000
    served = {record["created_at"] for record in records + revoked}
    assert set(sinces(server)) - {None} <= served


def test_bad_records_stop_nothing(here: Here, adopted: Receiver, server: PageServer) -> None:
    """None is applied, each becomes one dead letter, once, and what is between them is applied."""
    adopted.store_manifest(stranger(server.origin).manifest)
    good = {add_tombstone(server.origin, "person:before")["id"]}
    expected: dict[str, str] = {}
    reasons = {TOMBSTONES: Counter[str](), REVOCATIONS: Counter[str]()}
    for poison in TOMBSTONE_POISONS:
        entry_id = serve_poison(server.origin, poison)
        reasons[poison.stream][poison.reason] += 1
        if entry_id is not None:
            expected[entry_id] = poison.reason
    # Some spoiled revocations came with a good tombstone to revoke.
    spoiled = set(expected)
    good |= {
        notice.record["id"]
        for notice in server.origin.tombstones
        if isinstance(notice.record, dict)
        and isinstance(notice.record.get("id"), str)
        and notice.record["id"] not in spoiled | {""}
    }
    good.add(add_tombstone(server.origin, "person:after")["id"])
    first = pulled(here, adopted, server)
    for stream, counted in reasons.items():
        assert first[stream]["rejected"] == counted
    assert (adopted.tombstone_ids(), adopted.revocation_ids()) == (good, set())
    letters = adopted.letters(server)
    assert expected.items() <= letters.items()
    assert len(letters) == len(TOMBSTONE_POISONS)
    audit = "SELECT count(*) AS rows FROM fact_audit_log WHERE event_type LIKE '%_rejected'"
    waiting = reasons[REVOCATIONS]["waiting_for_tombstone"]
    assert adopted.query(audit)[0]["rows"] == len(letters) - waiting
    again = pulled(here, adopted, server)
    for stream, counted in reasons.items():
        assert again[stream]["rejected"] == {}
        assert again[stream]["refused_before"] == counted
    assert adopted.letters(server) == letters
    assert adopted.query(audit)[0]["rows"] == len(letters) - waiting


def test_two_bad_forms_of_one_id_do_not_take_turns(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """Both are read again at each look; the dead letter and the audit stay as they are."""
    for reason in ("one", "two"):
        forged = make_tombstone(
            server.origin,
            f"person:{reason}",
            tombstone_id="tomb_twice",
            key=Ed25519PrivateKey.generate(),
        )
        serve_tombstone(server.origin, forged)
    said = pulled(here, adopted, server)
    assert said["tombstones"]["rejected"] == {"issuer_sig_invalid": 2}
    before = adopted.query("SELECT * FROM replicator_dead_letters")
    audit = adopted.count("fact_audit_log")
    for _ in range(2):
        said = pulled(here, adopted, server)
        assert said["tombstones"]["refused_before"] == {"issuer_sig_invalid": 2}
    assert adopted.query("SELECT * FROM replicator_dead_letters") == before
    assert adopted.count("fact_audit_log") == audit


def test_a_revocation_waits_for_its_tombstone(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """It comes first, waits, and is applied by itself as soon as its tombstone is here."""
    record = make_tombstone(server.origin, "person:kim")
    revoked = add_revocation(server.origin, record["id"])
    assert pulled(here, adopted, server)["revocations"]["rejected"] == {"waiting_for_tombstone": 1}
    serve_tombstone(server.origin, record)
    server.origin.revocations.clear()
    assert pulled(here, adopted, server)["revocations"]["new"] == 1
    assert adopted.revocation_ids() == {revoked["id"]}
    assert adopted.letters(server) == {}


def test_a_record_waits_for_its_issuers_key(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """What an unknown organisation issued is applied by itself once its manifest is here."""
    issuer = stranger(server.origin)
    record = add_tombstone(server.origin, "person:kim", issuer=issuer)
    revoked = add_revocation(server.origin, record["id"], issuer=issuer)
    said = pulled(here, adopted, server)
    assert (
        said["tombstones"]["rejected"] == said["revocations"]["rejected"] == {"waiting_for_key": 1}
    )
    adopted.store_manifest(issuer.manifest)
    server.origin.tombstones.clear()
    server.origin.revocations.clear()
    said = pulled(here, adopted, server)
    assert said["tombstones"]["new"] == said["revocations"]["new"] == 1
    assert (adopted.tombstone_ids(), adopted.revocation_ids()) == ({record["id"]}, {revoked["id"]})
    assert adopted.letters(server) == {}


def test_a_revocation_that_is_signed_a_moment_later(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A node shows a revocation before it has signed it: the signed one takes its place."""
    record = add_tombstone(server.origin, "person:kim")
    early, late = unsigned_yet(server.origin, record["id"])
    server.origin.revocations.append(early)
    assert pulled(here, adopted, server)["revocations"]["rejected"] == {"issuer_sig_invalid": 1}
    server.origin.revocations[:] = [late]
    assert pulled(here, adopted, server)["revocations"]["new"] == 1
    assert adopted.letters(server) == {}


def test_an_id_that_was_taken_by_somebody_else(
    here: Here, adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """Whoever gives another order under the same id does not keep the right one unseen."""
    adopted.adopt(second_server)
    record = add_tombstone(server.origin, "person:kim")
    taken = make_tombstone(second_server.origin, "person:nobody", tombstone_id=record["id"])
    serve_tombstone(second_server.origin, taken)
    assert pulled(here, adopted, second_server)["tombstones"]["new"] == 1
    said = pulled(here, adopted, server)
    assert said["tombstones"]["rejected"] == {"wire_id_collision": 1}
    assert adopted.letters(server) == {record["id"]: "wire_id_collision"}


def test_a_dry_run_writes_nothing(here: Here, adopted: Receiver, server: PageServer) -> None:
    """It says what would come, a revocation of a tombstone of the same run included."""
    pull(here, adopted, server)
    records = add_tombstones(server.origin, 450)
    add_revocation(server.origin, records[0]["id"])
    before = adopted.dump()
    said = pulled(here, adopted, server, "--dry-run")
    assert (said["tombstones"]["new"], said["revocations"]["new"]) == (450, 1)
    assert adopted.dump() == before


def test_a_stream_by_itself(here: Here, adopted: Receiver, server: PageServer) -> None:
    """--stream takes only facts, or only tombstones; nothing else is asked for."""
    server.origin.add_many(2)
    record = add_tombstone(server.origin, "person:kim")
    assert pull(here, adopted, server, "--stream", "tombstones").code == 0
    assert (adopted.tombstone_ids(), adopted.fact_ids(server)) == ({record["id"]}, set())
    assert server.requests == []
    assert pull(here, adopted, server, "--stream", "facts").code == 0
    assert len(adopted.fact_ids(server)) == 2
    assert len(server.tombstone_endpoint.requests) == 1


def gaps(receiver: Receiver) -> list[dict[str, Any]]:
    rows = receiver.query(
        "SELECT detail FROM fact_audit_log WHERE event_type = 'tombstone_sync_gap'"
    )
    return [json.loads(row["detail"]) for row in rows]


def test_a_gap_is_noted_only_when_there_is_one(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A pull that ends with more at the peer is noted in the node's audit; a whole one is not.

    One failure is tried again, and is no end.
    """
    add_tombstones(server.origin, 250)
    failing = misbehaviour.status(500)
    server.tombstone_endpoint.script(honestly, failing, failing, failing)
    first = pull(here, adopted, server, "--wait", "60", "--stream", "tombstones")
    assert first.code == 5
    assert first.stderr.count("trying again") == 2
    assert "server_error" in first.stderr
    noted = {
        "peer_node_id": server.node_id,
        "tombstones_in_batch": 200,
        "cursor": adopted.settled(server, "tombstones"),
    }
    assert gaps(adopted) == [noted]
    server.tombstone_endpoint.script(failing)
    assert pull(here, adopted, server, "--wait", "60").code == 0
    assert len(adopted.tombstone_ids()) == 250
    assert gaps(adopted) == [noted]


def test_so_many_pages_and_no_more(here: Here, adopted: Receiver, server: PageServer) -> None:
    """--max-pages stops there and says that more remains; the next pull goes on from there."""
    records = add_tombstones(server.origin, 450, start=datetime.now(UTC) - timedelta(days=1))
    words = ("--stream", "tombstones", "--max-pages", "1")
    brought = []
    for _ in range(3):
        result = pull(here, adopted, server, *words)
        assert (result.code, result.stderr) == (0, "")
        brought.append("more remains" in result.stdout)
    assert brought == [True, True, False]
    assert adopted.tombstone_ids() == ids(records)
    assert [gap["tombstones_in_batch"] for gap in gaps(adopted)] == [200, 199]


def test_a_page_too_large_is_asked_for_in_a_smaller_size(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """Records that do not fit a page of the usual size come on smaller ones."""
    for number in range(12):
        at = datetime.now(UTC) - timedelta(minutes=30 - number)
        add_tombstone(
            server.origin, f"person:{number}", created_at=at.isoformat(), reason="x" * 20_000
        )
    result = pull(here, adopted, server, env=settings(page_bytes_max=65_536))
    assert result.code == 0
    assert "asking for fewer tombstones at a time" in result.stderr
    assert len(adopted.tombstone_ids()) == 12


def test_records_of_one_time_that_never_fit(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """More of one time than page_bytes_max holds blocks the stream and says what to raise."""
    at = datetime.now(UTC).isoformat()
    for number in range(12):
        add_tombstone(server.origin, f"person:{number}", created_at=at, reason="x" * 20_000)
    server.origin.add_many(1)
    result = pull(here, adopted, server, env=settings(page_bytes_max=65_536))
    assert result.code == 9
    assert "entry_too_large" in result.stderr
    assert "page_bytes_max" in result.stderr
    assert len(adopted.fact_ids(server)) == 1


def test_a_peer_that_leads_nowhere(here: Here, adopted: Receiver, server: PageServer) -> None:
    """The same page again and again, with more to come, is a failure and no endless loop."""
    add_tombstones(server.origin, 201)

    def stuck(exchange: Exchange) -> None:
        exchange.request.query.pop("since", None)
        honestly(exchange)

    server.tombstone_endpoint.always = stuck
    result = pull(here, adopted, server, "--stream", "tombstones")
    assert result.code == 5
    assert "malformed_page" in result.stderr
    assert len(adopted.tombstone_ids()) == 200
    assert len(server.tombstone_endpoint.requests) < 10


def test_a_key_of_the_sender_that_comes_late(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """Signed with a new key whose manifest cannot be had, a record waits, and comes with it."""
    pulled(here, adopted, server)
    server.origin.rotate()
    record = add_tombstone(server.origin, "person:kim")
    server.script_manifest(misbehaviour.status(503))
    said = pulled(here, adopted, server, "--stream", "tombstones")
    assert said["tombstones"]["rejected"] == {"origin_sig_invalid": 1}
    assert adopted.tombstone_ids() == set()
    said = pulled(here, adopted, server, "--stream", "tombstones")
    assert said["tombstones"]["new"] == 1
    assert adopted.tombstone_ids() == {record["id"]}
    assert adopted.letters(server) == {}


def test_a_tombstone_counts_as_no_fact(here: Here, adopted: Receiver, server: PageServer) -> None:
    """The totals of a peer are of its facts, and its streams have room for letters each."""
    server.origin.add_many(2)
    add_tombstones(server.origin, 5)
    serve_poison(server.origin, tombstone_poison("a forged issuer"))
    few = settings(dead_letter_rows_max=1)
    assert pull(here, adopted, server, env=few).code == 0
    (row,) = adopted.query("SELECT admitted, rejected, pages FROM replicator_peers")
    assert tuple(row) == (2, 0, 1)


def test_revocations_only(here: Here, adopted: Receiver, server: PageServer) -> None:
    """A page with revocations and no tombstone, and so no cursor, moves their position."""
    record = add_tombstone(server.origin, "person:kim")
    pulled(here, adopted, server)
    server.origin.tombstones.clear()
    add_revocation(server.origin, record["id"])
    assert pulled(here, adopted, server)[REVOCATIONS]["new"] == 1
    (row,) = adopted.query("SELECT frontier FROM replicator_cursors WHERE stream = 'tombstones'")
    assert row["frontier"] == record["created_at"]
