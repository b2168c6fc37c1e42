"""The token that a peer wants for its tombstones: what is said without one, and with one.

The command runs in this process. That a running daemon sees a new token is in
tests/engine/test_tombstone_task.py.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.e2e.here import Here, Result, here
from tests.pages.capabilities import TOMBSTONE_READ
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstone_endpoint import CAPABILITY, PEER_TOKEN
from tests.pages.tombstones import add_tombstone

pytest_plugins = ("tests.pages.fixtures",)

__all__ = ["here"]


@pytest.fixture
def demanding(server: PageServer) -> PageServer:
    """A peer that wants a capability token, with a tombstone and a fact."""
    server.tombstone_endpoint.demands_capability = True
    add_tombstone(server.origin, "person:kim")
    server.origin.add_many(1)
    return server


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "token.json"


def pull(
    here: Here, receiver: Receiver, server: PageServer, *arguments: str, token: Path | None = None
) -> Result:
    config = receiver.database.parent / "replicator.toml"
    config.write_text(
        ""
        if token is None
        else f'[peer."{server.node_id}"]\ncapability_token_file = {json.dumps(str(token))}\n'
    )
    arguments = ("--config", str(config), "pull", "--peer", server.node_id, *arguments)
    return here(*arguments, db=receiver.database)


def bearers(server: PageServer) -> list[str]:
    return [request.bearer for request in server.tombstone_endpoint.requests]


def give(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_facts_go_on_without_a_token(here: Here, adopted: Receiver, demanding: PageServer) -> None:
    """Exit 0 with the facts; standard error says how the peer's operator makes a token."""
    result = pull(here, adopted, demanding)
    assert result.code == 0
    line = result.failed("capability_required", 0)
    assert "tombstone:read capability required" in line
    assert f'capability_token_file under [peer."{demanding.node_id}"]' in line
    command = shlex.split(line.split("operator runs: ")[1].split(";")[0])
    assert command[:3] == ["stigmem", "capability", "issue"]
    assert command[command.index("--issuer") + 1] == demanding.origin.entity_uri
    assert command[command.index("--node-url") + 1] == demanding.url
    assert "stopped: capability_required" in result.stdout
    assert len(adopted.fact_ids(demanding)) == 1
    assert adopted.tombstone_ids() == set()
    assert adopted.state(demanding) == ("idle", None)
    (row,) = adopted.query("SELECT state, reason FROM replicator_streams")
    assert tuple(row) == ("blocked", "capability_required")
    assert bearers(demanding) == [PEER_TOKEN]


def test_asked_for_alone_they_decide_the_exit_code(
    here: Here, adopted: Receiver, demanding: PageServer
) -> None:
    """`pull --stream tombstones` without a token is exit 9, in JSON too."""
    result = pull(here, adopted, demanding, "--stream", "tombstones", "--json")
    result.failed("capability_required", 9)
    said = json.loads(result.stdout)
    assert said["tombstones"]["error"]["reason"] == said["error"]["reason"] == "capability_required"
    assert said["tombstones"]["caught_up"] is False


@pytest.mark.parametrize("whole", [False, True])
def test_a_token_opens_them(
    here: Here, adopted: Receiver, demanding: PageServer, token_file: Path, *, whole: bool
) -> None:
    """The token of the file is sent, alone or in all that the node's command prints."""
    text = demanding.tombstone_endpoint.capabilities.issue(demanding.origin)
    give(token_file, json.dumps({"token_json": text}, indent=2) if whole else text)
    result = pull(here, adopted, demanding, token=token_file)
    assert (result.code, result.stderr) == (0, "")
    assert len(adopted.tombstone_ids()) == 1
    assert bearers(demanding) == [CAPABILITY]
    (row,) = adopted.query("SELECT token_not_after_ms AS ends FROM replicator_streams")
    assert row["ends"] > 0
    nonce = json.loads(text)["nonce"]
    assert nonce not in result.stdout + result.stderr + "".join(adopted.dump())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON"),
        ("[]", "it is JSON but no object"),
        ('{"verb": "facts:read", "nonce": "secret"}', "it does not grant tombstone:read"),
        ("x" * 20_000, "it is too long"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_without_a_token(
    here: Here,
    adopted: Receiver,
    demanding: PageServer,
    token_file: Path,
    text: str | None,
    why: str,
) -> None:
    """The stream is blocked before anything is sent, the file and what is wrong are named."""
    if text is not None:
        give(token_file, text)
    line = pull(here, adopted, demanding, token=token_file).failed("capability_required", 0)
    assert f"{token_file} has no capability token for peer {demanding.node_id}: {why}" in line
    assert "secret" not in line
    assert bearers(demanding) == []
    assert len(adopted.fact_ids(demanding)) == 1


def test_a_token_that_the_peer_took_back_or_that_has_ended(
    here: Here, adopted: Receiver, demanding: PageServer, token_file: Path
) -> None:
    """The peer's word is shown with the file's name; a new token in the same file is used."""
    capabilities = demanding.tombstone_endpoint.capabilities
    revoked = capabilities.issue(demanding.origin)
    capabilities.revoke(revoked)
    line = pull(here, adopted, demanding, token=give(token_file, revoked)).failed(
        "capability_required", 0
    )
    assert f"does not take the capability token in {token_file}:" in line
    ended = capabilities.issue(demanding.origin, ttl_s=-60)
    result = pull(here, adopted, demanding, token=give(token_file, ended))
    assert f"capability token in {token_file}, which has ended:" in result.failed_among(
        "capability_required", 0
    )
    good = capabilities.issue(demanding.origin)
    assert pull(here, adopted, demanding, token=give(token_file, good)).stderr == ""
    assert len(adopted.tombstone_ids()) == 1


def test_a_token_is_never_every_peers(
    here: Here, adopted: Receiver, demanding: PageServer, token_file: Path
) -> None:
    """Neither the environment nor the top of the TOML file takes one: it would reach them all."""
    give(token_file, "{}")
    name = "STIGMEM_REPLICATOR_CAPABILITY_TOKEN_FILE"
    result = here("peers", "list", db=adopted.database, env={name: str(token_file)})
    line = result.failed("configuration_invalid", 3)
    assert 'under [peer."NODE ID"]' in line
    config = adopted.database.parent / "replicator.toml"
    config.write_text(f"capability_token_file = {json.dumps(str(token_file))}\n")
    result = here("--config", str(config), "peers", "list", db=adopted.database)
    assert 'under [peer."NODE ID"]' in result.failed("configuration_invalid", 3)
    text = json.dumps({"verb": TOMBSTONE_READ})
    config.write_text(f'[peer."{demanding.node_id}"]\ncapability_token_file = {json.dumps(text)}\n')
    result = here("--config", str(config), "peers", "list", db=adopted.database)
    line = result.failed("configuration_invalid", 3)
    assert "not the key itself" in line


def test_a_file_that_others_can_read(
    here: Here, adopted: Receiver, demanding: PageServer, token_file: Path
) -> None:
    """`config check` warns of it with the command that mends it."""
    give(token_file, "{}").chmod(0o644)
    config = adopted.database.parent / "replicator.toml"
    config.write_text(
        f'[peer."{demanding.node_id}"]\ncapability_token_file = {json.dumps(str(token_file))}\n'
    )
    result = here("--config", str(config), "config", "check", db=adopted.database)
    assert f"chmod 640 {token_file}" in result.stdout or f"chmod 600 {token_file}" in result.stdout
