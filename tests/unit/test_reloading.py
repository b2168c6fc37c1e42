"""What a new reading of the settings changes, and what of it only a restart can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stigmem_replicator.service.reloading import FILES, RESTART, change
from stigmem_replicator.settings import DEFINITIONS, Listen, Settings
from tests.unit.places import load, write

NODE_ID = "stigmem:node:5e2cd33f"


def read(folder: Path, text: str) -> Settings:
    """Settings with our TOML file as it is now."""
    file = write(folder / "replicator.toml", text)
    return load({}, {}, config_file=file, cwd=folder)


def test_what_stayed_is_no_change() -> None:
    """The same values from another place are the same values."""
    moved = Settings(origins={"page_size": "environment STIGMEM_REPLICATOR_PAGE_SIZE"})
    found = change(Settings(), moved)
    assert (found.applied, found.restart) == ((), ())


def test_each_difference_is_told_with_both_values() -> None:
    found = change(Settings(), Settings(page_size=100, poll_interval_s=5.0, trust_mode="off"))
    assert found.restart == ()
    assert found.applied == (
        "trust_mode: relaxed → off",
        "poll_interval_s: 30.0 → 5.0",
        "page_size: 500 → 100",
    )
    assert found.settings.page_size == 100


def test_where_it_listens_needs_a_restart() -> None:
    """It is named each time, and all the rest is applied."""
    before, after = Settings(), Settings(http_listen=None, page_size=100)
    first = change(before, after)
    again = change(first.settings, after)
    assert (first.applied, again.applied) == (("page_size: 500 → 100",), ())
    for found in (first, again):
        assert found.restart == ("http_listen: 127.0.0.1:9765 → nothing",)
        assert found.settings.http_listen == Listen("127.0.0.1", 9765)
        assert found.settings.page_size == 100


def test_with_another_database_nothing_is_applied() -> None:
    """What its node says is not meant for this one; all that differs is named."""
    before = Settings()
    found = change(before, Settings(database="/srv/other.db", page_size=100))
    assert found.applied == ()
    assert found.restart == ("database: stigmem.db → /srv/other.db", "page_size: 500 → 100")
    assert found.settings is before


@pytest.mark.parametrize("name", sorted(RESTART))
def test_what_needs_a_restart_is_a_setting(name: str) -> None:
    assert name in DEFINITIONS


def test_the_database_is_not_changed_by_any_setting_that_names_it() -> None:
    """Whichever of them is changed, the old database stays the one that is meant."""
    before = Settings(storage_backend="postgres", pg_dsn="postgresql://a@h/x", pg_schema="s")
    for after in (
        Settings(),
        replace(before, pg_dsn="postgresql://b@h/x"),
        replace(before, pg_schema="t"),
        replace(before, database="postgresql://c@h/y"),
    ):
        found = change(before, after).settings
        assert (found.backend, found.location, found.pg_schema) == (
            "postgres",
            "postgresql://a@h/x",
            "s",
        )


def test_of_secrets_only_that_they_changed_is_told() -> None:
    key, other = "A" * 43, "B" * 43
    found = change(
        Settings(federation_privkey=key, pg_dsn="postgresql://u:hush@h/x"),
        Settings(federation_privkey=other, pg_dsn="postgresql://u:secret@h/x"),
    )
    said = " ".join((*found.applied, *found.restart))
    assert "federation_privkey: *** → ***" in said
    assert "pg_dsn: " in said
    assert not any(secret in said for secret in (key, other, "hush", "secret"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_named_is_read_again(name: str, tmp_path: Path) -> None:
    """What is in it may have changed while its name did not."""
    path = tmp_path / "file"
    before = Settings(**{name: path})  # type: ignore[arg-type] # a path fits both
    assert change(before, before).applied == (f"{name}: {path} is read again",)
    assert change(Settings(), before).applied == (f"{name}: nothing → {path}",)
    assert change(before, Settings()).applied == (f"{name}: {path} → nothing",)


def test_settings_of_single_peers(tmp_path: Path) -> None:
    """One that comes, changes or goes is told by its peer's name."""
    none = read(tmp_path, "")
    some = read(tmp_path, f'[peer."{NODE_ID}"]\npage_size = 7\nread_timeout_s = 2\n')
    other = read(tmp_path, f'[peer."{NODE_ID}"]\npage_size = 8\nread_timeout_s = 2\n')
    assert change(none, some).applied == (
        f"page_size of {NODE_ID}: as for all → 7",
        f"read_timeout_s of {NODE_ID}: as for all → 2.0",
    )
    assert change(some, other).applied == (f"page_size of {NODE_ID}: 7 → 8",)
    assert change(other, none).applied[0] == f"page_size of {NODE_ID}: 8 → as for all"
    assert change(some, other).settings.for_peer(NODE_ID).page_size == 8
    assert change(some, some).applied == ()
