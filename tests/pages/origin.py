"""An origin as values: its key, its manifest, the entries it signs and the rows it would serve.

Written from the wire's rules alone and with nothing of the package under test, so that the two
can disagree. A real node judges it in test_contract.py. It is not the serving (server.py), nor
the spoiling (poison.py). What it has to say of tombstones is made in tombstones.py, and a great
many facts at once in backlog.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.nodes.ledger import Ledger

Raw: TypeAlias = dict[str, Any]

SCOPES = ("company", "public")
HOUR_MS = 3_600_000
SOURCE = "agent:pages"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def canonical(body: Raw) -> bytes:
    """Sorted compact JSON in UTF-8: what content ids and signatures are made over."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def public_text(key: Ed25519PrivateKey) -> str:
    return base64url(key.public_key().public_bytes_raw())


def key_id_of(key: Ed25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]


def content_id(fact: Raw, value_text: str, *, legacy: bool = False) -> str:
    """The id of what a fact says; `legacy` is the form before wire version 2."""
    body = {
        "confidence": float(fact["confidence"]),
        "entity": fact["entity"],
        "interpret_as": fact["value"]["interpret_as"],
        "relation": fact["relation"],
        "scope": fact["scope"],
        "source": fact["source"],
        "value_type": fact["value"]["type"],
        "value_v": value_text,
    }
    if legacy:
        del body["interpret_as"]
    return "sha256:" + hashlib.sha256(canonical(body)).hexdigest()


def stored_text(kind: str, value: object) -> str:
    """The text in which a node keeps a value."""
    if kind == "null":
        return "null"
    if kind == "boolean":
        return "true" if value else "false"
    return str(value)


@dataclass(frozen=True, slots=True)
class Row:
    """One row that the origin reads for a page; without an entry it is read and not sent."""

    hlc: str
    scope: str
    entry: Any


@dataclass(frozen=True, slots=True)
class Notice:
    """One tombstone or revocation that the origin reads for a page, as each dialect serves it.

    `at` is what it is ordered and asked for by: the text of its `created_at`. What is None is read
    and not sent.
    """

    at: str
    record: Any
    """What wire version 1 serves."""
    entry: Any
    """What wire version 2 serves: the record in its envelope."""


MoreRows: TypeAlias = Callable[[str | None, int], list[Row]]
"""The first so many rows after a cursor, in text order: rows that are made when they are read."""


