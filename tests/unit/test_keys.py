"""Keys of an origin: manifests, their rotation chain, and the grace of an old key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.protocol.times import parse_time
from stigmem_replicator.trust import keys
from stigmem_replicator.trust.keys import Manifest, ManifestError, parse_manifest
from tests.unit.signed import KEYS, NOW, Document, manifest_document, rotation

GRACE = timedelta(hours=168)
A, B, C, D, E, F = KEYS


def manifest(document: Document | None = None) -> Manifest:
    return parse_manifest(manifest_document() if document is None else document)


def not_verified(document: Document) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest(document).verify()
    return str(caught.value)


# reading


def test_a_manifest_reads_and_writes_back() -> None:
    """What was read is written as the same document, so that it can be stored again."""
    document = manifest_document(B, rotations=[rotation(A, B)])
    got = manifest(document)
    got.verify()
    assert got.document() == document


def test_a_rotation_may_leave_out_the_key_it_retires() -> None:
    """The retired public key is optional, and is not added to what was signed."""
    step = rotation(A, B)
    del step["previous_public_key"]
    document = manifest_document(B, rotations=[step])
    got = manifest(document)
    got.verify()
    assert got.document() == document


def test_lists_may_be_left_out() -> None:
    """A manifest without nodes and rotations reads as one with none."""
    document = manifest_document()
    del document["entities"], document["rotation_events"]
    got = parse_manifest(document)
    assert (got.entities, got.rotations) == ((), ())


@pytest.mark.parametrize("document", [None, 7, "x", [], [{}]])
def test_a_manifest_is_an_object(document: object) -> None:
    """Any other JSON is refused."""
    with pytest.raises(ManifestError, match="not an object"):
        parse_manifest(document)


@pytest.mark.parametrize(
    ("field", "item"),
    [
        *(
            (field, item)
            for field in (
                "entity_uri",
                "key_id",
                "public_key",
                "issued_at",
                "expires_at",
                "signature",
            )
            for item in (None, 7, ["x"])
        ),
        ("entities", "x"),
        ("entities", [1]),
        ("entities", None),
        ("rotation_events", "x"),
        ("rotation_events", None),
        ("rotation_events", ["x"]),
        ("rotation_events", [{}]),
        ("rotation_events", [rotation(A, B, previous_public_key=7)]),
        ("rotation_events", [rotation(A, B, rotated_at=None)]),
    ],
)
def test_a_field_of_another_type_is_refused(field: str, item: object) -> None:
    """Texts are texts and lists are lists; nothing is guessed."""
    with pytest.raises(ManifestError):
        parse_manifest({**manifest_document(), field: item})


# verifying


def test_a_manifest_signed_by_its_own_key_verifies() -> None:
    """The self-signature, the validity and the number of rotations are what is checked."""
    manifest().verify()


@pytest.mark.parametrize(
    "field",
    ["entity_uri", "key_id", "issued_at", "expires_at", "entities", "rotation_events"],
)
def test_every_field_is_signed(field: str) -> None:
    """A field changed after signing breaks the signature."""
    document = manifest_document()
    changed: Document = {
        "entity_uri": "https://other.example",
        "key_id": "0" * 16,
        "issued_at": (NOW - timedelta(days=9)).isoformat(),
        "expires_at": (NOW + timedelta(days=299)).isoformat(),
        "entities": ["stigmem:node:other"],
        "rotation_events": [rotation(A, B)],
    }
    assert "signature" in not_verified({**document, field: changed[field]})


def test_another_key_than_its_own_does_not_count() -> None:
    """A manifest that names a key must be signed by that key."""
    assert "signature" in not_verified({**manifest_document(A), "public_key": B.public})


@pytest.mark.parametrize("signature", ["", "x", "\ud800", "A" * 86])
def test_a_bad_signature_is_a_manifest_error(signature: str) -> None:
    """A signature that does not decode is refused like one that does not fit."""
    assert "signature" in not_verified({**manifest_document(), "signature": signature})


@pytest.mark.parametrize(
    ("issued", "expires"),
    [
        (NOW, NOW),
        (NOW, NOW - timedelta(seconds=1)),
        (NOW, NOW + timedelta(days=730, seconds=1)),
        (datetime.min.replace(tzinfo=UTC), NOW),
        (NOW, datetime.max.replace(tzinfo=UTC)),
        (datetime.max.replace(tzinfo=UTC), NOW),
    ],
)
def test_validity_ends_after_it_begins_and_within_two_years(
    issued: datetime, expires: datetime
) -> None:
    """A manifest that holds for no time or for more than 730 days is refused."""
    document = manifest_document(issued_at=issued.isoformat(), expires_at=expires.isoformat())
    assert "730 days" in not_verified(document)


def test_a_validity_at_the_end_of_time_is_no_error_of_another_kind() -> None:
    """A manifest issued in the last days that a date can name is judged like any other."""
    document = manifest_document(
        issued_at="9999-12-30T00:00:00+00:00", expires_at="9999-12-31T00:00:00+00:00"
    )
    manifest(document).verify()


def test_two_years_exactly_are_valid() -> None:
    """The longest validity is 730 days."""
    end = (NOW + timedelta(days=730)).isoformat()
    manifest(manifest_document(issued_at=NOW.isoformat(), expires_at=end)).verify()


@pytest.mark.parametrize("field", ["issued_at", "expires_at"])
@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "\ud800"])
def test_times_must_read(field: str, text: str) -> None:
    """A validity that does not read is refused."""
    assert "not a time" in not_verified({**manifest_document(), field: text})


def test_a_lone_surrogate_is_a_manifest_error() -> None:
    """Text that cannot be encoded cannot have been signed."""
    assert "surrogate" in not_verified({**manifest_document(), "entities": ["\ud800"]})


def test_at_most_a_hundred_rotations() -> None:
    """An endless list of rotations is refused before its signature is looked at."""
    steps = [rotation(A, B)]
    manifest(manifest_document(rotations=steps * 100)).verify()
    assert "100 rotations" in not_verified(manifest_document(rotations=steps * 101))


anything = st.text(st.characters()) | st.none() | st.integers() | st.lists(st.text())
encodable = st.text() | st.none() | st.integers() | st.lists(st.text())  # it is signed


@given(
    st.dictionaries(st.sampled_from(sorted(manifest_document())), anything, max_size=4),
    st.lists(st.dictionaries(st.sampled_from(sorted(rotation(A, B))), encodable), max_size=3),
)
def test_nothing_else_is_raised(changes: Document, steps: list[Document]) -> None:
    """Whatever a manifest holds, it is used or refused by the one kind of error."""
    full = [{**rotation(A, B), **step} for step in steps]
    try:
        got = parse_manifest({**manifest_document(rotations=full), **changes})
        got.verify()
        keys.follows(got, manifest())
    except ManifestError:
        return
    keys.signing_keys(got, NOW, GRACE)


# expiry


@pytest.mark.parametrize(
    ("after", "expired"),
    [(timedelta(seconds=-1), False), (timedelta(0), True), (timedelta(seconds=1), True)],
)
def test_a_manifest_expires_at_its_end(after: timedelta, expired: object) -> None:
    """At the very moment of its end a manifest no longer holds."""
    got = manifest()
    assert got.expired(NOW + timedelta(days=300) + after) is expired


def test_an_end_that_does_not_read_is_past() -> None:
    """A manifest whose end is unknown counts as expired."""
    assert manifest({**manifest_document(), "expires_at": "never"}).expired(NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05.678000+00:00", NOW),
        ("2026-01-02T04:04:05.678+01:00", NOW),
        ("2026-01-02T03:04:05.678", NOW),
        ("2026-01-02T03:04:05.678Z", NOW),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("", None),
        ("tomorrow", None),
        ("2026-02-30T00:00:00", None),
    ],
)
def test_times_read_as_iso_8601_in_utc(text: str, expected: datetime | None) -> None:
    """A time without an offset is UTC; one that does not read is none."""
    assert parse_time(text) == expected


# rotation


def follows(document: Document, stored: Document) -> None:
    keys.follows(manifest(document), manifest(stored))


def refused(document: Document, stored: Document) -> str:
    with pytest.raises(ManifestError) as caught:
        follows(document, stored)
    return str(caught.value)


def test_the_same_key_may_say_something_new() -> None:
    """A manifest with the stored key needs no rotation."""
    follows(manifest_document(A, entities=["stigmem:node:new"]), manifest_document(A))


def test_one_signed_step_leads_to_a_new_key() -> None:
    """A rotation signed by the stored key is followed."""
    follows(manifest_document(B, rotations=[rotation(A, B)]), manifest_document(A))


def test_a_chain_of_steps_is_followed_from_the_stored_key_on() -> None:
    """Rotations before the stored key are history, those after it lead to the new one."""
    chain = [rotation(A, B), rotation(B, C), rotation(C, D), rotation(D, E)]
    follows(manifest_document(E, rotations=chain), manifest_document(A))
    follows(manifest_document(E, rotations=chain), manifest_document(C))


def test_no_step_from_the_stored_key_is_no_chain() -> None:
    """A new key to which nothing leads is refused."""
    assert "no rotation chain" in refused(manifest_document(B), manifest_document(A))
    other = manifest_document(C, rotations=[rotation(B, C)])
    assert "no rotation chain" in refused(other, manifest_document(A))


def test_a_gap_in_the_chain_is_refused() -> None:
    """Each step begins with the key at which the one before it ended."""
    chain = [rotation(A, B), rotation(C, D)]
    assert "gap" in refused(manifest_document(D, rotations=chain), manifest_document(A))


def test_a_chain_that_ends_elsewhere_is_refused() -> None:
    """The last step must lead to the very key of the manifest."""
    chain = [rotation(A, B), rotation(B, C)]
    assert "no rotation chain" in refused(
        manifest_document(D, rotations=chain), manifest_document(A)
    )
    same_id = manifest_document(D, rotations=[rotation(A, B)], key_id=B.id)
    assert "no rotation chain" in refused(same_id, manifest_document(A))


def test_a_chain_that_comes_back_is_refused() -> None:
    """No key is used twice, so a retired key cannot be brought back."""
    chain = [rotation(A, B), rotation(B, C), rotation(C, A), rotation(A, D)]
    assert "twice" in refused(manifest_document(D, rotations=chain), manifest_document(A))
    loop = [rotation(A, B), rotation(B, B)]
    assert "twice" in refused(manifest_document(B, rotations=loop), manifest_document(A))


@pytest.mark.parametrize(
    "step",
    [
        rotation(A, B, signature=rotation(C, B)["signature"]),
        rotation(A, B, signature=""),
        rotation(A, B, signature="é"),
        rotation(A, B, rotated_at=(NOW + timedelta(days=1)).isoformat()),
        {**rotation(A, C), "new_key_id": B.id},
        {**rotation(A, C), "new_public_key": B.public},
    ],
)
def test_a_step_must_be_signed_by_the_key_that_retires(step: Document) -> None:
    """Another signer, another time or another key breaks the step's signature."""
    assert "not signed" in refused(manifest_document(B, rotations=[step]), manifest_document(A))


