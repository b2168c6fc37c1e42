"""The origin block that every entry of wire version 2 carries: who made it, and for whom.

It is decoded here and signed together with its entry (``signatures``); what it permits is judged
in ``trust``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.fields import FieldError, encodes, text_of


@dataclass(frozen=True, slots=True)
class Origin:
    """The signed origin block of an entry."""

    node_id: str
    tenant: str
    entity_uri: str
    allowed_scopes: tuple[str, ...]
    allowed_tenants: tuple[str, ...]

    def texts(self) -> tuple[str, ...]:
        """Return every text of it."""
        lists = (*self.allowed_scopes, *self.allowed_tenants)
        return (self.node_id, self.tenant, self.entity_uri, *lists)


def signed_parts(raw: dict[str, Any], part: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return an entry's ``part``, its origin block and the origin's signature, not yet decoded.

    Raises :class:`FieldError` with ``missing_origin_block``.
    """
    content, origin, signature = raw.get(part), raw.get("origin"), raw.get("origin_sig")
    if not isinstance(content, dict) or not isinstance(origin, dict):
        message = f"{part} or origin is not an object"
        raise FieldError(message, Reason.MISSING_ORIGIN_BLOCK)
    if not isinstance(signature, str) or not signature:
        raise FieldError("origin_sig is missing", Reason.MISSING_ORIGIN_BLOCK)
    return content, origin, signature


def decode_origin(origin: dict[str, Any]) -> Origin:
    """Decode an origin block.  Raises :class:`FieldError` with ``missing_origin_block``."""
    lists = {}
    for key in ("allowed_scopes", "allowed_tenants"):
        items = origin.get(key)
        if not isinstance(items, list) or not all(
            isinstance(item, str) and encodes(item) for item in items
        ):
            message = f"origin.{key} is not a list of texts"
            raise FieldError(message, Reason.MISSING_ORIGIN_BLOCK)
        lists[key] = tuple(items)
    try:
        node_id, tenant, entity_uri = (
            text_of(origin, key, "origin") for key in ("node_id", "tenant", "entity_uri")
        )
    except FieldError as error:
        raise FieldError(str(error), Reason.MISSING_ORIGIN_BLOCK) from error
    return Origin(node_id, tenant, entity_uri, lists["allowed_scopes"], lists["allowed_tenants"])
