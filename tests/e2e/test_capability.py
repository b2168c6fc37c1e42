"""The token that a peer wants for its tombstones: what is said without one, and with one.

The command runs in this process. That a running daemon sees a new token is in
tests/engine/test_tombstone_task.py.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stigmem_replicator.engine.capability import read_token
from stigmem_replicator.protocol.capability import CapabilityFormatError
from tests.pages.capabilities import TOMBSTONE_READ
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstone_endpoint import CAPABILITY, PEER_TOKEN
from tests.pages.tombstones import add_tombstone

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


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


def test_a_pipe_is_no_file(
    here: Here, adopted: Receiver, demanding: PageServer, token_file: Path
) -> None:
    """A pipe in place of a file would keep its reader waiting: it is refused at once."""
    os.mkfifo(token_file)
    line = pull(here, adopted, demanding, token=token_file).failed("capability_required", 0)
    assert "it is no plain file" in line


def test_a_token_goes_to_nobody_but_who_issued_it(
    here: Here,
    adopted: Receiver,
    demanding: PageServer,
    second_server: PageServer,
    token_file: Path,
) -> None:
    """One of another peer is not sent: whoever gets it could use it there."""
    text = second_server.tombstone_endpoint.capabilities.issue(second_server.origin)
    result = pull(here, adopted, demanding, token=give(token_file, text))
    line = result.failed("capability_required", 0)
    assert f"it is one of {second_server.origin.entity_uri}" in line
    assert bearers(demanding) == []


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
    assert "not what is in it" in line


def test_a_file_that_others_can_read(
    here: Here, adopted: Receiver, demanding: PageServer, token_file: Path
) -> None:
    """`config check` warns of it with the command that mends it."""
    give(token_file, "{}").chmod(0o644)
    said = " ".join(checked(here, adopted, {demanding.node_id: token_file}))
    assert f"chmod 640 {token_file}" in said or f"chmod 600 {token_file}" in said


# --- what `config check` says of the files


def checked(here: Here, receiver: Receiver, files: dict[str, Path]) -> list[str]:
    """The warnings of `config check`, the same in words and in JSON, which are no failure."""
    config = receiver.database.parent / "replicator.toml"
    config.write_text(
        "".join(
            f'[peer."{node_id}"]\ncapability_token_file = {json.dumps(str(path))}\n'
            for node_id, path in files.items()
        )
    )
    words = ("--config", str(config), "config", "check")
    text = here(*words, db=receiver.database)
    assert (text.code, text.stderr) == (0, "")
    *lines, last = text.stdout.splitlines()
    assert last.startswith("all settings fit")
    document = json.loads(here(*words, "--json", db=receiver.database).stdout)
    assert document["usable"]
    assert [f"warning: {warning}" for warning in document["warnings"]] == lines
    return lines


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file or directory"),
        ("/", "Is a directory"),
        ("|", "it is no plain file"),
        ("", "it is not JSON"),
        ('{"verb": "facts:read", "nonce": "secret"}', "it does not grant tombstone:read"),
        ("x" * 20_000, "it is too long"),
    ],
)
def test_a_check_finds_a_file_without_a_token(
    here: Here,
    adopted: Receiver,
    server: PageServer,
    token_file: Path,
    text: str | None,
    why: str,
) -> None:
    """A warning has the peer, the file and what is wrong; a pipe does not keep it waiting."""
    if text == "/":
        token_file.mkdir()
    elif text == "|":
        os.mkfifo(token_file, 0o600)
    elif text is not None:
        give(token_file, text)
    (line,) = checked(here, adopted, {server.node_id: token_file})
    assert line == f"warning: {token_file} has no capability token for peer {server.node_id}: {why}"


def test_what_is_no_file_leaves_nothing_open(tmp_path: Path) -> None:
    """A daemon looks again and again while the name is a folder's."""
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with pytest.raises(CapabilityFormatError, match="Is a directory"):
            read_token(tmp_path)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_check_says_when_a_token_ends(
    here: Here, adopted: Receiver, server: PageServer, token_file: Path
) -> None:
    """One that is good for long is not spoken of; one that has ended or soon will is."""
    files = {server.node_id: token_file}
    issue = server.tombstone_endpoint.capabilities.issue
    assert checked(here, adopted, {server.node_id: give(token_file, issue(server.origin))}) == []
    begin = f"warning: the capability token in {token_file} for peer {server.node_id}"
    ended = give(token_file, issue(server.origin, ttl_s=-7_201)).read_text()
    (line,) = checked(here, adopted, files)
    assert line.startswith(f"{begin} has ended: 20")
    assert "(expired 2 h ago); its operator issues another one" in line
    assert json.loads(ended)["nonce"] not in line
    token = json.loads(issue(server.origin, ttl_s=3 * 86_400 + 3_600))
    token["issued_at"] = "2026-01-01T00:00:00+00:00"
    give(token_file, json.dumps(token))
    (line,) = checked(here, adopted, files)
    assert line.startswith(f"{begin} ends soon: 20")
    assert "(3 d left)" in line
    assert token["nonce"] not in line


def test_a_check_finds_a_token_that_is_another_peer_s(
    here: Here, adopted: Receiver, server: PageServer, second_server: PageServer, token_file: Path
) -> None:
    """One that another organisation issued, and one file for two peers, which each would see."""
    adopted.adopt(second_server)
    give(token_file, server.tombstone_endpoint.capabilities.issue(server.origin))
    link = token_file.with_name("link.json")
    link.symlink_to(token_file)
    files = {server.node_id: token_file, second_server.node_id: link}
    foreign, shared = checked(here, adopted, files)
    assert foreign == (
        f"warning: {link} has no capability token for peer {second_server.node_id}: it is one of "
        f"{server.origin.entity_uri}, and this peer is {second_server.origin.entity_uri}"
    )
    names = f"{server.node_id} and {second_server.node_id}"
    assert shared.startswith(
        f"warning: {token_file} is named as capability_token_file of {names}: "
    )


def test_a_token_that_goes_over_a_network_in_the_clear(
    here: Here, adopted: Receiver, server: PageServer, token_file: Path
) -> None:
    """`config check` and the log of a pull say so; of this machine nobody else sees it."""
    give(token_file, server.tombstone_endpoint.capabilities.issue(server.origin))
    files = {server.node_id: token_file}
    assert checked(here, adopted, files) == []
    quiet = pull(here, adopted, server, "--stream", "tombstones", token=token_file)
    assert (quiet.code, quiet.stderr) == (0, "")
    far = "stigmem:node:far"
    adopted.register(far, "http://192.0.2.1:8765")
    files[far] = give(token_file.with_name("far.json"), token_file.read_text())
    (line,) = checked(here, adopted, files)
    words = f"the capability token of peer {far} goes to http://192.0.2.1:8765 in the clear"
    assert line.startswith(f"warning: {words}")
    config = adopted.database.with_name("replicator.toml")
    arguments = ("--config", str(config), "pull", "--peer", server.node_id)
    logged = here(*arguments, db=adopted.database)
    assert logged.code == 0
    (record,) = logged.stderr.splitlines()
    assert json.loads(record)["event"] == "federation.capability.exposed"
    assert json.loads(record)["detail"].startswith(words)
