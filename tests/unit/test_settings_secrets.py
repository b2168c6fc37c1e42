"""Settings that hold secrets: what is shown of them, and what a refusal says."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import pytest

from stigmem_replicator.settings import Settings
from stigmem_replicator.settings.values import without_secrets
from tests.unit.places import load, refused, refused_file, write

PUBLIC = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
PRIVATE = base64.urlsafe_b64encode(bytes(range(32, 64))).decode().rstrip("=")


def test_secrets_never_show(tmp_path: Path) -> None:
    environ: Mapping[str, str] = {
        "STIGMEM_FEDERATION_PUBKEY": PUBLIC,
        "STIGMEM_FEDERATION_PRIVKEY": PRIVATE,
        "STIGMEM_PG_DSN": "host=db.example password=hush sslpassword='hu sh'",
        "STIGMEM_REPLICATOR_DATABASE": "postgresql://node:hush@db.example/x?sslpassword=hush&a=b",
        "STIGMEM_NODE_URL": "https://node:hush@node.example",
    }
    settings = load({}, environ, cwd=tmp_path)
    described = {row.name: row.value for row in settings.describe()}
    assert described["federation_privkey"] == "***"
    assert described["federation_pubkey"] == PUBLIC
    assert described["database"] == "postgresql://***@db.example/x?sslpassword=***&a=b"
    assert described["pg_dsn"] == "postgresql:///?host=db.example&password=***&sslpassword=***"
    assert described["node_url"] == "https://***@node.example"
    assert settings.location_shown == described["database"]
    for text in (repr(settings), str(settings), repr(settings.describe())):
        assert PRIVATE not in text
        assert "hush" not in text
    assert "federation_privkey=''" in repr(Settings())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("pg://hush@db/x", "pg://***@db/x"),
        ("pg://me:hu/sh?hu#sh@hush@db/x", "pg://***@db/x"),
        ("libsql://db?authToken=hush&a=b", "libsql://db?authToken=***&a=b"),
        ("pg://db?a=b&API_KEY=hu#sh&x_secret=hush", "pg://db?a=b&API_KEY=***&x_secret=***"),
        ("pg://db/x?a=b", "pg://db/x?a=b"),
    ],
)
def test_no_secret_of_a_url_shows(url: str, expected: str, tmp_path: Path) -> None:
    """Who logs in is hidden up to the last @, and so is each value of a key that sounds secret."""
    (value,) = [
        row.value
        for row in load({"database": url}, {}, cwd=tmp_path).describe()
        if row.name == "database"
    ]
    assert value == expected


def test_an_address_without_a_scheme_hides_who_logs_in_too() -> None:
    assert without_secrets("node:hush@peer.example:8765") == "***@peer.example:8765"


def test_a_path_may_hold_an_at_sign(tmp_path: Path) -> None:
    settings = load({"database": "/srv/a@b.db"}, {}, cwd=tmp_path)
    assert settings.location_shown == settings.location == "/srv/a@b.db"
    assert "'/srv/a@b.db'" in repr(settings)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://node:hush@db.example:port/x",
        "postgresql://node:hu@hush@db.example/x",
        "postgresql://node:hush%zz@db.example/x",
        "postgresql://node:hush%00@db.example/x",
        "postgresql://node:hush@[::1/x",
        "postgresql://node:hush@[::1]hush/x",
        "postgresql://db.example/x?password=hu=hush",
        "postgresql://db.example/x?hush",
        "host=db.example password='hush",
        "password=hush host",
        "hush",
    ],
)
@pytest.mark.parametrize("variable", ["STIGMEM_PG_DSN", "STIGMEM_REPLICATOR_DATABASE"])
def test_a_connection_string_that_does_not_read_is_not_repeated(
    variable: str, dsn: str, tmp_path: Path
) -> None:
    """The driver would repeat it: what it cannot read is refused before it sees it."""
    if (variable, dsn) == ("STIGMEM_REPLICATOR_DATABASE", "hush"):
        return  # that is a file's name
    message = refused(tmp_path, **{variable: dsn, "STIGMEM_STORAGE_BACKEND": "postgres"})
    assert "hush" not in message
    assert "must be" in message


def test_a_value_of_toml_that_does_not_fit_hides_its_secrets(tmp_path: Path) -> None:
    config = write(tmp_path / "a.toml", f'federation_privkey = "{PRIVATE}x"\n')
    assert PRIVATE not in refused_file(config)
