"""What attacks cost: memory below a cap that follows from the settings, and no other peer's time.

The command runs as a subprocess, whose memory the system measures.  That each attack is refused,
and for what, is in test_hostile.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.e2e.conftest import cli_environ
from tests.e2e.page_pulls import servers, settings, wait_for
from tests.pages import hostility, misbehaviour
from tests.pages.hostility import encoded, never_ending
from tests.pages.receiver import Receiver
from tests.pages.server import Behaviour, Held, PageServer

if TYPE_CHECKING:
    from tests.pages.fixtures import Start

pytest_plugins = ("tests.pages.fixtures",)

KIB: Final = 1024
PAGE_BYTES_MAX: Final = 4 << 20

_HEAD: Final = b"HTTP/1.1 200 OK\r\n"

HUNGRY: Final[dict[str, Behaviour]] = {
    "a body without an end": never_ending(_HEAD + b"\r\n", b" " * 999),
    "chunks without an end": misbehaviour.endless,
    "a gzip bomb": encoded("gzip", lambda _: hostility.bomb()),
    "one header without an end": never_ending(_HEAD + b"X-Endless: ", b"x"),
    "headers without an end": never_ending(_HEAD, b"X-Endless: again\r\n"),
    "interim answers without an end": never_ending(b"", b"HTTP/1.1 100 Go\r\n\r\n"),
    "nesting up to the cap": misbehaviour.text(b"[" * (PAGE_BYTES_MAX - 1)),
    "objects up to the cap": misbehaviour.text(b'{"facts":[' + b"{}," * (PAGE_BYTES_MAX // 3 - 9)),
    "an error without an end": never_ending(b"HTTP/1.1 500 No\r\n\r\n", b" " * 999),
}


def most_memory(receiver: Receiver, home: Path) -> int:
    """The most bytes of memory that a `pull --all` had at a time."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "stigmem_replicator", "--db", str(receiver.database)),
            *("pull", "--all", "--wait", "0"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=home,
        env=cli_environ(home, settings(page_size=1, page_bytes_max=PAGE_BYTES_MAX)),
    )
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * KIB


def test_no_answer_takes_more_memory_than_the_cap_allows(
    receiver: Receiver, tmp_path: Path
) -> None:
    """All attacks at once take no more than page_bytes_max each, beyond what honest peers take.

    Without a bound each of those that never end would take all that there is.
    """
    with servers(receiver, len(HUNGRY)) as peers:
        for peer in peers:
            peer.origin.add()
        honest = most_memory(receiver, tmp_path)
        for peer, attack in zip(peers, HUNGRY.values(), strict=True):
            assert len(receiver.fact_ids(peer)) == 1
            peer.always = attack
        hostile = most_memory(receiver, tmp_path)
        assert all(receiver.state(peer)[1] for peer in peers)
    assert hostile - honest < len(HUNGRY) * PAGE_BYTES_MAX


def stuck(server: PageServer, hold: Behaviour) -> Held:
    """Have a server answer hostilely; the event tells that it has begun to."""
    held = Held(hold)
    held.let_go()
    server.always = held
    server.origin.add()
    return held


def test_hostile_peers_hold_up_nobody_else(start: Start, receiver: Receiver) -> None:
    """An honest peer is pulled to its end while all the others are still hanging."""
    hostile: list[Behaviour] = [
        misbehaviour.hang,
        misbehaviour.drip,
        hostility.dripping(lambda body: hostility.answer_bytes(body, X_Slow="x" * 9_999)),
        hostility.dripping(lambda _: b"HTTP/1.1 103 Soon\r\n\r\n" * 999),
    ]
    with ExitStack() as stack:
        peers = stack.enter_context(servers(receiver, len(hostile)))
        reached = [stuck(peer, how).reached for peer, how in zip(peers, hostile, strict=True)]
        honest = stack.enter_context(PageServer())
        receiver.adopt(honest)
        facts = set(honest.origin.add_many(9))
        # The honest peer answers its first page when all the others have been asked.
        held = honest.hold()
        running = start("pull", "--all", db=receiver.database, env=settings(page_size=2))
        for event in reached:
            assert event.wait(20)
        held.let_go()
        wait_for(lambda: receiver.fact_ids(honest) == facts)
        wait_for(lambda: receiver.state(honest) == ("idle", None))
        for peer in peers:
            assert receiver.holder(peer) == running.pid
            assert len(peer.requests) == 1
        running.kill()
        running.end()
