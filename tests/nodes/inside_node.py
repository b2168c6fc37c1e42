"""Runs inside a node's own environment, with the node's python and settings.

For what cannot be had through the node's HTTP API: preparing a database and its manifest, serving
with a lifeline, asserting thousands of facts quickly, holding a commit open after its HLC was
assigned, stopping the clock that HLCs are made from, and having its own pull loop take a turn or a
recorded page. Every fact goes through the node's own
assert function; only the borders of its transactions and its clock are ours. It is not imported
by tests, and it imports nothing but the standard library and the node.

Modes: `prepare` (one JSON object in, one out), `serve`, `work` (a JSON object a line, both ways).
A `serve` or `work` process ends when its standard input does, so none outlives its parent.
"""

# What belongs to the node has no types here: the tests' own environment does not have it.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
import sys
import threading
import types
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import time
from typing import TYPE_CHECKING, Any, TextIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from stigmem_node import db as node_db
from stigmem_node import hlc, source_trust
from stigmem_node.auth import Identity, register_api_key
from stigmem_node.federation import federation_pull
from stigmem_node.federation.peer_token import create_peer_token, init_federation_keys
from stigmem_node.identity.key_rotation import generate_key_id
from stigmem_node.identity.manifest import OrgManifest, manifest_to_dict, sign_manifest
from stigmem_node.main import run
from stigmem_node.models.facts import AssertRequest
from stigmem_node.plugins import TenantContext
from stigmem_node.routes import _facts_assert
from stigmem_node.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HOLD_TIMEOUT_S = 30.0
_GRACE_S = 5.0


def prepare(order: dict[str, Any]) -> dict[str, Any]:
    """Migrate the database, create node id, keys and admin key; sign the node's manifest."""
    node_db.apply_migrations()
    node_id = node_db.get_or_create_node_id()
    node_db.get_or_create_federation_keypair()
    public_key, private_key = init_federation_keys()
    entity_uri = getattr(settings, "entity_uri", "") or settings.node_url
    with node_db.db() as connection:
        has_keys = connection.execute("SELECT 1 FROM api_keys").fetchone() is not None
    if not has_keys:
        register_api_key(order["admin_key"], entity_uri, order["permissions"])

    signing_key = _private_key(private_key)
    now = datetime.now(UTC).replace(microsecond=0)
    manifest = OrgManifest(
        entity_uri=entity_uri,
        key_id=generate_key_id(signing_key.public_key()),
        public_key=public_key,
        issued_at=now.isoformat(),
        expires_at=(now + timedelta(days=order["manifest_days"])).isoformat(),
        entities=[entity_uri, node_id],
    )
    return {
        "node_id": node_id,
        "entity_uri": entity_uri,
        "public_key": public_key,
        "private_key": private_key,
        "manifest": manifest_to_dict(sign_manifest(manifest, signing_key)),
    }


def _private_key(text: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(text + "=="))


def serve() -> None:
    """Run the node exactly as its console script does, until told, or until the parent is gone."""

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_GRACE_S)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    run()


class _Clock:
    """Stands in for the `time` module inside the node's HLC, and can stand still."""

    def __init__(self) -> None:
        self.frozen_ms: int | None = None

    def time(self) -> float:
        # Half a millisecond more, because the HLC truncates what may round down.
        return time() if self.frozen_ms is None else (self.frozen_ms + 0.5) / 1000


class _Here(threading.local):
    """What the thread at work is in: a shared transaction, or a hold."""

    shared: Any = None
    hold: _Hold | None = None


