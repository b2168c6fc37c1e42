"""Spoiled tombstones and revocations: one builder for each rule that a record can break.

Each keeps every rule before the one that it breaks, so that the reason with which it is refused
shows that this very check was made. `build` gives what an origin would serve, for both dialects;
where `reason_v1` is None, wire version 1 has nothing that could be spoiled so.

    for poison in TOMBSTONE_POISONS:
        entry_id = serve_poison(server.origin, poison)      # None: it has no id that could be told

A spoiled revocation comes with a good tombstone of the origin for it to revoke, unless it is the
point that there is none. What must not be admitted yet but may be later is here too:
`waiting_for_key` and `waiting_for_tombstone`. A foreign revocation needs its issuer's manifest at
the receiver: `receiver.store_manifest(stranger(origin).manifest)`, which is of one organisation for
each origin. Spoiled facts are in poison.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.pages.origin import Notice, Origin, Raw, base64url, key_id_of
from tests.pages.tombstones import (
    add_tombstone,
    make_revocation,
    make_tombstone,
    now_iso,
    revocation_body,
    revocation_entry,
    tombstone_body,
    tombstone_entry,
)

TOMBSTONES, REVOCATIONS = "tombstones", "revocations"
_OVERSIZED = "x" * 1_000_000
_strangers: WeakKeyDictionary[Origin, Origin] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class TombstonePoison:
    """How to spoil a record, in which of the two lists, and with which reason it is refused."""

    name: str
    stream: str
    reason: str
    build: Callable[[Origin], Notice]
    reason_v1: str | None = None


def serve_poison(origin: Origin, poison: TombstonePoison) -> str | None:
    """Have the origin serve one; returns the id of its record, None where it has none."""
    notice = poison.build(origin)
    notices = origin.tombstones if poison.stream == TOMBSTONES else origin.revocations
    notices.append(notice)
    record = notice.record
    entry_id = record.get("id") if isinstance(record, dict) else None
    return entry_id if isinstance(entry_id, str) and entry_id else None


def stranger(origin: Origin) -> Origin:
    """Another organisation than the origin's, the same one whenever it is asked for."""
    if origin not in _strangers:
        _strangers[origin] = Origin(f"https://stranger-{uuid.uuid4().hex[:8]}.example")
    return _strangers[origin]


# --- tombstones


def _gone() -> str:
    return f"gone:{uuid.uuid4()}"


def _notice(record: Any, entry: Any) -> Notice:  # noqa: ANN401 - whatever JSON holds
    return Notice(now_iso(), record, entry)


def _tombstone(origin: Origin, record: Raw, **block: Any) -> Notice:  # noqa: ANN401 - of the wire
    return _notice(record, tombstone_entry(origin, record, **block))


def _without_part(origin: Origin, part: str) -> Notice:
    record = make_tombstone(origin, _gone())
    entry = tombstone_entry(origin, record)
    del entry[part]
    return _notice(record, entry)


def _changed_after(origin: Origin, **changed: Any) -> Notice:  # noqa: ANN401 - fields of the wire
    record = make_tombstone(origin, _gone(), "public")
    entry = tombstone_entry(origin, record)
    return _notice({**record, **changed}, {**entry, "tombstone": {**record, **changed}})


def _record_without(origin: Origin, key: str) -> Notice:
    record = make_tombstone(origin, _gone())
    entry = tombstone_entry(origin, record)
    broken = {name: value for name, value in record.items() if name != key}
    return _notice(broken, {**entry, "tombstone": broken})


def _wrong_origin_signature(origin: Origin) -> Notice:
    record = make_tombstone(origin, _gone())
    entry = tombstone_entry(origin, record)
    signature = Origin(origin.entity_uri).key.sign(b"something else")
    return _notice(record, {**entry, "origin_sig": base64url(signature)})


def _grant_widened_after(origin: Origin) -> Notice:
    record = make_tombstone(origin, _gone(), "public")
    entry = tombstone_entry(origin, record)
    entry["origin"]["allowed_scopes"] = ["company", "public"]
    return _notice(record, entry)


def _relayed(origin: Origin) -> Notice:
    other = stranger(origin)
    record = make_tombstone(other, _gone())
    return _tombstone(other, record)


