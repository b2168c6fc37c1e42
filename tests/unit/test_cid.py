"""Content ids: both bodies against published vectors, and the texts a wire value may stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.protocol import cid


@dataclass(frozen=True, slots=True)
class Vector:
    entity: str
    relation: str
    value_type: str
    value_text: str
    source: str
    scope: str
    confidence: float
    legacy: str
    current: str


VECTORS = [
    Vector(
        "stigmem://acme.example/user/alice",
        "memory:role",
        "string",
        "CEO",
        "stigmem://acme.example/agent/hr",
        "public",
        1.0,
        "e24ac8acd579749ffef616af845b0d91550c9a1b25c5aa9b51489aa160c0744d",
        "899527b9c9052440a25693707fae03791c08dc7e4ce3c299bb5785bbc77840e2",
    ),
    Vector(
        "user:zoë",
        "memory:note",
        "text",
        'Crème "brûlée"\n☕',
        "agent:bot",
        "company",
        0.75,
        "f36313a2f22da7c9fb873d4ccd5210bab1e7f024b0188e780beac3f54d5ce612",
        "7e5a58264052c35a0e13245a8e1f4185e70037c4962a8eb754b5a9f58c9926bb",
    ),
    Vector(
        "sensor:1",
        "metric:temp",
        "number",
        "42.0",
        "stigmem:node:1",
        "public",
        0.9,
        "b0a87ddb425c82266717ba0c90abe304d8e4dd3c8dfaf197b66a1801b05e371d",
        "da2c7df6033a27751b9abf2e2820fcf149cf29c5cf601d1e7a36f5d2234d3462",
    ),
    Vector(
        "feature:x",
        "flag:enabled",
        "boolean",
        "true",
        "agent:bot",
        "team",
        0.1,
        "86207f510f0fd30caf319b4aaba74b1df18ad163cb2bef136855aad990ba092a",
        "85a0642c3cc80d451f7de4b1eee7f424b93c03f72e8163dbdb038ac0870cc744",
    ),
    Vector(
        "feature:y",
        "flag:owner",
        "null",
        "null",
        "agent:bot",
        "public",
        0.0,
        "57cec8b92862d1277ee0c8b479da931de1905b0920f30b0f6c631809dacc6637",
        "2299c490487d9e211a4f4aa9da36421947d1358300a18709ec742503c274d283",
    ),
]


def current(vector: Vector, interpret_as: str = "content") -> str:
    return cid.content_id(
        entity=vector.entity,
        relation=vector.relation,
        value_type=vector.value_type,
        value_text=vector.value_text,
        source=vector.source,
        scope=vector.scope,
        confidence=vector.confidence,
        interpret_as=interpret_as,
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector.value_type))
def test_the_current_content_id_is_the_published_one(vector: Vector) -> None:
    """Wire version 2 digests eight keys, sorted and compact, text as it is."""
    assert current(vector) == "sha256:" + vector.current


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector.value_type))
def test_the_legacy_content_id_is_the_published_one(vector: Vector) -> None:
    """Wire version 1 digests the same body without how the value is to be interpreted."""
    legacy = cid.legacy_content_id(
        entity=vector.entity,
        relation=vector.relation,
        value_type=vector.value_type,
        value_text=vector.value_text,
        source=vector.source,
        scope=vector.scope,
        confidence=vector.confidence,
    )
    assert legacy == "sha256:" + vector.legacy


def test_interpretation_is_part_of_the_current_id() -> None:
    """The same words as an instruction have another content id."""
    assert current(VECTORS[0], "instruction") == (
        "sha256:23f9a199b4d9b44ce3931fd464c1f858223f5732183a0b4ceef655a797f15376"
    )


def test_text_is_not_normalised() -> None:
    """Two spellings of one accented letter are two contents."""
    composed, decomposed = VECTORS[1], VECTORS[1].entity.replace("ë", "e\u0308")
    assert composed.entity != decomposed
    other = Vector(
        decomposed,
        composed.relation,
        composed.value_type,
        composed.value_text,
        composed.source,
        composed.scope,
        composed.confidence,
        "",
        "",
    )
    assert current(other) != current(composed)


@pytest.mark.parametrize(
    ("value_type", "value", "texts"),
    [
        ("null", None, ("null",)),
        ("null", "anything", ("null",)),
        ("boolean", True, ("true",)),
        ("boolean", False, ("false",)),
        ("string", "42", ("42",)),
        ("string", "", ("",)),
        ("ref", "stigmem://x/y", ("stigmem://x/y",)),
        ("number", 42.0, ("42.0", "42")),
        ("number", -1.0, ("-1.0", "-1")),
        ("number", 0.0, ("0.0", "0")),
        ("number", -0.0, ("-0.0", "0")),
        ("number", 0.1, ("0.1",)),
        ("number", 1e21, ("1e+21", "1000000000000000000000")),
        ("number", 42, ("42",)),
        ("number", None, ("None",)),
        ("number", math.inf, ("inf",)),
        ("number", -math.inf, ("-inf",)),
    ],
)
def test_a_wire_value_stands_for_these_texts(
    value_type: str, value: object, texts: tuple[str, ...]
) -> None:
    """A whole number has two candidates, because a node serves what it stored as 42 as 42.0."""
    assert cid.value_texts(value_type, value) == texts


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_every_whole_number_is_among_its_candidates(whole: int) -> None:
    """Whatever whole number an origin stored, its text is found again after the wire."""
    assert str(whole) in cid.value_texts("number", float(whole))


@given(st.floats())
def test_candidates_never_raise_and_are_distinct(value: float) -> None:
    """Any float has one or two candidates, the text that Python writes first."""
    texts = cid.value_texts("number", value)
    assert texts[0] == str(value)
    assert len(set(texts)) == len(texts) <= 2
