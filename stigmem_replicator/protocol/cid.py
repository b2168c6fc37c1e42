"""Content ids: the digest that names what a fact says.

A content id is ``sha256:`` and 64 hexadecimal digits over the fact's canonical body.  The body
is Python's sorted compact JSON, not RFC 8785: floats are written as ``repr`` writes them and
text is not normalised.  Two bodies are in use: eight keys since wire version 2, seven (without
``interpret_as``) before.  This module computes them; whether a fact may carry the one or the
other is decided in ``trust.facts``.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Final

PREFIX: Final = "sha256:"


def _digest(body: dict[str, object]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return PREFIX + hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def content_id(
    *,
    entity: str,
    relation: str,
    value_type: str,
    value_text: str,
    source: str,
    scope: str,
    confidence: float,
    interpret_as: str,
) -> str:
    """Return the content id of wire version 2 (eight keys).

    ``value_text`` is the value as the node stores it, see :func:`value_texts`.  Raises
    ``UnicodeEncodeError`` when a text holds a lone surrogate.
    """
    return _digest(
        {
            "confidence": confidence,
            "entity": entity,
            "interpret_as": interpret_as,
            "relation": relation,
            "scope": scope,
            "source": source,
            "value_type": value_type,
            "value_v": value_text,
        }
    )


def legacy_content_id(
    *,
    entity: str,
    relation: str,
    value_type: str,
    value_text: str,
    source: str,
    scope: str,
    confidence: float,
) -> str:
    """Return the content id of wire version 1 (seven keys, no ``interpret_as``)."""
    return _digest(
        {
            "confidence": confidence,
            "entity": entity,
            "relation": relation,
            "scope": scope,
            "source": source,
            "value_type": value_type,
            "value_v": value_text,
        }
    )


def value_texts(value_type: str, value: object) -> tuple[str, ...]:
    """Return the texts that the origin may have stored for a wire value, likeliest first.

    A node serves every number as a JSON float, so the whole number that it stored as ``42``
    arrives as ``42.0``.  The content id tells which text was meant: the first candidate whose
    id fits is the stored one.
    """
    if value_type == "null":
        return ("null",)
    if value_type == "boolean":
        return ("true" if value else "false",)
    text = str(value)
    if value_type == "number" and isinstance(value, float) and math.isfinite(value):
        whole = int(value)
        if whole == value and str(whole) != text:
            return (text, str(whole))
    return (text,)
