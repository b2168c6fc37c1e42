"""The envelope: strict about every shape, bounded, and never an exception for one bad entry."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.protocol.document import PageError
from stigmem_replicator.protocol.envelope import V2, MalformedEntry, SignedEntry
from stigmem_replicator.protocol.fact import Fact
from tests.unit.signed import ORGANISATION, SENDER, Document, raw_entry

Change = Callable[[Document], object]


def page(**changes: object) -> bytes:
    document: Document = {"v": 2, "facts": [], "cursor": None, "has_more": False, **changes}
    return json.dumps(document).encode()


def refused(body: bytes) -> PageError:
    with pytest.raises(PageError) as caught:
        V2.decode_page(body)
    assert len(str(caught.value)) < 250
    return caught.value


# pages


def test_a_page_keeps_its_entries_raw() -> None:
    """One bad entry does not fail the page: entries are decoded one by one, later."""
    entries = [raw_entry(), None, 7, {"fact": 1}]
    got = V2.decode_page(page(facts=entries, cursor="1767323045678.0", has_more=True))
    assert got.entries == tuple(entries)
    assert (got.cursor, got.has_more) == ("1767323045678.0", True)


def test_an_empty_page_may_have_more() -> None:
    """A page without entries, without a cursor and with more to come is well-formed."""
    got = V2.decode_page(page(has_more=True))
    assert (got.entries, got.cursor, got.has_more) == ((), None, True)


def test_unknown_keys_of_a_page_are_ignored() -> None:
    """A newer peer may say more than is understood."""
    assert V2.decode_page(page(replication_lag_ms=7)).entries == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"v"',
        b"{}",
        b"<html>busy</html>",
        b'{"v":2,"facts":[]',
        b'{"v":2,"facts":[],"cursor":null,"has_more":false} x',
        b'{"v":2,"facts":{},"cursor":null,"has_more":false}',
        b'{"v":2,"facts":null,"cursor":null,"has_more":false}',
        b'{"v":2,"facts":[],"cursor":null}',
        b'{"v":2,"facts":[],"cursor":null,"has_more":1}',
        b'{"v":2,"facts":[],"cursor":null,"has_more":"false"}',
        b'{"v":2,"facts":[],"cursor":"","has_more":false}',
        b'{"v":2,"facts":[],"cursor":7,"has_more":false}',
        b'{"v":2,"facts":[],"cursor":["1.0"],"has_more":false}',
        b'{"v":2,"facts":[],"cursor":"\\ud800","has_more":false}',
        b'{"v":2,"facts":[NaN],"cursor":null,"has_more":false}',
        b'{"v":2,"facts":[],"cursor":null,"cursor":"9","has_more":false}',
        b'{"v":2,"facts":[{"a":1,"\\u0061":1}],"cursor":null,"has_more":false}',
        b'{"v":2,"facts":[-Infinity],"cursor":null,"has_more":false}',
        b'{"v":2,"facts":["\xff"],"cursor":null,"has_more":false}',
        b'{"v":2,"facts":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_page_is_malformed(body: bytes) -> None:
    """Other JSON, other text, half a body and endless nesting are one failed page."""
    assert refused(body).reason is Reason.MALFORMED_PAGE


@pytest.mark.parametrize("version", [1, 3, True, None, "2", [2], {}, 2.5, 10**300])
def test_another_wire_version_is_a_wrong_dialect(version: object) -> None:
    """Only the number 2 names the wire version that is understood."""
    assert refused(page(v=version)).reason is Reason.WRONG_DIALECT


def test_a_page_without_a_version_is_of_wire_version_1() -> None:
    """An older node's page has no ``v``, and the message says which version it speaks."""
    body = b'{"facts":[{"id":"a","entity":"e"}],"cursor":null,"has_more":false}'
    error = refused(body)
    assert error.reason is Reason.WRONG_DIALECT
    assert "wire version 1" in str(error)


def test_an_endless_integer_does_not_fail_the_page() -> None:
    """A number too long for Python to convert is read as infinite, so only its entry fails."""
    digits = b"9" * 50_000
    body = b'{"v":2,"facts":[%s],"cursor":null,"has_more":false}' % digits
    assert V2.decode_page(body).entries == (math.inf,)


def test_an_endless_cursor_is_malformed() -> None:
    """A cursor is kept and sent back, so it has at most 256 characters."""
    assert V2.decode_page(page(cursor="1" * 256)).cursor == "1" * 256
    assert refused(page(cursor="1" * 257)).reason is Reason.MALFORMED_PAGE


