"""Entries that are refused: each for its own reason, and the stream goes on.

The command runs as a subprocess against the page server. Every case looks at what the operator
sees and at what became of the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.page_pulls import (
    assert_failed,
    assert_untouched,
    pull,
    pull_all_new,
    servers,
    settings,
)
from tests.pages.origin import now_ms
from tests.pages.poison import DAY_MS, POISONS, collision, extended, of_stranger, poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli

pytest_plugins = ("tests.pages.fixtures",)


def test_every_spoiled_entry_is_refused_for_its_own_reason(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """Each way to spoil an entry becomes a dead letter of its reason; the good ones arrive."""
    good = [server.origin.add()]
    expected: dict[str, str] = {}
    unnamed: list[str] = []
    for item in POISONS:
        fact_id = serve(server.origin, item)
        if fact_id is None:
            unnamed.append(item.reason)
        else:
            expected[fact_id] = item.reason
        good.append(server.origin.add())
    pull_all_new(cli, adopted)
    verdict = adopted.assert_clean(server)
    assert verdict.admitted == set(good)
    assert not verdict.unverified
    letters = adopted.letters(server)
    assert {key: letters.get(key) for key in expected} == expected
    others = {key: reason for key, reason in letters.items() if key not in expected}
    assert all(key.startswith("unidentified:") for key in others)
    assert sorted(others.values()) == sorted(unnamed)
    assert adopted.count("federation_audit") == len(POISONS)


def test_a_known_entry_cannot_be_extended_or_replaced(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A later end and another content under a known id are refused; what is stored stays."""
    end = "2030-01-01T00:00:00+00:00"
    for _ in range(3):
        server.origin.add(valid_until=end)
    pull_all_new(cli, adopted)
    later, endless, other = (row.entry for row in list(server.origin.rows))
    for entry in (
        extended(server.origin, later, "2031-01-01T00:00:00+00:00"),
        extended(server.origin, endless, None),
        # Another content without an end: the extension is judged first.
        collision(server.origin, other),
    ):
        server.origin.add(entry)
    pull_all_new(cli, adopted)
    letters = adopted.letters(server)
    assert letters[later["fact"]["id"]] == "valid_until_extension"
    assert letters[endless["fact"]["id"]] == "valid_until_extension"
    assert letters[other["fact"]["id"]] == "valid_until_extension"
    stored = adopted.query("SELECT DISTINCT valid_until FROM facts WHERE received_from NOT NULL")
    assert [row["valid_until"] for row in stored] == [end]
    assert len(adopted.fact_ids(server)) == 3


def test_another_content_under_a_known_id(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A second fact under a known id is `wire_id_collision`, also within one page."""
    server.origin.add()
    known = server.origin.rows[0].entry
    server.origin.add(collision(server.origin, known))
    pull_all_new(cli, adopted)
    assert adopted.letters(server) == {known["fact"]["id"]: "wire_id_collision"}
    (row,) = adopted.query("SELECT cid FROM facts WHERE id = ?", [known["fact"]["id"]])
    assert row["cid"] == known["fact"]["cid"]


def test_relayed_facts_where_relay_is_on(cli: Cli, receiver: Receiver) -> None:
    """With relay on, a relayed fact is refused unless the sender may relay, and then as yet too."""
    with servers(receiver, 2) as peers:
        receiver.execute("UPDATE peers SET relay_trusted = 1 WHERE node_id = ?", [peers[1].node_id])
        relayed = []
        for server in peers:
            relayed.append(of_stranger(server.origin))
            server.origin.add(relayed[-1])
            server.origin.add()
        env = {"STIGMEM_FEDERATION_RELAY_ENABLED": "true"}
        cli("pull", "--all", db=receiver.database, env=env)
        for server, entry, reason in zip(
            peers, relayed, ("relay_sender_not_trusted", "relay_unsupported"), strict=True
        ):
            assert receiver.letters(server) == {entry["fact"]["id"]: reason}
            assert len(receiver.fact_ids(server)) == 1


def test_a_malformed_entry_among_good_ones(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """One bad entry is a dead letter and the stream goes on; --strict makes it exit 7."""
    server.origin.add()
    bad = serve(server.origin, poison("a confidence of two"))
    server.origin.add()
    result = pull(cli, adopted, "--strict")
    assert (result.returncode, result.stderr) == (7, "")
    assert "malformed_fact 1" in result.stdout
    assert adopted.letters(server) == {bad: "malformed_fact"}
    assert len(adopted.assert_clean(server).admitted) == 2
    assert adopted.cursor(server) == server.origin.rows[-1].hlc


def test_a_fact_from_the_far_future_does_not_take_the_cursor_along(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """Behind an entry of the year 2200 the stream goes on: its stamp never becomes the cursor."""
    server.origin.add_many(3)
    server.origin.ledger.poison(
        [server.origin.add(hlc="7258118400000.0"), server.origin.add(hlc="9.0")]
    )
    pull_all_new(cli, adopted, env=settings(page_size=2))
    cursor = adopted.cursor(server)
    assert cursor == server.origin.rows[2].hlc
    assert set(adopted.letters(server).values()) == {"hlc_skew"}
    server.origin.add_many(2)
    pull_all_new(cli, adopted, env=settings(page_size=2))
    assert len(adopted.assert_clean(server).admitted) == 5
    assert adopted.cursor(server) == server.origin.rows[-1].hlc
    assert len(adopted.letters(server)) == 2


def test_a_burst_of_refusals_blocks_the_peer(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """Too many refusals in a row are exit 9: nothing of that page is written, the cursor stays."""
    for _ in range(60):
        serve(server.origin, poison("a content beside its id"))
    line = assert_failed(pull(cli, adopted), "reject_burst", 9)
    assert "cid_mismatch" in line
    assert_untouched(adopted, server, None)
    assert adopted.count("federation_audit") == 0
    assert adopted.state(server) == ("blocked", "reject_burst")


def test_a_burst_after_good_pages_keeps_those(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """What came before the page that made the burst is kept, and the cursor stands there."""
    good = server.origin.add_many(20)
    for _ in range(80):
        serve(server.origin, poison("a content beside its id"))
    assert_failed(pull(cli, adopted, env=settings(page_size=20)), "reject_burst", 9)
    assert adopted.fact_ids(server) <= set(good)
    stamps = [row.hlc for row in server.origin.rows]
    cursor = adopted.cursor(server)
    read = 0 if cursor is None else stamps.index(cursor) + 1
    written = len(adopted.fact_ids(server)) + len(adopted.letters(server))
    assert written == read < 69
    assert adopted.state(server) == ("blocked", "reject_burst")


def test_history_too_old_until_backfill(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A stream that begins before what is admitted is exit 9; --backfill takes it in."""
    old = now_ms() - 90 * DAY_MS
    for number in range(4):
        server.origin.add(hlc=f"{old + number}.0")
    line = assert_failed(pull(cli, adopted), "history_too_old", 9)
    assert "--backfill" in line
    assert_untouched(adopted, server, None)
    pull_all_new(cli, adopted, "--backfill")
    assert len(adopted.assert_clean(server).admitted) == 4
    assert adopted.state(server) == ("idle", None)
