"""Settings: where each value comes from, what it may be, and what people see of it."""

from __future__ import annotations

import base64
import dataclasses
import tomllib
from pathlib import Path

import pytest

from stigmem_replicator.errors import LocalError
from stigmem_replicator.settings import DEFINITIONS, Settings
from stigmem_replicator.settings.values import shown
from tests.unit.places import load, refused, refused_file, write

PUBLIC = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
PRIVATE = base64.urlsafe_b64encode(bytes(range(32, 64))).decode().rstrip("=")

NODE_ENV_FILE = """
# a comment
export STIGMEM_TRUST_MODE='strict'  # why
STIGMEM_NODE_URL="https://node.example"
STIGMEM_TRUST_RULES_FILE
UNRELATED=1
stigmem_log_level=WARNING
STIGMEM_REPLICATOR_PAGE_SIZE=7
STIGMEM_FEDERATION_PULL_INTERVAL_S=100000000
"""


# where values come from


def test_without_anything_every_value_is_the_default(tmp_path: Path) -> None:
    settings = load({}, {}, cwd=tmp_path)
    assert settings == Settings(database=str(tmp_path / "stigmem.db"))
    assert {row.origin for row in settings.describe()} == {"default"}


def test_each_place_yields_to_the_one_before_it(tmp_path: Path) -> None:
    env_file = write(tmp_path / "node" / ".env", "STIGMEM_TRUST_WEIGHT_IDENTITY=0.4\n")
    config = write(tmp_path / "etc" / "replicator.toml", "trust_weight_identity = 0.5\n")
    flags: dict[str, object] = {"trust_weight_identity": 0.1}
    environ = {
        "STIGMEM_REPLICATOR_TRUST_WEIGHT_IDENTITY": "0.2",
        "STIGMEM_TRUST_WEIGHT_IDENTITY": "0.3",
    }

    def now(env: Path | None, toml: Path | None) -> tuple[float, str]:
        settings = load(flags, environ, config_file=toml, env_file=env, cwd=tmp_path)
        return settings.trust_weight_identity, settings.origin("trust_weight_identity")

    assert now(env_file, config) == (0.1, "flag --trust-weight-identity")
    flags["trust_weight_identity"] = None
    assert now(env_file, config) == (0.2, "environment STIGMEM_REPLICATOR_TRUST_WEIGHT_IDENTITY")
    del environ["STIGMEM_REPLICATOR_TRUST_WEIGHT_IDENTITY"]
    assert now(env_file, config) == (0.3, "environment STIGMEM_TRUST_WEIGHT_IDENTITY")
    del environ["STIGMEM_TRUST_WEIGHT_IDENTITY"]
    assert now(env_file, config) == (0.4, f"STIGMEM_TRUST_WEIGHT_IDENTITY in {env_file}")
    assert now(None, config) == (0.5, f"trust_weight_identity in {config}")
    assert now(None, None) == (0.35, "default")


def test_a_flag_is_named_as_it_is_spelled(tmp_path: Path) -> None:
    settings = load({"database": "a.db"}, {}, cwd=tmp_path)
    assert settings.origin("database") == "flag --db"


def test_variables_are_known_in_any_case_as_the_node_knows_them(tmp_path: Path) -> None:
    settings = load({}, {"stigmem_trust_mode": "strict"}, cwd=tmp_path)
    assert settings.trust_mode == "strict"


def test_variables_and_names_of_all_settings_are_distinct() -> None:
    rows = Settings().describe()
    variables = [v for row in rows for v in (row.variable, row.node_variable) if v]
    assert len(set(variables)) == len(variables)
    assert all(row.help for row in rows)


def test_defaults_fit_their_own_kinds(tmp_path: Path) -> None:
    defaults = Settings()
    for name, definition in DEFINITIONS.items():
        default = getattr(defaults, name)
        if default is None or name == "database":
            continue
        assert definition.kind.parse(default, tmp_path) == default, name


@pytest.mark.parametrize(
    "name", [n for n, known in DEFINITIONS.items() if n != "database" and not known.peer_only]
)
def test_every_value_survives_being_written_out_and_read_again(name: str, tmp_path: Path) -> None:
    default = getattr(Settings(), name)
    raw = shown(DEFINITIONS[name], default)
    variable = f"STIGMEM_REPLICATOR_{name.upper()}"
    settings = load({}, {variable: raw}, cwd=tmp_path)
    assert getattr(settings, name) == default
    # Where the node goes on looking after an empty text, so do we.
    unset = raw == "" and DEFINITIONS[name].node.fallbacks
    assert settings.origin(name) == ("default" if unset else f"environment {variable}")


# the node's .env file


