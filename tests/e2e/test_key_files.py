"""The node's private key in a file of its own: pulls sign with it, and nothing shows it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.pages.origin import base64url
from tests.pages.receiver import SCOPES, Receiver
from tests.pages.server import PageServer, Reader

if TYPE_CHECKING:
    from tests.e2e.here import Here

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")

SEED = bytes(range(100, 132))
PRIVATE = base64url(SEED)
PUBLIC = base64url(Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw())
ANOTHER = base64url(bytes(32))
NAME = "STIGMEM_REPLICATOR_FEDERATION_PRIVKEY_FILE"


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    """The file of a systemd credential, with the line break that an editor leaves."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    file = folder / "federation_privkey"
    file.write_text(f" {PRIVATE}=\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("as_credential", [False, True])
def test_a_pull_signs_with_the_key_in_the_file(
    here: Here,
    adopted: Receiver,
    server: PageServer,
    seed: Path,
    as_credential: bool,  # noqa: FBT001 the two ways to name the file
) -> None:
    """It goes before the one in the database; neither file nor log nor table repeats it."""
    server.know(Reader(adopted.meta("node_id"), PUBLIC, frozenset(SCOPES)))
    server.origin.add_many(3)
    env = {"CREDENTIALS_DIRECTORY": str(seed.parent)} if as_credential else {NAME: str(seed)}
    before = set(adopted.dump())
    said = []
    for words in (("pull", "--all"), ("config", "show", "--json"), ("config", "check")):
        result = here("--log-level", "debug", *words, db=adopted.database, env=env)
        assert result.code == 0, result.stderr
        said += [result.stdout, result.stderr]
    assert len(adopted.fact_ids(server)) == 3
    rows = {row["name"]: row for row in json.loads(said[2])["settings"]}
    row = rows["federation_privkey_file"]
    place = "systemd credential federation_privkey" if as_credential else f"environment {NAME}"
    assert (row["value"], row["origin"]) == (str(seed), place)
    said += set(adopted.dump()) - before
    for secret in (PRIVATE, SEED.hex(), base64.b64encode(SEED).decode()):
        assert not any(secret in text for text in said)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PRIVATE.encode()[:-3], "does not hold a key"),
        (PRIVATE.encode() + b"\n" + PRIVATE.encode(), "does not hold a key"),
        (b"\xff\xfe" + SEED, "does not hold a key"),
        (b"", "does not hold a key"),
        (PRIVATE.encode() + b" " * 4096, "is larger than 4096 bytes"),
        (ANOTHER.encode(), "holds another key than the one of federation_pubkey"),
    ],
)
def test_a_file_without_the_key_is_refused_in_one_line(
    here: Here, adopted: Receiver, seed: Path, content: bytes, what: str
) -> None:
    """The line names the file and repeats nothing of it."""
    seed.write_bytes(content)
    env = {NAME: str(seed), "STIGMEM_FEDERATION_PUBKEY": PUBLIC}
    line = here("pull", "--all", db=adopted.database, env=env).failed("configuration_invalid", 3)
    assert f"federation_privkey_file {seed} {what}" in line
    checked = here("config", "check", db=adopted.database, env=env)
    assert checked.code == 3
    assert f"{seed} {what}" in checked.stdout
    for text in (line, checked.stdout):
        assert PRIVATE[:8] not in text
        assert "codec" not in text


def test_a_file_that_cannot_be_read_is_refused(
    here: Here, adopted: Receiver, tmp_path: Path
) -> None:
    """A pipe with nobody at its other end would keep us waiting for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, what in (
        (tmp_path / "missing", "is not there"),
        (tmp_path, "is no file"),
        (pipe, "is no file"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ):
        env = {NAME: str(path)}
        line = here("pull", "--all", db=adopted.database, env=env)
        assert f"{path} {what}" in line.failed("configuration_invalid", 3)


def test_check_says_how_to_keep_files_from_others(
    here: Here, adopted: Receiver, seed: Path
) -> None:
    """Warnings, with the command for each; once that was run there are none."""
    seed.write_text(adopted.meta("federation_privkey"))
    adopted.database.chmod(0o644)
    seed.chmod(0o644)
    for file, env in ((adopted.database, {}), (seed, {NAME: str(seed)})):
        result = here("config", "check", db=adopted.database, env=env)
        assert result.code == 0
        warning, _ = result.stdout.splitlines()
        assert warning == (
            f"warning: {file} can be read by others than its owner; mend it with: chmod 600 {file}"
        )
        document = here("config", "check", "--json", db=adopted.database, env=env).stdout
        assert json.loads(document)["warnings"] == [warning.removeprefix("warning: ")]
        file.chmod(0o600)
        assert "warning" not in here("config", "check", db=adopted.database, env=env).stdout
