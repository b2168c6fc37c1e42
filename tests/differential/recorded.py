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
    """Serve what is on record and yield the URL.

    One body is served as it is, whatever is asked for. Several are an origin's answers in a row:
    their entries are served as an origin does, those whose HLC as text lies behind the cursor.
    """
    pages = [json.loads(body) for body in bodies]
    entries = [entry for page in pages for entry in page["facts"]]

    def answer(cursor: str, limit: int) -> bytes:
        if len(bodies) == 1:
            return bodies[0]
        found = [entry for entry in entries if entry["fact"]["hlc"] > cursor]
        shown = found[:limit]
        newest = shown[-1]["fact"]["hlc"] if shown else cursor or None
        document = {"v": 2, "facts": shown, "cursor": newest, "has_more": len(found) > limit}
        return json.dumps(document).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path != FACTS:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            query = parse_qs(parts.query)
            body = answer(query.get("cursor", [""])[0], int(query["limit"][0]))
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
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