class Origin:
    """An organisation with one node, and everything that the node has to say.

    What is added is in the ledger as acknowledged; what is spoiled belongs there as poisoned.
    Stamps lie an hour back and rise by a millisecond with each entry, unless one is given.
    """

    def __init__(self, url: str, *, node_id: str | None = None) -> None:
        self.entity_uri = url
        self.node_id = node_id or f"stigmem:node:{uuid.uuid4()}"
        self.key = Ed25519PrivateKey.generate()
        self.rotations: list[Raw] = []
        self.manifest = self.signed_manifest()
        self.rows: list[Row] = []
        self.more_rows: MoreRows = lambda _cursor, _count: []
        self.tombstones: list[Notice] = []
        self.revocations: list[Notice] = []
        self.ledger = Ledger(self.node_id)
        self._wall_ms = now_ms() - HOUR_MS
        self._number = 0

    # --- its manifest

    def signed_manifest(self, *, days: float = 300.0, issued_days_ago: float = 1.0) -> Raw:
        """A manifest that ends so many days from now, signed by the key that it names."""
        now = datetime.now(UTC).replace(microsecond=0)
        body: Raw = {
            "entity_uri": self.entity_uri,
            "key_id": key_id_of(self.key),
            "public_key": public_text(self.key),
            "issued_at": (now - timedelta(days=issued_days_ago)).isoformat(),
            "expires_at": (now + timedelta(days=days)).isoformat(),
            "entities": [self.entity_uri, self.node_id],
            "rotation_events": list(self.rotations),
        }
        return {**body, "signature": base64url(self.key.sign(canonical(body)))}

    def rotate(self, *, hours_ago: float = 0.0, forged: bool = False) -> None:
        """Take a new key as the protocol wants it: the old one signs the step, unless forged."""
        old, self.key = self.key, Ed25519PrivateKey.generate()
        step: Raw = {
            "previous_key_id": key_id_of(old),
            "new_key_id": key_id_of(self.key),
            "new_public_key": public_text(self.key),
            "rotated_at": (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat(),
        }
        signature = base64url((self.key if forged else old).sign(canonical(step)))
        self.rotations.append(
            {**step, "signature": signature, "previous_public_key": public_text(old)}
        )
        self.manifest = self.signed_manifest()

    def replace_key(self) -> None:
        """Take a new key that nothing leads to: a loss of the old one, or somebody else."""
        self.key = Ed25519PrivateKey.generate()
        self.rotations.clear()
        self.manifest = self.signed_manifest()

    # --- its entries

    def stamp(self) -> str:
        """The next HLC."""
        self._wall_ms += 1
        return f"{self._wall_ms}.0"

    def fact(
        self,
        *,
        entity: str | None = None,
        relation: str = "test:name",
        value: Any = None,  # noqa: ANN401 - whatever JSON holds
        kind: str = "string",
        interpret_as: str = "content",
        source: str = SOURCE,
        scope: str = "public",
        confidence: float = 1.0,
        valid_until: str | None = None,
        hlc: str | None = None,
        fact_id: str | None = None,
    ) -> Raw:
        """A fact as the wire carries it, with its content id; each has an entity of its own."""
        self._number += 1
        if value is None and kind == "string":
            value = f"value {self._number}"
        fact: Raw = {
            "id": fact_id or str(uuid.uuid4()),
            "entity": entity or f"pages:{self._number}",
            "relation": relation,
            "value": {"type": kind, "v": value, "interpret_as": interpret_as},
            "source": source,
            "timestamp": datetime.now(UTC).isoformat(),
            "hlc": hlc or self.stamp(),
            "received_from": None,
            "valid_until": valid_until,
            "confidence": confidence,
            "scope": scope,
            "attested_key_id": None,
            "origin_node_id": None,
            "origin_allowed_scopes": None,
            "garden_id": None,
            "attested": None,
            "contradicted": False,
            "warnings": [],
            "source_trust": None,
            "quarantine_status": None,
            "quarantine_garden_id": None,
            "effective_confidence": None,
            "sanitizer_warnings": [],
            "sanitizer_redacted": False,
            "derived_from": [],
        }
        fact["cid"] = content_id(fact, stored_text(kind, value))
        return fact

    def origin_block(self, fact: Raw, **changed: Any) -> Raw:  # noqa: ANN401 - fields of the wire
        """The origin block of a fact of ours; what is given replaces a field."""
        block: Raw = {
            "tenant": "default",
            "node_id": self.node_id,
            "allowed_scopes": [fact["scope"]],
            "allowed_tenants": ["default"],
            "entity_uri": self.entity_uri,
        }
        return {**block, **changed}

    def entry(self, fact: Raw, origin: Raw | None = None) -> Raw:
        """A signed envelope around a fact."""
        origin = origin or self.origin_block(fact)
        return {
            "fact": fact,
            "origin": origin,
            "origin_sig": self.signature(fact, origin),
            "origin_manifest": None,
            "origin_key_proof": None,
        }

    def signature(self, fact: Raw, origin: Raw) -> str:
        body = {
            "cid": fact["cid"],
            "entity_uri": origin["entity_uri"],
            "fact_id": fact["id"],
            "origin_allowed_scopes": sorted(origin["allowed_scopes"]),
            "origin_allowed_tenants": sorted(origin["allowed_tenants"]),
            "origin_node_id": origin["node_id"],
            "origin_tenant": origin["tenant"],
            "tv": "2.1",
            "valid_until": fact["valid_until"],
        }
        return base64url(self.key.sign(canonical(body)))

    # --- what it has to serve

    def add(self, entry: Raw | None = None, **fact: Any) -> str:  # noqa: ANN401 - see `fact`
        """Have one valid entry, made from the fields of a fact unless given; returns its id."""
        entry = entry or self.entry(self.fact(**fact))
        fact_id: str = entry["fact"]["id"]
        self.ledger.acknowledge([fact_id])
        self.rows.append(Row(entry["fact"]["hlc"], entry["fact"]["scope"], entry))
        return fact_id

    def add_many(self, count: int, **fact: Any) -> list[str]:  # noqa: ANN401 - see `fact`
        return [self.add(**fact) for _ in range(count)]

    def add_unsent(self, count: int) -> None:
        """Have rows that are read for a page and not sent, as a node has with old facts."""
        self.rows.extend(Row(self.stamp(), "public", None) for _ in range(count))

    def page(self, *, cursor: str | None, limit: int, scopes: frozenset[str]) -> Raw:
        """The page that a node would answer with: text order, strictly after the cursor."""
        rows = sorted(
            (
                row
                for row in [*self.rows, *self.more_rows(cursor, limit + 1)]
                if row.scope in scopes and (not cursor or row.hlc > cursor)
            ),
            key=lambda row: row.hlc,
        )
        read = rows[:limit]
        return {
            "v": 2,
            "facts": [row.entry for row in read if row.entry is not None],
            "cursor": read[-1].hlc if read else cursor,
            "has_more": len(rows) > limit,
        }
