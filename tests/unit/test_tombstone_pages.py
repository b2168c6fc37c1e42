"""The answer to a request for tombstones as bytes: strict, bounded, of one wire version."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.document import PageError
from stigmem_replicator.protocol.tombstone import (
    Artifact,
    decode_page,
)
from tests.unit.signed import Document
from tests.unit.signed_records import CREATED, raw_record

V1, V2 = Dialect.V1, Dialect.V2
TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION


def page(dialect: Dialect = V2, **changes: object) -> bytes:
    document: Document = {"tombstones": [], "revocations": [], "cursor": None}
    if dialect is V2:
        document |= {"v": 2, "has_more": False}
    return json.dumps({**document, **changes}).encode()


def refused(body: bytes, dialect: Dialect = V2, entries_max: int | None = None) -> PageError:
    with pytest.raises(PageError) as caught:
        decode_page(body, dialect, entries_max)
    assert len(str(caught.value)) < 250
    return caught.value


@pytest.mark.parametrize("dialect", Dialect)
def test_a_page_keeps_its_entries_raw(dialect: Dialect) -> None:
    """One bad entry does not fail the page: entries are decoded one by one, later."""
    tombstones, revocations = [raw_record(TOMBSTONE, dialect), None, 7], [{"x": []}, "y"]
    body = page(dialect, tombstones=tombstones, revocations=revocations, cursor=CREATED)
    got = decode_page(body, dialect)
    assert got.entries(TOMBSTONE) == tuple(tombstones)
    assert got.entries(REVOCATION) == tuple(revocations)
    assert got.cursor == CREATED


def test_only_version_2_says_whether_there_are_more() -> None:
    """In version 1 nobody says, even where a key of that name is there."""
    assert decode_page(page(has_more=True), V2).has_more is True
    assert decode_page(page(), V2).has_more is False
    assert decode_page(page(V1), V1).has_more is None
    assert decode_page(page(V1, has_more="who knows"), V1).has_more is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>busy</html>",
        page()[:-1],
        page(V2) + b" x",
        b'{"v":2,"tombstones":[],"cursor":null,"has_more":false}',
        b'{"v":2,"revocations":[],"cursor":null,"has_more":false}',
        page(tombstones={}),
        page(revocations=None),
        page(revocations="[]"),
        b'{"v":2,"tombstones":[],"revocations":[],"cursor":null}',
        page(has_more=None),
        page(has_more=0),
        page(has_more="false"),
        page(cursor=7),
        page(cursor=[CREATED]),
        page(cursor=False),
        page(tombstones=[float("nan")]),
        b'{"v":2,"tombstones":[],"tombstones":[],"revocations":[],"has_more":false}',
        b'{"v":2,"tombstones":[{"id":1,"\\u0069d":1}],"revocations":[],"has_more":false}',
        b'{"v":2,"tombstones":["\xff"],"revocations":[],"has_more":false}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_page_is_malformed(body: bytes) -> None:
    """Other JSON, other text, half a body and a missing list are one failed page."""
    assert refused(body).reason is Reason.MALFORMED_PAGE


@pytest.mark.parametrize("cursor", ["", "soon\x00", "\ud800", "x" * 257])
def test_a_cursor_that_is_no_position_is_none(cursor: str) -> None:
    """It is the time of the last record, whatever that says: one bad record is no failed page."""
    for dialect in Dialect:
        assert decode_page(page(dialect, cursor=cursor), dialect).cursor is None
    assert decode_page(page(cursor="x" * 256), V2).cursor == "x" * 256


def test_a_page_of_facts_has_no_tombstones() -> None:
    """The lists are missed by name before the version is looked at."""
    body = b'{"v":2,"facts":[],"cursor":null,"has_more":false}'
    for dialect in Dialect:
        error = refused(body, dialect)
        assert error.reason is Reason.MALFORMED_PAGE
        assert "list of tombstones" in str(error)


@pytest.mark.parametrize("version", [1, 3, True, None, "2", [2], {}, 2.5])
def test_another_wire_version_is_a_wrong_dialect(version: object) -> None:
    """Only the number 2 names version 2."""
    assert refused(page(v=version)).reason is Reason.WRONG_DIALECT


def test_the_versions_do_not_read_each_other() -> None:
    """A page of version 1 has no ``v``; of each the message says which it is."""
    old = refused(page(V1), V2)
    new = refused(page(V2), V1)
    assert (old.reason, new.reason) == (Reason.WRONG_DIALECT, Reason.WRONG_DIALECT)
    assert "wire version 1" in str(old)
    assert "wire version 2" in str(new)
    assert refused(page(V1, v=True), V1).reason is Reason.WRONG_DIALECT


@pytest.mark.parametrize("dialect", Dialect)
def test_a_body_of_far_too_many_objects_is_refused_unread(dialect: Dialect) -> None:
    """What would take many times its size in memory is not decoded; texts may hold brackets."""
    dense = page(dialect, tombstones=[[]] * 4_000)
    assert refused(dense, dialect, 4).reason is Reason.MALFORMED_PAGE
    # Also where so many were asked for that only the room that they take bounds them.
    assert refused(dense, dialect, 100_000).reason is Reason.MALFORMED_PAGE
    assert decode_page(dense, dialect).entries(TOMBSTONE) == ([],) * 4_000
    told = page(dialect, revocations=["{[" * 4_000])
    assert decode_page(told, dialect, 4).entries(REVOCATION) == ("{[" * 4_000,)


@pytest.mark.parametrize(("artifact", "dialect"), list(itertools.product(Artifact, Dialect)))
def test_a_full_page_of_entries_of_any_size_is_read(artifact: Artifact, dialect: Dialect) -> None:
    """No honest page holds as many objects and lists as are refused, however short its texts."""
    raw = raw_record(artifact, dialect, reason="", signed_by="a", key_id="")
    for count in (1, 2_000):
        body = page(dialect, **{f"{artifact}s": [raw] * count})
        assert len(decode_page(body, dialect, count).entries(artifact)) == count
        assert body.count(b"{") + body.count(b"[") <= 6 * count + 3


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    """Arbitrary bytes are no page."""
    assert refused(body).reason in (Reason.MALFORMED_PAGE, Reason.WRONG_DIALECT)
