"""Whatever a peer answers: one clear line, the right exit code, and nothing lost or let in.

The command runs as a subprocess against the page server. Every case looks at what the operator
sees and at what became of the database. Answers that are attacks are in test_hostile.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.page_pulls import (
    assert_failed,
    assert_untouched,
    complaints,
    pull,
    pull_all_new,
    servers,
    settings,
)
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import Behaviour, Exchange, PageServer, honestly, limits_of

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli

pytest_plugins = ("tests.pages.fixtures",)


BYTES_MIN = 65_536
"""The smallest cap on a body that can be set."""


# --- answers that are no page

UNUSABLE: dict[int, list[tuple[Behaviour, str, str]]] = {
    5: [
        (misbehaviour.html, "malformed_page", "backing_off"),
        (misbehaviour.text(b""), "malformed_page", "backing_off"),
        (misbehaviour.text(b"null"), "malformed_page", "backing_off"),
        (misbehaviour.status(500), "server_error", "backing_off"),
        (misbehaviour.status(408), "server_error", "backing_off"),
        (misbehaviour.status(425), "server_error", "backing_off"),
        (misbehaviour.status(429), "throttled", "throttled"),
        (misbehaviour.status(503), "throttled", "throttled"),
    ],
    6: [
        (misbehaviour.status(401, "invalid_signature"), "unauthorized", "blocked"),
        (misbehaviour.status(403, "no permitted scopes"), "forbidden", "blocked"),
        (misbehaviour.status(404, body=b"<p>nothing here"), "unexpected_answer", "blocked"),
        (misbehaviour.status(421), "unexpected_answer", "blocked"),
        (misbehaviour.status(204, body=b""), "unexpected_answer", "blocked"),
    ],
    9: [(misbehaviour.version_one, "wrong_dialect", "blocked")],
}
"""By exit code: an answer, the reason that it is, and the state that the peer is in after it."""


@pytest.mark.parametrize("code", UNUSABLE)
def test_an_unusable_answer_changes_nothing(cli: Cli, receiver: Receiver, code: int) -> None:
    """An answer that is no page fails the pull with one line and its reason; the cursor stays."""
    cases = UNUSABLE[code]
    with servers(receiver, len(cases)) as peers:
        cursors = []
        for server, (behaviour, _reason, _state) in zip(peers, cases, strict=True):
            cursors.append(server.origin.stamp())
            server.origin.add_many(12)
            server.always = behaviour
            receiver.stand_at(server, cursors[-1])
        words = ("pull", "--all", "--json", "--wait", "0")
        result = cli(*words, db=receiver.database, env=settings(page_size=10), check=False)
        assert result.returncode == code
        assert len(result.stderr.splitlines()) == len(peers)
        told = {item["peer"]: item for item in json.loads(result.stdout)}
        for server, line, cursor, (_behaviour, reason, state) in zip(
            peers, complaints(result, peers), cursors, cases, strict=True
        ):
            assert f" ({reason})" in line
            assert told[server.node_id]["error"]["reason"] == reason
            assert_untouched(receiver, server, cursor)
            assert receiver.state(server) == (state, reason)
            assert [request.cursor for request in server.requests] == [cursor]


def test_a_web_page_in_place_of_a_page(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """The failure of one peer is one line on standard error, and the summary names its reason."""
    server.always = misbehaviour.html
    result = pull(cli, adopted)
    assert_failed(result, "malformed_page", 5)
    assert len(result.stderr.splitlines()) == 1
    assert "stopped: malformed_page" in result.stdout


def test_the_peers_own_words_are_passed_on(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """The detail of a refusal is shown, without what could speak to a terminal."""
    server.script(misbehaviour.status(401, "peer_not_approved \x1b[2J\nrm"))
    line = assert_failed(pull(cli, adopted), "unauthorized", 6)
    assert "HTTP 401: peer_not_approved [2J rm" in line


def test_a_peer_that_is_down(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A refused connection is `unreachable`, exit 5, and names the address."""
    server.close()
    line = assert_failed(pull(cli, adopted), "unreachable", 5)
    assert server.url in line
    assert_untouched(adopted, server, None)


def test_a_redirect_is_not_followed(
    cli: Cli, adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """A redirect is refused, exit 6, and where it leads hears nothing."""
    server.origin.add()
    server.script(misbehaviour.redirect(f"{second_server.url}/v1/federation/facts"))
    assert_failed(pull(cli, adopted), "unexpected_answer", 6)
    assert second_server.requests == []
    assert_untouched(adopted, server, None)


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
def test_a_body_that_says_it_is_not_encoded_is_read(
    cli: Cli, adopted: Receiver, server: PageServer, encoding: str
) -> None:
    """An encoding that is none, in any case of letters, is as good as no header."""
    server.origin.add_many(2)

    def named(exchange: Exchange) -> None:
        exchange.send(*exchange.honest(), headers={"Content-Encoding": encoding})

    server.always = named
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 2


# --- sizes


def test_a_body_over_the_cap_is_asked_for_in_smaller_pages(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """Pages are halved until they fit under page_bytes_max, and everything arrives."""
    server.origin.add_many(24, value=None)
    for _ in range(16):
        server.origin.add(value="x" * 10_000)
    result = pull(cli, adopted, env=settings(page_size=16, page_bytes_max=BYTES_MIN))
    assert result.returncode == 0
    assert "asking for 4 entries at a time" in result.stderr
    limits = limits_of(server.requests)
    assert limits[0] == 16
    assert min(limits) == 4
    assert len(adopted.assert_clean(server).admitted) == 40


def test_one_entry_over_the_cap_blocks_the_peer(cli: Cli, receiver: Receiver) -> None:
    """An entry that alone is over the cap is `entry_too_large`, exit 9; what was before stays."""
    with servers(receiver, 2) as peers:
        _large, endless = peers
        for server in peers:
            server.origin.add_many(2)
            server.origin.add(value="x" * BYTES_MIN)
            server.origin.add()
        endless.script(honestly)
        endless.always = misbehaviour.endless
        result = cli(
            *("pull", "--all", "--wait", "0"),
            db=receiver.database,
            env=settings(page_size=2, page_bytes_max=BYTES_MIN),
            check=False,
        )
        assert result.returncode == 9
        for server, line in zip(peers, complaints(result, peers), strict=True):
            assert "(entry_too_large)" in line
            assert "page_bytes_max" in line
            rows = server.origin.rows
            assert receiver.fact_ids(server) == {row.entry["fact"]["id"] for row in rows[:2]}
            assert receiver.cursor(server) == rows[1].hlc
            assert limits_of(server.requests)[-1] == 1
            assert receiver.state(server) == ("blocked", "entry_too_large")
