"""Keys of peers: how they change, how they are replaced, and what a forgery becomes.

A peer's key may change by a chain of rotations that its old key began, and in no other way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.pages import misbehaviour
from tests.pages.origin import Origin
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli, CliResult

pytest_plugins = ("tests.pages.fixtures",)


@dataclass(frozen=True, slots=True)
class Case:
    """What happened to one peer since it was approved; `reason` is why it is then blocked."""

    name: str
    prepare: Callable[[Receiver, PageServer], None]
    reason: str = ""
    manifest_requests: int = 1


@contextmanager
def peers_of(receiver: Receiver, cases: Sequence[Case]) -> Iterator[list[PageServer]]:
    """One approved peer a case, each with three facts signed by the key it has after it."""
    with ExitStack() as stack:
        servers = [stack.enter_context(PageServer()) for _ in cases]
        for server, case in zip(servers, cases, strict=True):
            receiver.adopt(server)
            case.prepare(receiver, server)
            server.origin.add_many(3)
        yield servers


def pull_every(cli: Cli, receiver: Receiver) -> CliResult:
    return cli("pull", "--all", "--wait", "0", db=receiver.database, check=False)


# --- what a peer may do


def _rotated(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate()


def _rotated_twice(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate(hours_ago=5_000)
    server.origin.rotate()


def _expired_but_renewed(receiver: Receiver, server: PageServer) -> None:
    receiver.store_manifest(server.origin.signed_manifest(days=-1, issued_days_ago=100))


def _about_to_expire(receiver: Receiver, server: PageServer) -> None:
    receiver.store_manifest(server.origin.signed_manifest(days=0.5, issued_days_ago=100))


def _looked_at_last_week(receiver: Receiver, server: PageServer) -> None:
    a_week_ago = (datetime.now(UTC) - timedelta(days=7)).isoformat()
    receiver.store_manifest(server.origin.manifest, updated_at=a_week_ago)


def _due_and_out_of_reach(receiver: Receiver, server: PageServer) -> None:
    _looked_at_last_week(receiver, server)
    server.script_manifest(misbehaviour.status(500))


def _nothing(_receiver: Receiver, _server: PageServer) -> None: ...


GOOD = (
    Case("unchanged", _nothing, manifest_requests=0),
    Case("rotated", _rotated),
    Case("rotated twice", _rotated_twice),
    Case("expired but renewed", _expired_but_renewed),
    Case("about to expire", _about_to_expire),
    Case("looked at last week", _looked_at_last_week),
    Case("due and out of reach", _due_and_out_of_reach),
)


def test_a_key_that_changed_as_it_should_is_followed(cli: Cli, receiver: Receiver) -> None:
    """A manifest is fetched by itself, once, when it is due or a key was rotated; facts arrive."""
    with peers_of(receiver, GOOD) as servers:
        result = pull_every(cli, receiver)
        assert result.returncode == 0, result.stderr
        for server, case in zip(servers, GOOD, strict=True):
            assert len(receiver.assert_clean(server).admitted) == 3, case.name
            assert receiver.letters(server) == {}
            assert len(server.manifest_requests) == case.manifest_requests, case.name
            stored = receiver.stored_manifest(server)
            assert stored is not None
            assert json.loads(stored) == server.origin.manifest, case.name
            assert [
                request.headers.get("Authorization") for request in server.manifest_requests
            ] == [None] * case.manifest_requests


def test_a_new_manifest_is_recorded(cli: Cli, adopted: Receiver, server: PageServer) -> None:
    """A rotation is written to the node's audit log, once, and not fetched again for a page."""
    server.origin.rotate()
    server.origin.add_many(5)
    words = ("pull", "--peer", server.node_id)
    env = {"STIGMEM_REPLICATOR_PAGE_SIZE": "2"}
    cli(*words, db=adopted.database, env=env)
    cli(*words, db=adopted.database, env=env)
    (row,) = adopted.query("SELECT event_type, detail FROM federation_audit")
    assert row["event_type"] == "manifest_stored"
    assert json.loads(row["detail"])["key_id"] == server.origin.manifest["key_id"]
    assert len(server.manifest_requests) == 1
    assert len(adopted.assert_clean(server).admitted) == 5


