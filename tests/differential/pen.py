"""Writing pages as an origin would, and as it never would: whole, tampered with, malformed.

The pen holds an origin's private key, so that what it writes fails for the one reason that was
meant and not for its signature. Content ids and signed tuples are made here anew, from the
protocol and with nothing of the replicator's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.nodes.node import Node

JsonObject = dict[str, Any]


@dataclass(slots=True)
class Pen:
    """Makes facts with ids and HLCs that count up, and signs entries for them."""

    node_id: str
    entity_uri: str
    key: Ed25519PrivateKey
    dialect: int = 2
    """The version of the wire: in version 1 a fact is its own entry, unsigned."""
    wall_ms: int = field(default_factory=lambda: int(time.time() * 1000) - 60_000)
    _written: int = 0

    @classmethod
    def of(cls, origin: Node) -> Pen:
        """The pen of a real origin, with the key from its database."""
        (row,) = origin.query("SELECT value FROM node_meta WHERE key = 'federation_privkey'")
        seed = base64.urlsafe_b64decode(row["value"] + "==")
        return cls(origin.node_id, origin.entity_uri, Ed25519PrivateKey.from_private_bytes(seed))

    def fact(
        self,
        entity: str,
        relation: str = "test:name",
        value: object = "x",
        *,
        type: str = "string",  # noqa: A002 - the wire's own word
        scope: str = "public",
        source: str = "agent:pen",
        confidence: float = 1.0,
        valid_until: str | None = None,
        interpret_as: str = "content",
    ) -> JsonObject:
        """A fact as the wire carries it, content id included."""
        self._written += 1
        fact = {
            "id": f"00000000-0000-4000-8000-{self._written:012d}",
            "entity": entity,
            "relation": relation,
            "value": {"type": type, "v": value, "interpret_as": interpret_as},
            "source": source,
            "timestamp": "2026-01-02T03:04:05.678901+00:00",
            "hlc": f"{self.wall_ms}.{self._written}",
            "received_from": None,
            "valid_until": valid_until,
            "confidence": confidence,
            "scope": scope,
        }
        fact["cid"] = self.content_id(fact)
        return fact

    def content_id(self, fact: Mapping[str, Any]) -> str:
        """The content id that this version of the wire gives a fact."""
        return content_id(fact) if self.dialect == 2 else legacy_content_id(fact)

    def sign(
        self,
        fact: Mapping[str, Any],
        *,
        by: Ed25519PrivateKey | None = None,
        block: JsonObject | None = None,
        **origin: object,
    ) -> JsonObject:
        """The signed entry of a fact; `origin` replaces parts of the origin block, `block` all."""
        if block is None:
            block = {
                "tenant": "default",
                "node_id": self.node_id,
                "allowed_scopes": ["company", "public"],
                "allowed_tenants": ["default"],
                "entity_uri": self.entity_uri,
                **origin,
            }
        body = {
            "cid": fact.get("cid"),
            "entity_uri": block["entity_uri"],
            "fact_id": fact.get("id"),
            "origin_allowed_scopes": sorted(block["allowed_scopes"]),
            "origin_allowed_tenants": sorted(block["allowed_tenants"]),
            "origin_node_id": block["node_id"],
            "origin_tenant": block["tenant"],
            "tv": "2.1",
            "valid_until": fact.get("valid_until"),
        }
        signature = (by or self.key).sign(_canonical(body))
        return {
            "fact": dict(fact),
            "origin": block,
            "origin_sig": base64.urlsafe_b64encode(signature).rstrip(b"=").decode(),
            "origin_manifest": None,
            "origin_key_proof": None,
        }

    def page(self, entries: Sequence[object], *, cursor: str | None) -> bytes:
        """The body of an answer after which there is no more."""
        if self.dialect == 2:
            return page(entries, cursor=cursor)
        document = {"facts": list(entries), "cursor": cursor, "has_more": False}
        return json.dumps(document).encode()


def value_text(value: Mapping[str, Any]) -> str:
    """The text under which a node stores a wire value."""
    kind, v = value["type"], value.get("v")
    return {"null": "null", "boolean": "true" if v else "false"}.get(kind, str(v))


def content_id(fact: Mapping[str, Any]) -> str:
    """The content id of a wire fact, computed as a receiver does."""
    value = fact["value"]
    kind, text = value["type"], value_text(value)
    body = {
        "confidence": float(fact["confidence"]),
        "entity": str(fact["entity"]),
        "interpret_as": str(value.get("interpret_as", "content")),
        "relation": str(fact["relation"]),
        "scope": str(fact["scope"]),
        "source": str(fact["source"]),
        "value_type": kind,
        "value_v": text,
    }
    return f"sha256:{hashlib.sha256(_canonical(body)).hexdigest()}"


def legacy_content_id(fact: Mapping[str, Any]) -> str:
    """The content id that an origin of wire version 1 gave the same fact."""
    value = fact["value"]
    body = {
        "confidence": float(fact["confidence"]),
        **{key: str(fact[key]) for key in ("entity", "relation", "scope", "source")},
        "value_type": value["type"],
        "value_v": value_text(value),
    }
    return f"sha256:{hashlib.sha256(_canonical(body)).hexdigest()}"


def page(entries: Sequence[object], *, cursor: str | None, has_more: bool = False) -> bytes:
    """The body of an answer."""
    document = {"v": 2, "facts": list(entries), "cursor": cursor, "has_more": has_more}
    return json.dumps(document).encode()


def _canonical(body: Mapping[str, object]) -> bytes:
    # A lone surrogate has no bytes; what is signed over it is of no consequence.
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")