def test_env_file_beside_the_database_comes_before_the_working_directory(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here / ".env", "STIGMEM_TRUST_MODE=strict\n")
    database = str(there / "stigmem.db")
    settings = load({"database": database}, {}, cwd=here)
    assert (settings.env_file, settings.trust_mode) == (here / ".env", "strict")

    write(there / ".env", "STIGMEM_TRUST_MODE=off\n")
    for flags, environ in (
        ({"database": database}, {}),
        ({}, {"STIGMEM_DB_PATH": database}),
        ({}, {"STIGMEM_REPLICATOR_DATABASE": f"sqlite:///{database}"}),
    ):
        settings = load(flags, environ, cwd=here)
        assert (settings.env_file, settings.trust_mode) == (there / ".env", "off")


def test_a_named_env_file_is_read_instead_and_must_be_there(tmp_path: Path) -> None:
    write(tmp_path / ".env", "STIGMEM_TRUST_MODE=strict\n")
    write(tmp_path / "other.env", "STIGMEM_TRUST_MODE=off\n")
    settings = load({}, {}, env_file=tmp_path / "other.env", cwd=tmp_path)
    assert settings.trust_mode == "off"
    with pytest.raises(LocalError, match=r"cannot read .*missing\.env"):
        load({}, {}, env_file=tmp_path / "missing.env", cwd=tmp_path)


def test_relative_paths_start_where_they_are_written(tmp_path: Path) -> None:
    """The node's working directory is where its ``.env`` is, whatever ours is."""
    node, ours, etc = tmp_path / "node", tmp_path / "ours", tmp_path / "etc"
    write(node / ".env", "STIGMEM_DB_PATH=data/stigmem.db\nSTIGMEM_TRUST_RULES_FILE=rules.yml\n")
    settings = load({}, {}, env_file=node / ".env", cwd=ours)
    assert settings.database == str(node / "data" / "stigmem.db")
    assert settings.trust_rules_file == node / "rules.yml"

    config = write(etc / "replicator.toml", 'database = "stigmem.db"\n')
    assert load({}, {}, config_file=config, cwd=ours).database == str(etc / "stigmem.db")
    assert load({"database": "x.db"}, {}, cwd=ours).database == str(ours / "x.db")


def test_env_file_is_read_as_the_node_reads_it(tmp_path: Path) -> None:
    write(tmp_path / ".env", NODE_ENV_FILE)
    settings = load({}, {}, cwd=tmp_path)
    assert settings.trust_mode == "strict"
    assert settings.node_url == "https://node.example"
    assert settings.trust_rules_file is None
    assert settings.log_level == "warning"
    assert settings.page_size == 7


def test_what_the_node_reads_from_the_environment_alone_is_not_taken_from_the_file(
    tmp_path: Path,
) -> None:
    name = "STIGMEM_SOURCE_ATTESTATION_ENABLED"
    write(tmp_path / ".env", f"{name}=true\n")
    assert not load({}, {}, cwd=tmp_path).source_attestation_enabled
    assert load({}, {name: "true"}, cwd=tmp_path).source_attestation_enabled


def test_an_env_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"STIGMEM_TRUST_MODE=\xff\n")
    with pytest.raises(LocalError, match=r"cannot read .*\.env: it is not UTF-8"):
        load({}, {}, cwd=tmp_path)


# our TOML file


def test_toml_keys_are_the_names_of_the_settings(tmp_path: Path) -> None:
    config = write(
        tmp_path / "replicator.toml",
        'page_size = 20\noverlap_s = 5\nmulti_tenant = true\ntrust_mode = "off"\n',
    )
    settings = load({}, {}, config_file=config, cwd=tmp_path)
    assert (settings.page_size, settings.overlap_s) == (20, 5.0)
    assert settings.multi_tenant
    assert settings.trust_mode == "off"
    assert settings.config_file == config


def test_an_unknown_toml_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    config = write(tmp_path / "replicator.toml", "page_sise = 20\n")
    with pytest.raises(LocalError, match="did you mean 'page_size'") as caught:
        load({}, {}, config_file=config, cwd=tmp_path)
    assert str(config) in caught.value.message
    assert "page_size" in caught.value.hint


def test_a_toml_file_that_is_missing_or_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"cannot read .*missing\.toml: No such file"):
        load({}, {}, config_file=tmp_path / "missing.toml", cwd=tmp_path)
    config = write(tmp_path / "broken.toml", "page_size = \n")
    with pytest.raises(LocalError, match=r"broken\.toml is not valid TOML: .*line 1") as caught:
        load({}, {}, config_file=config, cwd=tmp_path)
    assert isinstance(caught.value.__cause__, tomllib.TOMLDecodeError)


@pytest.mark.parametrize(
    "line",
    ["page_size = true", "page_size = 1.5", "overlap_s = nan", "multi_tenant = 1", "node_url = 1"],
)
def test_a_toml_value_of_another_type_is_refused(line: str, tmp_path: Path) -> None:
    config = write(tmp_path / "replicator.toml", f"{line}\n")
    with pytest.raises(LocalError, match="must be"):
        load({}, {}, config_file=config, cwd=tmp_path)


# what a value may be


