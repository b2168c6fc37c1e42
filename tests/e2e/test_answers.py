"""Whatever a peer answers: one clear line, the right exit code, and nothing lost or let in.

The command runs as a subprocess against the page server. Every case looks at what the operator
sees and at what became of the database.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.pages import misbehaviour
from tests.pages.origin import now_ms
from tests.pages.poison import DAY_MS, POISONS, collision, extended, of_stranger, poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import Behaviour, Exchange, PageServer, honestly, limits_of

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli, CliResult
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.pages.fixtures",)

BYTES_MIN = 65_536
"""The smallest cap on a body that can be set."""


def settings(**values: object) -> dict[str, str]:
    """Settings as environment variables."""
    return {f"STIGMEM_REPLICATOR_{name.upper()}": str(value) for name, value in values.items()}


def complaint(result: CliResult) -> str:
    """Return the one line on standard error that says why the command failed."""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("stigmem-replicate: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def assert_failed(result: CliResult, reason: str, code: int) -> str:
    """The command failed for this reason, said so in one line and nothing else, once."""
    line = complaint(result)
    assert f" ({reason})" in line, line
    assert result.returncode == code, result.stderr
    return line


def assert_untouched(receiver: Receiver, server: PageServer, cursor: str | None) -> None:
    """Nothing was let in, the cursor stands, and nobody holds the peer."""
    assert receiver.cursor(server) == cursor
    assert receiver.count("facts") == 0
    assert receiver.letters(server) == {}
    assert receiver.holder(server) is None


def pull(cli: Cli, receiver: Receiver, *arguments: str, **options: Any) -> CliResult:  # noqa: ANN401
    """Pull the receiver's only peer without patience."""
    words = ("pull", "--peer", "stigmem:node:", "--wait", "0", *arguments)
    return cli(*words, db=receiver.database, check=False, **options)


def pull_all_new(cli: Cli, receiver: Receiver, *arguments: str, **options: Any) -> CliResult:  # noqa: ANN401
    """Pull, and expect it to succeed without a word on standard error."""
    result = pull(cli, receiver, *arguments, **options)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result


# --- answers that are no page

UNUSABLE: dict[int, list[tuple[Behaviour, str, str]]] = {
    5: [
        (misbehaviour.html, "malformed_page", "backing_off"),
        (misbehaviour.truncated, "malformed_page", "backing_off"),
        (misbehaviour.text(b""), "malformed_page", "backing_off"),
        (misbehaviour.text(b"null"), "malformed_page", "backing_off"),
        (misbehaviour.text(b"[" * 100_000), "malformed_page", "backing_off"),
        (misbehaviour.gzipped, "malformed_page", "backing_off"),
        (misbehaviour.greedy, "malformed_page", "backing_off"),
        (misbehaviour.cut_off, "unreachable", "backing_off"),
        (misbehaviour.slammed, "unreachable", "backing_off"),
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
        (misbehaviour.redirect("http://127.0.0.1:1/"), "unexpected_answer", "blocked"),
    ],
    9: [(misbehaviour.version_one, "wrong_dialect", "blocked")],
}
"""By exit code: an answer, the reason that it is, and the state that the peer is in after it."""


@contextmanager
def servers(receiver: Receiver, count: int) -> Iterator[list[PageServer]]:
    """So many page servers, each a peer of the receiver."""
    with ExitStack() as stack:
        made = [stack.enter_context(PageServer()) for _ in range(count)]
        for server in made:
            receiver.adopt(server)
        yield made