def _forged(origin: Origin) -> Notice:
    record = make_tombstone(origin, _gone(), key=Ed25519PrivateKey.generate())
    return _tombstone(origin, record)


def _unknown_key(origin: Origin) -> Notice:
    key = Ed25519PrivateKey.generate()
    record = {**make_tombstone(origin, _gone()), "key_id": key_id_of(key)}
    record["signature"] = base64url(key.sign(tombstone_body(record)))
    return _tombstone(origin, record)


def _unknown_issuer(origin: Origin) -> Notice:
    record = make_tombstone(Origin("https://nobody-knows.example"), _gone())
    return _tombstone(origin, record)


# --- revocations


def _revocation(origin: Origin, record: Raw, **block: Any) -> Notice:  # noqa: ANN401 - of the wire
    return _notice(record, revocation_entry(origin, record, **block))


def _target(origin: Origin) -> str:
    """A good tombstone of the origin, served before."""
    tombstone_id: str = add_tombstone(origin, _gone())["id"]
    return tombstone_id


def _changed_revocation(origin: Origin, **changed: Any) -> Notice:  # noqa: ANN401 - of the wire
    record = make_revocation(origin, _target(origin))
    entry = revocation_entry(origin, record)
    return _notice({**record, **changed}, {**entry, "revocation": {**record, **changed}})


def _foreign(origin: Origin) -> Notice:
    record = make_revocation(stranger(origin), _target(origin))
    return _revocation(origin, record)


def _relayed_revocation(origin: Origin) -> Notice:
    other = stranger(origin)
    return _revocation(other, make_revocation(other, _target(origin)))


def _of_nothing(origin: Origin) -> Notice:
    return _revocation(origin, make_revocation(origin, f"tomb_{uuid.uuid4()}"))


def _forged_revocation(origin: Origin) -> Notice:
    forger = Ed25519PrivateKey.generate()
    return _revocation(origin, make_revocation(origin, _target(origin), key=forger))


def _unknown_key_of_revocation(origin: Origin) -> Notice:
    key = Ed25519PrivateKey.generate()
    record = {**make_revocation(origin, _target(origin)), "key_id": key_id_of(key)}
    record["signature"] = base64url(key.sign(revocation_body(record)))
    return _revocation(origin, record)


def unsigned_yet(origin: Origin, tombstone_id: str) -> tuple[Notice, Notice]:
    """A revocation as a node serves it for a moment while it makes it, and then for good.

    A node commits the row first, with the word `pending` for a signature and the right key id,
    and signs it in a second transaction.
    """
    record = make_revocation(origin, tombstone_id)
    early = {**record, "signature": "pending"}
    return _revocation(origin, early), _revocation(origin, record)


def _both(
    name: str, stream: str, reason: str, build: Callable[[Origin], Notice]
) -> TombstonePoison:
    """One that is refused for the same reason in both dialects."""
    return TombstonePoison(name, stream, reason, build, reason)


def _malformed(name: str, build: Callable[[Origin], Notice]) -> TombstonePoison:
    return _both(f"a tombstone {name}", TOMBSTONES, "malformed_tombstone", build)


def _malformed_revocation(name: str, **changed: Any) -> TombstonePoison:  # noqa: ANN401 - as above
    def build(origin: Origin) -> Notice:
        return _changed_revocation(origin, **changed)

    return _both(f"a revocation {name}", REVOCATIONS, "malformed_revocation", build)


def _malformed_field(name: str, **changed: Any) -> TombstonePoison:  # noqa: ANN401 - as above
    return _malformed(name, lambda origin: _changed_after(origin, **changed))


