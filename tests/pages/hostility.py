"""What a hostile peer can do with an answer, as behaviours for the page server.

They break HTTP, the encoding or the JSON on purpose, or never end; what a broken, busy or merely
mistaken peer does is in misbehaviour.py.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from collections.abc import Callable

from tests.pages.origin import Raw
from tests.pages.server import Behaviour, Exchange

DRIP_S = 0.05
"""A byte in so many seconds: often enough for every limit on silence."""

FORGED_CURSOR = "7258118400000.0"
"""Where the forged page leads: past everything that is ever there."""


def page_bytes(exchange: Exchange) -> bytes:
    """The page that is due, as JSON."""
    return json.dumps(exchange.page()).encode()


def answer_bytes(body: bytes, **headers: str) -> bytes:
    """A whole answer with a body; `headers` take the place of its Content-Length."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given = given or {"Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    """A body as one chunk and the end."""
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def raw(make: Callable[[bytes], bytes]) -> Behaviour:
    """Answer with bytes made of the page's own, in one piece, and keep the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.write(make(page_bytes(exchange)))

    return behave


def raw_to_the_end(make: Callable[[bytes], bytes]) -> Behaviour:
    """The same, and end the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.write(make(page_bytes(exchange)))
        exchange.connection.shutdown(socket.SHUT_RDWR)
        exchange.hang_up()

    return behave


def never_ending(first: bytes, again: bytes) -> Behaviour:
    """Send the first bytes and then the others over and over, as fast as they are taken."""
    many = again * max(1, 0x8000 // len(again))

    def behave(exchange: Exchange) -> None:
        exchange.write(first)
        while not exchange.stopped.is_set():
            exchange.write(many)

    return behave


def dripping(make: Callable[[bytes], bytes]) -> Behaviour:
    """Send bytes made of the page's own one by one."""

    def behave(exchange: Exchange) -> None:
        for byte in make(page_bytes(exchange)):
            exchange.write(bytes((byte,)))
            if exchange.stopped.wait(DRIP_S):
                break

    return behave


def encoded(name: str, encode: Callable[[bytes], bytes]) -> Behaviour:
    """Send the page in a content encoding that nobody asked for."""

    def behave(exchange: Exchange) -> None:
        exchange.send(200, encode(page_bytes(exchange)), {"Content-Encoding": name})

    return behave


def bomb() -> bytes:
    """Eight mebibytes of nothing, in eight kibibytes."""
    return gzip.compress(bytes(8 << 20))


def deflated(body: bytes) -> bytes:
    return zlib.compress(body)


def rewritten(change: Callable[[bytes], bytes]) -> Behaviour:
    """Send the page's bytes changed, as a whole and rightly framed answer."""

    def behave(exchange: Exchange) -> None:
        exchange.send(200, change(page_bytes(exchange)))

    return behave


def changed(change: Callable[[Raw], None]) -> Behaviour:
    """Send the page changed."""

    def behave(exchange: Exchange) -> None:
        page = json.loads(page_bytes(exchange))
        change(page)
        exchange.send(200, page)

    return behave


def replacing(old: bytes, new: bytes) -> Behaviour:
    """Send the page with some of its bytes replaced, which must be there."""

    def change(body: bytes) -> bytes:
        if old not in body:
            raise AssertionError(f"{old!r} is not in the page")
        return body.replace(old, new, 1)

    return rewritten(change)


def forged_answer() -> bytes:
    """An answer that would end the pull at once, with the cursor past everything."""
    page = {"v": 2, "facts": [], "cursor": FORGED_CURSOR, "has_more": False}
    return answer_bytes(json.dumps(page).encode())


def after_a_page(behaviour: Behaviour, *, times: int | None = None) -> Behaviour:
    """Be honest about the first page and then hostile, so many times or always."""
    left = times
    turn = threading.Lock()

    def behave(exchange: Exchange) -> None:
        nonlocal left
        with turn:
            hostile = exchange.request.cursor is not None and left != 0
            if hostile and left is not None:
                left -= 1
        if hostile:
            exchange.request.attacked = True
            behaviour(exchange)
        else:
            exchange.send(*exchange.honest())

    return behave