def complaints(result: CliResult, peers: Sequence[PageServer]) -> list[str]:
    """Return the one line about each peer that says why its pull failed."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("stigmem-replicate: ")]
    assert len(lines) == len(peers), result.stderr
    found = []
    for peer in peers:
        (line,) = [line for line in lines if peer.url in line or peer.node_id in line]
        found.append(line)
    return found


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


# --- waiting


def config_file(folder: Path, **values: float) -> str:
    path = folder / "replicator.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    return str(path)


def test_an_answer_that_takes_too_long(cli: Cli, receiver: Receiver, tmp_path: Path) -> None:
    """An answer later than page_timeout_s is given up, asked for in smaller pages, then failed."""
    config = config_file(tmp_path, page_timeout_s=0.4, page_size=4)
    began = time.monotonic()
    with servers(receiver, 2) as peers:
        for server, behaviour in zip(peers, (misbehaviour.hang, misbehaviour.drip), strict=True):
            server.origin.add_many(5)
            server.always = behaviour
        result = cli(
            *("--config", config, "pull", "--all", "--wait", "0"),
            db=receiver.database,
            check=False,
        )
        assert result.returncode == 5
        for server, line in zip(peers, complaints(result, peers), strict=True):
            assert "(timeout)" in line
            assert limits_of(server.requests) == [4, 2, 1]
            assert_untouched(receiver, server, None)
    assert time.monotonic() - began < 20


def test_silence_within_an_answer(
    cli: Cli, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """A peer that sends nothing for read_timeout_s is given up before page_timeout_s."""
    server.always = misbehaviour.hang
    config = config_file(tmp_path, read_timeout_s=0.3, page_size=1)
    began = time.monotonic()
    result = cli(
        *("--config", config, "pull", "--peer", server.node_id, "--wait", "0"),
        db=adopted.database,
        check=False,
    )
    assert_failed(result, "timeout", 5)
    assert time.monotonic() - began < 20


def test_a_connection_that_is_not_taken(cli: Cli, receiver: Receiver) -> None:
    """A peer that does not take connections is unreachable after one attempt, not after ten.

    Asking for less cannot help where nothing was asked.
    """
    with closing(socket.socket()) as deaf, closing(socket.socket()) as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())  # fills the queue of those that wait to be taken
        receiver.register("stigmem:node:deaf", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        result = pull(cli, receiver, env=settings(connect_timeout_s=0.5))
        assert_failed(result, "unreachable", 5)
        assert time.monotonic() - began < 4


def test_twice_an_error_then_an_answer(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """Two server errors are waited out with a word about each, and the third answer is taken."""
    server.origin.add_many(3)
    server.script(misbehaviour.status(500), misbehaviour.status(502))
    result = cli(
        *("pull", "--peer", server.node_id),
        db=adopted.database,
        env=settings(backoff_base_s=0.1, backoff_cap_s=0.1),
    )
    said = result.stderr.splitlines()
    assert len(said) == 2
    assert all("trying again in 0.1 s" in line for line in said)
    assert adopted.assert_clean(server).admitted == adopted.fact_ids(server)
    assert adopted.state(server) == ("idle", None)
    assert [request.refused for request in server.requests] == [""] * 3


def test_three_errors_in_a_row_are_enough(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """After a third failure in a row the pull gives up, having asked three times."""
    server.always = misbehaviour.status(503)
    result = cli(
        *("pull", "--peer", server.node_id),
        db=adopted.database,
        env=settings(backoff_base_s=0.1, backoff_cap_s=0.1),
        check=False,
    )
    assert_failed(result, "throttled", 5)
    assert len(server.requests) == 3


def test_a_long_retry_after_is_kept_to(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A wait beyond --wait is exit 5, is shown, and until it is over nothing is asked at all."""
    server.origin.add()
    server.script(misbehaviour.status(429, headers={"Retry-After": "900"}))
    words = ("pull", "--peer", server.node_id, "--wait", "2")
    before = datetime.now(UTC)
    assert_failed(cli(*words, db=adopted.database, check=False), "throttled", 5)

    shown = cli("peers", "show", server.node_id, db=adopted.database).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("not before")]
    not_before = datetime.fromisoformat(line.split()[-1])
    assert timedelta(seconds=895) < not_before - before < timedelta(seconds=960)

    for more in ([], ["--dry-run"]):
        again = cli(*words, *more, db=adopted.database, check=False)
        line = assert_failed(again, "throttled", 5)
        assert "asked not to be asked for another" in line
    assert len(server.requests) == 1
    assert_untouched(adopted, server, None)