@pytest.mark.parametrize("item", [b"{}", b"[]", b'{"a":[]}', b"[" * 9 + b"]" * 9, b'"",{}'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_a_body_of_brackets_is_refused_unread(item: bytes, encoding: str) -> None:
    """Far more objects and lists than the entries asked for can hold are not even decoded."""
    body = b'{"v":2,"facts":[' + b",".join([item] * 2_000) + b'],"cursor":null,"has_more":false}'
    with pytest.raises(PageError, match="more than 1536 objects") as caught:
        V2.decode_page(body.decode().encode(encoding), 2)
    assert caught.value.reason is Reason.MALFORMED_PAGE


@pytest.mark.parametrize("text", ["{[" * 5_000, '\\"{[\\' * 5_000, "é[\x00" * 5_000])
def test_brackets_in_a_text_are_only_text(text: str) -> None:
    """A fact whose text is full of brackets does not make its page malformed."""
    body = page(facts=[raw_entry(value={"type": "text", "v": text})])
    (entry,) = V2.decode_page(body, 1).entries
    assert entry["fact"]["value"]["v"] == text


def test_a_quote_that_never_ends_takes_no_time() -> None:
    """Counting the brackets of a body takes one pass over it, however its quotes are escaped."""
    body = b"[" * 2_000 + b'"' + b'\\"[' * 1_000_000
    with pytest.raises(PageError):
        V2.decode_page(body, 1)
    with pytest.raises(PageError, match="not JSON"):
        V2.decode_page(body[1_500:], 1)


def test_a_full_page_is_within_its_bound() -> None:
    """As many entries as were asked for, with many tenants and scopes each, are a good page."""
    entry = raw_entry(origin={"allowed_tenants": ["[x]"] * 300})
    assert len(V2.decode_page(page(facts=[entry] * 100), 100).entries) == 100


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_page_error(body: bytes) -> None:
    """Whatever bytes arrive, decoding a page gives a page or a page error."""
    with pytest.raises(PageError):
        V2.decode_page(body)


# entries


def test_a_good_entry_decodes_to_what_it_says() -> None:
    """Fields that are the sender's own business are left out, the others kept as they are."""
    raw = raw_entry(value={"type": "number", "v": 42.0}, fact={"valid_until": "2027-01-01"})
    entry = V2.decode_entry(raw)
    assert isinstance(entry, SignedEntry)
    assert entry.origin.node_id == SENDER
    assert entry.origin.entity_uri == ORGANISATION
    assert entry.origin.allowed_scopes == ("public", "company")
    assert entry.origin_sig == raw["origin_sig"]
    said = raw["fact"]
    got = {name: getattr(entry.fact, name) for name in Fact.__slots__}
    assert got == {
        **{name: said[name] for name in said if name in got and name != "value"},
        "value_type": "number",
        "value": 42.0,
        "interpret_as": "content",
    }


def test_interpretation_defaults_to_content() -> None:
    """A value that does not say how it is meant is content."""
    raw = raw_entry()
    del raw["fact"]["value"]["interpret_as"]
    entry = V2.decode_entry(raw)
    assert isinstance(entry, SignedEntry)
    assert entry.fact.interpret_as == "content"


@pytest.mark.parametrize("absent", ["hlc", "valid_until"])
def test_these_fields_may_be_null_or_absent(absent: str) -> None:
    """An entry without an HLC or without an end is well-formed."""
    raw = raw_entry()
    raw["fact"][absent] = None
    assert isinstance(V2.decode_entry(raw), SignedEntry)
    del raw["fact"][absent]
    assert isinstance(V2.decode_entry(raw), SignedEntry)


def put(part: str, key: str, item: object) -> Change:
    def change(raw: Document) -> object:
        holder: Any = raw
        for name in part.split(".") if part else ():
            holder = holder[name]
        return holder.__setitem__(key, item)

    return change


def drop(part: str, key: str) -> Change:
    def change(raw: Document) -> object:
        holder: Any = raw
        for name in part.split(".") if part else ():
            holder = holder[name]
        return holder.pop(key)

    return change


def each(reason: Reason, part: str, key: str, *items: object) -> list[tuple[Reason, Change]]:
    return [(reason, put(part, key, item)) for item in items]


def typed(value_type: str, *items: object) -> list[tuple[Reason, Change]]:
    values = [{"type": value_type, "v": item} for item in items]
    return each(Reason.MALFORMED_FACT, "fact", "value", *values)


SURROGATE = "a\ud800"
_NO_TEXT: list[object] = [None, 7, True, ["a"], {"a": 1}, SURROGATE]
_TEXTS = ("entity", "relation", "source", "timestamp", "scope")
_BLOCK, _FACT = Reason.MISSING_ORIGIN_BLOCK, Reason.MALFORMED_FACT
MALFORMED: list[tuple[Reason, Change]] = [
    *each(_BLOCK, "", "fact", None, "x", [], 7),
    *each(_BLOCK, "", "origin", None, "x", [], 7),
    *each(_BLOCK, "", "origin_sig", None, "", 7, ["s"]),
    *((_BLOCK, drop("", key)) for key in ("fact", "origin", "origin_sig")),
    *each(Reason.ID_REQUIRED, "fact", "id", None, "", 0, []),
    (Reason.ID_REQUIRED, drop("fact", "id")),
    *each(_FACT, "fact", "id", 7, ["a"], SURROGATE, "x" * 257),
    *each(Reason.CID_REQUIRED, "fact", "cid", None, "", 0),
    (Reason.CID_REQUIRED, drop("fact", "cid")),
    *each(_FACT, "fact", "cid", 7, ["a"], SURROGATE),
    *(case for key in _TEXTS for case in each(_FACT, "fact", key, *_NO_TEXT)),
    *((_FACT, drop("fact", key)) for key in (*_TEXTS, "value", "confidence")),
    *each(
        _FACT, "fact", "hlc", 7, "", "now", "-1.0", "1.2.3", SURROGATE, "1" * 19, "1." + "1" * 13
    ),
    *each(_FACT, "fact", "valid_until", 7, [], SURROGATE),
    *each(_FACT, "fact", "confidence", *_NO_TEXT, "1.0", -0.01, 1.01, math.nan, math.inf, 10**300),
    *each(_FACT, "fact", "value", None, "x", 7, []),
    *each(_FACT, "fact.value", "type", *_NO_TEXT, "blob", "String", ""),
    *each(_FACT, "fact.value", "v", *_NO_TEXT),
    (_FACT, drop("fact.value", "v")),
    *each(_FACT, "fact.value", "interpret_as", None, 7, SURROGATE),
    *typed("number", *_NO_TEXT[2:], "42", []),
    *typed("boolean", None, 0, 1, "true"),
    *(
        case
        for key in ("node_id", "tenant", "entity_uri")
        for case in each(_BLOCK, "origin", key, *_NO_TEXT)
    ),
    *(
        case
        for key in ("allowed_scopes", "allowed_tenants")
        for case in each(
            _BLOCK, "origin", key, None, "a", {"a": 1}, [1], [None], [["a"]], [SURROGATE]
        )
    ),
    *((_BLOCK, drop("origin", key)) for key in raw_entry()["origin"]),
]


@pytest.mark.parametrize(("reason", "change"), MALFORMED)
def test_every_malformed_shape_has_its_reason(reason: Reason, change: Change) -> None:
    """A field of the wrong type, out of bounds or absent makes a refused entry, not an error."""
    raw = raw_entry()
    change(raw)
    got = V2.decode_entry(raw)
    assert isinstance(got, MalformedEntry)
    assert got.reason is reason
    assert 0 < len(got.detail) < 120
    got.detail.encode()


@pytest.mark.parametrize("raw", [None, 7, 1.5, True, "entry", [], [{}]])
def test_an_entry_that_is_no_object_is_malformed(raw: object) -> None:
    """Anything but a JSON object is a malformed entry."""
    got = V2.decode_entry(raw)
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.MALFORMED_ENTRY


def test_the_first_fault_counts() -> None:
    """Parts are looked at in the node's order: origin block, id, content id, then fields."""
    raw = raw_entry()
    raw["fact"]["scope"] = None
    assert _reason(raw) is Reason.MALFORMED_FACT
    raw["fact"]["cid"] = None
    assert _reason(raw) is Reason.CID_REQUIRED
    raw["fact"]["id"] = None
    assert _reason(raw) is Reason.ID_REQUIRED
    raw["origin_sig"] = None
    assert _reason(raw) is Reason.MISSING_ORIGIN_BLOCK


def _reason(raw: object) -> Reason:
    got = V2.decode_entry(raw)
    assert isinstance(got, MalformedEntry)
    return got.reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "number", "v": None}, None),
        ({"type": "number", "v": math.inf}, math.inf),
        ({"type": "number", "v": 10**399}, 10**399),
        ({"type": "null", "v": "ignored"}, None),
        ({"type": "null"}, None),
        ({"type": "text", "v": "a\x00b"}, "a\x00b"),
        ({"type": "boolean", "v": False}, False),
    ],
)
def test_these_values_are_well_formed(value: Document, expected: object) -> None:
    """Whether a strange value fits its content id is judged later."""
    raw = raw_entry()
    raw["fact"]["value"] = value
    entry = V2.decode_entry(raw)
    assert isinstance(entry, SignedEntry)
    assert entry.fact.value == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