class _Hold:
    """A fact on its way through the assert function, stopped at one point."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.reached = threading.Event()
        self.released = threading.Event()
        self.ended = threading.Event()
        self.abandoned = False
        self.inserted = False
        self.fact_id: str | None = None
        self.hlc: str | None = None
        self.outcome: dict[str, Any] = {}

    def wait_at(self, point: str) -> None:
        if point != self.point or self.reached.is_set():
            return
        self.reached.set()
        self.released.wait()
        if self.abandoned:
            raise _AbandonedError


class _AbandonedError(Exception):
    """Rolls a held transaction back."""


class _WatchedConnection:
    """The node's connection, telling when the fact row is about to be inserted."""

    def __init__(self, connection: Any, hold: _Hold) -> None:
        self._connection = connection
        self._hold = hold

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql.lstrip().startswith("INSERT INTO facts"):
            row = arguments[0]
            self._hold.fact_id = row[0]
            self._hold.wait_at("before_write")
            self._hold.inserted = True
        return self._connection.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Worker:
    """Carries out the orders of a `work` process.

    It touches the node at three places only: the clock of its HLC, the making of its connections
    (to share one transaction), and the connection and HLC of its assert module (to stop there).
    """

    def __init__(self) -> None:
        self._here = _Here()
        self._clock = _Clock()
        self._holds: dict[int, _Hold] = {}
        self._numbers = itertools.count(1)
        self._identity = Identity(settings.node_url, ["read", "write"])
        self._tenant = TenantContext(
            tenant_id="default", metadata={"tenant_context_source": "hook"}
        )
        hlc.time = self._clock
        self._share_transactions()
        self._watch_assertions()

    def orders(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "assert": self.assert_facts,
            "hold": self.hold,
            "commit": self.commit,
            "abandon": self.abandon,
            "freeze": self.freeze,
            "thaw": self.thaw,
            "forget_clock": self.forget_clock,
            "trust": trust,
            "forget_scores": forget_scores,
            "token": token,
            "pull_all_peers_once": pull_all_peers_once,
            "ingest": ingest,
        }

    def assert_facts(self, order: dict[str, Any]) -> dict[str, Any]:
        """Assert facts in transactions of `batch` facts: the node's own code, fewer commits."""
        facts, batch = order["facts"], order["batch"]
        asserted: list[tuple[str, str | None]] = []
        for start in range(0, len(facts), batch):
            with self._one_transaction():
                records = [self._assert_one(fact) for fact in facts[start : start + batch]]
            asserted.extend((record.id, record.hlc) for record in records)
        return {"asserted": asserted}

    def hold(self, order: dict[str, Any]) -> dict[str, Any]:
        """Assert one fact up to a point and leave it there, its HLC assigned."""
        hold, number = _Hold(order["point"]), next(self._numbers)

        def run() -> None:
            self._here.hold = hold
            try:
                record = self._assert_one(order["fact"])
                hold.outcome = {"id": record.id, "hlc": record.hlc}
            except _AbandonedError:
                hold.outcome = {}
            except Exception as error:  # noqa: BLE001 - told to the driver, whatever it is
                hold.outcome = {"error": f"{type(error).__name__}: {error}"}
            finally:
                hold.ended.set()
                hold.reached.set()

        threading.Thread(target=run, daemon=True).start()
        if not hold.reached.wait(_HOLD_TIMEOUT_S):
            raise RuntimeError(f"the fact did not come to {hold.point}")
        if hold.ended.is_set():
            raise RuntimeError(f"the fact did not stop at {hold.point}: {hold.outcome}")
        self._holds[number] = hold
        return {"number": number, "id": hold.fact_id, "hlc": hold.hlc}

    def commit(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._release(self._holds.pop(order["number"]))

    def abandon(self, order: dict[str, Any]) -> dict[str, Any]:
        hold = self._holds.pop(order["number"])
        hold.abandoned = True
        return self._release(hold)

    def freeze(self, order: dict[str, Any]) -> dict[str, Any]:
        """Stop the clock at a millisecond; without one, at the next that no HLC has used."""
        wall_ms = order["wall_ms"]
        if wall_ms is None:
            wall_ms = max(int(time() * 1000), hlc.node_hlc._wall_ms + 1)
        self._clock.frozen_ms = wall_ms
        return {"wall_ms": wall_ms}

    def thaw(self, _order: dict[str, Any]) -> dict[str, Any]:
        self._clock.frozen_ms = None
        return {}

    def forget_clock(self, _order: dict[str, Any]) -> dict[str, Any]:
        """What a restart does to the node's HLC: its next value may be below its last."""
        clock = hlc.node_hlc
        with clock._lock:
            clock._wall_ms, clock._counter = 0, 0
        return {}

    def _assert_one(self, fact: dict[str, Any]) -> Any:
        return _facts_assert.assert_fact_impl(
            AssertRequest(**fact),
            self._identity,
            None,
            request_id=str(uuid.uuid4()),
            tenant=self._tenant,
        )

    def _release(self, hold: _Hold) -> dict[str, Any]:
        hold.released.set()
        if not hold.ended.wait(_HOLD_TIMEOUT_S):
            raise RuntimeError("the held transaction did not end")
        if "error" in hold.outcome:
            raise RuntimeError(hold.outcome["error"])
        return hold.outcome

    def _share_transactions(self) -> None:
        """Let every connection that the node opens within a batch be the batch's own."""
        here, make_backend = self._here, node_db.make_backend
        self._make_backend = make_backend

        def sharing(*arguments: Any, **named: Any) -> Any:
            if here.shared is None:
                return make_backend(*arguments, **named)
            return types.SimpleNamespace(connection=lambda: _borrowed(here.shared))

        node_db.make_backend = sharing

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        with self._make_backend(_settings=settings).connection() as connection:
            self._here.shared = connection
            try:
                yield
            finally:
                self._here.shared = None

    def _watch_assertions(self) -> None:
        """Make the assert module's connections and HLC known to the hold of their thread."""
        here, open_db, clock = self._here, _facts_assert.db, _facts_assert.node_hlc

        @contextmanager
        def watched() -> Iterator[Any]:
            hold = here.hold
            with open_db() as connection:
                if hold is None:
                    yield connection
                    return
                yield _WatchedConnection(connection, hold)
                if hold.inserted:
                    hold.wait_at("before_commit")

        def tick() -> str:
            assigned: str = clock.tick()
            if here.hold is not None and here.hold.hlc is None:
                here.hold.hlc = assigned
            return assigned

        _facts_assert.db = watched
        _facts_assert.node_hlc = types.SimpleNamespace(tick=tick, receive=clock.receive)


def trust(order: dict[str, Any]) -> dict[str, Any]:
    """Score sources without the loop's memory, which knows a source but not its scope."""
    return {"scores": [source_trust._compute_fresh(*pair, None) for pair in order["sources"]]}


def forget_scores(_order: dict[str, Any]) -> dict[str, Any]:
    """Empty the loop's memory of scores, as when the database has been replaced by another."""
    source_trust._TRUST_CACHE.clear()
    return {}


def token(order: dict[str, Any]) -> dict[str, Any]:
    (peer,) = (peer for peer in _active_peers() if peer["node_id"] == order["node_id"])
    return {"token": create_peer_token(peer["node_id"], json.loads(peer["allowed_scopes"]))}


def pull_all_peers_once(_order: dict[str, Any]) -> dict[str, Any]:
    asyncio.run(federation_pull.pull_all_peers_once())
    return {}


class _Recorded:
    """In place of the loop's HTTP client: every request gets the same answer."""

    def __init__(self, page: dict[str, Any]) -> None:
        self._page = page

    async def get(self, *_arguments: Any, **_named: Any) -> Any:
        return types.SimpleNamespace(status_code=200, json=lambda: self._page)


def ingest(order: dict[str, Any]) -> dict[str, Any]:
    """Give the loop one answer of a peer, an entry at a time, and save the cursor as it does.

    An entry at a time, because an exception ends the loop's turn and with it the entries after it.
    """
    (peer,) = (peer for peer in _active_peers() if peer["node_id"] == order["node_id"])
    page = json.loads(order["body"])
    ended = [_end_of_turn(peer, {**page, "facts": [entry]}) for entry in page["facts"]]
    if page["cursor"] != federation_pull.load_cursor(peer["id"]):
        federation_pull.save_cursor(peer["id"], page["cursor"])
    return {"ended": ended}


def _end_of_turn(peer: dict[str, Any], page: dict[str, Any]) -> str | None:
    try:
        asyncio.run(federation_pull.pull_from_peer_once(peer, _Recorded(page), None))
    except Exception as error:  # noqa: BLE001 - told to the driver, whatever it is
        return f"{type(error).__name__}: {error}"
    return None


def _active_peers() -> list[dict[str, Any]]:
    with node_db.db() as connection:
        rows = connection.execute("SELECT * FROM peers WHERE status = 'active'").fetchall()
    return [dict(row) for row in rows]


@contextmanager
def _borrowed(connection: Any) -> Iterator[Any]:
    yield connection


def work(answers: TextIO) -> None:
    orders = Worker().orders()
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            _answer(answers, {"ok": orders[order["do"]](order)})
        except Exception as error:  # noqa: BLE001 - told to the driver, whatever it is
            _answer(answers, {"error": f"{type(error).__name__}: {error}"})


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main() -> None:
    mode = sys.argv[1]
    if mode == "serve":
        serve()
        return
    answers, sys.stdout = sys.stdout, sys.stderr  # the node prints; answers stay clean
    if mode == "prepare":
        _answer(answers, prepare(json.load(sys.stdin)))
    elif mode == "work":
        work(answers)
    else:
        sys.exit(f"unknown mode {mode!r}")


if __name__ == "__main__":
    main()
