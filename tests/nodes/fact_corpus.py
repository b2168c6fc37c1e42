"""Facts to replicate: every value type, odd text, awkward numbers, contradictions.

The same seed always gives the same facts. All of `facts()` can cross the wire unharmed;
`UNCARRIABLE_NUMBERS` cannot, because the node stores what was written and serves a float. The
corpus knows what the node accepts, not what a replicator should make of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPES = ("public", "company")
MAX_VALUES_PER_KEY = 4

# In the form to which the node normalises: lower case, no white space.
_ENTITY_FORMS = (
    "{namespace}:item-{number}",
    "{namespace}/item/{number}",
    "stigmem://acme.example/{namespace}/item-{number}",
    "{namespace}:zoë-{number}",
    "{namespace}:zoe\u0308-{number}",  # the same to a reader, another text
    "{namespace}:日本語-{number}",
    "{namespace}:👩‍🔬-{number}",
    '{namespace}:o\'hara-"{number}"-100%_',
)

_RELATIONS = (
    "test:name",
    "test:Größe",
    "test:with space",
    'test:"quoted"',
    "bare",
    "memory:role",
    "https://schema.example/name#part",
)

_TEXTS = (
    "",
    " ",
    "  spaces around  ",
    "plain",
    'double "quotes" and \\ backslash \\n',
    "it's; DROP TABLE facts; --",
    "line\nbreak",
    "carriage\r\nreturn",
    "tab\tseparated",
    "control \x01 \x1f \x7f",
    "é composed, e\u0301 combining",
    "a\u0316\u0320\u0324\u0345\u0346\u0357 stacked",
    "👩‍👩‍👧‍👦 🇫🇷 👍🏽 ☕\ufe0f",
    "\U0010ffff beyond the BMP \U00020000",
    "\ufeffbyte order mark",
    "zero\u200bwidth, right\u202eto left, line\u2028separator",
    "السلام عليكم",
    "日本語の文章",
    "\ufb01 \u212b \u212a \u017f ß \u0130 \u0131 fold in surprising ways",
    "<script>&amp;</script>",
    "%s {0} ${HOME} %_%",
    "null",
    "None",
    "42",
    '{"v": 2, "facts": []}',
    "x" * 4000,
)

_NUMBERS: tuple[int | float, ...] = (
    0,
    1,
    -1,
    42,
    0.0,
    -0.0,
    1.0,
    0.1,
    1 / 3,
    -273.15,
    1e-5,
    1e-300,
    5e-324,
    2.2250738585072014e-308,
    1e15,
    1e16,
    1e21,
    1e22,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    2**53,
    -(2**53),
    2**53 + 2,
    2**63,
    2**64,
    10**22,
)

_DATETIMES = (
    "2026-01-02T03:04:05Z",
    "2026-01-02T03:04:05+00:00",
    "2026-01-02T03:04:05.678901-11:30",
    "2026-01-02",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999+14:00",
)

_REFERENCES = (
    "stigmem://acme.example/user/alice",
    "stigmem://acme.example/user/Ünï Cödé",
    "https://example.org/a?b=c&d=é#f",
    "urn:isbn:0451450523",
    "user:bob",
)

_CONFIDENCES = (1.0, 1.0, 1.0, 0.9, 0.1, 1 / 3, 1e-9, 0.0)
_VALID_UNTIL = (None, None, None, "2099-12-31T23:59:59+00:00", "2099-01-01T00:00:00.5Z")


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact as it is asserted: what the driver wants, before the node gives it an id."""

    entity: str
    relation: str
    type: str
    value: Any
    source: str = "agent:corpus"
    scope: str = "public"
    confidence: float = 1.0
    valid_until: str | None = None

    def request(self) -> dict[str, Any]:
        """The body of a request that asserts it."""
        return {
            "entity": self.entity,
            "relation": self.relation,
            "value": {"type": self.type, "v": self.value},
            "source": self.source,
            "scope": self.scope,
            "confidence": self.confidence,
            "valid_until": self.valid_until,
        }

    @property
    def stored_value(self) -> str:
        """The text in which the node stores the value."""
        if self.type == "null":
            return "null"
        if self.type == "boolean":
            return "true" if self.value else "false"
        return str(self.value)


