"""A thousand origins in one process: peers for measurements and for long drains.

Every one has its own node id, key, manifest and signed facts, and keeps the wire's rules as
server.py does; beyond that one can be silent, or ask to be left alone, and no more. What breaks
the rules is for server.py and misbehaviour.py. crowd_server.py is the process itself.

    with Crowd(folder, [Group("p", 900, facts=50), Group("h", 10, kind=HANGING)]) as crowd:
        crowd.join(receiver)
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.nodes.environment import REPOSITORY
from tests.pages.crowd_server import HANGING, REPORT, RETRY_AFTER_S, SERVING, THROTTLED
from tests.pages.origin import Origin, Raw, public_text
from tests.pages.receiver import Receiver

__all__ = [
    "HANGING",
    "RETRY_AFTER_S",
    "SERVING",
    "THROTTLED",
    "Asked",
    "Crowd",
    "Group",
    "Member",
    "jain_index",
]

_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Group:
    """So many members that are alike; their names are the prefix and a number."""

    prefix: str
    count: int
    facts: int = 0
    kind: str = SERVING


@dataclass(frozen=True, slots=True)
class Member:
    """One origin of a crowd; its ledger knows its facts, its rows are left empty."""

    name: str
    kind: str
    facts: int
    url: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Asked:
    """What a member was asked until now; times are of this machine's monotonic clock, seconds."""

    asked_at: list[float]
    pages: int
    entries: int
    refused: int

    @property
    def shortest_wait_s(self) -> float:
        """The shortest time between two requests, endless where there were not two."""
        gaps = (later - earlier for earlier, later in pairwise(self.asked_at))
        return min(gaps, default=math.inf)


def jain_index(amounts: Sequence[float]) -> float:
    """How evenly something is shared: 1 where all have the same, 1/n where one has everything.

    Jain, Chiu and Hawe, "A Quantitative Measure of Fairness", 1984. Nobody has anything: 1.
    """
    squares = sum(amount**2 for amount in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else 1.0


class Crowd:
    """The crowd, for the length of a `with`; its file is in the folder and goes with that."""

    def __init__(self, folder: Path, groups: Sequence[Group]) -> None:
        self.members: dict[str, Member] = {}
        self.cpu_s = 0.0
        """Processor seconds that it had used when it last reported."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = int(self._listener.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._plan = folder / "crowd.json"
        self._write(folder / "crowd.entries", groups)
        self._client = httpx.Client(trust_env=False, timeout=_END_S)

    def __enter__(self) -> Self:
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pages.crowd_server", str(self._plan), str(descriptor)],
            stdin=subprocess.PIPE,
            pass_fds=[descriptor],
            cwd=REPOSITORY,
        )
        self._listener.close()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._client.close()
        if self._process is not None:
            try:
                self._process.communicate(timeout=_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()

    def join(self, receiver: Receiver) -> None:
        """Have every member as an active peer, its organisation bound and its manifest stored.

        They come in the order of their node ids, which is none: the kinds are mixed.
        """
        members = sorted(self.members.values(), key=lambda member: member.origin.node_id)
        with receiver.at_once():
            for member in members:
                receiver.register(
                    member.origin.node_id,
                    member.url,
                    public_key=public_text(member.origin.key),
                    entity_uri=member.origin.entity_uri,
                )
                receiver.store_manifest(member.origin.manifest)

    def report(self) -> dict[str, Asked]:
        """What every member was asked until now, by name."""
        answer: Raw = self._client.get(f"http://127.0.0.1:{self.port}{REPORT}").json()
        self.cpu_s = answer["cpu_s"]
        return {name: Asked(**asked) for name, asked in answer["members"].items()}

    def of_kind(self, kind: str) -> list[Member]:
        """The members of a kind."""
        return [member for member in self.members.values() if member.kind == kind]

    def _write(self, entries: Path, groups: Sequence[Group]) -> None:
        plans: dict[str, Raw] = {}
        at = 0
        with entries.open("wb") as file:
            for group in groups:
                for number in range(group.count):
                    name = f"{group.prefix}{number:04}"
                    url = f"http://127.0.0.1:{self.port}/{name}"
                    member = Member(name, group.kind, group.facts, url, Origin(url))
                    self.members[name] = member
                    hlcs, starts = [], [at]
                    for hlc, entry in _signed(member):
                        at += file.write(entry + b",")
                        hlcs.append(hlc)
                        starts.append(at)
                    plans[name] = _plan(member, hlcs, starts)
        plan = {"entries": str(entries), "bytes": at, "members": plans}
        self._plan.write_text(json.dumps(plan))


def _signed(member: Member) -> Iterator[tuple[str, bytes]]:
    origin = member.origin
    ids: list[str] = []
    for _ in range(member.facts):
        fact = origin.fact(entity=f"{member.name}:{len(ids)}")
        ids.append(fact["id"])
        yield fact["hlc"], json.dumps(origin.entry(fact)).encode()
    origin.ledger.acknowledge(ids)


def _plan(member: Member, hlcs: list[str], starts: list[int]) -> dict[str, Any]:
    return {
        "node_id": member.origin.node_id,
        "kind": member.kind,
        "manifest": member.origin.manifest,
        "hlcs": hlcs,
        "starts": starts,
    }
