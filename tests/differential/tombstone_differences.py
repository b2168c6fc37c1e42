"""Everything in which tombstones leave us and the node apart, each with the reason why.

The list is meant to be read. A record that only one side stores, or that both refuse in different
words, names one of these sentences; whatever else differs is a bug of ours.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.differential.tombstone_rows import AUDIT, REJECTED, REVOCATIONS, Difference, Rows

if TYPE_CHECKING:
    from collections.abc import Collection

# what only the node stores

UNVERIFIED = (
    "A node of 0.9.0a10 stores whatever a peer serves: forged, signed by nobody it knows, about"
    " another entity than was signed. We verify the issuer's signature in that version too."
)
ANY_ISSUER = (
    "A node of 0.9.0a10 lets anybody take a tombstone back; we admit a revocation only from who"
    " issued the tombstone, as the next version does."
)
UNGRANTED = (
    "The node looks at the origin's grant only where a record was relayed. We look at it always: a"
    " record that its own origin grants to nobody is not to be spread."
)
NO_SCOPE = (
    "The node stores a scope that is none and suppresses nothing by it. We refuse it, so that"
    " somebody gets to see an order that is not carried out."
)
NO_TIME = (
    "The node stores any text as the time of a record. It pages by that time when it serves the"
    " record again, and so do we when we read: we admit only a time."
)
NAMELESS = "The node stores a record with an empty id or about nobody; we refuse it."
LONG_ID = "The node stores an id of any length; ours end at 256 characters, seven times a UUID."
MISTYPED = (
    "The node takes a number or a text for true or false where its library can; we admit only the"
    " type that the wire has for the field, which is all that a node ever sends."
)
HALF_ORIGIN = (
    "The node takes an origin block without grants as one that grants nothing, which its direct"
    " records do not need; we refuse it as incomplete."
)
LENIENT = (
    "The node leaves characters out of a signature that are no base64url; we refuse it, since what"
    " is stored would be served to others as it is."
)
FORGED_MANIFEST = (
    "The node takes the key of an issuer from whatever manifest is stored; we verify the manifest"
    " by its own signature first, and wait for one that is good."
)

# what only we store

EARLY = (
    "A revocation that is served before its tombstone breaks the node's foreign key: it is lost"
    " once the cursor has passed. With us it waits in the dead letters and is stored when its"
    " tombstone is here."
)
PENDING = (
    "A node commits a revocation before it signs it, and may serve it so. A node of 0.9.0a10 stores"
    " the word `pending` as its signature for good; we refuse it and admit it once it is signed."
)

# what both refuse, in other words

WAITING = (
    "A record whose issuer or key is not known is issuer_sig_invalid to the node. We tell it apart:"
    " it is no forgery yet, and is judged again when a manifest or a tombstone comes."
)
TAKEN = (
    "A known id with another signature is a success to the node, which changes nothing. It is"
    " refused by us, so that whoever took an id first does not hide the order that it stands for."
)
PART_WORDS = (
    "Two words of the node, for a tombstone and for a revocation without origin or signature, are"
    " the one that facts have too."
)
OTHER_ORDER = (
    "The node looks at the types of a record before anything else, and at what we call malformed"
    " not at all; signatures then fail for what was changed."
)
NO_WORD = (
    "A node of 0.9.0a10 has no word for a record that it cannot read: its loop notes the exception."
)
NUL = (
    "The node stores a NUL where SQLite does, and fails at it on PostgreSQL. We refuse it on both,"
    " so that a record fares alike wherever it is replicated to."
)
TOO_LONG = (
    "The node stores a name of any length, and has all of them in its memory; ours end at 65,536"
    " characters."
)
UNSTORABLE = (
    "The index of PostgreSQL has no room for a name as long as this one. The node fails at it; we"
    " refuse the record for what the database says, and go on."
)


def node_stores(why: str, ids: Collection[str]) -> Difference:
    """`ids` are records that only the node has, each with the audit row of its arrival."""

    def explain(node: Rows, ours: Rows) -> int:
        assert not [record_id for record_id in ids if ours.take_record(record_id)]
        missing = [record_id for record_id in ids if not node.take_record(record_id)]
        assert not missing, missing
        return len(ids)

    return Difference(why, explain)


def we_store(why: str, ids: Collection[str]) -> Difference:
    """`ids` are records that only we have, each with the audit row of its arrival."""

    def explain(node: Rows, ours: Rows) -> int:
        return node_stores(why, ids).explain(ours, node)

    return Difference(why, explain)


def signed_later(ids: Collection[str]) -> Difference:
    """`ids` are revocations that the node has with another signature than we."""

    def explain(node: Rows, ours: Rows) -> int:
        found = 0
        for side, pending in ((node, True), (ours, False)):
            for row in side.tables[REVOCATIONS]:
                if row["id"] in ids:
                    assert (row["signature"] == "pending") == pending
                    row["signature"] = "<its signature>"
                    found += 1
        return found

    return Difference(PENDING, explain)


def refusals_on_record(refused: Counter[tuple[str, str]]) -> Difference:
    """`refused` says how often each (id, reason) was refused by us, without those that wait."""

    def explain(_node: Rows, ours: Rows) -> int:
        found = ours.take(AUDIT, lambda row: row["event_type"] == REJECTED)
        told = Counter((row["detail"]["artifact_id"], row["detail"]["reason"]) for row in found)
        assert told == refused
        return len(found)

    return Difference(
        "The node records a refused tombstone where it was pushed, not where it was pulled. We"
        " record each once, in the words of its push route.",
        explain,
    )
