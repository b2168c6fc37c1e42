"""What the demonstration says, and the commands that it runs as an operator would."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.nodes.environment import REPOSITORY

if TYPE_CHECKING:
    from tests.nodes.federation import Pair

COMMAND = "stigmem-replicate"
COMMAND_TIMEOUT_S = 60.0


class DemoError(Exception):
    """The demonstration did not show what it should; the message says what went wrong."""


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def command(pair: Pair, *arguments: str, ends_with: int = 0) -> None:
    """Run one command on the receiver's database, showing it and what it prints."""
    full = ["--db", str(pair.receiver.database), *arguments]
    say(f"\n   $ {COMMAND} {shlex.join(full)}")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "stigmem_replicator", *full],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            cwd=pair.receiver.folder,
            env={
                "PATH": os.defpath,
                "HOME": str(pair.receiver.folder),
                "LANG": "C.UTF-8",
                "COLUMNS": "110",
                "PYTHONPATH": str(REPOSITORY),
                **pair.receiver.settings,
            },
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DemoError(f"the command took over {COMMAND_TIMEOUT_S:.0f} s") from None
    for line in done.stdout.splitlines():
        say(f"   {line}")
    if done.returncode != ends_with:
        raise DemoError(f"the command ended with exit code {done.returncode}")