paths = st.sampled_from(
    [
        *((key,) for key in raw_entry()),
        *(("fact", key) for key in raw_entry()["fact"]),
        *(("fact", "value", key) for key in raw_entry()["fact"]["value"]),
        *(("origin", key) for key in raw_entry()["origin"]),
    ]
)


def everything_of(raw: object) -> None:
    """Do to an entry what is done to one before and after it is decoded."""
    got = V2.decode_entry(raw)
    data = document.payload(raw)
    assert len(document.payload_hash(data)) == 64
    V2.entry_id(raw).encode()
    clock = V2.raw_hlc(raw)
    assert clock is None or clock.isascii()
    if isinstance(got, MalformedEntry):
        got.detail.encode()


@given(json_values)
def test_arbitrary_json_never_raises(raw: object) -> None:
    """Any JSON value in place of an entry is one refused entry."""
    assert isinstance(V2.decode_entry(raw), MalformedEntry)
    everything_of(raw)


@given(st.lists(st.tuples(paths, json_values), min_size=1, max_size=4))
def test_arbitrary_json_in_any_field_never_raises(
    changes: list[tuple[tuple[str, ...], object]],
) -> None:
    """An entry with arbitrary JSON in some of its fields decodes or is refused."""
    raw = raw_entry()
    for path, item in changes:
        holder: Any = raw
        for name in path[:-1]:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder[path[-1]] = item
    everything_of(raw)


