"""Keys in files: which file it is, credentials of systemd, and how a file is kept from others."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from stigmem_replicator.settings import Settings, plain_token_warnings, warnings_about_keys
from stigmem_replicator.settings.safekeeping import complaints
from tests.unit.places import load, refused, review, write

PRIVATE = base64.urlsafe_b64encode(bytes(range(32, 64))).decode().rstrip("=")
PUBLIC = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
KEY_FILE = "STIGMEM_REPLICATOR_FEDERATION_PRIVKEY_FILE"
PRIVKEY, PUBKEY = "STIGMEM_FEDERATION_PRIVKEY", "STIGMEM_FEDERATION_PUBKEY"

ROOT, US, ANOTHER = 0, 1000, 1001
STRANGER = "belongs to user 1001, who is neither root nor the user this runs as"


# which key


def test_a_key_in_a_file_needs_no_public_key(tmp_path: Path) -> None:
    settings = load({}, {KEY_FILE: "seed"}, cwd=tmp_path)
    assert settings.federation_privkey_file == tmp_path / "seed"
    assert load({}, {KEY_FILE: "seed", PUBKEY: PUBLIC}, cwd=tmp_path).federation_pubkey == PUBLIC


def test_a_key_in_a_file_and_one_in_the_settings_are_refused(tmp_path: Path) -> None:
    """An empty variable of ours takes out what the node has."""
    both = {KEY_FILE: "seed", PRIVKEY: PRIVATE, PUBKEY: PUBLIC}
    assert refused(tmp_path, **both) == (
        f"federation_privkey is set (from environment {PRIVKEY}), and so is "
        f"federation_privkey_file (from environment {KEY_FILE})"
    )
    settings = load({}, {**both, "STIGMEM_REPLICATOR_FEDERATION_PRIVKEY": ""}, cwd=tmp_path)
    assert settings.federation_privkey == ""


# credentials of systemd


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """All that is looked for, and something else."""
    folder = tmp_path / "credentials"
    for name in ("federation_privkey", "tls_cert", "tls_key", "tls_ca_bundle", "other"):
        write(folder / name, "x")
    return folder


def test_credentials_are_files_of_keys_and_certificates(credentials: Path, tmp_path: Path) -> None:
    settings = load({}, {"CREDENTIALS_DIRECTORY": str(credentials)}, cwd=tmp_path)
    for name, credential in (
        ("federation_privkey_file", "federation_privkey"),
        ("tls_cert_path", "tls_cert"),
        ("tls_key_path", "tls_key"),
        ("tls_ca_bundle", "tls_ca_bundle"),
    ):
        assert getattr(settings, name) == credentials / credential
        assert settings.origin(name) == f"systemd credential {credential}"
    assert settings.mutual_tls


def test_credentials_yield_to_what_is_ours_alone(credentials: Path, tmp_path: Path) -> None:
    """Flags and our own variables come before them; the node's variables and all files after."""
    own, of_node = "STIGMEM_REPLICATOR_TLS_KEY_PATH", "STIGMEM_TLS_KEY_PATH"
    env_file = write(tmp_path / ".env", f"{own}=own-in-file.pem\n{of_node}=in-file.pem\n")
    config = write(tmp_path / "a.toml", 'tls_key_path = "toml.pem"\n')
    flags: dict[str, object] = {"tls_key_path": "flag.pem"}
    environ = {
        "CREDENTIALS_DIRECTORY": str(credentials),
        own: "own.pem",
        of_node: "node.pem",
        "STIGMEM_TLS_CERT_PATH": "x",
        "STIGMEM_TLS_CA_BUNDLE": "x",
    }

    def now() -> tuple[str, str]:
        settings = load(flags, environ, config_file=config, cwd=tmp_path)
        assert settings.tls_key_path is not None
        return settings.tls_key_path.name, settings.origin("tls_key_path")

    assert now() == ("flag.pem", "flag --tls-key-path")
    flags.clear()
    assert now() == ("own.pem", f"environment {own}")
    del environ[own]
    assert now() == ("tls_key", "systemd credential tls_key")
    (credentials / "tls_key").unlink()
    assert now() == ("node.pem", f"environment {of_node}")
    del environ[of_node]
    assert now() == ("own-in-file.pem", f"{own} in {env_file}")
    env_file.write_text("")
    assert now() == ("toml.pem", f"tls_key_path in {config}")


