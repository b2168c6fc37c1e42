"""Run inside a node's environment: the node's own pull, once after the other.

Arguments: the number of facts to reach and a bound in seconds.  Prints one JSON object with the
facts received and the seconds taken, and stops at either.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from stigmem_node.db import db  # type: ignore[import-not-found]
from stigmem_node.federation.federation_pull import (  # type: ignore[import-not-found]
    pull_all_peers_once,
)


def _received() -> int:
    with db() as connection:
        row = connection.execute("SELECT count(*) AS n FROM facts WHERE received_from IS NOT NULL")
        return int(row.fetchone()["n"])


async def _main(wanted: int, bound_s: float) -> None:
    began = time.monotonic()
    while _received() < wanted and time.monotonic() - began < bound_s:
        await pull_all_peers_once()
    print(json.dumps({"facts": _received(), "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2])))