def test_a_value_that_does_not_fit_is_named_with_its_place_and_what_is_allowed(
    tmp_path: Path,
) -> None:
    assert refused(tmp_path, STIGMEM_REPLICATOR_PAGE_SIZE="501") == (
        "page_size (from environment STIGMEM_REPLICATOR_PAGE_SIZE) is '501', "
        "but must be a whole number from 1 to 500"
    )
    assert refused(tmp_path, STIGMEM_TRUST_MODE="lax") == (
        "trust_mode (from environment STIGMEM_TRUST_MODE) is 'lax', "
        "but must be relaxed, off or strict"
    )
    assert refused(tmp_path, STIGMEM_FEDERATION_RELAY_ENABLED="maybe").endswith(
        "must be true or false"
    )
    assert refused(tmp_path, STIGMEM_REPLICATOR_OVERLAP_S="inf").endswith(
        "must be a number from 0.0 to 3600"
    )
    assert refused(tmp_path, STIGMEM_FEDERATION_HLC_MAX_PAST_SKEW_S="-1").endswith(
        "must be a whole number of at least 0"
    )


@pytest.mark.parametrize("word", ["1", "true", "T", "yes", "Y", "ON", " on "])
def test_switches_know_the_words_of_the_node(word: str, tmp_path: Path) -> None:
    settings = load({}, {"STIGMEM_FEDERATION_RELAY_ENABLED": word}, cwd=tmp_path)
    assert settings.relay_enabled


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("stigmem.db", "stigmem.db"),
        ("sqlite:///stigmem.db", "stigmem.db"),
        ("sqlite+pysqlite:///data/a b.db", "data/a b.db"),
        ("sqlite:////srv/stigmem.db", "/srv/stigmem.db"),
        ("/srv/stigmem.db", "/srv/stigmem.db"),
    ],
)
def test_a_sqlite_url_is_the_path_in_it(raw: str, path: str, tmp_path: Path) -> None:
    assert load({"database": raw}, {}, cwd=tmp_path).database == str(tmp_path / path)


@pytest.mark.parametrize("raw", ["", "sqlite://", "sqlite:///:memory:", "sqlite:///a.db?mode=ro"])
def test_a_database_that_is_no_place_is_refused(raw: str, tmp_path: Path) -> None:
    assert "must be a path" in refused(tmp_path, STIGMEM_REPLICATOR_DATABASE=raw)


def test_shares_and_waits_must_be_in_order(tmp_path: Path) -> None:
    message = refused(tmp_path, STIGMEM_REPLICATOR_WRITE_SHARE_BUSY="0.9")
    assert "environment STIGMEM_REPLICATOR_WRITE_SHARE_BUSY" in message
    assert "write_share_idle, which is 0.85 (from default)" in message
    assert "backoff_cap_s" in refused(tmp_path, STIGMEM_REPLICATOR_BACKOFF_BASE_S="301")


# keys and secrets


def test_keys_are_given_both_or_not_at_all(tmp_path: Path) -> None:
    public, private = "STIGMEM_FEDERATION_PUBKEY", "STIGMEM_FEDERATION_PRIVKEY"
    settings = load({}, {public: PUBLIC, private: PRIVATE + "="}, cwd=tmp_path)
    assert (settings.federation_pubkey, settings.federation_privkey) == (PUBLIC, PRIVATE)
    assert "federation_privkey is not" in refused(tmp_path, **{public: PUBLIC, private: ""})
    message = refused(tmp_path, **{private: PRIVATE})
    assert "federation_pubkey is not" in message
    assert PRIVATE not in message


@pytest.mark.parametrize("raw", ["c2hvcnQ", "not base64!", PRIVATE + "AAAA", "é"])
def test_a_key_that_does_not_decode_is_refused_without_showing_it(raw: str, tmp_path: Path) -> None:
    message = refused(tmp_path, STIGMEM_FEDERATION_PRIVKEY=raw)
    assert message == (
        "federation_privkey (from environment STIGMEM_FEDERATION_PRIVKEY) "
        "must be 32 bytes in base64url, or nothing"
    )


@pytest.mark.parametrize("name", ["key_rotation_grace_hours", "manifest_refresh_s"])
def test_spans_that_no_calendar_can_subtract_are_refused(name: str, tmp_path: Path) -> None:
    """A span may be a hundred years at most."""
    message = refused(tmp_path, **{f"STIGMEM_REPLICATOR_{name.upper()}": str(10**10)})
    assert message.startswith(name)


def test_a_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    """A whole number of TOML has no bound of its own."""
    config = write(tmp_path / "replicator.toml", f"overlap_s = 1{'0' * 400}\n")
    with pytest.raises(LocalError, match="must be"):
        load({}, {}, config_file=config, cwd=tmp_path)


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.page_size = 1  # type: ignore[misc]


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000, '"a\\u0000b"'])
def test_toml_that_no_machine_should_read_is_refused_in_one_line(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "replicator.toml"
    path.write_text(f"database = {value}\n")
    assert len(refused_file(path)) < 300
