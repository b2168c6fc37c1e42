"""Settings for single peers, words that are no setting, and everything wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from stigmem_replicator.errors import LocalError
from stigmem_replicator.settings import DEFINITIONS, PER_PEER, Settings
from tests.unit.places import load, refused_file, review, write

NODE_ID = "stigmem:node:5e2cd33f"


def config(folder: Path, text: str) -> Path:
    return write(folder / "replicator.toml", text)


# single peers


def test_a_peer_has_the_values_of_its_own_table_and_all_others_do_not(tmp_path: Path) -> None:
    """A peer's table is over every other place; what it does not say stays."""
    file = config(
        tmp_path,
        f'page_size = 20\noverlap_s = 3\n[peer."{NODE_ID}"]\npage_size = 7\nread_timeout_s = 2\n',
    )
    environ = {"STIGMEM_REPLICATOR_PAGE_SIZE": "30"}
    settings = load({}, environ, config_file=file, cwd=tmp_path)
    own = settings.for_peer(NODE_ID)
    assert (own.page_size, own.read_timeout_s, own.overlap_s) == (7, 2.0, 3.0)
    assert own.origin("page_size") == own.origin("read_timeout_s") == f"peer table in {file}"
    assert own.origin("overlap_s") == settings.origin("overlap_s")
    assert settings.page_size == 30
    assert settings.for_peer("another") is settings
    assert Settings().for_peer(NODE_ID) == Settings()


def test_what_is_set_for_peers_is_described_alone(tmp_path: Path) -> None:
    file = config(tmp_path, f'[peer."{NODE_ID}"]\npage_size = 7\n[peer.other]\n')
    described = load({}, {}, config_file=file, cwd=tmp_path).describe_peers()
    assert list(described) == [NODE_ID, "other"]
    ((name, value),) = [(row.name, row.value) for row in described[NODE_ID]]
    assert (name, value) == ("page_size", "7")
    assert described["other"] == ()


@pytest.mark.parametrize("name", PER_PEER)
def test_every_setting_that_a_peer_may_have_fits_in_its_table(name: str, tmp_path: Path) -> None:
    default = getattr(Settings(), name)
    text = list(default) if isinstance(default, tuple) else default
    # TOML has no word for nothing but the empty text.
    written = '""' if default is None else text
    file = config(tmp_path, f'[peer."{NODE_ID}"]\n{name} = {written}\n')
    own = load({}, {}, config_file=file, cwd=tmp_path).for_peer(NODE_ID)
    assert getattr(own, name) == default
    assert own.origin(name).startswith("peer table")


def test_what_is_each_peers_own_is_refused_for_all_of_them(tmp_path: Path) -> None:
    """A capability token is good at one peer; said for all, it would go to every one."""
    name = "capability_token_file"
    file = config(tmp_path, f'{name} = "token.json"\n')
    environ = {f"STIGMEM_REPLICATOR_{name.upper()}": "token.json"}
    for variables, config_file in ((environ, None), ({}, file)):
        with pytest.raises(LocalError, match=f"{name} is set for all peers") as caught:
            load({}, variables, cwd=tmp_path, config_file=config_file)
        assert '[peer."NODE ID"]' in caught.value.hint


def test_a_value_in_a_peers_table_is_checked_as_any_other(tmp_path: Path) -> None:
    file = config(tmp_path, f'[peer."{NODE_ID}"]\npage_size = 501\n')
    assert refused_file(file) == (
        f"page_size (from [peer.\"{NODE_ID}\"] of {file}) is '501', "
        "but must be a whole number from 1 to 500"
    )


def test_a_key_of_a_peers_table_that_is_none_is_refused_with_the_nearest(tmp_path: Path) -> None:
    file = config(tmp_path, f'[peer."{NODE_ID}"]\npage_sise = 5\n')
    message = refused_file(file)
    assert f'[peer."{NODE_ID}"] of {file}' in message
    assert "did you mean 'page_size'" in message


