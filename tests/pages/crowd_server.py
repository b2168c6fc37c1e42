"""The process that plays a crowd: many origins on one port, told apart by the first part of a path.

    python -m tests.pages.crowd_server PLAN LISTENER

It serves what crowd.py made, from one file that holds every entry as it is sent, and costs little
beside what it is there to measure: it looks at whom a token is for, but not at its signature, which
is for tokens.py. PLAN is a file, LISTENER the descriptor of a socket that listens already. The end
of standard input is the end of the process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import mmap
import socket
import sys
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

Json: TypeAlias = dict[str, Any]

SERVING, HANGING, THROTTLED = "serving", "hanging", "throttled"
REPORT = "/report"
FACTS = "/v1/federation/facts"
MANIFEST = "/.well-known/stigmem-manifest.json"
TOMBSTONES = "/v1/federation/tombstones"
RETRY_AFTER_S = 30

_LIMIT_DEFAULT, _LIMIT_MAX = 100, 500
_KEEP_ALIVE_S = 5.0
_LOOK_S = 1.0
_HEAD_MAX = 65_536
_END_OF_HEAD = b"\r\n\r\n"
_NO_TOMBSTONES = b'{"v": 2, "tombstones": [], "revocations": [], "cursor": null, "has_more": false}'


@dataclass(slots=True)
class Member:
    """One origin: what it serves, and what it was asked.

    The entry of `hlcs[i]` lies at `starts[i]`, one byte before the next one's start is its end.
    """

    node_id: str
    kind: str
    manifest: Json
    hlcs: list[str]
    starts: list[int]
    asked_at: list[float] = field(default_factory=list)
    """When each request came, in seconds of the monotonic clock of this machine.

    Any path but the one of tombstones, which is asked for beside the others.
    """
    pages: int = 0
    entries: int = 0
    refused: int = 0

    def report(self) -> Json:
        return {
            "asked_at": self.asked_at,
            "pages": self.pages,
            "entries": self.entries,
            "refused": self.refused,
        }


class Crowd:
    """The members by name, and every connection that is open."""

    def __init__(self, plan: Json, entries: mmap.mmap | bytes) -> None:
        self.members = {name: Member(**member) for name, member in plan["members"].items()}
        self.connections: set[Connection] = set()
        self._entries = entries

    def answer(self, target: str, authorization: str) -> tuple[int, bytes, str] | None:
        """Status, body and more headers for a request; None leaves it without an answer."""
        parts = urlsplit(target)
        if parts.path == REPORT:
            return HTTPStatus.OK, _encoded(self._report()), ""
        name, _, rest = parts.path.removeprefix("/").partition("/")
        member = self.members.get(name)
        if member is None:
            return _refusal(HTTPStatus.NOT_FOUND, "Not Found")
        if f"/{rest}" != TOMBSTONES:
            member.asked_at.append(time.monotonic())
        if member.kind == HANGING:
            return None
        if member.kind == THROTTLED:
            return _refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate limit exceeded",
                f"Retry-After: {RETRY_AFTER_S}\r\n",
            )
        if f"/{rest}" == MANIFEST:
            return HTTPStatus.OK, _encoded(member.manifest), ""
        if f"/{rest}" == TOMBSTONES:
            return HTTPStatus.OK, _NO_TOMBSTONES, ""
        if f"/{rest}" != FACTS:
            return _refusal(HTTPStatus.NOT_FOUND, "Not Found")
        if _audience(authorization) != member.node_id:
            member.refused += 1
            return _refusal(HTTPStatus.UNAUTHORIZED, "invalid_sub")
        return self._facts(member, parse_qs(parts.query, keep_blank_values=True))

    def _facts(self, member: Member, query: dict[str, list[str]]) -> tuple[int, bytes, str]:
        text = query.get("limit", [str(_LIMIT_DEFAULT)])[-1]
        limit = int(text) if text.isascii() and text.isdigit() else 0
        if not 1 <= limit <= _LIMIT_MAX:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "limit")
        cursor = query["cursor"][-1] if "cursor" in query else None
        first = bisect_right(member.hlcs, cursor) if cursor else 0
        end = min(first + limit, len(member.hlcs))
        entries = (
            self._entries[member.starts[first] : member.starts[end] - 1] if end > first else b""
        )
        body = b'{"v": 2, "facts": [%s], "cursor": %s, "has_more": %s}' % (
            entries,
            json.dumps(member.hlcs[end - 1] if end > first else cursor).encode(),
            b"true" if end < len(member.hlcs) else b"false",
        )
        member.pages += 1
        member.entries += end - first
        return HTTPStatus.OK, body, ""

    def _report(self) -> Json:
        return {
            "now": time.monotonic(),
            "cpu_s": time.process_time(),
            "members": {name: member.report() for name, member in self.members.items()},
        }

    def close_idle(self) -> None:
        """Close what nobody has used for as long as a node waits."""
        before = time.monotonic() - _KEEP_ALIVE_S
        for connection in list(self.connections):
            if not connection.hanging and connection.used_at < before:
                connection.close()


def _encoded(document: Json) -> bytes:
    return json.dumps(document).encode()


def _refusal(status: HTTPStatus, detail: str, headers: str = "") -> tuple[int, bytes, str]:
    return status, _encoded({"detail": detail}), headers


def _audience(authorization: str) -> object:
    """For whom a token is; None for what is no token."""
    try:
        payload = authorization.removeprefix("Bearer ").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, IndexError):
        return None
    return claims.get("sub") if isinstance(claims, dict) else None


class Connection(asyncio.Protocol):
    """Reads the requests of one connection, one after the other; they have no bodies."""

    def __init__(self, crowd: Crowd) -> None:
        self.used_at = time.monotonic()
        self.hanging = False
        self._crowd = crowd
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._crowd.connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._crowd.connections.discard(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self.used_at = time.monotonic()
        self._read += data
        while _END_OF_HEAD in self._read and not self.hanging:
            head, self._read = self._read.split(_END_OF_HEAD, 1)
            self._answer(head.decode("latin-1"))
        if len(self._read) > _HEAD_MAX:
            self.close()

    def _answer(self, head: str) -> None:
        request, *lines = head.split("\r\n")
        _, target, _ = request.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        answer = self._crowd.answer(target, headers.get("authorization", ""))
        if answer is None:
            self.hanging = True
        elif self._transport is not None:
            status, body, more = answer
            self._transport.write(
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                f"Date: {_date()}\r\n"
                "Content-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n{more}\r\n".encode()
                + body
            )


def _date() -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())


async def serve(crowd: Crowd, listener: socket.socket) -> None:
    """Serve until standard input ends; nobody writes to it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    server = await loop.create_server(lambda: Connection(crowd), sock=listener, backlog=4096)
    while not ended.is_set():
        try:
            async with asyncio.timeout(_LOOK_S):
                await ended.wait()
        except TimeoutError:
            crowd.close_idle()
    server.close()
    for connection in list(crowd.connections):
        connection.close()


def main(plan: str, listener: str) -> None:
    """Serve what a plan says on a socket."""
    document = json.loads(Path(plan).read_bytes())
    with Path(document["entries"]).open("rb") as file:
        empty = not document["bytes"]
        entries = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        asyncio.run(serve(Crowd(document, entries), socket.socket(fileno=int(listener))))


if __name__ == "__main__":
    main(*sys.argv[1:])
