"""Settings of when peers are asked, how many at a time, and how long is waited after failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from stigmem_replicator.settings import Settings
from tests.unit.places import load, refused, write

NODE_ID = "stigmem:node:5e2cd33f"
NAMES = (
    "poll_interval_s",
    "peers_at_once",
    "quantum_pages",
    "backoff_throttled_base_s",
    "backoff_throttled_cap_s",
    "backoff_protocol_base_s",
    "backoff_protocol_cap_s",
    "blocked_retry_s",
)
BASES = ("backoff_base_s", "backoff_throttled_base_s", "backoff_protocol_base_s")


def variable(name: str) -> str:
    return f"STIGMEM_REPLICATOR_{name.upper()}"


def test_the_defaults_are_those_of_the_documents() -> None:
    settings = Settings()
    assert [getattr(settings, name) for name in NAMES] == [
        30.0, 64, 20, 1.0, 300.0, 1.0, 300.0, 300.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "least", "below", "most", "above"),
    [
        ("poll_interval_s", "0.1", "0.09", "86400", "86401"),
        ("peers_at_once", "1", "0", "10000", "10001"),
        ("quantum_pages", "1", "0", "1000000", "1000001"),
        ("backoff_throttled_cap_s", "1", "0.09", "86400", "86401"),
        ("backoff_protocol_cap_s", "1", "0.09", "86400", "86401"),
        ("backoff_throttled_base_s", "0.1", "0.09", "300", "3601"),
        ("backoff_protocol_base_s", "0.1", "0.09", "300", "3601"),
        ("blocked_retry_s", "0.1", "0.09", "86400", "86401"),
    ],
)
def test_each_has_its_bounds(
    name: str, least: str, below: str, most: str, above: str, tmp_path: Path
) -> None:
    """No wait is under 100 ms, and none outlasts a day."""
    for text in (least, most):
        settings = load({}, {variable(name): text}, cwd=tmp_path)
        assert getattr(settings, name) == float(text)
    for text in (below, above, "soon", ""):
        assert name in refused(tmp_path, **{variable(name): text})


def test_a_peer_may_be_asked_at_its_own_pace(tmp_path: Path) -> None:
    """The interval may differ between peers; what all share may not."""
    table = f'poll_interval_s = 5\n[peer."{NODE_ID}"]\npoll_interval_s = 600\n'
    settings = load({}, {}, config_file=write(tmp_path / "r.toml", table), cwd=tmp_path)
    assert settings.for_peer(NODE_ID).poll_interval_s == 600.0
    assert settings.for_peer("another").poll_interval_s == 5.0


@pytest.mark.parametrize("base", BASES)
def test_a_cap_below_its_base_is_refused(base: str, tmp_path: Path) -> None:
    """Both are named, with their values and places; the same value for both is a steady wait."""
    cap = base.replace("base", "cap")
    message = refused(tmp_path, **{variable(base): "30", variable(cap): "29.5"})
    assert message.startswith(
        f"{base} is 30.0 (from environment {variable(base)}), but must not be above {cap}, "
        f"which is 29.5 (from environment {variable(cap)})"
    )
    assert f"{cap}, which is 300.0 (from default)" in refused(tmp_path, **{variable(base): "301"})
    steady = load({}, {variable(base): "30", variable(cap): "30"}, cwd=tmp_path)
    assert getattr(steady, base) == getattr(steady, cap) == 30.0
