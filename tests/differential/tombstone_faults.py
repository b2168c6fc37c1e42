"""Everything that can be wrong with a tombstone or a revocation, put into a story.

What a record by itself can do wrong comes from tombstone_poison.py; here are besides those that
keep every rule but one that only we have, and those that hang on other records.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tests.differential import tombstone_differences as whys
from tests.differential.tombstone_cases import (
    GOOD,
    REVOCATIONS,
    TOMBSTONES,
    Case,
    Outcome,
    node_alone,
    refused,
)
from tests.pages.origin import base64url
from tests.pages.tombstone_poison import TOMBSTONE_POISONS, TombstonePoison, unsigned_yet
from tests.pages.tombstones import tombstone_tuple

if TYPE_CHECKING:
    from tests.differential.tombstone_story import Story
    from tests.pages.origin import Raw

NO_ROOM = "ProgramLimitExceeded"
"""What PostgreSQL says of what its index cannot hold."""

_PART_MISSING = {
    stream: f"missing_{stream.removesuffix('s')}_origin_or_sig"
    for stream in (TOMBSTONES, REVOCATIONS)
}
# What the node says of records that we find malformed, where it does not find so too.
_NODE_WORDS = {
    "a tombstone about nobody": "origin_sig_invalid",
    "a tombstone of no time": "issuer_sig_invalid",
    "a tombstone about a NUL": "origin_sig_invalid",
    "a tombstone about half a character": "origin_sig_invalid",
    "a tombstone about a million letters": "origin_sig_invalid",
    "a revocation of nothing": "origin_sig_invalid",
    "a revocation of no time": "issuer_sig_invalid",
    "a revocation with half a character in its reason": "UnicodeEncodeError",
    "a revocation with a NUL in its signer": "issuer_sig_invalid",
}
# Why a node of 0.9.0a10 stores records that we find malformed.
_STORED_V1 = {
    "a tombstone whose id is empty": whys.NAMELESS,
    "a tombstone about nobody": whys.NAMELESS,
    "a tombstone of no time": whys.NO_TIME,
    "a tombstone about a NUL": whys.NUL,
    "a tombstone with a NUL in its reason": whys.NUL,
    "a tombstone about a million letters": whys.TOO_LONG,
    "a revocation of no time": whys.NO_TIME,
    "a revocation with a NUL in its signer": whys.NUL,
    # The tombstone with the empty id is there.
    "a revocation of nothing": whys.NAMELESS,
}
_NUL_IN_REASON = "a tombstone with a NUL in its reason"
_EMPTY_ID = "a tombstone whose id is empty"


def add_faults(story: Story) -> None:
    """Put them onto the story's bad page, and what some of them wait for onto its last."""
    _poisons(story)
    _of_the_record(story)
    _of_texts(story)
    _of_the_envelope(story)
    _of_signatures(story)
    _of_issuers(story)
    _too_early(story)
    _taken_ids(story)


def _poisons(story: Story) -> None:
    origin = story.origin
    for poison in TOMBSTONE_POISONS:
        served = len(origin.tombstones)
        notice = poison.build(origin)
        for target in origin.tombstones[served:]:
            name = f"for {poison.name}"
            story.bad.append(Case(name, TOMBSTONES, target, GOOD, GOOD))
        outcomes = _outcome(poison, story), _outcome_v1(poison, story)
        story.bad.append(Case(poison.name, poison.stream, notice, *outcomes))


def _outcome(poison: TombstonePoison, story: Story) -> Outcome | None:
    name, reason = poison.name, poison.reason
    if name == _EMPTY_ID:
        return None  # another is signed, and stored under that id
    if name == _NUL_IN_REASON:
        return story.of_nul()
    if name in _NODE_WORDS:
        nul = "NUL" in name and not story.on_sqlite and poison.stream == REVOCATIONS
        word = "ValueError" if nul else _NODE_WORDS[name]
        return refused(reason, word, whys.OTHER_ORDER)
    if reason == "missing_origin_block":
        return refused(reason, _PART_MISSING[poison.stream], whys.PART_WORDS)
    if reason == "scope_not_in_origin_grant":
        return node_alone(reason, whys.UNGRANTED)
    if reason == "waiting_for_key":
        return refused(reason, "issuer_sig_invalid", whys.WAITING)
    if reason == "waiting_for_tombstone":
        return refused(reason, story.no_target, whys.EARLY)
    return refused(reason)