def facts(count: int, *, seed: int = 1, namespace: str = "corpus") -> list[Fact]:
    """Generate `count` facts, no two of which the node would take for the same.

    About one in eight contradicts an earlier one: same entity, relation and scope, another value,
    at most `MAX_VALUES_PER_KEY` of them. `namespace` (lower case) keeps two sets apart, and
    `agent:<namespace>` is the source of them all.
    """
    return list(_generate(count, random.Random(seed), namespace))


def plain_facts(count: int, *, namespace: str = "plain") -> list[Fact]:
    """Generate facts of no interest, for when only their number or their time matters."""
    return [
        Fact(f"{namespace}:item-{number}", "test:number", "number", number + 0.5, "agent:plain")
        for number in range(count)
    ]


def _generate(count: int, rng: random.Random, namespace: str) -> Iterator[Fact]:
    source = f"agent:{namespace}"
    seen: set[tuple[Any, ...]] = set()
    keys: list[tuple[str, str, str]] = []
    values_of: dict[tuple[str, str, str], int] = {}
    number = 0
    while number < count:
        open_keys = keys[-50:]
        contradict = bool(open_keys) and rng.random() < 0.125
        if contradict:
            key = rng.choice(open_keys)
            if values_of[key] >= MAX_VALUES_PER_KEY:
                continue
        else:
            entity = rng.choice(_ENTITY_FORMS).format(namespace=namespace, number=number)
            key = (entity, rng.choice(_RELATIONS), rng.choice(SCOPES))
        kind, value = _value(rng, number)
        fact = Fact(
            entity=key[0],
            relation=key[1],
            type=kind,
            value=value,
            source=source,
            scope=key[2],
            confidence=rng.choice(_CONFIDENCES),
            valid_until=rng.choice(_VALID_UNTIL),
        )
        identity = (*key, kind, fact.stored_value)
        if identity in seen:
            continue
        seen.add(identity)
        if key not in values_of:
            keys.append(key)
        values_of[key] = values_of.get(key, 0) + 1
        number += 1
        yield fact


def _value(rng: random.Random, number: int) -> tuple[str, Any]:
    kind = ("string", "text", "number", "number", "boolean", "datetime", "ref", "null")[number % 8]
    if kind in ("string", "text"):
        odd = rng.choice(_TEXTS)
        return kind, odd if rng.random() < 0.7 else f"{odd} {rng.random()}"
    if kind == "number":
        return kind, rng.choice((rng.choice(_NUMBERS), rng.uniform(-1e6, 1e6), rng.getrandbits(50)))
    if kind == "boolean":
        return kind, rng.random() < 0.5
    if kind == "datetime":
        return kind, rng.choice(_DATETIMES)
    if kind == "ref":
        return kind, rng.choice(_REFERENCES)
    return kind, None


def uncarriable_facts(*, namespace: str = "uncarriable") -> list[Fact]:
    """Facts that the node accepts and serves, and that no receiver can verify."""
    return [
        Fact(f"{namespace}:item-{number}", "test:number", "number", value, f"agent:{namespace}")
        for number, value in enumerate(UNCARRIABLE_NUMBERS)
    ]


# Accepted and stored as written, served as a float from which that text cannot be had back.
UNCARRIABLE_NUMBERS: tuple[int | str, ...] = (
    2**53 + 1,
    2**63 + 1,
    -(2**63) - 1,
    10**23,
    10**30,
    123456789012345678901234567890,
    "007",
    "+5",
    "4.50",
    "1e3",
    "1_000",
    " 42 ",
    "1e999",  # this and the rest are no JSON numbers: they are served as null
    "-inf",
    "nan",
)
