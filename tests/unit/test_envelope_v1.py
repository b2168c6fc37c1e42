"""The envelope of wire version 1, and how each envelope meets a page of the other version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.document import PageError
from stigmem_replicator.protocol.envelope import (
    ENVELOPES,
    V1,
    V2,
    Envelope,
    MalformedEntry,
    PlainEntry,
)
from stigmem_replicator.protocol.fact import Fact
from tests.unit.signed import Document, decoded_plain, raw_entry, raw_plain


def page(**changes: object) -> bytes:
    document: Document = {"facts": [], "cursor": None, "has_more": False, **changes}
    return json.dumps(document).encode()


def refused(wrapped: Envelope, body: bytes) -> PageError:
    with pytest.raises(PageError) as caught:
        wrapped.decode_page(body)
    assert len(str(caught.value)) < 250
    return caught.value


def test_each_wire_version_has_its_envelope() -> None:
    """Only entries of version 2 carry signatures."""
    assert ENVELOPES == {Dialect.V1: V1, Dialect.V2: V2}
    assert [(item.dialect, item.signed) for item in ENVELOPES.values()] == [
        ("1", False),
        ("2", True),
    ]


# pages


def test_a_page_has_no_number_and_keeps_its_entries_raw() -> None:
    """The first wire version did not number its pages."""
    entries = [raw_plain(), None, 7]
    got = V1.decode_page(page(facts=entries, cursor="1767323045678.0", has_more=True))
    assert got.entries == tuple(entries)
    assert (got.cursor, got.has_more) == ("1767323045678.0", True)


@pytest.mark.parametrize("number", [2, 3, 0, True, "1", None, [1]])
def test_a_page_of_another_version_is_no_page(number: object) -> None:
    """A page that says another number, or something else for one, is of another wire version."""
    error = refused(V1, page(v=number))
    assert error.reason is Reason.WRONG_DIALECT
    assert "this node's database 1 (stigmem-node 0.9.0a10 and before)" in str(error)


def test_the_operator_reads_who_speaks_what() -> None:
    """The refusal names both wire versions and the releases that speak them."""
    assert str(refused(V1, page(v=2))) == (
        "the peer speaks wire version 2 (stigmem-node 0.9.0a11 and later), "
        "this node's database 1 (stigmem-node 0.9.0a10 and before)"
    )
    assert str(refused(V2, page())) == (
        "the peer speaks wire version 1 (stigmem-node 0.9.0a10 and before), "
        "this node's database 2 (stigmem-node 0.9.0a11 and later)"
    )


def test_a_page_with_bad_entries_of_another_version_is_still_of_another_version() -> None:
    """The version is told before anything else of the page is looked at."""
    assert refused(V1, page(v=2, has_more="x", cursor=7)).reason is Reason.WRONG_DIALECT


@pytest.mark.parametrize(
    "body", [page(has_more=None), page(cursor=""), page(facts=None), b"[]", b"", b'{"facts":[]}']
)
def test_the_paging_is_as_strict_as_in_version_2(body: bytes) -> None:
    """What is no page in one wire version is none in the other."""
    assert refused(V1, body).reason is Reason.MALFORMED_PAGE


# entries


def test_an_entry_is_the_fact_itself() -> None:
    """Nothing stands around a fact; what is the sender's own business is left out."""
    raw = raw_plain(value={"type": "number", "v": 42.0}, fact={"valid_until": "2027-01-01"})
    entry = decoded_plain(raw)
    got = {name: getattr(entry.fact, name) for name in Fact.__slots__}
    assert got == {
        **{name: raw[name] for name in raw if name in got and name != "value"},
        "value_type": "number",
        "value": 42.0,
        "interpret_as": "content",
    }


def test_a_content_id_may_be_null_or_absent() -> None:
    """Facts from before content ids are served without one."""
    raw = raw_plain(fact={"cid": None})
    assert decoded_plain(raw).fact.cid is None
    del raw["cid"]
    assert decoded_plain(raw).fact.cid is None


@pytest.mark.parametrize("fact_id", [None, ""])
def test_a_fact_without_an_id_is_refused(fact_id: object) -> None:
    """Nothing can be stored under no id."""
    got = V1.decode_entry({**raw_plain(), "id": fact_id})
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.ID_REQUIRED


@pytest.mark.parametrize(
    "change",
    [
        *({key: None} for key in ("entity", "relation", "source", "timestamp", "scope", "value")),
        *({"confidence": item} for item in (None, True, -0.1, 1.1, "1")),
        *({"value": {"type": item, "v": "x"}} for item in (None, "blob", "number", "boolean")),
        {"value": {"type": "text", "v": "\ud800"}},
        {"cid": 7},
        {"cid": "\ud800"},
        {"hlc": "yesterday"},
        {"id": "x" * 257},
    ],
)
def test_a_field_of_the_wrong_type_is_refused(change: Document) -> None:
    """What would break the table, or the node's own reading, is one rejected entry."""
    got = V1.decode_entry({**raw_plain(), **change})
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.MALFORMED_FACT


@pytest.mark.parametrize("raw", [None, 7, "x", [raw_plain()], True])
def test_an_entry_that_is_no_object_is_refused(raw: object) -> None:
    """It is a dead letter under a name made of its bytes."""
    got = V1.decode_entry(raw)
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.MALFORMED_ENTRY
    assert V1.entry_id(raw).startswith("unidentified:")
    assert V1.raw_hlc(raw) is None


def test_paging_looks_where_the_fact_is() -> None:
    """The id and the HLC of a raw entry are those of the fact that it is."""
    raw = raw_plain("f-1")
    assert (V1.entry_id(raw), V1.raw_hlc(raw)) == ("f-1", raw["hlc"])
    assert V1.entry_id({"fact": raw}).startswith("unidentified:")
    assert V1.raw_hlc({"fact": raw}) is None


def test_an_entry_of_version_2_does_not_pass_for_a_fact() -> None:
    """Within a page of version 1 a wrapped fact is an entry without an id."""
    got = V1.decode_entry(raw_entry())
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.ID_REQUIRED


def test_a_fact_does_not_pass_for_an_entry_of_version_2() -> None:
    """Within a page of version 2 a bare fact has no origin."""
    got = V2.decode_entry(raw_plain())
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.MISSING_ORIGIN_BLOCK


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
places = st.sampled_from(
    [*((key,) for key in raw_plain()), *(("value", key) for key in raw_plain()["value"])]
)


@given(places, json_values)
def test_whatever_stands_in_one_place_is_an_entry_or_one_refusal(
    place: tuple[str, ...], item: object
) -> None:
    """No value in any field raises, and what decodes can be stored and sent on as UTF-8."""
    raw: Any = raw_plain()
    holder = raw["value"] if len(place) > 1 else raw
    holder[place[-1]] = item
    got = V1.decode_entry(raw)
    document.payload(raw)
    V1.entry_id(raw).encode()
    V1.raw_hlc(raw)
    if isinstance(got, PlainEntry):
        for name in Fact.__slots__:
            str(getattr(got.fact, name)).encode()
        assert 0.0 <= got.fact.confidence <= 1.0