def _outcome_v1(poison: TombstonePoison, story: Story) -> Outcome | None:
    name, reason = poison.name, poison.reason_v1
    if reason is None:
        return None
    if name in _STORED_V1:
        if _STORED_V1[name] == whys.NUL:
            return story.of_nul(reason)
        if _STORED_V1[name] == whys.TOO_LONG and not story.on_sqlite:
            return refused(reason, NO_ROOM, whys.UNSTORABLE)
        return node_alone(reason, _STORED_V1[name])
    if "half a character" in name:
        return refused(reason, "UnicodeEncodeError", whys.NO_WORD)
    if reason == "malformed_entry":
        return refused(reason, "TypeError", whys.NO_WORD)
    if reason.startswith("malformed"):
        return refused(reason, "ValidationError", whys.NO_WORD)
    if reason == "waiting_for_tombstone":
        return refused(reason, story.no_target, whys.EARLY)
    anybody = reason == "revocation_authority_mismatch"
    return node_alone(reason, whys.ANY_ISSUER if anybody else whys.UNVERIFIED)


def _of_the_record(story: Story) -> None:
    bad, target = story.bad, story.target(story.first, "of bad revocations")
    malformed = "malformed_tombstone"
    signed: tuple[tuple[str, str, str, Raw], ...] = (
        ("in no scope", "invalid_scope", whys.NO_SCOPE, {"scope": "galaxy"}),
        ("in the empty scope", "invalid_scope", whys.NO_SCOPE, {"scope": ""}),
        ("signed of no time", malformed, whys.NO_TIME, {"created_at": "yesterday"}),
        ("of an id too long", malformed, whys.LONG_ID, {"id": "i" * 257}),
    )
    for name, ours, why, fields in signed:
        alone = node_alone(ours, why)
        story.tombstone(bad, name, alone, alone, **fields)
    alone = node_alone(malformed, whys.MISTYPED)
    for value in (1, "yes"):
        name, changed = f"on legal hold by {value}", {"legal_hold": value}
        story.tombstone(bad, name, alone, alone, unsigned=changed, legal_hold=True)
    of_revocations: tuple[tuple[str, str, Raw], ...] = (
        ("signed of no time, revoking", whys.NO_TIME, {"created_at": "yesterday"}),
        ("of an id too long, revoking", whys.LONG_ID, {"id": "r" * 257}),
    )
    for name, why, fields in of_revocations:
        alone = node_alone("malformed_revocation", why)
        story.revocation(bad, name, target, alone, alone, **fields)


def _of_texts(story: Story) -> None:
    bad, malformed = story.bad, "malformed_tombstone"
    nameless = node_alone(malformed, whys.NAMELESS)
    story.tombstone(bad, "signed with an empty id", nameless, None, id="")
    unreadable = refused(malformed, "origin_sig_invalid", whys.OTHER_ORDER)
    story.tombstone(bad, "signed about nobody", unreadable, nameless, entity_uri="")
    nul = story.of_nul()
    story.tombstone(bad, "signed about a NUL", nul, nul, entity_uri="person:\x00kim")
    long = node_alone(malformed, whys.TOO_LONG)
    story.tombstone(bad, "of a name too long", long, long, entity_uri="x" * 65_537)
    full = GOOD if story.on_sqlite else refused(malformed, NO_ROOM, whys.UNSTORABLE)
    name = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(256))
    story.tombstone(bad, "of a name that no index holds", full, full, entity_uri=name)


