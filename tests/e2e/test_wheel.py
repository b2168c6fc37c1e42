"""What is published is enough: the built wheel, in an environment without this checkout, works.

The wheel is built from a copy of the tree, offline, and installed beside nothing else; the
libraries that it needs are lent by the environment of the tests, the editable install is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from stigmem_replicator import __version__
from stigmem_replicator.store.own_models import HEAD_REVISION
from tests.nodes.environment import REPOSITORY
from tests.pages.receiver import Receiver

pytest_plugins = ("tests.pages.fixtures",)

FOLDERS = ("stigmem_replicator", "alembic", "tests", "docs", "requirements")
FILES = ("pyproject.toml", "alembic.ini", "README.md", "CHANGELOG.md", "LICENSE", "Makefile")
STEP_TIMEOUT_S = 120


def step(*command: str | Path, cwd: Path) -> str:
    """Run a command that knows nothing of this checkout; what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": os.defpath, "HOME": str(cwd), "LANG": "C.UTF-8", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=STEP_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True, slots=True)
class Built:
    """The wheel of the tree, and the one of the tree's source distribution."""

    wheel: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    tree, dist, again = folder / "tree", folder / "dist", folder / "again"
    tree.mkdir()
    for name in FOLDERS:
        shutil.copytree(
            REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in FILES:
        shutil.copyfile(REPOSITORY / name, tree / name)
    hatchling = (sys.executable, "-m", "hatchling", "build", "-d")
    step(*hatchling, dist, "-t", "sdist", "-t", "wheel", cwd=tree)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    (folder / "unpacked").mkdir()
    step("tar", "-xzf", sdist, cwd=folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    step(*hatchling, again, "-t", "wheel", cwd=unpacked)
    (wheel_of_sdist,) = again.glob("*.whl")
    return Built(wheel, wheel_of_sdist)


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment with the wheel and nothing else of ours."""

    root: Path
    home: Path

    def python(self, code: str) -> str:
        return step(self.root / "bin" / "python", "-c", code, cwd=self.home).strip()

    def run(self, *arguments: str | Path) -> str:
        """Run the console script that the wheel brings."""
        return step(self.root / "bin" / "stigmem-replicate", *arguments, cwd=self.home)


@pytest.fixture(scope="module", params=["wheel", "wheel_of_sdist"])
def installed(
    built: Built, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    root, home = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("home")
    step(sys.executable, "-m", "venv", "--without-pip", root, cwd=home)
    wheel: Path = getattr(built, request.param)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    target = ("--python", root / "bin" / "python")
    step(*pip, *target, "install", "--no-index", "--no-deps", "--quiet", wheel, cwd=home)
    # A path named in such a file is searched, but no such file of its own is read: the editable
    # install, which is one, stays unknown.  It comes last, since pip would take it for ours.
    inside = {"base": str(root), "platbase": str(root)}
    site = Path(sysconfig.get_path("purelib", vars=inside))
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "lent.pth").write_text("".join(f"{path}\n" for path in sorted(lent)))
    return Installed(root, home)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_every_migration(built: Built) -> None:
    """The scripts travel inside the package, byte for byte, and no test or document does."""
    found = contents(built.wheel)
    scripts = sorted((REPOSITORY / "alembic").rglob("*.py"))
    assert len(scripts) > 1
    for script in scripts:
        name = script.relative_to(REPOSITORY / "alembic").as_posix()
        assert found[f"stigmem_replicator/_migrations/{name}"] == script.read_bytes()
    tops = {name.split("/")[0] for name in found}
    assert tops == {"stigmem_replicator", f"stigmem_replicate-{__version__}.dist-info"}
    assert "stigmem_replicator/py.typed" in found
    assert not any("__pycache__" in name for name in found)


def test_the_source_distribution_gives_the_same_wheel(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)


def test_the_installed_command_works_without_the_checkout(
    installed: Installed, bare_receiver: Receiver
) -> None:
    """Version, help and the whole life of our tables, on a database that a node migrated."""
    where = Path(installed.python("import stigmem_replicator as own; print(own.__file__)"))
    assert where.is_relative_to(installed.root)
    assert installed.run("--version") == f"stigmem-replicate {__version__}\n"
    assert "--backfill" in installed.run("pull", "--help")

    before = bare_receiver.dump()
    db = ("--db", bare_receiver.database, "db")
    assert "no tables yet" in installed.run(*db, "current")
    assert f"now at revision {HEAD_REVISION}" in installed.run(*db, "upgrade")
    assert "what this version needs" in installed.run(*db, "current")
    assert bare_receiver.query("SELECT version_num FROM replicator_alembic_version")[0][0] == (
        HEAD_REVISION
    )
    assert bare_receiver.count("replicator_peers") == 0
    installed.run(*db, "drop", "--yes")
    assert bare_receiver.dump() == before
