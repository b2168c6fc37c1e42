"""The real command line, which dies as in a power cut when it comes to a named point.

    python -m tests.faults.crashing_cli --point after_inserts --nth 3 -- --db node.db pull --peer X

It is killed by SIGKILL, from within and without a word, the n-th time that writing a batch comes
to the point. A command that ends before that ends as it would have anyway.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from stigmem_replicator.cli.app import main as cli
from stigmem_replicator.store import apply
from stigmem_replicator.store.apply import Point


def arm(point: Point, nth: int) -> None:
    """Replace what is called at every point by something that dies at one of them."""
    left = nth
    wanted = point
    turn = threading.Lock()

    def reached(point: Point) -> None:
        nonlocal left
        if point is not wanted:
            return
        with turn:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    apply.reached = reached


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--point", type=Point, choices=list(Point), required=True)
    arguments.add_argument("--nth", type=int, required=True)
    arguments.add_argument("command", nargs=argparse.REMAINDER)
    wanted = arguments.parse_args()
    arm(wanted.point, wanted.nth)
    command: list[str] = wanted.command
    sys.argv = ["stigmem-replicate", *command[command[:1] == ["--"] :]]
    cli()


if __name__ == "__main__":
    main()