def _of_the_envelope(story: Story) -> None:
    bad, target = story.bad, story.target(story.first, "of more bad revocations")
    outside = node_alone("tenant_not_in_origin_grant", whys.UNGRANTED)
    tenants = {"allowed_tenants": ["another"]}
    story.tombstone(bad, "tenant outside the grant", outside, None, block=tenants)
    story.revocation(
        bad, "tenant outside the grant, revoking", target, outside, None, block=tenants
    )
    narrow = node_alone("scope_not_in_origin_grant", whys.UNGRANTED)
    story.tombstone(
        bad, "scope outside the grant", narrow, None, block={"allowed_scopes": ["team"]}
    )
    nowhere = refused("origin_sig_invalid")
    story.tombstone(bad, "no organisation", nowhere, None, block={"entity_uri": ""})
    half = node_alone("missing_origin_block", whys.HALF_ORIGIN)
    case = story.tombstone(
        bad, "half an origin", half, None, block={"allowed_scopes": [], "allowed_tenants": []}
    )
    for key in ("allowed_scopes", "allowed_tenants"):
        del case.notice.entry["origin"][key]


def _of_signatures(story: Story) -> None:
    bad = story.bad
    broken = "{0}\r\n{1}\r\n"
    lenient = node_alone("origin_sig_invalid", whys.LENIENT)
    case = story.tombstone(bad, "line breaks in the origin's signature", lenient, None)
    text = case.notice.entry["origin_sig"]
    case.notice.entry["origin_sig"] = broken.format(text[:40], text[40:])
    lenient = node_alone("issuer_sig_invalid", whys.LENIENT)
    unverified = node_alone("issuer_sig_invalid", whys.UNVERIFIED)
    case = story.tombstone(bad, "line breaks in the issuer's signature", lenient, unverified)
    text = case.notice.record["signature"]
    case.notice.record["signature"] = broken.format(text[:40], text[40:])
    nameless = refused("issuer_sig_invalid")
    story.tombstone(bad, "no key named", nameless, unverified, key_id="")
    oldest = story.tombstone(
        bad, "signed by an origin's key too old", refused("origin_sig_invalid"), None
    )
    body = tombstone_tuple(oldest.notice.record, oldest.notice.entry["origin"])
    oldest.notice.entry["origin_sig"] = base64url(story.keys[0].sign(body))


def _of_issuers(story: Story) -> None:
    bad = story.bad
    waiting = refused("waiting_for_key", "issuer_sig_invalid", whys.WAITING)
    unverified = node_alone("waiting_for_key", whys.UNVERIFIED)
    story.tombstone(bad, "by the issuer's first key", waiting, unverified, key=story.keys[0])
    story.tombstone(bad, "by an issuer out of date", waiting, unverified, issuer=story.expired)
    forged = node_alone("waiting_for_key", whys.FORGED_MANIFEST)
    story.tombstone(
        bad, "by an issuer of a forged manifest", forged, unverified, issuer=story.forged
    )
    late = Outcome("waiting_for_key", "issuer_sig_invalid", why=whys.WAITING)
    unasked = Outcome("waiting_for_key", why=whys.UNVERIFIED)
    case = story.tombstone(bad, "by an issuer of later", late, unasked, issuer=story.late)
    story.last.append(case)


def _too_early(story: Story) -> None:
    target = story.target(story.last, "that comes late")
    early = Outcome("waiting_for_tombstone", story.no_target, stored=False, why=whys.EARLY)
    story.revocation(story.bad, "too early", target, early, early)
    pending, signed = unsigned_yet(story.origin, story.target(story.first, "of pending"))
    unsigned = Outcome("issuer_sig_invalid", "issuer_sig_invalid")
    unasked = Outcome("issuer_sig_invalid", why=whys.PENDING)
    story.bad.append(Case("not signed yet", REVOCATIONS, pending, unsigned, unasked))
    story.last.append(Case("signed at last", REVOCATIONS, signed, GOOD, GOOD))


def _taken_ids(story: Story) -> None:
    taken = Outcome("wire_id_collision", "", why=whys.TAKEN)
    squatter = story.target(story.first, "by whoever was first", story.other)
    story.tombstone(story.bad, "an id that is taken", taken, taken, id=squatter)
    target = story.target(story.first, "to be revoked by whoever was first", story.other)
    first = story.revocation(story.first, "by whoever was first", target, issuer=story.other)
    own = story.target(story.first, "to be revoked")
    story.revocation(
        story.bad, "an id that is taken, revoking", own, taken, taken, id=first.record_id
    )