@pytest.mark.parametrize("folder", ["", "missing", "a-file"])
def test_without_credentials_nothing_is_looked_for(folder: str, tmp_path: Path) -> None:
    write(tmp_path / "a-file", "x")
    write(tmp_path / "tls_cert", "x")
    settings = load({}, {"CREDENTIALS_DIRECTORY": folder}, cwd=tmp_path)
    assert {row.origin for row in settings.describe()} == {"default"}


def test_credentials_that_cannot_be_looked_at_are_a_problem(
    credentials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another key in place of the one that was meant would be worse; the database stays known."""
    is_file = Path.is_file

    def denied(path: Path) -> bool:
        if path.parent == credentials:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", denied)
    read = review(tmp_path, {"CREDENTIALS_DIRECTORY": str(credentials)})
    (problem,) = read.problems
    assert problem.message == f"cannot read {credentials}/federation_privkey: Permission denied"
    assert read.database_is_known


# how a file is kept


@pytest.mark.parametrize(
    ("mode", "owner", "uid"),
    [
        (0o600, US, US),
        (0o400, US, US),
        (0o700, US, US),
        (0o640, ROOT, US),
        (0o440, ROOT, US),
        (0o600, ROOT, ROOT),
        (0o640, ROOT, ROOT),
    ],
)
def test_a_file_of_ours_or_root_s_that_is_kept_well(mode: int, owner: int, uid: int) -> None:
    assert complaints(Path("/k"), mode=mode, owner=owner, uid=uid) == []


@pytest.mark.parametrize(
    ("mode", "owner", "uid", "said"),
    [
        (0o644, US, US, ["can be read by others than its owner; mend it with: chmod 600 /k"]),
        (0o640, US, US, ["can be read by others than its owner; mend it with: chmod 600 /k"]),
        (0o604, US, US, ["can be read by others than its owner; mend it with: chmod 600 /k"]),
        (0o620, US, US, ["can be changed by others than its owner; mend it with: chmod 600 /k"]),
        (0o601, US, US, ["can be run by others than its owner; mend it with: chmod 600 /k"]),
        (0o644, ROOT, ROOT, ["can be read by others than its owner; mend it with: chmod 600 /k"]),
        (0o644, ROOT, US, ["can be read by others than its owner; mend it with: chmod 640 /k"]),
        (0o660, ROOT, US, ["can be changed by others than its owner; mend it with: chmod 640 /k"]),
        (
            0o600,
            ANOTHER,
            US,
            [f"{STRANGER}; mend it with: chown 1000 /k"],
        ),
        (
            0o644,
            ANOTHER,
            ROOT,
            [
                f"{STRANGER}; mend it with: chown 0 /k",
                "can be read by others than its owner; mend it with: chmod 600 /k",
            ],
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_command_that_mends_it(
    mode: int, owner: int, uid: int, said: list[str]
) -> None:
    """Of root's own file the group keeps its right to read, for without it we could not."""
    found = complaints(Path("/k"), mode=mode, owner=owner, uid=uid)
    assert found == [f"/k {text}" for text in said]


def test_a_file_of_the_node_may_belong_to_whoever_the_node_is() -> None:
    """Another owner would stop the node."""
    path = Path("/k")
    assert complaints(path, mode=0o600, owner=ANOTHER, uid=US, of_node=True) == []
    assert len(complaints(path, mode=0o644, owner=ANOTHER, uid=US, of_node=True)) == 1


def test_the_command_can_be_run_as_it_is() -> None:
    (said,) = complaints(Path("/a b/k;rm"), mode=0o644, owner=US, uid=US)
    assert said.endswith("chmod 600 '/a b/k;rm'")


# which files are looked at


def lax(path: Path, text: str = "x") -> Path:
    write(path, text).chmod(0o644)
    return path


def warned_of(settings: Settings) -> list[Path]:
    """Return which files there is a warning about, having mended each with its command."""
    uid = os.getuid()
    said = warnings_about_keys(settings, uid=uid)
    paths = [Path(text.split(" can be read")[0]) for text in said]
    for path, text in zip(paths, said, strict=True):
        assert text == (
            f"{path} can be read by others than its owner; mend it with: chmod 600 {path}"
        )
        path.chmod(0o600)
    assert warnings_about_keys(settings, uid=uid) == []
    return paths


def test_files_of_keys_are_looked_at(tmp_path: Path) -> None:
    seed, key = lax(tmp_path / "seed"), lax(tmp_path / "key.pem")
    lax(tmp_path / "stigmem.db")
    environ = {
        KEY_FILE: "seed",
        "STIGMEM_TLS_KEY_PATH": "key.pem",
        "STIGMEM_TLS_CERT_PATH": str(lax(tmp_path / "cert.pem")),
        "STIGMEM_TLS_CA_BUNDLE": str(lax(tmp_path / "ca.pem")),
    }
    assert warned_of(load({}, environ, cwd=tmp_path)) == [seed, key]


def test_the_database_is_looked_at_when_the_key_is_in_it(tmp_path: Path) -> None:
    database = lax(tmp_path / "stigmem.db")
    keys = {PRIVKEY: PRIVATE, PUBKEY: PUBLIC}
    assert warned_of(load({}, keys, cwd=tmp_path)) == []
    url = {"STIGMEM_REPLICATOR_DATABASE": "postgresql://db/x"}
    assert warned_of(load({}, url, cwd=tmp_path)) == []
    assert warned_of(load({}, {}, cwd=tmp_path)) == [database]


@pytest.mark.parametrize(
    "secret",
    [
        {"STIGMEM_PG_DSN": "host=db password=hush"},
        {"STIGMEM_NODE_URL": "http://node:hush@localhost"},
        {PRIVKEY: PRIVATE, PUBKEY: PUBLIC},
    ],
)
def test_the_node_s_env_file_is_looked_at_when_a_secret_is_from_it(
    secret: dict[str, str], tmp_path: Path
) -> None:
    """It is not when the environment has the value."""
    text = "".join(f"{name}='{value}'\n" for name, value in secret.items())
    env_file = lax(tmp_path / ".env", text)
    assert warned_of(load({}, {}, cwd=tmp_path)) == [env_file]
    env_file.chmod(0o644)
    assert warned_of(load({}, secret, cwd=tmp_path)) == []


@pytest.mark.parametrize("line", ["STIGMEM_PG_DSN=host=db", "STIGMEM_TRUST_MODE=off"])
def test_a_file_without_secrets_may_be_read_by_all(line: str, tmp_path: Path) -> None:
    lax(tmp_path / ".env", f"{line}\n")
    assert warned_of(load({}, {}, cwd=tmp_path)) == []


def test_our_toml_file_is_looked_at_when_a_secret_is_from_it(tmp_path: Path) -> None:
    config = lax(tmp_path / "a.toml", 'pg_dsn = "host=db password=hush"\n')
    settings = load({}, {}, config_file=config, cwd=tmp_path)
    assert warned_of(settings) == [config]
    config.chmod(0o644)
    settings = load({}, {"STIGMEM_PG_DSN": "host=db"}, config_file=config, cwd=tmp_path)
    assert warned_of(settings) == []


def test_what_cannot_be_looked_at_is_passed_over(tmp_path: Path) -> None:
    """So is what is no file, such as a device."""
    for path in ("/dev/null", str(tmp_path), "missing", "x" * 5000):
        settings = load({}, {KEY_FILE: path}, cwd=tmp_path)
        assert warnings_about_keys(settings, uid=US) == []


# tokens in the clear


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://192.0.2.1:8765", True),
        ("HTTP://peer.example", True),
        ("http://10.0.0.1", True),
        ("http://localhost.example:8765", True),
        ("https://192.0.2.1:8765", False),
        ("http://127.0.0.1:8765", False),
        ("http://127.8.8.8", False),
        ("http://[::1]:8765", False),
        ("http://localhost:8765", False),
        ("http://[::1", False),
    ],
)
def test_a_token_that_others_could_read_on_the_way(url: str, *, seen: bool) -> None:
    """Over http, to another machine, and only where plain http is called at all."""
    tables: dict[str, dict[str, object]] = {"a": {"capability_token_file": Path("/t")}}
    settings = Settings(federation_insecure=True, peer_tables=tables)
    said = plain_token_warnings(settings, {"a": url, "b": url})
    assert [text.startswith(f"the capability token of peer a goes to {url} ") for text in said] == (
        [True] if seen else []
    )
    assert plain_token_warnings(Settings(peer_tables=tables), {"a": url}) == []