def test_a_short_retry_after_is_waited_for(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A wait within --wait is waited for, whether it is a number or a date."""
    server.origin.add_many(2)
    soon = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    server.script(
        misbehaviour.status(429, headers={"Retry-After": "1"}),
        misbehaviour.status(503, headers={"Retry-After": soon}),
    )
    cli("pull", "--peer", server.node_id, "--wait", "5", db=adopted.database)
    first, second, _third = (request.at for request in server.requests)
    assert second - first >= 1.0
    assert len(adopted.assert_clean(server).admitted) == 2


def test_interrupted_while_waiting_the_wait_still_counts(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """Who ends a pull that waits for Retry-After does not shorten the wait of the next one."""
    server.origin.add()
    server.script(misbehaviour.status(429, headers={"Retry-After": "300"}))
    running = start("pull", "--peer", server.node_id, "--wait", "400", db=adopted.database)
    wait_for(lambda: len(server.requests) == 1)
    time.sleep(0.5)
    running.interrupt()
    assert running.end()[2] == 130
    assert_failed(pull(cli, adopted), "throttled", 5)
    assert len(server.requests) == 1


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


# --- paging


def test_a_stalled_cursor(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """The same cursor with more to come is a failed page, exit 5; the page before it stays."""
    server.origin.add_many(6)
    server.script(honestly)
    server.always = misbehaviour.stalled
    assert_failed(pull(cli, adopted, env=settings(page_size=3)), "cursor_stalled", 5)
    assert len(adopted.fact_ids(server)) == 3
    assert adopted.cursor(server) == server.origin.rows[2].hlc
    assert len(server.requests) == 2


def test_empty_pages_with_more_go_on(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """Pages without entries that say there is more are read past."""
    server.origin.add_many(2)
    server.origin.add_unsent(9)
    server.origin.add_many(2)
    server.origin.add_unsent(2)
    pull_all_new(cli, adopted, env=settings(page_size=3))
    assert len(adopted.assert_clean(server).admitted) == 4
    assert adopted.cursor(server) == server.origin.rows[-1].hlc


def test_a_cursor_of_null_never_takes_a_cursors_place(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A last page without a cursor is taken, and the stored cursor does not fall."""
    server.origin.add_many(3)
    pull_all_new(cli, adopted)
    before = adopted.cursor(server)
    server.origin.add_many(2)
    server.always = misbehaviour.without_cursor
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 5
    after = adopted.cursor(server)
    assert before is not None
    assert after is not None
    assert after >= before


def test_equal_stamps_on_both_sides_of_a_pages_end(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """Entries that share one HLC across the end of a page all arrive."""
    server.origin.add_many(2)
    stamp = server.origin.stamp()
    server.origin.add_many(2, hlc=stamp)
    server.origin.add_many(3)
    pull_all_new(cli, adopted, env=settings(page_size=3))
    assert len(adopted.assert_clean(server).admitted) == 7


def test_max_pages(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """--max-pages ends after so many pages with exit 0 and says that more remains."""
    server.origin.add_many(9)
    result = pull_all_new(cli, adopted, "--max-pages", "2", env=settings(page_size=3))
    assert len(server.requests) == 2
    assert "stopped as asked, more remains" in result.stdout
    assert adopted.state(server) == ("catching_up", None)
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 9


def test_pulling_again_brings_nothing_twice(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A second pull reads what may still change once more, and writes nothing of it again."""
    for _ in range(4):
        server.origin.add(hlc=f"{now_ms()}.{len(server.origin.rows)}")
    pull_all_new(cli, adopted)
    facts = adopted.count("facts")
    result = pull_all_new(cli, adopted)
    assert "duplicates  4" in result.stdout
    assert adopted.count("facts") == facts
    adopted.assert_clean(server)


# --- entries


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


# --- which peer


UNSAFE = ("0.0.0.0", "user:hunter2@127.0.0.1", "peer.example", "[::]")  # noqa: S104 - refused


def test_an_unsafe_address_is_not_connected_to(cli: Cli, receiver: Receiver) -> None:
    """An address that is not of this machine, or holds credentials, is exit 6 and hears nothing."""
    with servers(receiver, len(UNSAFE)) as peers:
        for server, host in zip(peers, UNSAFE, strict=True):
            port = server.url.rsplit(":", 1)[1]
            receiver.execute(
                "UPDATE peers SET node_url = ? WHERE node_id = ?",
                [f"http://{host}:{port}", server.node_id],
            )
        result = cli("pull", "--all", "--wait", "0", db=receiver.database, check=False)
        assert result.returncode == 6
        lines = result.stderr.splitlines()
        assert [line.count("(unsafe_address)") for line in lines] == [1] * len(peers)
        assert "hunter2" not in result.stderr
        for server in peers:
            assert server.requests == []
            assert server.manifest_requests == []
            assert_untouched(receiver, server, None)


def test_a_peer_that_is_not_active(cli: Cli, receiver: Receiver, server: PageServer) -> None:
    """A peer that is not active is exit 4 with its status, and is not asked."""
    receiver.adopt(server, status="pending_approval")
    line = assert_failed(pull(cli, receiver), "peer_not_active", 4)
    assert "pending_approval" in line
    assert server.requests == []


def test_a_peer_that_is_unknown_or_could_be_two(
    cli: Cli, adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """No such peer and more than one are exit 4, and the peers that could be meant are named."""
    adopted.adopt(second_server)
    both = (server.node_id, second_server.node_id)
    result = cli("pull", "--peer", "nobody", db=adopted.database, check=False)
    line = assert_failed(result, "unknown_peer", 4)
    assert all(name in line for name in both)
    line = assert_failed(pull(cli, adopted), "ambiguous_peer", 4)
    assert all(name in line for name in both)
    cli("pull", "--peer", server.url, db=adopted.database)
    assert (len(server.requests), len(second_server.requests)) == (1, 0)


def wait_for(condition: Any, seconds: float = 20.0) -> None:  # noqa: ANN401 - any call
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_one_process_at_a_time(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A second pull of a peer is exit 8, names who works on it and asks the peer nothing."""
    server.origin.add_many(2)
    held = server.hold()
    first = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    words = ("pull", "--peer", server.node_id, "--wait", "1")
    second = cli(*words, db=adopted.database, check=False)
    line = assert_failed(second, "peer_held", 8)
    assert f"process {first.pid} on " in line
    assert adopted.holder(server) == first.pid
    # A dry run only reads, and needs no lock.
    assert "would add" in cli(*words, "--dry-run", db=adopted.database).stdout
    held.let_go()
    assert first.end()[2] == 0
    assert len(adopted.assert_clean(server).admitted) == 2
    assert adopted.holder(server) is None


def test_a_killed_process_lets_go(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """The death of a process frees its peer at once, whatever the table still says."""
    server.origin.add_many(2)
    held = server.hold()
    first = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    first.kill()
    assert first.end()[2] == -9
    assert adopted.holder(server) == first.pid
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 2
    assert adopted.holder(server) is None


# --- while a page is in flight


def test_a_peer_revoked_while_its_page_is_in_flight(
    start: Start, adopted: Receiver, server: PageServer
) -> None:
    """Nothing of a page is admitted when its peer is revoked before the commit."""
    server.origin.add_many(3)
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    adopted.execute("UPDATE peers SET status = 'revoked'")
    held.let_go()
    _stdout, stderr, code = running.end()
    assert code == 4
    assert "(peer_not_active)" in stderr
    assert_untouched(adopted, server, None)


def test_scopes_narrowed_while_a_page_is_in_flight(
    start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A scope that is withdrawn before a page is judged is not admitted from that page."""
    public = server.origin.add()
    company = server.origin.add(scope="company")
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    adopted.execute("""UPDATE peers SET allowed_scopes = '["public"]'""")
    held.let_go()
    assert running.end()[2] == 0
    assert adopted.fact_ids(server) == {public}
    assert adopted.letters(server) == {company: "scope_not_permitted"}


def test_a_cursor_reset_while_a_page_is_in_flight(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A reset is not overwritten by the page under way: the same pull reads everything again."""
    server.origin.add_many(8)
    server.script(honestly)
    held = server.hold()
    running = start(
        *("pull", "--peer", server.node_id), db=adopted.database, env=settings(page_size=3)
    )
    held.wait()
    wait_for(lambda: adopted.cursor(server) is not None)
    cli("cursor", "reset", "--peer", server.node_id, "--yes", db=adopted.database)
    assert adopted.cursor(server) is None
    held.let_go()
    stdout, stderr, code = running.end()
    assert (code, stderr) == (0, "")
    assert "cursor changed  1 times by somebody else" in stdout
    assert [request.cursor for request in server.requests].count(None) == 2
    assert len(adopted.assert_clean(server).admitted) == 8
    assert adopted.cursor(server) == server.origin.rows[-1].hlc
    events = adopted.events(server)
    assert events.index("cursor_reset") < events.index("cursor_moved_elsewhere")


def test_a_cursor_reset_beside_an_idle_page_survives(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """A reset beside a page that brings nothing is still there afterwards, and is followed."""
    server.origin.add_many(4)
    pull_all_new(cli, adopted)
    held = server.hold()
    running = start("pull", "--peer", server.node_id, db=adopted.database)
    held.wait()
    cli("cursor", "reset", "--peer", server.node_id, "--yes", db=adopted.database)
    held.let_go()
    assert running.end()[2] == 0
    pull_all_new(cli, adopted)
    # By whichever of the two pulls: everything was read once more.
    assert [request.cursor for request in server.requests].count(None) == 2
    assert adopted.cursor(server) == server.origin.rows[-1].hlc
    adopted.assert_clean(server)


def test_interrupted_between_pages(
    cli: Cli, start: Start, adopted: Receiver, server: PageServer
) -> None:
    """Ctrl-C is exit 130 with a summary; the pages before it are whole, and the lock is free."""
    server.origin.add_many(12)
    server.script(honestly, honestly)
    held = server.hold()
    running = start(
        *("pull", "--peer", server.node_id), db=adopted.database, env=settings(page_size=4)
    )
    held.wait()
    wait_for(lambda: len(adopted.fact_ids(server)) == 7)
    running.interrupt()
    stdout, stderr, code = running.end()
    assert code == 130
    assert "Traceback" not in stderr
    assert "interrupted after" in stdout
    assert "7 new facts" in stdout
    cursor = adopted.cursor(server)
    assert cursor is not None
    verdict = server.origin.ledger.judge(adopted.database)
    assert verdict.admitted == {
        row.entry["fact"]["id"] for row in server.origin.rows if row.hlc <= cursor
    }
    assert not verdict.duplicated
    assert not verdict.incomplete
    assert adopted.holder(server) is None
    pull_all_new(cli, adopted)
    assert len(adopted.assert_clean(server).admitted) == 12


# --- dry runs, several peers, machines


def files_beside(database: Path) -> set[str]:
    """What lies beside a database, but for the two files that SQLite makes to read it."""
    names = {path.name for path in database.parent.iterdir() if path.is_file()}
    return names - {f"{database.name}-wal", f"{database.name}-shm"}


@pytest.mark.parametrize("fixture", ["bare_receiver", "receiver"])
def test_a_dry_run_writes_nothing_at_all(
    cli: Cli, server: PageServer, request: pytest.FixtureRequest, fixture: str
) -> None:
    """A dry run verifies and counts everything, and leaves database and folder as they were."""
    receiver: Receiver = request.getfixturevalue(fixture)
    receiver.adopt(server)
    server.origin.add_many(7)
    serve(server.origin, poison("a content beside its id"))
    # A newer manifest is only read, too.
    server.origin.rotate()
    server.origin.add_many(2)
    before, files = receiver.dump(), files_beside(receiver.database)
    result = pull_all_new(cli, receiver, "--dry-run", env=settings(page_size=3, log_level="error"))
    assert "would add   9 new facts" in result.stdout
    assert "cid_mismatch 1" in result.stdout
    assert receiver.dump() == before
    assert files_beside(receiver.database) == files


def test_one_bad_peer_does_not_stop_another(
    cli: Cli, adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """--all pulls every active peer; the exit code is of the worst, the good one has arrived."""
    adopted.adopt(second_server)
    server.origin.add_many(3)
    second_server.always = misbehaviour.status(403)
    result = cli("pull", "--all", "--wait", "0", db=adopted.database, check=False)
    assert_failed(result, "forbidden", 6)
    assert len(adopted.assert_clean(server).admitted) == 3
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert lines[server.node_id].startswith("done; 1 pages, 3 new,")
    assert lines[second_server.node_id].startswith("stopped: forbidden; 0 pages,")


DOCUMENT = {
    "peer": str,
    "url": str,
    "caught_up": bool,
    "dry_run": bool,
    "interrupted": bool,
    "seconds": float,
    "pages": int,
    "new": int,
    "duplicates": int,
    "rejected": dict,
    "refused_before": dict,
    "conflicts": int,
    "conflicts_left_out": int,
    "cursor_before": (str, type(None)),
    "cursor": (str, type(None)),
    "error": (dict, type(None)),
}


def assert_document(document: Mapping[str, object]) -> None:
    assert document.keys() == DOCUMENT.keys()
    for name, kind in DOCUMENT.items():
        assert isinstance(document[name], kind), name  # type: ignore[arg-type] # as written above


def test_json_of_one_peer_and_of_all(
    cli: Cli, adopted: Receiver, server: PageServer, second_server: PageServer
) -> None:
    """--json prints one object for --peer and a list for --all, failures included."""
    server.origin.add_many(2, entity="pages:same")
    bad = serve(server.origin, poison("a scope that was not agreed"))
    one = json.loads(cli("pull", "--peer", server.node_id, "--json", db=adopted.database).stdout)
    assert_document(one)
    assert (one["peer"], one["url"]) == (server.node_id, server.url)
    assert (one["caught_up"], one["interrupted"], one["error"]) == (True, False, None)
    assert (one["pages"], one["new"], one["conflicts"]) == (1, 2, 1)
    assert one["rejected"] == {"scope_not_permitted": 1}
    assert (one["cursor_before"], one["cursor"]) == (None, adopted.cursor(server))
    assert adopted.letters(server) == {bad: "scope_not_permitted"}

    adopted.adopt(second_server)
    second_server.always = misbehaviour.version_one
    result = cli("pull", "--all", "--json", "--wait", "0", db=adopted.database, check=False)
    assert_failed(result, "wrong_dialect", 9)
    every = {item["peer"]: item for item in json.loads(result.stdout)}
    assert every.keys() == {server.node_id, second_server.node_id}
    for document in every.values():
        assert_document(document)
    assert every[server.node_id]["error"] is None
    assert every[second_server.node_id]["caught_up"] is False
    assert every[second_server.node_id]["error"].keys() == {"reason", "message", "hint"}
    assert every[second_server.node_id]["error"]["reason"] == "wrong_dialect"


def test_a_refusal_counts_though_its_body_never_ends(
    cli: Cli, adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """The status and Retry-After of a refusal hold, though its text outlasts page_timeout_s."""

    def slowly(exchange: Exchange) -> None:
        exchange.head(429, {"Retry-After": "1800", "Content-Length": "1000"})
        misbehaviour.hang(exchange)

    server.script(slowly)
    config = config_file(tmp_path, page_timeout_s=0.5)
    words = ("--config", config, "pull", "--peer", server.node_id)
    result = cli(*words, db=adopted.database, check=False)
    assert result.returncode == 5
    assert "(throttled)" in result.stderr
    assert len(server.requests) == 1


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