def test_a_later_step_must_be_signed_by_the_key_before_it() -> None:
    """The stored key cannot sign for a key that came after it."""
    forged = rotation(B, C, signature=rotation(A, C)["signature"])
    chain = [rotation(A, B), forged]
    assert "not signed" in refused(manifest_document(C, rotations=chain), manifest_document(A))


def test_the_stored_key_and_not_its_name_must_sign() -> None:
    """A step that only names the stored key's id does not replace the key."""
    stored = {**manifest_document(A), "public_key": F.public}
    new = manifest_document(B, rotations=[rotation(A, B)])
    assert "not signed" in refused(new, stored)


def test_the_manifest_of_another_organisation_never_follows() -> None:
    """A manifest may only replace one of the same organisation."""
    assert "other.example" in refused(
        manifest_document(A, entity_uri="https://other.example"), manifest_document(A)
    )


def test_a_refusal_shows_only_the_beginning_of_what_a_manifest_says() -> None:
    """A peer can neither fill the log through a refusal nor speak to a terminal."""
    nasty = "\x1b[2J\n" + "x" * 10_000
    other = rotation(A, B)
    said = [
        refused(manifest_document(A, entity_uri=nasty), manifest_document(A)),
        refused(manifest_document(B, key_id=nasty), manifest_document(A)),
        refused(manifest_document(B), manifest_document(A, key_id=nasty)),
        refused(
            manifest_document(B, rotations=[{**other, "new_key_id": nasty}]), manifest_document(A)
        ),
        refused(
            manifest_document(B, rotations=[{**other, "previous_key_id": nasty}]),
            manifest_document(A, key_id=nasty),
        ),
    ]
    for text in said:
        assert text.isprintable()
        assert len(text) < 300


