"""What hypothesis draws: rounds of pages, as plans that a pen can write out.

A plan is plain values, so that what fails shrinks to something a person can read. Most of it is
ordinary: facts under few keys from few sources. The rest is what a page should not hold, alone and
mixed: fields taken away or replaced at any stage of writing, and acts that only an origin or
somebody between could commit. `writing` makes entries of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import strategies as st

Stage = Literal["fact", "signed", "entry"]
"""When a field is replaced: before the content id, before the signature, or after it."""

GONE = "<gone>"
"""In place of a value: the field is taken away."""

CLOCKS = {
    "near": 0,
    "ahead": 200_000,
    "behind": -86_400_000,
    "too far ahead": 900_000,
    "too far behind": -40 * 86_400_000,
}
"""How far an entry's HLC lies from now, in milliseconds, far away from any bound."""

COUNTERS = {"no counter": "", "twelve digits": f".{10**12 - 1}", "more digits": f".{10**13}"}
"""What may follow the wall part of an HLC."""

ACTS = (
    "signed by another key",
    "signature garbled",
    "signature padded",
    "signature with line breaks",
    "value changed on the way",
    "valid_until changed on the way",
    "content id of the other wire",
    "without content id",
    "content id upper case",
    "number in a spelling of its own",
    "of another origin",
    "without organisation",
    "another organisation",
    "scope not granted",
    "tenant not granted",
    "grants repeated and unsorted",
    "another tenant",
    "keys that nobody knows",
    "a very long id",
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a fact says. A number `as_served` is whole, and meant as an integer."""

    entity: str = "key:a"
    relation: str = "test:name"
    kind: str = "string"
    value: Any = "x"
    as_served: bool = False
    interpret_as: str = "content"
    source: str = "agent:a"
    scope: str = "public"
    confidence: float = 1.0
    valid_until: str | None = None
    timestamp: str = "2026-01-02T03:04:05.678901+00:00"
    clock: str | None = "near"
    """A name of `CLOCKS` or `COUNTERS`, None for no HLC, or the text itself."""


@dataclass(frozen=True, slots=True)
class Put:
    """One field replaced or taken away at one stage."""

    stage: Stage
    path: tuple[str, ...]
    value: Any


@dataclass(frozen=True, slots=True)
class Fresh:
    """An entry for a fact that was not there before."""

    content: Content = field(default_factory=Content)
    acts: tuple[str, ...] = ()
    puts: tuple[Put, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """An entry under the id of an earlier one, with parts of its content replaced."""

    which: int
    """Counted back from the newest, as far as there are."""
    changed: tuple[tuple[str, Any], ...] = ()
    acts: tuple[str, ...] = ()
    puts: tuple[Put, ...] = ()


@dataclass(frozen=True, slots=True)
class Junk:
    """An entry that is none."""

    value: Any


Draft = Fresh | Again | Junk


@dataclass(frozen=True, slots=True)
class PageDraft:
    """Entries, and the cursor that the page claims; a good fact follows them all."""

    entries: tuple[Draft, ...]
    cursor: Literal["onward", "back", "future", "null"] = "onward"


@dataclass(frozen=True, slots=True)
class Round:
    """Pages one after the other, and what the receiver's registry says of their sender."""

    pages: tuple[PageDraft, ...]
    scopes: tuple[str, ...] = ("company", "public")
    tenants: tuple[tuple[str, str], ...] = ()
    row_budget: int | None = None
    """After how many rows we write a page in another transaction."""
    begun_again: bool = False
    """The first page is served once more in the end."""


_TEXTS = st.text(max_size=8)
_NAMES = ("key:a", "key:b", "key:ä", "stigmem:custom", "stigmem://acme.example/x", "")
_RELATIONS = ("test:name", "memory:role", "stigmem:custom")
_SOURCES = ("agent:a", "agent:ö", "stigmem://acme.example/agent", "stigmem:x", "https://x.example")
_UNTIL = (
    None,
    "2030-01-01T00:00:00+00:00",
    "2030-01-01T00:00:00Z",
    "2030-01-01T01:00:00+01:00",
    "2030-01-01T00:00:00",
    "2029-12-31T23:59:59.999999Z",
    "2030-01-01",
    "2031-06-01T00:00:00.5+00:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "some day",
    "",
)
_TIMESTAMPS = (
    "2026-01-02T03:04:05.678901+00:00",
    "2026-01-02T03:04:05Z",
    "2024-02-29",
    "1 January",
    "",
)
_CONFIDENCES = (1.0, 0.0, 0.5, 1, 0, -0.0, 0.1 + 0.2, 5e-324)
_HLC_TEXTS = ("0.0", "17", "-5.3", "1.2.3", " 7.1", "1_0.0", "\u0667.1", "", "yesterday", "9" * 19)
_HUGE = (10**309, 10**30, 2**53 + 1, -0.0, 5e-324, 1e22, 1e16, 123456789.123)
_JUNK: st.SearchStrategy[Any] = st.sampled_from(
    (
        GONE,
        None,
        True,
        False,
        0,
        5,
        0.5,
        1.5,
        -1,
        "",
        "5",
        "x",
        "\ud800",
        [],
        ["public"],
        {},
        "none",
    )
)
_FACT_FIELDS = (
    *("id", "cid", "entity", "relation", "source", "timestamp", "hlc", "valid_until"),
    *("confidence", "scope", "value", "received_from"),
)
_ORIGIN_FIELDS = ("tenant", "node_id", "allowed_scopes", "allowed_tenants", "entity_uri")
_VALUE_FIELDS = ("type", "v", "interpret_as")


def _mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Three of four are the usual."""
    return st.integers(0, 3).flatmap(lambda number: odd if number == 3 else usual)


def _values() -> st.SearchStrategy[dict[str, Any]]:
    texts = st.sampled_from(("string", "text", "ref", "datetime"))
    numbers = (
        st.integers(-(10**6), 10**6)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from((*_HUGE, None))
    )
    whole = {"value": st.integers(-(10**20), 10**20), "as_served": st.just(value=True)}
    number, yes, null = st.just("number"), st.just("boolean"), st.just("null")
    text = st.fixed_dictionaries({"kind": texts, "value": _TEXTS})
    return st.one_of(
        *(text, text),
        st.fixed_dictionaries({"kind": number, "value": numbers}),
        st.fixed_dictionaries({"kind": number, **whole}),
        st.fixed_dictionaries({"kind": yes, "value": st.booleans()}),
        st.fixed_dictionaries({"kind": null, "value": st.sampled_from((None, 5))}),
    )


_ODD = {
    "entity": st.sampled_from(_NAMES) | _TEXTS | st.sampled_from(("instruction:x", "key:\x00")),
    "relation": st.sampled_from(_RELATIONS) | _TEXTS | st.just("instruction:y"),
    "interpret_as": st.sampled_from(("instruction", "advice")),
    "source": st.sampled_from(_SOURCES) | _TEXTS,
    "scope": st.sampled_from(("team", "local", "galaxy")),
    "confidence": st.sampled_from(_CONFIDENCES) | st.floats(0, 1),
    "valid_until": st.sampled_from(_UNTIL),
    "timestamp": st.sampled_from(_TIMESTAMPS),
    "clock": st.none() | st.sampled_from((*CLOCKS, *COUNTERS)) | st.sampled_from(_HLC_TEXTS),
}


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Facts as origins have them, some with a field or two of what the types allow besides."""
    fields: dict[str, Any] = {
        **draw(_values()),
        "entity": draw(st.sampled_from(_NAMES[:2])),
        "source": draw(st.sampled_from(_SOURCES[:2])),
        "scope": draw(st.sampled_from(("public", "company"))),
        "confidence": draw(st.sampled_from(_CONFIDENCES[:3])),
        "valid_until": draw(st.sampled_from(_UNTIL[:5])),
    }
    if draw(st.booleans()):
        return Content(**fields)
    for name in draw(st.lists(st.sampled_from(tuple(_ODD)), max_size=2, unique=True)):
        fields[name] = draw(_ODD[name])
    return Content(**fields)


@st.composite
def _a_put(draw: st.DrawFn) -> Put:
    stage: Stage = draw(st.sampled_from(("fact", "signed", "entry")))
    fact = st.sampled_from(_FACT_FIELDS).map(lambda key: ("fact", key))
    value = st.sampled_from(_VALUE_FIELDS).map(lambda key: ("fact", "value", key))
    origin = st.sampled_from(_ORIGIN_FIELDS).map(lambda key: ("origin", key))
    whole = st.sampled_from((("fact",), ("origin",), ("origin_sig",), ("origin_manifest",)))
    path = draw(
        st.one_of(fact, value, origin, whole) if stage == "entry" else fact | value | origin
    )
    return Put(stage, path, draw(_JUNK))


def _wrongs() -> st.SearchStrategy[dict[str, Any]]:
    """Nothing wrong, mostly; else one thing, or several that meet in one entry."""
    nothing, act, put = st.just(()), st.tuples(st.sampled_from(ACTS)), st.tuples(_a_put())
    acts = st.lists(st.sampled_from(ACTS), max_size=3, unique=True).map(tuple)
    puts = st.lists(_a_put(), max_size=2).map(tuple)
    whole, one_act, one_put, mixed = (
        st.fixed_dictionaries({"acts": acts, "puts": puts})
        for acts, puts in ((nothing, nothing), (act, nothing), (nothing, put), (acts, puts))
    )
    return st.one_of(*[whole] * 6, one_act, one_act, one_put, mixed)


@st.composite
def _an_again(draw: st.DrawFn) -> Again:
    changes = st.one_of(
        st.just(()),
        st.sampled_from(_UNTIL).map(lambda until: (("valid_until", until),)),
        st.just((("entity", "key:another"),)),
        st.just((("source", "agent:b"), ("valid_until", None))),
        st.just((("clock", "too far behind"),)),
        st.just((("interpret_as", "instruction"),)),
    )
    return Again(draw(st.integers(0, 8)), draw(changes), **draw(_wrongs()))


@st.composite
def _a_fresh(draw: st.DrawFn) -> Fresh:
    return Fresh(draw(contents()), **draw(_wrongs()))


def rounds(most: int = 12) -> st.SearchStrategy[Round]:
    """Rounds of one to three pages with up to `most` entries each."""
    junk = st.sampled_from((None, 7, "entry", [], {}, [{"fact": {}}])).map(Junk)
    entries = st.one_of(*[_a_fresh()] * 6, *[_an_again()] * 3, junk)
    cursors = _mostly(st.just("onward"), st.sampled_from(("onward", "back", "future", "null")))
    pages = st.builds(PageDraft, st.lists(entries, max_size=most).map(tuple), cursors)
    return st.builds(
        Round,
        st.lists(pages, min_size=1, max_size=3).map(tuple),
        st.sampled_from(
            (("company", "public"), ("public",), ("company", "local", "public", "team"))
        ),
        st.sampled_from(((), (), (("default", "default"), ("acme", "tenant-b")))),
        st.sampled_from((None, None, 1, 12)),
        st.booleans(),
    )
