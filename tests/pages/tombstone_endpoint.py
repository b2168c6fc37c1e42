"""The tombstones path of the page server: who may read it, what a page holds, who asked.

It stands beside the facts path (server.py) on the same origin, and answers as a node does, or as
it is told to. Unless told otherwise it is a node of wire version 2 with its trust mode off, which
takes any bearer value.

    endpoint = server.tombstone_endpoint
    endpoint.version = 1                         # the dialect: records without envelopes
    endpoint.demands_capability = True           # as with any other trust mode
    token = endpoint.capabilities.issue(server.origin)
    add_tombstone(server.origin, "person:kim")   # see tombstones.py
    endpoint.script(misbehaviour.status(503))    # the next answer; then honest again
    [request.since for request in endpoint.requests if request.bearer == CAPABILITY]
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tests.pages.capabilities import Capabilities, CapabilityError
from tests.pages.tokens import TokenError, Tokens
from tests.pages.tombstones import tombstone_page

if TYPE_CHECKING:
    from tests.pages.origin import Raw
    from tests.pages.server import Behaviour, Request

TOMBSTONES = "/v1/federation/tombstones"
LIMIT_DEFAULT = 200

PEER_TOKEN, CAPABILITY, OTHER, NOTHING = "peer token", "capability", "other", "nothing"
"""The kinds of what a request can carry as its bearer value."""

_BEARER = "Bearer "


class TombstoneEndpoint:
    """The tombstones path of one server; what it was asked is in `requests`, in order.

    `script` says how the next requests are answered, one behaviour each; when it is used up,
    `always` answers, which is honest unless set.
    """

    def __init__(self, tokens: Tokens, always: Behaviour) -> None:
        self.version = 2
        self.demands_capability = False
        self.capabilities = Capabilities()
        self.always = always
        self.requests: list[Request] = []
        self._script: deque[Behaviour] = deque()
        self._tokens = tokens

    def script(self, *behaviours: Behaviour) -> None:
        """Say how the next requests are answered."""
        self._script.extend(behaviours)

    def take(self, request: Request) -> Behaviour:
        """Write a request down and judge its token; returns how it is answered."""
        self._judge(request)
        self.requests.append(request)
        return self._script.popleft() if self._script else self.always

    def honest(self, request: Request) -> tuple[int, bytes | Raw]:
        """Answer a request as a node does: a status and a body."""
        text = request.query.get("limit", str(LIMIT_DEFAULT))
        try:
            limit = int(text)
        except ValueError:
            return 422, {"detail": [{"loc": ["query", "limit"], "input": text}]}
        if request.broken:
            return 500, b"Internal Server Error"
        if request.refused:
            return 401, {"detail": request.refused}
        origin = request.connection.origin
        return 200, tombstone_page(origin, since=request.since, limit=limit, version=self.version)

    def _judge(self, request: Request) -> None:
        header = request.headers.get("Authorization", "")
        value = header.removeprefix(_BEARER)
        if not header.startswith(_BEARER) or not value:
            request.refused = "capability token required"
        elif self.demands_capability:
            try:
                self.capabilities.check(value, request.connection.origin)
            except CapabilityError as error:
                request.refused = str(error)
            except ValueError:
                request.broken = True
        elif self.version == 2:
            # Such a node looks for the peer behind a token, which uses up its nonce, and serves
            # whoever it finds or does not find.
            try:
                request.claims = self._tokens.check(header, request.connection.origin.node_id)
            except TokenError as error:
                request.flaw = str(error)


def bearer_of(header: str) -> str:
    """The kind of what a request carries as its bearer value."""
    value = header.removeprefix(_BEARER)
    if not header.startswith(_BEARER) or not value:
        return NOTHING
    if value.startswith("{"):
        return CAPABILITY
    return PEER_TOKEN if value.count(".") == 2 else OTHER