# grace


def keys_at(age: timedelta, **changes: object) -> frozenset[str]:
    step = rotation(A, B, NOW - age, **changes)
    return keys.signing_keys(manifest(manifest_document(B, rotations=[step])), NOW, GRACE)


def test_without_a_rotation_there_is_one_key() -> None:
    """A manifest stands for its own key."""
    assert keys.signing_keys(manifest(), NOW, GRACE) == {A.public}


@pytest.mark.parametrize("age", [timedelta(0), GRACE])
def test_the_old_key_is_good_during_its_grace(age: timedelta) -> None:
    """Up to the end of its grace the retired key may have signed."""
    assert keys_at(age) == {A.public, B.public}


def test_the_old_key_is_gone_after_its_grace() -> None:
    """A moment past its grace the retired key counts no more."""
    assert keys_at(GRACE + timedelta(microseconds=1)) == {B.public}


def test_no_grace_means_no_old_key() -> None:
    """With a grace of zero the retired key goes at once."""
    step = rotation(A, B, NOW - timedelta(microseconds=1))
    got = manifest(manifest_document(B, rotations=[step]))
    assert keys.signing_keys(got, NOW, timedelta(0)) == {B.public}


@pytest.mark.parametrize("changes", [{"rotated_at": "soon"}, {"previous_public_key": ""}])
def test_a_rotation_that_does_not_read_drops_the_old_key(changes: Document) -> None:
    """Without a readable time or without the key itself there is no grace."""
    assert keys_at(timedelta(0), **changes) == {B.public}


def test_only_the_last_rotation_has_a_grace() -> None:
    """A key that was retired twice over may sign nothing, however recently it was."""
    chain = [rotation(A, B), rotation(B, C)]
    got = manifest(manifest_document(C, rotations=chain))
    assert keys.signing_keys(got, NOW, GRACE) == {B.public, C.public}
