"""The setting that says where the endpoint listens, and the warning when others reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stigmem_replicator.settings import Listen, Settings, listening_warning
from tests.unit.places import load, refused, write

LISTEN = "STIGMEM_REPLICATOR_HTTP_LISTEN"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("127.0.0.1:9765", "127.0.0.1:9765"),
        (" 127.0.0.1:0 ", "127.0.0.1:0"),
        ("localhost:80", "127.0.0.1:80"),
        ("LocalHost:80", "127.0.0.1:80"),
        ("0.0.0.0:65535", "0.0.0.0:65535"),
        ("[::1]:9765", "[::1]:9765"),
        ("[0:0:0:0:0:0:0:1]:9765", "[::1]:9765"),
    ],
)
def test_an_address_and_a_port(raw: str, shown: str, tmp_path: Path) -> None:
    settings = load({}, {LISTEN: raw}, cwd=tmp_path)
    assert str(settings.http_listen) == shown


def test_nothing_turns_it_off(tmp_path: Path) -> None:
    assert load({}, {LISTEN: ""}, cwd=tmp_path).http_listen is None


def test_it_stands_in_our_file_too(tmp_path: Path) -> None:
    config = write(tmp_path / "replicator.toml", 'http_listen = "[::1]:1234"')
    assert load({}, {}, cwd=tmp_path, config_file=config).http_listen == Listen("::1", 1234)


@pytest.mark.parametrize(
    "raw",
    [
        "9765",
        ":9765",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:٩٧٦٥",  # digits that are not of ASCII
        "127.0.0.256:9765",
        "127.1:9765",
        "::1:9765",
        "[::1]",
        "[127.0.0.1]:9765",
        "[fe80::1%eth0]:9765",
        "node.example:9765",
        "http://127.0.0.1:9765",
        "127.0.0.1:9765/metrics",
    ],
)
def test_anything_else_is_refused_with_the_two_forms(raw: str, tmp_path: Path) -> None:
    said = refused(tmp_path, **{LISTEN: raw})
    assert "http_listen" in said
    assert "127.0.0.1:9765 or [::1]:9765, or nothing" in said


def test_the_default_is_this_machine_alone() -> None:
    assert str(Settings().http_listen) == "127.0.0.1:9765"
    assert listening_warning(Settings()) is None


@pytest.mark.parametrize("raw", ["127.0.0.1:1", "127.8.9.10:1", "[::1]:1", ""])
def test_this_machine_alone_is_no_warning(raw: str, tmp_path: Path) -> None:
    assert listening_warning(load({}, {LISTEN: raw}, cwd=tmp_path)) is None


@pytest.mark.parametrize("raw", ["0.0.0.0:9765", "[::]:9765", "10.1.2.3:9765"])
def test_reachable_from_outside_is_one(raw: str, tmp_path: Path) -> None:
    warning = listening_warning(load({}, {LISTEN: raw}, cwd=tmp_path))
    assert warning is not None
    assert f"http_listen is {raw} (from environment {LISTEN})" in warning