@pytest.mark.parametrize(("hours_ago", "admitted"), [(100, 4), (200, 2)])
def test_the_old_key_has_its_grace(
    cli: Cli, adopted: Receiver, server: PageServer, hours_ago: float, admitted: int
) -> None:
    """What the old key signed is taken for 168 hours after its rotation, and refused after."""
    old = server.origin.add_many(2)
    server.origin.rotate(hours_ago=hours_ago)
    new = server.origin.add_many(2)
    adopted.store_manifest(server.origin.manifest)
    cli("pull", "--peer", server.node_id, db=adopted.database)
    assert adopted.fact_ids(server) == {*new, *(old if admitted == 4 else [])}
    refused = {} if admitted == 4 else dict.fromkeys(old, "origin_sig_invalid")
    assert adopted.letters(server) == refused


# --- what it may not


def _replaced(_receiver: Receiver, server: PageServer) -> None:
    server.origin.replace_key()


def _forged_chain(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate(forged=True)


def _chain_with_a_gap(_receiver: Receiver, server: PageServer) -> None:
    for _ in range(3):
        server.origin.rotate()
    del server.origin.rotations[1]
    server.origin.manifest = server.origin.signed_manifest()


def _chain_to_another_key(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate()
    rotations = list(server.origin.rotations)
    server.origin.replace_key()
    server.origin.rotations.extend(rotations)
    server.origin.manifest = server.origin.signed_manifest()


def _manifest_unsigned(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate()
    server.origin.manifest["signature"] = "A" * 86


def _manifest_of_another(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate()
    double = Origin("http://127.0.0.1:1", node_id=server.node_id)
    double.key, double.rotations = server.origin.key, server.origin.rotations
    server.origin.manifest = double.signed_manifest()


def _rotated_into_the_past(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate()
    server.origin.manifest = server.origin.signed_manifest(days=-1, issued_days_ago=100)


def _rotated_and_hidden(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate()
    server.script_manifest(misbehaviour.status(500))


def _rotated_and_vast(_receiver: Receiver, server: PageServer) -> None:
    server.origin.rotate()
    server.script_manifest(misbehaviour.endless)


def _expired_and_hidden(receiver: Receiver, server: PageServer) -> None:
    _expired_but_renewed(receiver, server)
    server.script_manifest(misbehaviour.status(500))


def _expired_for_good(receiver: Receiver, server: PageServer) -> None:
    server.origin.manifest = server.origin.signed_manifest(days=-1, issued_days_ago=100)
    receiver.store_manifest(server.origin.manifest)


def _not_bound(receiver: Receiver, server: PageServer) -> None:
    receiver.execute("UPDATE peers SET entity_uri = NULL WHERE node_id = ?", [server.node_id])


def _bound_to_blanks(receiver: Receiver, server: PageServer) -> None:
    receiver.execute("UPDATE peers SET entity_uri = '  ' WHERE node_id = ?", [server.node_id])


def _no_manifest(receiver: Receiver, server: PageServer) -> None:
    receiver.execute(
        "DELETE FROM federation_manifests WHERE entity_uri = ?", [server.origin.entity_uri]
    )


def _stored_manifest_changed(receiver: Receiver, server: PageServer) -> None:
    receiver.execute(
        "UPDATE federation_manifests SET manifest_json = replace(manifest_json, ?, ?)",
        [server.origin.manifest["expires_at"], "2099-01-01T00:00:00+00:00"],
    )


def _stored_manifest_unreadable(receiver: Receiver, server: PageServer) -> None:
    receiver.execute(
        "UPDATE federation_manifests SET manifest_json = '{' WHERE entity_uri = ?",
        [server.origin.entity_uri],
    )


BAD = (
    Case("replaced", _replaced, "key_changed"),
    Case("forged chain", _forged_chain, "key_changed"),
    Case("chain with a gap", _chain_with_a_gap, "key_changed"),
    Case("chain to another key", _chain_to_another_key, "key_changed"),
    Case("manifest unsigned", _manifest_unsigned, "key_changed"),
    Case("manifest of another", _manifest_of_another, "key_changed"),
    Case("rotated into the past", _rotated_into_the_past, "key_changed"),
    Case("rotated and hidden", _rotated_and_hidden, "key_changed"),
    Case("rotated and vast", _rotated_and_vast, "key_changed"),
    Case("expired and hidden", _expired_and_hidden, "origin_unresolvable"),
    Case("expired for good", _expired_for_good, "origin_unresolvable"),
    Case("not bound", _not_bound, "origin_unresolvable", 0),
    Case("bound to blanks", _bound_to_blanks, "origin_unresolvable", 0),
    Case("no manifest", _no_manifest, "origin_unresolvable", 0),
    Case("stored manifest changed", _stored_manifest_changed, "origin_unresolvable", 0),
    Case("stored manifest unreadable", _stored_manifest_unreadable, "origin_unresolvable", 0),
)


@pytest.mark.parametrize("reason", ["key_changed", "origin_unresolvable"])
def test_a_key_that_cannot_be_told_blocks_the_peer(
    cli: Cli, receiver: Receiver, reason: str
) -> None:
    """Without a key that the accepted one leads to: exit 9, no dead letter, the cursor stays."""
    cases = [case for case in BAD if case.reason == reason]
    with peers_of(receiver, cases) as servers:
        before = [receiver.stored_manifest(server) for server in servers]
        result = pull_every(cli, receiver)
        assert result.returncode == 9, result.stderr
        lines = [
            line for line in result.stderr.splitlines() if line.startswith("stigmem-replicate: ")
        ]
        assert len(lines) == len(cases)
        for server, case, manifest in zip(servers, cases, before, strict=True):
            (line,) = [line for line in lines if server.node_id in line]
            assert f" ({case.reason})" in line, case.name
            assert receiver.cursor(server) is None
            assert receiver.letters(server) == {}
            assert receiver.state(server) == ("blocked", case.reason), case.name
            assert receiver.stored_manifest(server) == manifest, case.name
            assert len(server.manifest_requests) == case.manifest_requests, case.name
        assert receiver.count("facts") == 0


def test_a_blocked_peer_goes_on_once_it_can_be_verified_again(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A peer whose key was replaced arrives whole after its new manifest is accepted by hand."""
    server.origin.replace_key()
    server.origin.add_many(3)
    words = ("pull", "--peer", server.node_id)
    assert cli(*words, db=adopted.database, check=False).returncode == 9
    adopted.store_manifest(server.origin.manifest)
    cli(*words, db=adopted.database)
    assert len(adopted.assert_clean(server).admitted) == 3
    assert adopted.state(server) == ("idle", None)


# --- forgeries


def test_one_forged_signature_is_one_dead_letter(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A forgery among good entries is refused, the manifest is looked at once, the stream goes on.

    Once the peer's key is known to be as it was, another forgery does not ask for it again.
    """
    server.origin.add_many(3)
    forged = [serve(server.origin, poison("a signature of another key"))]
    server.origin.add_many(3)
    forged.append(serve(server.origin, poison("a content changed under way")))
    server.origin.add_many(3)
    env = {"STIGMEM_REPLICATOR_PAGE_SIZE": "4"}
    result = cli("pull", "--peer", server.node_id, db=adopted.database, env=env)
    assert "origin_sig_invalid 2" in result.stdout
    # A refused entry that two pages share is one refusal, however soon the second is judged.
    assert adopted.count("federation_audit") == 2
    assert adopted.letters(server) == dict.fromkeys(forged, "origin_sig_invalid")
    assert len(adopted.assert_clean(server).admitted) == 9
    assert len(server.manifest_requests) == 1
    assert adopted.state(server) == ("idle", None)


def test_forgeries_alone_do_not_hide_behind_a_manifest_out_of_reach(
    cli: Cli, adopted: Receiver, server: PageServer
) -> None:
    """A forgery among good entries is refused also when the manifest cannot be had just then."""
    server.origin.add_many(2)
    forged = serve(server.origin, poison("a signature of another key"))
    server.script_manifest(misbehaviour.status(500))
    cli("pull", "--peer", server.node_id, db=adopted.database)
    assert adopted.letters(server) == {forged: "origin_sig_invalid"}
    assert len(adopted.assert_clean(server).admitted) == 2
