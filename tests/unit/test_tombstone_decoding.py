"""Tombstones and revocations as JSON: strict about every shape, never an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol.dialect import Dialect
from stigmem_replicator.protocol.envelope import MalformedEntry
from stigmem_replicator.protocol.tombstone import (
    MALFORMED,
    TEXT_CHARACTERS,
    Artifact,
    RecordEntry,
    Revocation,
    RevocationEntry,
    Tombstone,
    TombstoneEntry,
    created_at,
    decode_entry,
    entry_id,
    read_stamp,
)
from tests.unit.signed import ORGANISATION, SENDER, Document
from tests.unit.signed_records import CREATED, REVOCATION_ID, TOMBSTONE_ID, raw_record

Change = Callable[[Document], object]

WIRES: Final = [(artifact, dialect) for artifact in Artifact for dialect in Dialect]
V1, V2 = Dialect.V1, Dialect.V2
TOMBSTONE, REVOCATION = Artifact.TOMBSTONE, Artifact.REVOCATION


# good entries


def test_an_entry_of_version_2_is_decoded_whole() -> None:
    """Record, origin and signature come out as they were sent; what else is there is ignored."""
    raw = raw_record(TOMBSTONE, legal_hold=True)
    raw["tombstone"]["colour"] = "red"
    said = {key: item for key, item in raw["tombstone"].items() if key != "colour"}
    got = decode_entry(raw, TOMBSTONE, V2)
    assert isinstance(got, TombstoneEntry)
    assert got.record == Tombstone(**said)
    assert got.record.legal_hold is True
    assert got.origin is not None
    assert (got.origin.node_id, got.origin.entity_uri) == (SENDER, ORGANISATION)
    assert got.origin.allowed_scopes == ("public",)
    assert got.origin_sig == raw["origin_sig"]


def test_an_entry_of_version_1_is_the_record_alone() -> None:
    """It has no origin, and an origin that is there anyway is not looked at."""
    raw = raw_record(REVOCATION, V1)
    got = decode_entry({**raw, "origin": 7}, REVOCATION, V1)
    assert got == RevocationEntry(Revocation(**raw))
    assert got.origin is None


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("reason"),
        lambda said: said.update(reason=None),
        lambda said: said.pop("key_id"),
        lambda said: said.update(key_id=""),
        lambda said: said.pop("legal_hold"),
        lambda said: said.update(scope=""),
        lambda said: said.update(signature=""),
        lambda said: said.update(id="x" * 256),
        lambda said: said.update(reason="x" * TEXT_CHARACTERS),
        lambda said: said.update(created_at="2026-01-02"),
        lambda said: said.update(created_at="2026-01-02T03:04:05Z"),
    ],
)
def test_what_may_be_missing_or_odd_is_well_formed(change: Change) -> None:
    """A tombstone's reason, key id and legal hold may be left out; what texts mean is judged."""
    for dialect in Dialect:
        raw = raw_record(TOMBSTONE, dialect)
        change(raw if dialect is V1 else raw["tombstone"])
        entry = decode_entry(raw, TOMBSTONE, dialect)
        assert isinstance(entry, TombstoneEntry)
        assert entry.record.legal_hold is False


# bad entries


LONG: Final = "x" * (TEXT_CHARACTERS + 1)
RECORD_FLAWS: Final[dict[str, list[object]]] = {
    "id": [..., None, "", 7, "x" * 257, "\ud800", "a\x00", ["a"]],
    "signed_by": [..., None, 7, "\udfff", "a\x00", LONG],
    "key_id": [None, 7, "\x00", LONG],
    "signature": [..., None, 7, {}, "\x00", LONG],
    "created_at": [
        ...,
        None,
        7,
        "",
        "soon",
        "2026-13-01",
        "2026-01-02T03:04:05Z\x00",
        "2026-01-02T03:04:05." + "0" * 60,
        "\ud800",
    ],
}
FLAWS: Final[dict[Artifact, dict[str, list[object]]]] = {
    TOMBSTONE: {
        **RECORD_FLAWS,
        "entity_uri": [..., None, "", 7, "\ud800", "a\x00", LONG],
        "scope": [..., None, 7, ["public"], "\ud800", "\x00", LONG],
        "reason": [7, "\ud800", {}, "a\x00", LONG],
        "legal_hold": [None, 0, 1, "false", []],
    },
    REVOCATION: {
        **RECORD_FLAWS,
        "tombstone_id": [..., None, "", 7, "\ud800", "a\x00", "x" * 257],
        "reason": [..., None, 7, "\ud800", "a\x00", LONG],
    },
}
EACH_FLAW: Final = [
    (artifact, key, flaw)
    for artifact, keys in FLAWS.items()
    for key, flaws in keys.items()
    for flaw in flaws
]


