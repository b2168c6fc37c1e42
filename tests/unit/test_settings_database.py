"""Settings that say which database is meant, read as the node reads its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from stigmem_replicator.settings import Settings
from tests.unit.places import load, refused, refused_file, review, write

POSTGRES = {"STIGMEM_STORAGE_BACKEND": "postgres"}
URL = "postgresql://node@db.example/stigmem"


def test_a_file_is_meant_unless_something_else_is_said(tmp_path: Path) -> None:
    settings = load({}, {"STIGMEM_PG_DSN": URL}, cwd=tmp_path)
    assert (settings.backend, settings.location) == ("sqlite", str(tmp_path / "stigmem.db"))
    assert Settings().location == "stigmem.db"


def test_the_node_on_postgresql_is_found_where_the_node_looks(tmp_path: Path) -> None:
    """Its own variable comes first, in the environment and in the file, then the next one."""
    env_file = write(
        tmp_path / ".env",
        "STIGMEM_STORAGE_BACKEND=postgres\n"
        "STIGMEM_PG_DSN=postgresql://b/\nSTIGMEM_DATABASE_URL=postgresql://d/\n"
        "DATABASE_URL=postgresql://unread/\n",
    )
    environ = {
        "STIGMEM_PG_DSN": "postgresql://a/",
        "STIGMEM_DATABASE_URL": "postgresql://c/",
        "DATABASE_URL": "postgresql://e/",
    }

    def now() -> tuple[str, str]:
        settings = load({}, environ, cwd=tmp_path)
        assert settings.backend == "postgres"
        return settings.location, settings.origin("pg_dsn")

    assert now() == ("postgresql://a/", "environment STIGMEM_PG_DSN")
    del environ["STIGMEM_PG_DSN"]
    assert now() == ("postgresql://b/", f"STIGMEM_PG_DSN in {env_file}")
    write(env_file, env_file.read_text("utf-8").replace("STIGMEM_PG_DSN=postgresql://b/", ""))
    assert now() == ("postgresql://c/", "environment STIGMEM_DATABASE_URL")
    del environ["STIGMEM_DATABASE_URL"]
    assert now() == ("postgresql://d/", f"STIGMEM_DATABASE_URL in {env_file}")
    write(env_file, "STIGMEM_STORAGE_BACKEND=postgres\nDATABASE_URL=postgresql://unread/\n")
    assert now() == ("postgresql://e/", "environment DATABASE_URL")
    del environ["DATABASE_URL"]
    assert "nothing says where that is" in refused(tmp_path)


def test_an_empty_variable_leads_to_the_next(tmp_path: Path) -> None:
    environ = POSTGRES | {"STIGMEM_PG_DSN": "", "DATABASE_URL": URL}
    assert load({}, environ, cwd=tmp_path).location == URL


def test_a_file_of_ours_says_it_last(tmp_path: Path) -> None:
    config = write(tmp_path / "a.toml", f'storage_backend = "postgres"\npg_dsn = "{URL}"\n')
    settings = load({}, {}, config_file=config, cwd=tmp_path)
    assert settings.location == URL
    settings = load({}, {"DATABASE_URL": "postgresql://e/"}, config_file=config, cwd=tmp_path)
    assert settings.location == "postgresql://e/"


@pytest.mark.parametrize(
    "spelling",
    [URL, URL.replace("postgresql", "postgres"), URL.replace("postgresql", "postgresql+psycopg")],
)
def test_a_url_of_ours_wins_over_what_the_node_says(spelling: str, tmp_path: Path) -> None:
    environ = {"STIGMEM_STORAGE_BACKEND": "libsql", "STIGMEM_PG_DSN": "postgresql://other/"}
    config = write(tmp_path / "a.toml", f'database = "{spelling}"\n')
    for settings in (
        load({"database": spelling}, environ, cwd=tmp_path),
        load({}, environ | {"STIGMEM_REPLICATOR_DATABASE": spelling}, cwd=tmp_path),
        load({}, environ, config_file=config, cwd=tmp_path),
    ):
        assert (settings.backend, settings.location) == ("postgres", URL)


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("host=/run dbname='a b'", "postgresql:///a%20b?host=%2Frun"),
        (
            "application_name=x password=s host=h",
            "postgresql:///?application_name=x&password=s&host=h",
        ),
        (r"user = x password=it\'s", "postgresql:///?user=x&password=it%27s"),
        ("postgresql://u:p@h1:1,h2:2/d?a=b", "postgresql://u:p@h1:1,h2:2/d?a=b"),
        ("postgresql://u:p@[::1]:5432/d", "postgresql://u:p@[::1]:5432/d"),
        ("postgresql://u:p?a#b@h", "postgresql://u:p?a#b@h"),
    ],
)
def test_what_libpq_reads_becomes_a_url(dsn: str, url: str, tmp_path: Path) -> None:
    assert load({}, POSTGRES | {"STIGMEM_PG_DSN": dsn}, cwd=tmp_path).location == url
    assert load({"database": dsn}, {}, cwd=tmp_path).location == url


def test_a_file_of_ours_and_a_node_on_postgresql_contradict_each_other(tmp_path: Path) -> None:
    """The node's own path says nothing then, as for the node; one of ours must be meant."""
    environ = POSTGRES | {"STIGMEM_PG_DSN": URL}
    settings = load({}, environ | {"STIGMEM_DB_PATH": "old.db"}, cwd=tmp_path)
    assert settings.location == URL
    message = refused(tmp_path, **environ, STIGMEM_REPLICATOR_DATABASE="old.db")
    assert "STIGMEM_REPLICATOR_DATABASE" in message
    assert "STIGMEM_STORAGE_BACKEND" in message
    ours = {"STIGMEM_REPLICATOR_STORAGE_BACKEND": "sqlite"}
    settings = load({"database": "old.db"}, environ | ours, cwd=tmp_path)
    assert settings.location == str(tmp_path / "old.db")


