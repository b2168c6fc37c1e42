"""Which peers are pulled: one or all of them, by whatever name, for good or to see.

The command runs as a subprocess against the page server. Every case looks at what the operator
sees and at what became of the database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.page_pulls import (
    assert_failed,
    assert_untouched,
    pull,
    pull_all_new,
    servers,
    settings,
)
from tests.nodes.certificates import TlsFiles
from tests.pages import misbehaviour
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli

pytest_plugins = ("tests.pages.fixtures",)


UNSAFE = ("0.0.0.0", "user:hunter2@127.0.0.1", "127.0.0.1", "[::]")  # noqa: S104 - refused


def test_an_unsafe_address_is_not_connected_to(
    cli: Cli, receiver: Receiver, certificate: TlsFiles
) -> None:
    """An address that is not public, or holds credentials, is exit 6 and hears nothing."""
    with servers(receiver, len(UNSAFE)) as peers:
        for server, host in zip(peers, UNSAFE, strict=True):
            port = server.url.rsplit(":", 1)[1]
            receiver.execute(
                "UPDATE peers SET node_url = ? WHERE node_id = ?",
                [f"https://{host}:{port}", server.node_id],
            )
        words = ("pull", "--all", "--wait", "0")
        result = cli(*words, db=receiver.database, env=certificate.environ, check=False)
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
    assert lines[server.node_id].startswith("caught up; 1 pages, 3 new,")
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
    "upstream_lag_ms": (int, type(None)),
    "cursor": (str, type(None)),
    "error": (dict, type(None)),
    "stream": str,
    "tombstones": (dict, type(None)),
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
