"""Capability tokens: what an operator may hand over, what is sent of it, and when it ends."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmem_replicator.protocol.capability import (
    CapabilityFormatError,
    CapabilityToken,
    parse,
)
from tests.unit.signed import Document

SECRET: Final = "s3cr3t-signature"
ISSUED: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY: Final = timedelta(days=1)


def token(**changes: object) -> Document:
    """Return a token with fields changed; ``...`` leaves one out."""
    said: Document = {
        "token_id": "0f0e0d0c-0000-4000-8000-000000000001",
        "token_version": 1,
        "issuer": "https://serving.example",
        "subject": "stigmem:node:we",
        "verb": "tombstone:read",
        "object": "*",
        "issued_at": ISSUED.isoformat(),
        "expiry": (ISSUED + DAY).isoformat(),
        "nonce": "ab" * 32,
        "signature": SECRET,
        **changes,
    }
    return {key: item for key, item in said.items() if item is not ...}


def printed(said: Document, **more: object) -> str:
    """Return what the node's command prints as JSON when it issues a token."""
    shown = {key: item for key, item in said.items() if key != "signature"}
    return json.dumps({**shown, "token_json": json.dumps(said), **more}, indent=2)


def parsed(**changes: object) -> CapabilityToken:
    return parse(json.dumps(token(**changes)))


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def shown(error: BaseException) -> str:
    """Return all that a log or a terminal would show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)


def refused(text: str) -> str:
    with pytest.raises(CapabilityFormatError) as caught:
        parse(text)
    assert SECRET not in shown(caught.value)
    return str(caught.value)


# what is sent


def test_what_the_command_prints_is_the_token_in_it() -> None:
    """The whole output is accepted; what is sent is the token, not what was printed around it."""
    said = token(subject="stigmem:node:zoë")
    assert json.loads(parse(printed(said)).text) == said
    assert parse(printed(said)) == parse(json.dumps(said))


def test_the_token_inside_decides() -> None:
    """What is printed beside the token is not signed, and is not looked at."""
    with pytest.raises(CapabilityFormatError):
        parse(printed(token(verb="fact:read"), verb="tombstone:read"))
    said = token()
    assert parse(printed(said, verb="fact:read", expiry="2000-01-01")) == parse(json.dumps(said))


@pytest.mark.parametrize("spacing", [None, 2, "\t"])
def test_a_token_is_sent_as_one_line_of_ascii(spacing: int | str | None) -> None:
    """However it was laid out, it fits a header, and says the same."""
    said = token(object="stigmem://zoë/\u2028\n", subject="ключ")
    text = parse("\n " + json.dumps(said, indent=spacing, ensure_ascii=False) + "\r\n").text
    assert text.isascii()
    assert text.isprintable()
    assert ": " not in text
    assert ", " not in text
    assert text.startswith("{")
    assert json.loads(text) == said


def test_nothing_is_added_or_left_out_or_put_in_another_order() -> None:
    """Unknown fields are signed too."""
    said = token(extra=[1, 2.5, None, {"b": True}], zero=0)
    text = parse(json.dumps(said)).text
    assert json.loads(text) == said
    assert list(json.loads(text)) == list(said)


# what it grants


@pytest.mark.parametrize(
    "changes",
    [
        {"verb": "tombstone:read"},
        {"verb": "admin"},
        {"verb": "fact:read, tombstone:read"},
        {"verb": " tombstone:read ,x"},
        {"verb": ..., "verbs": ["tombstone:read"]},
        {"verb": ..., "verbs": ["fact:read", "admin"]},
        {"verb": ..., "verbs": "fact:read,tombstone:read"},
        {"verb": "nothing", "verbs": ["tombstone:read"]},
        {"verb": ..., "verbs": [7, None, ["x"], "admin"]},
    ],
)
def test_verbs_come_as_a_text_or_a_list(changes: Document) -> None:
    """The peer reads both, and the list decides where both are there."""
    parsed(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"verb": ...},
        {"verb": ""},
        {"verb": "fact:read"},
        {"verb": "tombstone:write"},
        {"verb": "xtombstone:read"},
        {"verb": "tombstone:read:x"},
        {"verb": "administrator"},
        {"verb": None},
        {"verb": 7},
        {"verb": {"admin": 1}},
        {"verbs": []},
        {"verbs": ["fact:read"]},
        {"verbs": None},
    ],
)
def test_a_token_that_does_not_grant_it_is_refused(changes: Document) -> None:
    """Better said here than by the peer, which only says that it is refused."""
    assert "tombstone:read" in refused(json.dumps(token(**changes)))


# when it ends


def test_a_token_says_when_it_ends() -> None:
    """Its end is there in milliseconds, and the last fifth of its life is worth a warning."""
    got = parsed(expiry=(ISSUED + 10 * DAY).isoformat())
    assert got.not_after_ms == ms(ISSUED + 10 * DAY)
    assert got.warn_from_ms == ms(ISSUED + 8 * DAY)


def test_a_long_life_is_warned_about_for_a_week() -> None:
    """Of ninety days a fifth would be eighteen."""
    got = parsed(expiry=(ISSUED + 90 * DAY).isoformat())
    assert got.warn_from_ms == ms(ISSUED + 83 * DAY)


@pytest.mark.parametrize("issued", [..., None, 7, "then"])
def test_a_token_of_unknown_birth_is_warned_about_too(issued: object) -> None:
    """Without a start its life is not known; it still ends when it says."""
    got = parsed(issued_at=issued)
    assert got.not_after_ms == ms(ISSUED + DAY)
    assert got.warn_from_ms is not None
    assert ms(ISSUED - 7 * DAY) <= got.warn_from_ms < got.not_after_ms


@pytest.mark.parametrize("expiry", [..., None, 7, "", "soon", "2026-13-01"])
def test_a_token_may_not_say_when_it_ends(expiry: object) -> None:
    """Then there is nothing to warn of; the peer says when it is over."""
    got = parsed(expiry=expiry)
    assert (got.not_after_ms, got.warn_from_ms) == (None, None)


def test_a_token_that_ends_before_it_begins_is_warned_about_at_its_end() -> None:
    """No warning comes after the end."""
    got = parsed(expiry=(ISSUED - DAY).isoformat())
    assert got.warn_from_ms == got.not_after_ms == ms(ISSUED - DAY)


@pytest.mark.parametrize("text", ["2026-01-03T03:04:05", "2026-01-03T03:04:05Z"])
def test_times_without_an_offset_are_utc(text: str) -> None:
    """As the node writes and reads them."""
    assert parsed(expiry=text).not_after_ms == ms(ISSUED + DAY)


# what is no token, and what is never shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        f"token_json: {SECRET}",
        f'{{"signature": "{SECRET}"',
        f'"{SECRET}"',
        f'["{SECRET}"]',
        "null",
        "7",
        json.dumps({"token_json": SECRET}),
        json.dumps({"token_json": json.dumps([SECRET])}),
        json.dumps({"token_json": "", "signature": SECRET, "verb": "admin"}),
        json.dumps({"token_json": {"signature": SECRET, "verb": "admin"}, "x": SECRET}),
        f'{{"signature": "{SECRET}", "verb": ' + "[" * 100_000,
        f'{{"signature": "{SECRET}", "n": ' + "9" * 10_000 + "}",
    ],
)
def test_what_is_no_token_is_refused_without_being_repeated(text: str) -> None:
    """No error shows any of the text, however it is printed."""
    assert len(refused(text)) < 60


def test_a_token_does_not_show_itself() -> None:
    """Neither alone nor inside something else that is shown."""
    got = parsed()
    for told in (repr(got), str(got), f"{got}", repr([got])):
        assert SECRET not in told
        assert "ab" * 32 not in told
        assert str(got.not_after_ms) in told


@settings(max_examples=40, deadline=None)
@given(st.text() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_no_text_raises_anything_else(text: str) -> None:
    """Arbitrary text is no token, and one kind of error."""
    refused(text)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_any_object_that_grants_it_fits_a_header(more: Document) -> None:
    """Whatever else it says comes out as one line of ASCII."""
    said = {**more, "verbs": ["admin"]}
    said.pop("token_json", None)
    text = parse(json.dumps(said, ensure_ascii=False)).text
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == said