MALFORMED = (
    _both("a text", TOMBSTONES, "malformed_entry", lambda _: _notice("poison", "poison")),
    _both("a list", REVOCATIONS, "malformed_entry", lambda _: _notice([1], [1])),
    *(
        _malformed(f"without {key}", partial(_record_without, key=key))
        for key in ("id", "entity_uri", "scope", "signed_by", "signature", "created_at")
    ),
    _malformed_field("whose id is a number", id=7),
    _malformed_field("whose id is empty", id=""),
    _malformed_field("about a list", entity_uri=["person:kim"]),
    _malformed_field("about nobody", entity_uri=""),
    _malformed_field("with a scope that is a list", scope=["public"]),
    _malformed_field("with a legal hold that is a text", legal_hold="perhaps"),
    _malformed_field("with a key id that is a number", key_id=7),
    _malformed_field("with a reason that is an object", reason={"why": "so"}),
    _malformed_field("of no time", created_at="yesterday"),
    _malformed_field("of a number of seconds", created_at=1_767_225_600),
    _malformed_field("about a NUL", entity_uri="person:\x00kim"),
    _malformed_field("with a NUL in its reason", reason="\x00"),
    _malformed_field("about half a character", entity_uri="person:\ud800"),
    _malformed_field("about a million letters", entity_uri=_OVERSIZED),
    _malformed_revocation("whose id is null", id=None),
    _malformed_revocation("of a number", tombstone_id=7),
    _malformed_revocation("of nothing", tombstone_id=""),
    _malformed_revocation("without a reason", reason=None),
    _malformed_revocation("signed by nobody", signed_by=None),
    _malformed_revocation("of no time", created_at="yesterday"),
    _malformed_revocation("with half a character in its reason", reason="\udfff"),
    _malformed_revocation("with a NUL in its signer", signed_by="a\x00b"),
)
"""Records that cannot be read."""

TOMBSTONE_POISONS = (
    *MALFORMED,
    TombstonePoison(
        "a tombstone without an origin block",
        TOMBSTONES,
        "missing_origin_block",
        lambda o: _without_part(o, "origin"),
    ),
    TombstonePoison(
        "a tombstone without an origin signature",
        TOMBSTONES,
        "missing_origin_block",
        lambda o: _without_part(o, "origin_sig"),
    ),
    TombstonePoison("a relayed tombstone", TOMBSTONES, "origin_not_sender", _relayed),
    TombstonePoison(
        "a wrong origin signature", TOMBSTONES, "origin_sig_invalid", _wrong_origin_signature
    ),
    TombstonePoison(
        "a grant widened after signing", TOMBSTONES, "origin_sig_invalid", _grant_widened_after
    ),
    TombstonePoison(
        "a scope changed after signing",
        TOMBSTONES,
        "origin_sig_invalid",
        lambda o: _changed_after(o, scope="*"),
        "issuer_sig_invalid",
    ),
    TombstonePoison(
        "another entity after signing",
        TOMBSTONES,
        "origin_sig_invalid",
        lambda o: _changed_after(o, entity_uri="person:somebody-else"),
        "issuer_sig_invalid",
    ),
    TombstonePoison(
        "a scope that the origin did not grant",
        TOMBSTONES,
        "scope_not_in_origin_grant",
        lambda o: _tombstone(o, make_tombstone(o, _gone(), "*"), allowed_scopes=["public"]),
    ),
    _both("a forged issuer", TOMBSTONES, "issuer_sig_invalid", _forged),
    _both(
        "a legal hold added after signing",
        TOMBSTONES,
        "issuer_sig_invalid",
        lambda o: _changed_after(o, legal_hold=True),
    ),
    _both("a key id that nobody has", TOMBSTONES, "waiting_for_key", _unknown_key),
    _both("an issuer that nobody knows", TOMBSTONES, "waiting_for_key", _unknown_issuer),
    TombstonePoison("a relayed revocation", REVOCATIONS, "origin_not_sender", _relayed_revocation),
    TombstonePoison(
        "a revocation of another tombstone after signing",
        REVOCATIONS,
        "origin_sig_invalid",
        lambda o: _changed_revocation(o, tombstone_id=_target(o)),
        "issuer_sig_invalid",
    ),
    _both("a forged revocation", REVOCATIONS, "issuer_sig_invalid", _forged_revocation),
    _both(
        "a revocation signed with a key id that nobody has",
        REVOCATIONS,
        "waiting_for_key",
        _unknown_key_of_revocation,
    ),
    _both("a foreign revocation", REVOCATIONS, "revocation_authority_mismatch", _foreign),
    _both(
        "a revocation of an unknown tombstone", REVOCATIONS, "waiting_for_tombstone", _of_nothing
    ),
)
"""Everything that one record by itself can do wrong."""


def tombstone_poison(name: str) -> TombstonePoison:
    """The one of that name."""
    return next(item for item in TOMBSTONE_POISONS if item.name == name)