def test_the_backend_is_spelled_as_the_node_spells_it(tmp_path: Path) -> None:
    """The node takes ``Postgres`` for SQLite; whoever wrote it must hear of it."""
    for word in ("Postgres", "postgresql", "turso", " postgres"):
        assert "must be sqlite, libsql or postgres" in refused(
            tmp_path, STIGMEM_STORAGE_BACKEND=word
        )
    assert load({}, {"STIGMEM_STORAGE_BACKEND": ""}, cwd=tmp_path).backend == "sqlite"
    config = write(tmp_path / "a.toml", "storage_backend = [1]\n")
    assert "must be sqlite" in refused_file(config)


def test_what_cannot_be_opened_is_known_by_its_name(tmp_path: Path) -> None:
    """The address of a libSQL server alone changes nothing, as for the node."""
    assert load({}, {"STIGMEM_STORAGE_BACKEND": "libsql"}, cwd=tmp_path).backend == "libsql"
    assert load({"database": "libsql://a"}, {}, cwd=tmp_path).backend == "libsql"
    assert load({}, {"STIGMEM_LIBSQL_URL": "libsql://a"}, cwd=tmp_path).backend == "sqlite"


def test_the_schema_is_a_name_that_the_node_allows(tmp_path: Path) -> None:
    for raw, name in (("", "public"), ("a_1", "a_1"), ("a" * 63, "a" * 63)):
        assert load({}, {"STIGMEM_PG_SCHEMA": raw}, cwd=tmp_path).pg_schema == name
    for raw in ("A", "1a", "a-b", "a" * 64, 'a"'):
        assert "[a-z][a-z0-9_]{0,62}" in refused(tmp_path, STIGMEM_PG_SCHEMA=raw)


def test_whether_the_database_is_known_depends_on_what_is_wrong(tmp_path: Path) -> None:
    """A wrong number elsewhere does not make another database of it."""
    assert review(tmp_path).database_is_known
    assert review(tmp_path, {"STIGMEM_REPLICATOR_PAGE_SIZE": "x"}).database_is_known
    for name, value in (
        ("STIGMEM_STORAGE_BACKEND", "x"),
        ("STIGMEM_STORAGE_BACKEND", "postgres"),
        ("STIGMEM_PG_SCHEMA", "X"),
        ("STIGMEM_REPLICATOR_DATABASE", ""),
    ):
        assert not review(tmp_path, {name: value}).database_is_known
    assert not review(tmp_path, None, tmp_path / "missing.toml").database_is_known
    write(tmp_path / "broken.toml", "=")
    assert not review(tmp_path, None, tmp_path / "broken.toml").database_is_known
    (tmp_path / ".env").write_bytes(b"\xff")
    assert not review(tmp_path).database_is_known
