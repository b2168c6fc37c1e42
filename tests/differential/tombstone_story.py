"""The pages of tombstones that both sides take, one after the other, and what is in each.

What comes first is known when the rest comes; then the good ones, twice; then everything that can
be wrong, twice; last what some of those waited for.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
from tests.differential.tombstone_faults import add_faults
from tests.pages.origin import Notice, Origin, Raw, base64url, key_id_of
from tests.pages.tombstone_poison import stranger
from tests.pages.tombstones import (
    make_revocation,
    make_tombstone,
    revocation_body,
    revocation_entry,
    tombstone_body,
    tombstone_entry,
    tombstone_tuple,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ODD_NAMES = (
    "stigmem://acme.example/user/alice",
    "https://acme.example/a?b=c&d=%20#e",
    " person:in blanks ",
    "person:caf\u00e9",
    "person:cafe\u0301",
    "person:\u5fd8\u308c",
    "person:\U0001f5d1",
    "person:a\nb\tc\u007f",
    "person:\u202egnorw",
    "person:'; DROP TABLE tombstones; --",
    'person:"\\/\u2028',
    "%_*?[x]",
    "x" * 2_000,
)
ODD_REASON = 'erbeten, 忘れる 🗑\n"it\'s so" \\ \u2028'
_START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> str:
    """A time as a node writes it."""
    return (_START + timedelta(seconds=seconds)).isoformat()


class Story:
    """The records of an origin, whose earlier keys are `keys`, for a receiver on a backend.

    `other` is an organisation whose manifest the receiver has, `late` one whose manifest it gets
    only before the last page, `expired` and `forged` are of those whose manifest is good no more
    or never was.
    """

    def __init__(
        self, origin: Origin, keys: Sequence[Ed25519PrivateKey], *, on_sqlite: bool
    ) -> None:
        self.origin = origin
        self.keys = keys
        self.on_sqlite = on_sqlite
        self.no_target = "IntegrityError" if on_sqlite else "ForeignKeyViolation"
        self.other, self.late, self.expired, self.forged = (
            Origin(f"http://127.0.0.1:9/{name}") for name in ("other", "late", "expired", "forged")
        )
        self.expired.manifest = self.expired.signed_manifest(days=-1.0, issued_days_ago=9.0)
        self.forged.manifest = {**self.forged.manifest, "signature": "A" * 86}
        self.first: list[Case] = []
        self.good: list[Case] = []
        self.bad: list[Case] = []
        self.last: list[Case] = []
        self.tenants: list[Case] = []
        self.relayed: list[Case] = []
        self.unresolvable: list[Case] = []
        self._good_tombstones()
        self._good_revocations()
        # As a node serves them: by their times.
        self.good.sort(key=lambda case: str(case.notice.record["created_at"]))
        add_faults(self)
        self._of_peers()

    def manifests(self) -> list[Raw]:
        """What the receiver has of other organisations from the beginning."""
        issuers = (self.other, self.expired, self.forged, stranger(self.origin))
        return [issuer.manifest for issuer in issuers]

    def of_nul(self, ours: str = "malformed_tombstone") -> Outcome:
        """What becomes of a record with a NUL that is good otherwise."""
        if self.on_sqlite:
            return node_alone(ours, whys.NUL)
        return refused(ours, "ValueError", whys.NUL)

    # --- building blocks

    def tombstone(
        self,
        page: list[Case],
        name: str,
        v2: Outcome | None = GOOD,
        v1: Outcome | None = GOOD,
        *,
        issuer: Origin | None = None,
        key: Ed25519PrivateKey | None = None,
        block: Raw | None = None,
        unsigned: Raw | None = None,
        **fields: object,
    ) -> Case:
        """Put a tombstone onto a page: `fields` are signed, `unsigned` are changed afterwards."""
        issuer = issuer or self.origin
        record = {**make_tombstone(issuer, f"gone:{name}", "public"), **fields}
        if key is not None:
            record["key_id"] = key_id_of(key)
        record["signature"] = base64url((key or issuer.key).sign(tombstone_body(record)))
        record.update(unsigned or {})
        entry = tombstone_entry(self.origin, record, **(block or {}))
        return self._put(page, name, TOMBSTONES, Notice("", record, entry), v2, v1)

    def revocation(
        self,
        page: list[Case],
        name: str,
        tombstone_id: str,
        v2: Outcome | None = GOOD,
        v1: Outcome | None = GOOD,
        *,
        issuer: Origin | None = None,
        block: Raw | None = None,
        unsigned: Raw | None = None,
        **fields: object,
    ) -> Case:
        """Put a revocation onto a page, as with tombstones."""
        issuer = issuer or self.origin
        record = {**make_revocation(issuer, tombstone_id), **fields}
        record["signature"] = base64url(issuer.key.sign(revocation_body(record)))
        record.update(unsigned or {})
        entry = revocation_entry(self.origin, record, **(block or {}))
        return self._put(page, name, REVOCATIONS, Notice("", record, entry), v2, v1)

    def _put(
        self,
        page: list[Case],
        name: str,
        stream: str,
        notice: Notice,
        v2: Outcome | None,
        v1: Outcome | None,
    ) -> Case:
        case = Case(name, stream, notice, v2, v1)
        page.append(case)
        return case

    def target(self, page: list[Case], name: str, issuer: Origin | None = None) -> str:
        """A good tombstone to be revoked; its id."""
        record_id: str = self.tombstone(page, name, issuer=issuer).notice.record["id"]
        return record_id

    # --- what is good

    def _good_tombstones(self) -> None:
        page = self.good
        for scope in ("*", "public", "company", "team", "local"):
            self.tombstone(page, f"scope {scope}", scope=scope)
        self.tombstone(page, "on legal hold", legal_hold=True)
        self.tombstone(page, "with a reason", reason=ODD_REASON)
        self.tombstone(page, "with an empty reason", reason="")
        self.tombstone(page, "with another reason than before", unsigned={"reason": "redacted"})
        self.tombstone(page, "with more than the wire has", unsigned={"unheard_of": [1]})
        for number, name in enumerate(ODD_NAMES):
            self.tombstone(page, f"odd name {number}", entity_uri=name)
        for time in ("2026-01-01T00:00:01Z", "2026-01-01T02:00:02.5+02:00", "2026-01-01 00:00:03"):
            self.tombstone(page, f"time {time}", created_at=time)
        for number in range(3):
            self.tombstone(page, f"at once {number}", created_at=at(9))
        self.tombstone(page, "of an odd id", id="'; --\n\u00e9")
        self.tombstone(page, "of a long id", id="i" * 256)
        self.tombstone(page, "of an earlier key", key=self.keys[1])
        self.tombstone(page, "of another issuer", issuer=self.other)
        padded = self.tombstone(page, "with padded signatures")
        padded.notice.record["signature"] += "=="
        padded.notice.entry["origin_sig"] += "=="
        before = self.tombstone(page, "of an origin that rotated")
        body = tombstone_tuple(before.notice.record, before.notice.entry["origin"])
        before.notice.entry["origin_sig"] = base64url(self.keys[1].sign(body))
        granted = {"allowed_scopes": ["zebra", "public", "company", "public"]}
        self.tombstone(page, "with a grant unsorted and repeated", block=granted)
        twice = self.tombstone(page, "twice on a page")
        page.append(twice)
        known = self.tombstone(self.first, "known")
        page.append(known)

    def _good_revocations(self) -> None:
        page = self.good
        before = self.target(self.first, "to be revoked later")
        self.revocation(page, "of an earlier tombstone", before)
        self.revocation(page, "of it once more", before, reason=ODD_REASON)
        with_it = self.target(page, "to be revoked at once")
        twice = self.revocation(page, "of a tombstone on the page", with_it, created_at=at(9))
        page.append(twice)
        others = self.target(page, "of another issuer, to be revoked", self.other)
        self.revocation(page, "of another issuer's", others, issuer=self.other)
        self.revocation(page, "with an empty reason", self.target(page, "for no reason"), reason="")
        changed = self.target(page, "for another reason")
        self.revocation(page, "with another reason", changed, unsigned={"reason": "redacted"})

    def _of_peers(self) -> None:
        """For a peer that is pinned to a tenant, relays untrusted, or has no organisation."""
        self.tombstone(self.tenants, "for an unsafe tenant", v1=None)
        target = self.tombstone(self.tenants, "for a tenant", v1=None).notice.record["id"]
        self.revocation(self.tenants, "for a tenant, revoking", target, v1=None)
        untrusted = refused("relay_sender_not_trusted")
        of_another = {"node_id": "stigmem:node:another"}
        self.tombstone(self.relayed, "relayed", untrusted, None, block=of_another)
        self.revocation(self.relayed, "relayed", target, untrusted, None, block=of_another)
        self.tombstone(self.unresolvable, "of nobody", v1=None)
