"""The files for systemd, installed by `make install-systemd` and judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

import pytest

from stigmem_replicator.settings import DEFINITIONS, Places, review
from tests.nodes.environment import REPOSITORY

UNIT: Final = "stigmem-replicator.service"
EXPOSURE_MAX: Final = 2.0
ONE_DIRECTIVE: Final = re.compile(r"^([A-Z]\w+)=", re.MULTILINE)

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: Debian's package systemd has it",
)


def installed(root: Path, *variables: str) -> Path:
    """Install everything below a folder; the folder of the units."""
    subprocess.run(
        ["make", "install-systemd", f"DESTDIR={root}", *variables],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=30,
    )
    return root / "usr/local/lib/systemd/system"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a command of our name, as an installation has it."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "stigmem-replicate").symlink_to("/bin/true")
    return folder


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory, command: Path) -> Path:
    """The folder of the units, for the oldest systemd that is supported."""
    return installed(tmp_path_factory.mktemp("root"), f"BINDIR={command}", "SYSTEMD=252")


def version() -> int:
    """The version of systemd on this machine."""
    said = subprocess.run(
        ["systemd-analyze", "--version"], check=True, capture_output=True, text=True, timeout=30
    )
    return int(said.stdout.split()[1])


def verified(unit: Path) -> tuple[int, str]:
    """What systemd finds wrong with a unit, the manual aside: exit code and words."""
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", unit],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return said.returncode, said.stdout + said.stderr


@needs_systemd
def test_systemd_finds_nothing_wrong(units: Path) -> None:
    """No directive is unknown, no value does not fit, no command is missing."""
    assert verified(units / UNIT) == (0, "")


@needs_systemd
def test_systemd_would_find_what_is_wrong(units: Path, tmp_path: Path) -> None:
    """The check above can fail."""
    bad = tmp_path / UNIT
    bad.write_text((units / UNIT).read_text().replace("WatchdogSec=", "WatchDogSec="))
    code, said = verified(bad)
    assert code == 1
    assert "WatchDogSec" in said


@needs_systemd
def test_the_growing_delay_is_understood_where_it_is_installed(
    tmp_path: Path, command: Path
) -> None:
    """A drop-in that this systemd does not know is left out, and a new one is checked too."""
    folder = installed(tmp_path, f"BINDIR={command}")
    assert (folder / f"{UNIT}.d/restart-delay.conf").exists() == (version() >= 254)
    assert verified(folder / UNIT) == (0, "")


@needs_systemd
def test_the_sandbox_is_tight(units: Path) -> None:
    """The exposure that systemd counts, from 0 (all closed) to 10."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", units / UNIT],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    exposure = re.search(rf"exposure level for {UNIT}: ([0-9.]+)", said.stdout)
    assert exposure is not None, said.stdout
    assert float(exposure[1]) <= EXPOSURE_MAX, said.stdout


def test_what_an_operator_changed_is_kept(tmp_path: Path) -> None:
    """A second installation leaves settings as they are, and brings the unit up to date."""
    folder = installed(tmp_path)
    settings = tmp_path / "etc/stigmem-replicator"
    mine = {settings / "config.toml": "page_size = 7\n", settings / "environment": "A=b\n"}
    for path, text in mine.items():
        path.write_text(text)
    (folder / UNIT).write_text("old")
    installed(tmp_path)
    assert {path: path.read_text() for path in mine} == mine
    assert "[Service]" in (folder / UNIT).read_text()


def test_the_environment_is_kept_from_others(tmp_path: Path) -> None:
    """It may hold a password; the settings beside it are for everybody."""
    installed(tmp_path)
    settings = tmp_path / "etc/stigmem-replicator"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in settings.iterdir()}
    assert modes == {"config.toml": 0o644, "environment": 0o600}


def test_the_growing_delay_is_installed_from_254_on(tmp_path: Path) -> None:
    """And taken away again where it is not understood."""
    drop_in = tmp_path / f"usr/local/lib/systemd/system/{UNIT}.d/restart-delay.conf"
    for systemd, expected in (("254", True), ("253", False), ("", False), ("257", True)):
        installed(tmp_path, f"SYSTEMD={systemd}")
        assert drop_in.exists() == expected, systemd


def test_a_package_has_its_own_places(tmp_path: Path) -> None:
    """PREFIX moves all but the settings, and the unit starts the command there."""
    installed(tmp_path, "PREFIX=/usr")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert f"usr/lib/systemd/system/{UNIT}" in files
    assert "usr/lib/sysusers.d/stigmem-replicator.conf" in files
    assert "usr/lib/tmpfiles.d/stigmem-replicator.conf" in files
    assert "usr/share/man/man1/stigmem-replicate.1" in files
    unit = (tmp_path / "usr/lib/systemd/system" / UNIT).read_text()
    assert "ExecStart=/usr/bin/stigmem-replicate " in unit


def test_every_directive_of_the_sandbox_is_explained() -> None:
    """A comment stands above each, or above the first of a few that belong together."""
    text = (REPOSITORY / "systemd" / UNIT).read_text()
    sandbox = text[text.index("# -- What it may use") : text.index("[Install]")]
    for paragraph in sandbox.split("\n\n"):
        directives = ONE_DIRECTIVE.findall(paragraph)
        assert not directives or paragraph.startswith("#"), paragraph
    assert len(set(ONE_DIRECTIVE.findall(sandbox))) > 25


def test_the_credentials_that_are_named_are_settings() -> None:
    """Each example gives a key to a setting that takes it, and none is left out."""
    text = (REPOSITORY / "systemd" / UNIT).read_text()
    named = set(re.findall(r"^#LoadCredential=(\w+):/", text, re.MULTILINE))
    assert named == {one.credential for one in DEFINITIONS.values() if one.credential}


def test_the_settings_of_the_example_are_settings(tmp_path: Path) -> None:
    """With its lines uncommented nothing is wrong with it."""
    text = (REPOSITORY / "systemd/config.toml.example").read_text()
    file = tmp_path / "config.toml"
    file.write_text(re.sub(r"^#(?=[\w\[])", "", text, flags=re.MULTILINE))
    read = review(Places({}, {}, tmp_path, file))
    assert (read.problems, read.warnings) == ((), ())
    assert read.settings.allowed_networks
    assert read.settings.peer_tables


def test_the_variables_of_the_example_are_the_nodes() -> None:
    """Each is one that the node knows."""
    lines = (REPOSITORY / "systemd/environment.example").read_text().splitlines()
    named = {line[1:].partition("=")[0] for line in lines if re.match(r"#[A-Z]+_", line)}
    assert len(named) > 3
    assert named <= {one.node.name for one in DEFINITIONS.values()}


@needs_systemd
def test_another_user_is_a_drop_in(tmp_path: Path, command: Path) -> None:
    """The example fits the unit, with and without a home."""
    folder = installed(tmp_path, f"BINDIR={command}")
    example = (REPOSITORY / "systemd/user.conf.example").read_text()
    drop_in = folder / f"{UNIT}.d/user.conf"
    drop_in.parent.mkdir(exist_ok=True)
    for text in (example, re.sub(r"^#(?=[A-Z]\w+=)", "", example, flags=re.MULTILINE)):
        drop_in.write_text(text)
        assert verified(folder / UNIT) == (0, "")