def test_a_setting_that_is_the_same_for_all_peers_is_refused_in_a_table(tmp_path: Path) -> None:
    file = config(tmp_path, f'[peer."{NODE_ID}"]\ntrust_mode = "off"\n')
    assert "sets 'trust_mode', which is the same for all peers" in refused_file(file)


@pytest.mark.parametrize("text", ["peer = 1", "[peer]\npage_size = 5", "[[peer]]\npage_size = 5"])
def test_what_stands_under_peer_must_be_tables(text: str, tmp_path: Path) -> None:
    assert "must be a table for one peer" in refused_file(config(tmp_path, text))


# words that are no setting


def test_the_key_of_peers_tables_is_suggested_too(tmp_path: Path) -> None:
    file = config(tmp_path, '[peers."x"]\npage_size = 5\n')
    assert "sets 'peers', which is no setting; did you mean 'peer'?" in refused_file(file)


def test_a_word_far_from_all_settings_gets_no_suggestion(tmp_path: Path) -> None:
    message = refused_file(config(tmp_path, "zzz = 5\n"))
    assert message.endswith("sets 'zzz', which is no setting")


def test_variables_that_only_look_like_ours_are_warned_of(tmp_path: Path) -> None:
    """They are no error: a variable may be there for another version of this program."""
    file = write(tmp_path / ".env", "stigmem_replicator_zzz=1\nSTIGMEM_REPLICATOR_PAGE_SIZE=5\n")
    place = "environment STIGMEM_REPLICATOR_PAGE_SISE is no setting"
    read = review(
        tmp_path, {"STIGMEM_REPLICATOR_PAGE_SISE": "5", "STIGMEM_UNKNOWN": "1", "OTHER": "1"}
    )
    assert read.warnings == (
        f"{place}; did you mean STIGMEM_REPLICATOR_PAGE_SIZE?",
        f"STIGMEM_REPLICATOR_ZZZ in {file} is no setting",
    )
    assert read.problems == ()


# everything at once


def test_all_that_is_wrong_is_found_at_once(tmp_path: Path) -> None:
    text = f'zzz = 1\ntrust_mode = "lax"\n[peer."{NODE_ID}"]\npage_size = 0\nyyy = 1\n'
    environ = {"STIGMEM_REPLICATOR_OVERLAP_S": "x", "STIGMEM_PG_SCHEMA": "X"}
    read = review(tmp_path, environ, config(tmp_path, f"{text}[peer.x]\nw = 1\n"))
    said = [error.message for error in read.problems]
    assert len(said) == 7
    for word in ("'zzz'", "trust_mode", "page_size", "'yyy'", "'w'", "overlap_s", "pg_schema"):
        assert any(word in message for message in said), word
    assert read.settings.trust_mode == "relaxed"


def test_values_that_do_not_go_together_are_all_found(tmp_path: Path) -> None:
    environ = {
        "STIGMEM_REPLICATOR_WRITE_SHARE_BUSY": "0.9",
        "STIGMEM_REPLICATOR_BACKOFF_BASE_S": "301",
        "STIGMEM_FEDERATION_PRIVKEY": "A" * 43,
        "STIGMEM_STORAGE_BACKEND": "postgres",
    }
    read = review(tmp_path, environ)
    assert len(read.problems) == 4


def test_the_first_of_several_problems_says_how_to_see_the_others(tmp_path: Path) -> None:
    environ = {"STIGMEM_REPLICATOR_PAGE_SIZE": "x", "STIGMEM_REPLICATOR_OVERLAP_S": "x"}
    with pytest.raises(LocalError) as caught:
        load({}, environ, cwd=tmp_path)
    assert "1 more with: stigmem-replicate config check" in caught.value.hint


def test_no_setting_is_called_like_the_tables_of_peers() -> None:
    assert "peer" not in DEFINITIONS
