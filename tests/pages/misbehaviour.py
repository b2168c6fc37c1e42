"""What a peer can do wrong with an answer, as behaviours for the page server's script.

What is done on purpose, below or beside HTTP and JSON, is in hostility.py.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
from collections.abc import Mapping

from tests.pages.server import HOLD_S, Behaviour, Exchange

_DRIP_S = 0.05


def status(
    code: int,
    detail: str | None = None,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """Answer with a status; the body is JSON with a detail, or the bytes given."""

    def behave(exchange: Exchange) -> None:
        document = {} if detail is None else {"detail": detail}
        exchange.send(code, document if body is None else body, headers)

    return behave


def text(body: bytes) -> Behaviour:
    """Answer 200 with any bytes."""
    return status(200, body=body)


def html(exchange: Exchange) -> None:
    """Answer as a proxy does that wants somebody to log in."""
    exchange.send(200, b"<!doctype html><title>Welcome</title><p>Please log in.")


def truncated(exchange: Exchange) -> None:
    """Answer with the first half of a page's JSON, as a whole body."""
    body = json.dumps(exchange.page()).encode()
    exchange.send(200, body[: len(body) // 2])


def cut_off(exchange: Exchange) -> None:
    """Promise a page, send half of it and reset the connection."""
    body = json.dumps(exchange.page()).encode()
    exchange.head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
    exchange.write(body[: len(body) // 2])
    # A linger of no time makes the end a reset.
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.connection.close()
    exchange.hang_up()


def slammed(exchange: Exchange) -> None:
    """Close the connection without a word."""
    exchange.connection.shutdown(socket.SHUT_RDWR)
    exchange.hang_up()


def endless(exchange: Exchange) -> None:
    """Send a body that never ends."""
    exchange.head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
    exchange.write(b'a\r\n{"facts":[\r\n')
    while not exchange.stopped.is_set():
        exchange.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")


def version_one(exchange: Exchange) -> None:
    """Answer with a page of wire version 1."""
    page = exchange.page()
    facts = [entry["fact"] for entry in page["facts"]]
    exchange.send(200, {"facts": facts, "cursor": page["cursor"], "has_more": page["has_more"]})


def stalled(exchange: Exchange) -> None:
    """Say that there is more, after the same cursor."""
    page = {**exchange.page(), "facts": [], "cursor": exchange.request.cursor, "has_more": True}
    exchange.send(200, page)


def without_cursor(exchange: Exchange) -> None:
    """Answer with a page whose cursor is null."""
    exchange.send(200, {**exchange.page(), "cursor": None})


def greedy(exchange: Exchange) -> None:
    """Answer with more entries than were asked for."""
    request = exchange.request
    request.query["limit"] = str(request.limit + 1)
    exchange.send(200, exchange.page())


def hang(exchange: Exchange) -> None:
    """Do not answer at all."""
    exchange.stopped.wait(HOLD_S)
    exchange.hang_up()


def drip(exchange: Exchange) -> None:
    """Send a page byte by byte, each soon enough after the last."""
    body = json.dumps(exchange.page()).encode()
    exchange.head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
    for number in range(len(body)):
        exchange.write(body[number : number + 1])
        if exchange.stopped.wait(_DRIP_S):
            break


def slow(seconds: float) -> Behaviour:
    """Answer as a node does, after a while."""

    def behave(exchange: Exchange) -> None:
        if not exchange.stopped.wait(seconds):
            exchange.send(*exchange.honest())

    return behave


def redirect(location: str) -> Behaviour:
    """Send the client elsewhere."""
    return status(302, headers={"Location": location})


def gzipped(exchange: Exchange) -> None:
    """Send a page compressed, unasked."""
    body = gzip.compress(json.dumps(exchange.page()).encode())
    exchange.send(200, body, {"Content-Encoding": "gzip"})
