"""A machine inside this one whose process 1 is a systemd of its own, for running the unit for real.

It is made of namespaces: its own processes, mounts, control groups and name, over a copy-on-write
layer of this machine's files; only the network is shared.  Nothing that it does is left behind.
It starts nothing but what a test starts, and it is no boundary for anything hostile.

Needs root, a Linux that makes such namespaces, and Debian's package systemd.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.nodes.environment import REPOSITORY

INIT: Final = Path("/lib/systemd/systemd")
TOOLS: Final = ("unshare", "nsenter", "systemctl", "journalctl", "mount", "chroot", "make")
CODE: Final = "/opt/machine/code"
"""Where our code is in there."""

START_S: Final = 30.0
RUN_S: Final = 120.0

_TRIAL: Final = r"""
set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root groups
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
mount -t cgroup2 cgroup2 groups
"""
_HOUSE: Final = r"""
# In a mount namespace of our own: the files of this machine under a layer that is thrown away.
set -eu
layer=$1/layer root=$1/root groups=$1/groups
mkdir "$layer" "$root" "$groups"
mount -t tmpfs tmpfs "$layer"
mkdir "$layer/upper" "$layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$root"
mount -t cgroup2 cgroup2 "$groups"
mkdir "$groups/$2"
echo $$ > "$groups/$2/cgroup.procs"
exec unshare --pid --fork --kill-child --uts --ipc --cgroup bash -c "$3" bash "$1" "${@:4}"
"""
_BOOT: Final = r"""
# As process 1: what a container is given, then its systemd.
set -eu
root=$1/root code=$2 python=$3 packages=$4
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
# Of the units of this machine only those that every service waits for, and the journal.
units=$1/units
mkdir "$units"
cp -P /lib/systemd/system/*.target /lib/systemd/system/systemd-journald*.s* "$units/"
mkdir -p "$root/usr/lib/systemd/system-generators"
mount -t tmpfs tmpfs "$root/usr/lib/systemd/system-generators"
mount -t tmpfs tmpfs "$root/etc/systemd/system"
mount --bind "$units" "$root/usr/lib/systemd/system"
for folder in code python packages; do
    mkdir -p "$root/opt/machine/$folder"
    mount --bind "${!folder}" "$root/opt/machine/$folder"
done
mount --make-rshared "$root"
exec env -i container=test PATH="$PATH" chroot "$root" \
    /lib/systemd/systemd --system --unit=basic.target --show-status=no --log-target=journal
"""
_FORGET: Final = r"""
set -e
mkdir -p "$1"
mount -t cgroup2 cgroup2 "$1"
test ! -d "$1/$2" || find "$1/$2" -depth -type d -exec rmdir {} +
"""
_COMMAND: Final = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/machine/python/lib
export PYTHONPATH=/opt/machine/code:/opt/machine/packages
exec /opt/machine/python/bin/{python} -P -m stigmem_replicator "$@"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that runs; `root` is where its files are seen from here."""

    init: int
    root: Path

    def run(
        self, *command: str | Path, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in there, as root."""
        entered = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-p", "-C", "-r", "-w"]
        return subprocess.run(
            [*entered, *command],
            check=check,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            env={"PATH": os.defpath + ":/usr/local/bin:/usr/sbin:/sbin", **(env or {})},
        )

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in there, and the folders above it."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "-p", name, "--value").stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit has said."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout


def why_not(folder: Path) -> str | None:
    """Why there can be no such machine here, None when there can; the folder stays as it is."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a machine of our own needs Linux and root"
    if not INIT.exists():
        return "no systemd is installed: Debian's package systemd has it"
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(lacking)}"
    spaces = ("--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup")
    trial = subprocess.run(
        ["unshare", *spaces, "--propagation", "private", "bash", "-c", _TRIAL, "bash", folder],
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    return None if trial.returncode == 0 else f"no namespaces or layers: {trial.stderr.strip()}"


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Have a machine that has started, with our command installed and nothing else of ours.

    Raises :class:`TimeoutError` when it does not start.
    """
    group = f"stigmem-{os.getpid()}-{time.monotonic_ns()}"
    paths = (str(REPOSITORY), sys.base_prefix, sysconfig.get_path("purelib"))
    house = ("bash", "-c", _HOUSE, "bash", str(folder), group, _BOOT, *paths)
    log = folder / "start.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *house],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        started = _started(process, log)
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        started.write("/usr/local/bin/stigmem-replicate", _COMMAND.format(python=python), 0o755)
        yield started
    finally:
        process.send_signal(signal.SIGKILL)  # and with it process 1, and all the others
        process.wait()
        _forget(folder, group)


def _started(process: subprocess.Popen[bytes], log: Path) -> Machine:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):  # whoever is looked at may have ended
            (init,) = children.read_text().split() or ("self",)
            if Path(f"/proc/{init}/comm").read_text() == "systemd\n":
                made = Machine(int(init), Path(f"/proc/{init}/root"))
                state = made.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return made
        time.sleep(0.05)
    raise TimeoutError(f"systemd did not start: {log.read_text()}")


def _forget(folder: Path, group: str) -> None:
    """Take away the control groups, which outlive who made them, once the last process is gone."""
    command = ["unshare", "--mount", "bash", "-c", _FORGET, "bash", str(folder / "groups"), group]
    deadline = time.monotonic() + START_S
    while subprocess.run(command, check=False, capture_output=True, timeout=RUN_S).returncode:
        assert time.monotonic() < deadline, f"processes of {group} go on"
        time.sleep(0.05)