def test_an_entry_can_be_kept_however_deep_it_is() -> None:
    """An entry that is nested as deep as its page allowed is still given a payload and an id."""

    def stack(frames: int, raw: object) -> bytes:
        return document.payload(raw) if frames == 0 else stack(frames - 1, raw)

    deepest = None
    for depth in range(600, 2_000, 10):
        body = b'{"v":2,"facts":[' + b"[" * depth + b"]" * depth + b"]"
        try:
            got = V2.decode_page(body + b',"cursor":null,"has_more":false}')
        except PageError:
            break
        deepest = got.entries[0]
    assert deepest is not None
    for frames in range(60):
        assert stack(frames, deepest)
    assert V2.entry_id(deepest).startswith("unidentified:")


# what is known of an entry without decoding it


def test_a_payload_does_not_depend_on_the_order_of_keys() -> None:
    """The same entry served again is known by the digest of its canonical bytes."""
    raw = raw_entry()
    turned = dict(reversed(raw.items()))
    assert list(turned) != list(raw)
    assert document.payload(turned) == document.payload(raw)
    data = document.payload(raw)
    assert data.isascii()
    assert json.loads(data) == raw
    assert document.payload_hash(data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("claimed", [None, "", 7, [], SURROGATE, "x" * 257])
def test_an_entry_without_a_usable_id_is_named_by_its_payload(claimed: object) -> None:
    """Such an entry has a name of its own, the same each time it is served."""
    raw = raw_entry()
    raw["fact"]["id"] = claimed
    other = raw_entry(fact={"entity": "other"})
    other["fact"]["id"] = claimed
    name = V2.entry_id(raw)
    assert name.startswith("unidentified:")
    assert name == V2.entry_id(raw)
    assert name != V2.entry_id(other)


def test_an_entry_with_an_id_is_named_by_it() -> None:
    """A claimed id of up to 256 characters names the entry, whatever else is wrong with it."""
    assert V2.entry_id({"fact": {"id": "x" * 256}}) == "x" * 256


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"fact": {"hlc": "1767323045678.3"}}, "1767323045678.3"),
        ({"fact": {"hlc": "12"}}, "12"),
        ({"fact": {"hlc": "soon"}}, None),
        ({"fact": {"hlc": 12}}, None),
        ({"fact": {"hlc": None}}, None),
        ({"fact": {}}, None),
        ({"fact": []}, None),
        ({}, None),
        (None, None),
    ],
)
def test_paging_may_use_an_hlc_that_parses(raw: object, expected: str | None) -> None:
    """Only a text that parses as an HLC is a position, also in an entry that does not decode."""
    assert V2.raw_hlc(raw) == expected
