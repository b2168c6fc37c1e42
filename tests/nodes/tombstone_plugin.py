"""Nodes that leave out what is tombstoned when they are read from.

A node stores every tombstone, but only one with the tombstone plugin and two flags heeds them in
its answers. The plugin is the published one, unpacked beside the node's environment and put on the
path of this one process, so that no other node has it. What a node remembers of its tombstones
lasts sixty seconds; a second plugin, for tests alone, makes that one second (inside_short_cache.py)
unless `short_cache` is false. A restart forgets at once.

    receiver = SuppressingNode(node_environment(), folder, name="receiver")
    with introduced(Node(node_environment(), name="origin"), receiver) as pair:
        ...

What it answers is asked with the readers of tombstones.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.nodes.environment import NodeEnvironment, NodeInstallError, locked
from tests.nodes.node import Node

if TYPE_CHECKING:
    from collections.abc import Mapping

PLUGIN = "stigmem-plugin-tombstones"
PLUGIN_VERSION = "0.1.0"
CACHE_S = 1.0
"""For how long a suppressing node remembers, unless it has the node's own sixty seconds."""

_SHA256 = "f27cfdb5dd1830ec7f37507d4c4b7048b11662bafbd6d4bc5c01b30943a26452"
_SHORT_CACHE = Path(__file__).with_name("inside_short_cache.py")
_DOWNLOAD_TIMEOUT_S = 120.0

_FLAGS = {
    "PLUGIN_AUTO_DISCOVERY_ENABLED": "true",
    "PLUGIN_SIGNING_REQUIRED": "false",  # the published one is not signed
    "PLUGIN_UNSIGNED_ACK": "i-understand-plugins-are-unsigned",
    "TOMBSTONES_ENABLED": "true",
    "TOMBSTONES_ALLOW_RECALL_FILTER": "true",
}


class SuppressingNode(Node):
    """A node with the tombstone plugin, in all else as other nodes are."""

    def __init__(
        self,
        environment: NodeEnvironment,
        folder: Path | None = None,
        *,
        name: str = "node",
        settings: Mapping[str, str] | None = None,
        short_cache: bool = True,
    ) -> None:
        super().__init__(environment, folder, name=name, settings={**_FLAGS, **(settings or {})})
        self._plugins = [tombstone_plugin(environment)]
        if short_cache:
            self._plugins.append(_short_cache(self.folder / "plugins"))

    @property
    def environ(self) -> dict[str, str]:
        """As of any node, and where its plugins are."""
        return {**super().environ, "PYTHONPATH": os.pathsep.join(map(str, self._plugins))}


def tombstone_plugin(environment: NodeEnvironment) -> Path:
    """The folder of the published plugin, got and unpacked first if need be."""
    folder = environment.root / f"{PLUGIN}-{PLUGIN_VERSION}"
    with locked(environment.root.with_name(f"{environment.root.name}.lock")):
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.tmp")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            with zipfile.ZipFile(_download(environment, unfinished)) as wheel:
                wheel.extractall(unfinished)
            unfinished.rename(folder)
    return folder


def _download(environment: NodeEnvironment, target: Path) -> Path:
    requirement = f"{PLUGIN}=={PLUGIN_VERSION}"
    command = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "download"]
    options = ["--no-deps", "--only-binary", PLUGIN, "--dest", str(target)]
    done = subprocess.run(
        [*command, *options, requirement],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DOWNLOAD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise NodeInstallError(f"getting {requirement} failed:\n{done.stderr[-2000:]}")
    (wheel,) = target.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise NodeInstallError(f"{wheel.name} has SHA-256 {digest}, expected {_SHA256}")
    return wheel


def _short_cache(folder: Path) -> Path:
    """Lay the plugin of the tests out as an installed one."""
    told = folder / "test_short_tombstone_cache-0.0.1.dist-info"
    told.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_SHORT_CACHE, folder / _SHORT_CACHE.name)
    (told / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: test-short-tombstone-cache\nVersion: 0.0.1\n"
    )
    (told / "entry_points.txt").write_text(
        f"[stigmem.plugins]\nshort_cache = {_SHORT_CACHE.stem}:plugin_manifest\n"
    )
    return folder
