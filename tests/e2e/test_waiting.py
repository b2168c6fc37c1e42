"""How long a pull waits: for an answer, after an error, and as long as the peer asks for.

The command runs as a subprocess against the page server. Every case looks at what the operator
sees and at what became of the database.
"""

from __future__ import annotations

import socket
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.page_pulls import (
    assert_failed,
    assert_untouched,
    complaints,
    config_file,
    pull,
    servers,
    settings,
    wait_for,
)
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import Exchange, PageServer, limits_of

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.pages.fixtures",)


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
        assert time.monotonic() - began < 9


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
