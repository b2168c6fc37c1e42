"""Answers of an origin on record: fetched once, served to whoever asks, always the same.

The page server is for one peer's stream of facts on loopback. It looks at the cursor and at
nothing else; that tokens are checked is the real node's business and tested with real nodes.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.nodes.bulk import InsideNode
    from tests.nodes.node import Node

FACTS = "/v1/federation/facts"


def record(origin: Node, receiver: InsideNode, *, limit: int = 100) -> list[bytes]:
    """Read an origin from the beginning to its end, as the receiver, and keep every body."""
    bodies: list[bytes] = []
    cursor, has_more = None, True
    while has_more:
        answer = origin.client.get(
            FACTS,
            params={"limit": limit, **({} if cursor is None else {"cursor": cursor})},
            headers={"Authorization": f"Bearer {receiver.peer_token(origin)}"},
        )
        answer.raise_for_status()
        bodies.append(answer.content)
        page = json.loads(answer.content)
        cursor, has_more = page["cursor"], page["has_more"]
    return bodies


@contextmanager
def page_server(bodies: Sequence[bytes]) -> Iterator[str]:
    """Serve bodies in their order: each to the cursor of the one before; yields the URL.

    A cursor that no body ends with gets the first, as one that lies before them all would.
    """
    follows: dict[str | None, bytes] = {}
    cursor = None
    for body in bodies:
        follows.setdefault(cursor, body)
        cursor = json.loads(body)["cursor"]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path != FACTS:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            asked = parse_qs(parts.query).get("cursor", [None])[0]
            body = follows.get(asked, bodies[0])
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 - inherited
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield str(httpx.URL(scheme="http", host="127.0.0.1", port=server.server_address[1]))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