def _named(item: object) -> str:
    return repr(item)[:20]


@pytest.mark.parametrize(("artifact", "key", "flaw"), EACH_FLAW, ids=_named)
def test_a_field_that_is_missing_or_wrong_makes_a_malformed_record(
    artifact: Artifact, key: str, flaw: object
) -> None:
    """One bad field is one refused record, in both versions alike; ``...`` stands for missing."""
    for dialect in Dialect:
        raw = raw_record(artifact, dialect)
        said = raw if dialect is V1 else raw[artifact.value]
        said[key] = flaw
        if flaw is ...:
            del said[key]
        got = decode_entry(raw, artifact, dialect)
        assert isinstance(got, MalformedEntry), (dialect, got)
        assert got.reason is MALFORMED[artifact]
        assert key in got.detail
        assert len(got.detail) < 250


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.clear(),
        lambda raw: raw.pop("record"),
        lambda raw: raw.update(record=None),
        lambda raw: raw.update(record=[]),
        lambda raw: raw.pop("origin"),
        lambda raw: raw.update(origin=None),
        lambda raw: raw.update(origin="x"),
        lambda raw: raw.pop("origin_sig"),
        lambda raw: raw.update(origin_sig=None),
        lambda raw: raw.update(origin_sig=""),
        lambda raw: raw.update(origin_sig=7),
        lambda raw: raw["origin"].pop("node_id"),
        lambda raw: raw["origin"].update(tenant=None),
        lambda raw: raw["origin"].update(entity_uri=7),
        lambda raw: raw["origin"].update(node_id="\ud800"),
        lambda raw: raw["origin"].pop("allowed_scopes"),
        lambda raw: raw["origin"].update(allowed_scopes=None),
        lambda raw: raw["origin"].update(allowed_tenants="default"),
        lambda raw: raw["origin"].update(allowed_tenants=[7]),
        lambda raw: raw["origin"].update(allowed_tenants=["\ud800"]),
    ],
)
@pytest.mark.parametrize("artifact", Artifact)
def test_version_2_needs_record_origin_and_signature(artifact: Artifact, change: Change) -> None:
    """Whatever part is missing or has another shape, it is one reason."""
    raw = raw_record(artifact)
    raw["record"] = raw.pop(artifact.value)
    change(raw)
    if "record" in raw:
        raw[artifact.value] = raw.pop("record")
    got = decode_entry(raw, artifact, V2)
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.MISSING_ORIGIN_BLOCK


@pytest.mark.parametrize("raw", [None, True, 7, "text", [], [{}]])
@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
def test_an_entry_that_is_no_object_is_malformed(
    artifact: Artifact, dialect: Dialect, raw: object
) -> None:
    """That is looked at before anything else."""
    got = decode_entry(raw, artifact, dialect)
    assert isinstance(got, MalformedEntry)
    assert got.reason is Reason.MALFORMED_ENTRY


@pytest.mark.parametrize("artifact", Artifact)
def test_the_other_kind_under_its_own_name_is_not_taken(artifact: Artifact) -> None:
    """A revocation in the list of tombstones is no tombstone, nor the other way round."""
    other = REVOCATION if artifact is TOMBSTONE else TOMBSTONE
    for dialect, reason in ((V1, MALFORMED[artifact]), (V2, Reason.MISSING_ORIGIN_BLOCK)):
        got = decode_entry(raw_record(other, dialect), artifact, dialect)
        assert isinstance(got, MalformedEntry)
        assert got.reason is reason


SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just("\ud800"),
    st.just(CREATED),
)
JSONS: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS_KNOWN: Final = sorted(
    {
        *(item.name for kind in (Tombstone, Revocation) for item in fields(kind)),
        *("tombstone", "revocation", "origin", "origin_sig", "node_id", "tenant"),
        *("allowed_scopes", "allowed_tenants"),
    }
)
LIKE: Final = st.dictionaries(st.sampled_from(KEYS_KNOWN), JSONS, max_size=12)
NESTED: Final = st.dictionaries(st.sampled_from(KEYS_KNOWN), LIKE | JSONS, max_size=5)


@settings(deadline=None)
@given(st.one_of(JSONS, LIKE, NESTED), st.sampled_from(WIRES))
def test_no_json_as_an_entry_ever_raises(raw: Any, wire: tuple[Artifact, Dialect]) -> None:  # noqa: ANN401 - any JSON
    """Whatever the peer sends as an entry is decoded, or refused for a reason of its own."""
    artifact, dialect = wire
    got = decode_entry(raw, artifact, dialect)
    assert isinstance(got, RecordEntry | MalformedEntry)
    if isinstance(got, MalformedEntry):
        kinds = (Reason.MALFORMED_ENTRY, Reason.MISSING_ORIGIN_BLOCK, MALFORMED[artifact])
        assert got.reason in kinds
    else:
        got.record.signed_body()
    named = entry_id(raw, artifact, dialect)
    assert 0 < len(named) <= 256
    assert "\x00" not in named
    created_at(raw, artifact, dialect)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WIRES), st.data())
def test_any_value_in_any_field_is_one_verdict(
    wire: tuple[Artifact, Dialect], data: st.DataObject
) -> None:
    """One field of a good entry replaced by anything never raises, nor does a deep change."""
    artifact, dialect = wire
    raw = raw_record(artifact, dialect)
    said = raw if dialect is V1 else raw[artifact.value]
    holder = data.draw(st.sampled_from([said, raw, raw.get("origin", raw)]))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(JSONS)
    assert isinstance(decode_entry(raw, artifact, dialect), RecordEntry | MalformedEntry)
    entry_id(raw, artifact, dialect)
    created_at(raw, artifact, dialect)


# what is read of an entry without decoding it


@pytest.mark.parametrize(("artifact", "dialect"), WIRES)
def test_the_time_of_a_raw_entry_is_read_for_paging(artifact: Artifact, dialect: Dialect) -> None:
    """It is there even where the rest of the entry is bad, and None where it is no time."""
    raw = raw_record(artifact, dialect)
    said = raw if dialect is V1 else raw[artifact.value]
    said.pop("signature")
    assert created_at(raw, artifact, dialect) == read_stamp(CREATED)
    for other in (
        7,
        None,
        "soon",
        "",
        CREATED + "\x00",
        "\ud800",
        "2026-01-02T03:04:05." + "0" * 60,
    ):
        said["created_at"] = other
        assert created_at(raw, artifact, dialect) is None
    others: list[object] = [None, 7, [], "x", {}, {artifact.value: CREATED}]
    assert not any(created_at(entry, artifact, dialect) for entry in others)


def test_an_entry_is_known_by_its_id_or_its_content() -> None:
    """What claims no usable id gets a name that is the same each time it is served."""
    for artifact, claimed in ((TOMBSTONE, TOMBSTONE_ID), (REVOCATION, REVOCATION_ID)):
        for dialect in Dialect:
            assert entry_id(raw_record(artifact, dialect), artifact, dialect) == claimed
    names = {
        entry_id(raw, TOMBSTONE, V2)
        for raw in (None, {}, {"tombstone": {"id": "\x00"}}, {"tombstone": {"id": "x" * 257}})
    }
    assert len(names) == 4
    assert all(name.startswith("unidentified:") for name in names)
    assert entry_id({"b": 1, "a": 2}, TOMBSTONE, V2) == entry_id({"a": 2, "b": 1}, TOMBSTONE, V2)


def test_a_nul_in_the_origin_is_refused() -> None:
    """No text of an entry comes into a dead letter that one of the databases cannot keep."""
    raw = raw_record(TOMBSTONE)
    raw["origin"]["node_id"] = "a\x00b"
    got = decode_entry(raw, TOMBSTONE, V2)
    assert isinstance(got, MalformedEntry)
    assert (got.reason, got.detail) == (Reason.MISSING_ORIGIN_BLOCK, "origin holds a NUL")
