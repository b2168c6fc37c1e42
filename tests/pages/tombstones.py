"""Tombstones and revocations of an origin, signed, and the pages in which a node serves them.

Written from the wire's rules alone and with nothing of the package under test, as origin.py is. A
real node judges it in test_tombstone_contract.py. It is not the serving (tombstone_endpoint.py),
nor the spoiling (tombstone_poison.py).

What is made is signed by its issuer; `add_...` makes it and has the origin serve it as well.

    record = add_tombstone(server.origin, "person:kim")          # served from now on
    revoked = add_revocation(server.origin, record["id"])
    records = add_tombstones(server.origin, 1_000, group=300)    # so many share a created_at

Its issuer is the origin's own organisation unless another `issuer` is given: another Origin, whose
manifest the receiver must hold to admit it (`receiver.store_manifest(issuer.manifest)`). A record
made elsewhere, or made by hand, is served with `serve_tombstone` and `serve_revocation`; the keys
of its origin block that are given replace the right ones before they are signed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.pages.origin import Notice, Origin, Raw, base64url, canonical, key_id_of

_BULK_AGO = timedelta(hours=1)
"""How long ago the first of many was made, so that a test can add newer ones."""


def now_iso() -> str:
    """This moment as a node writes it: no fraction where there is none, never a `Z`."""
    return datetime.now(UTC).isoformat()


# --- what is signed


def tombstone_body(record: Raw) -> bytes:
    """What the issuer of a tombstone signs: all but the signature and the reason."""
    return canonical(
        {
            key: record[key]
            for key in (
                "id",
                "entity_uri",
                "scope",
                "signed_by",
                "key_id",
                "created_at",
                "legal_hold",
            )
        }
    )


def revocation_body(record: Raw) -> bytes:
    """What the issuer of a revocation signs: all but the signature and the reason."""
    keys = ("id", "tombstone_id", "signed_by", "key_id", "created_at")
    return canonical({key: record[key] for key in keys})


def tombstone_tuple(record: Raw, origin: Raw) -> bytes:
    """What the origin of a tombstone signs (t2.1): `entity_uri` is whom it is about."""
    return canonical(
        {
            **_grant(origin),
            "entity_uri": record["entity_uri"],
            "scope": record["scope"],
            "tid": record["id"],
            "tv": "t2.1",
        }
    )


def revocation_tuple(record: Raw, origin: Raw) -> bytes:
    """What the origin of a revocation signs (r2.1)."""
    return canonical(
        {
            **_grant(origin),
            "rid": record["id"],
            "tombstone_id": record["tombstone_id"],
            "tv": "r2.1",
        }
    )


def _grant(origin: Raw) -> Raw:
    return {
        "origin_allowed_scopes": sorted(origin["allowed_scopes"]),
        "origin_allowed_tenants": sorted(origin["allowed_tenants"]),
        "origin_entity_uri": origin["entity_uri"],
        "origin_node_id": origin["node_id"],
        "origin_tenant": origin["tenant"],
    }


# --- records and their envelopes


def make_tombstone(
    issuer: Origin,
    entity_uri: str,
    scope: str = "*",
    *,
    created_at: str | None = None,
    reason: str | None = None,
    legal_hold: bool = False,
    tombstone_id: str | None = None,
    key: Ed25519PrivateKey | None = None,
) -> Raw:
    """A tombstone as the wire carries it, signed by the issuer; `key` signs in its key's place."""
    record: Raw = {
        "id": tombstone_id or f"tomb_{uuid.uuid4()}",
        "entity_uri": entity_uri,
        "scope": scope,
        "reason": reason,
        "signed_by": issuer.entity_uri,
        "key_id": key_id_of(issuer.key),
        "created_at": created_at or now_iso(),
        "legal_hold": legal_hold,
    }
    return {**record, "signature": base64url((key or issuer.key).sign(tombstone_body(record)))}


def make_revocation(
    issuer: Origin,
    tombstone_id: str,
    *,
    created_at: str | None = None,
    reason: str = "reinstated",
    revocation_id: str | None = None,
    key: Ed25519PrivateKey | None = None,
) -> Raw:
    """A revocation as the wire carries it, signed by the issuer; `key` signs in its key's place."""
    record: Raw = {
        "id": revocation_id or f"tombrevoke_{uuid.uuid4()}",
        "tombstone_id": tombstone_id,
        "reason": reason,
        "signed_by": issuer.entity_uri,
        "key_id": key_id_of(issuer.key),
        "created_at": created_at or now_iso(),
    }
    return {**record, "signature": base64url((key or issuer.key).sign(revocation_body(record)))}


def tombstone_entry(origin: Origin, record: Raw, **block: Any) -> Raw:  # noqa: ANN401 - of the wire
    """The envelope of a tombstone, signed by the origin; `block` replaces keys of its origin."""
    given = _origin_block(origin, [record["scope"]], block)
    signature = base64url(origin.key.sign(tombstone_tuple(record, given)))
    return {"tombstone": record, "origin": given, "origin_sig": signature, "origin_manifest": None}


def revocation_entry(origin: Origin, record: Raw, **block: Any) -> Raw:  # noqa: ANN401 - as above
    """The envelope of a revocation, signed by the origin; it grants no scope, having none."""
    given = _origin_block(origin, [], block)
    signature = base64url(origin.key.sign(revocation_tuple(record, given)))
    return {"revocation": record, "origin": given, "origin_sig": signature, "origin_manifest": None}


def _origin_block(origin: Origin, scopes: list[str], changed: Raw) -> Raw:
    return {
        "tenant": "default",
        "node_id": origin.node_id,
        "allowed_scopes": scopes,
        "allowed_tenants": ["default"],
        "entity_uri": origin.entity_uri,
        **changed,
    }


# --- what an origin has to serve


def serve_tombstone(origin: Origin, record: Raw, **block: Any) -> None:  # noqa: ANN401 - as above
    """Have the origin serve a tombstone that was made."""
    entry = tombstone_entry(origin, record, **block)
    origin.tombstones.append(Notice(record["created_at"], record, entry))


def serve_revocation(origin: Origin, record: Raw, **block: Any) -> None:  # noqa: ANN401 - as above
    """Have the origin serve a revocation that was made."""
    entry = revocation_entry(origin, record, **block)
    origin.revocations.append(Notice(record["created_at"], record, entry))


def add_tombstone(
    origin: Origin,
    entity_uri: str,
    scope: str = "*",
    *,
    issuer: Origin | None = None,
    **record: Any,  # noqa: ANN401 - see `make_tombstone`
) -> Raw:
    """Make a tombstone and have it served."""
    made = make_tombstone(issuer or origin, entity_uri, scope, **record)
    serve_tombstone(origin, made)
    return made


def add_revocation(
    origin: Origin,
    tombstone_id: str,
    *,
    issuer: Origin | None = None,
    **record: Any,  # noqa: ANN401 - see `make_revocation`
) -> Raw:
    """Make a revocation and have it served."""
    made = make_revocation(issuer or origin, tombstone_id, **record)
    serve_revocation(origin, made)
    return made


def add_tombstones(
    origin: Origin, count: int, *, group: int = 1, start: datetime | None = None
) -> list[Raw]:
    """Make many, each about an entity of its own; so many in a row share one `created_at`.

    The first are of an hour ago, or of `start`, each next group of a second later.
    """
    times = _times(count, group, start)
    return [add_tombstone(origin, f"gone:{uuid.uuid4()}", created_at=at) for at in times]


def add_revocations(
    origin: Origin,
    tombstone_ids: Sequence[str],
    *,
    group: int = 1,
    start: datetime | None = None,
) -> list[Raw]:
    """Make a revocation of each; so many in a row share one `created_at`, as with tombstones."""
    times = _times(len(tombstone_ids), group, start)
    return [
        add_revocation(origin, tombstone_id, created_at=at)
        for tombstone_id, at in zip(tombstone_ids, times, strict=True)
    ]


def _times(count: int, group: int, start: datetime | None) -> list[str]:
    start = start or datetime.now(UTC) - _BULK_AGO
    return [(start + timedelta(seconds=number // group)).isoformat() for number in range(count)]


# --- pages


def tombstone_page(origin: Origin, *, since: str | None, limit: int, version: int = 2) -> Raw:
    """The page that a node would answer with, in the dialect of a wire version.

    Both lists are what is strictly after `since` as text, in order, cut at the limit; the cursor
    and `has_more` tell of the tombstones alone.
    """
    read = _read if version == 2 else _read_v1
    tombstones, has_more = read(origin.tombstones, since, limit)
    revocations, _ = read(origin.revocations, since, limit)
    page: Raw = {
        "tombstones": _sent(tombstones, version),
        "revocations": _sent(revocations, version),
        "cursor": tombstones[-1].at if tombstones else None,
    }
    return {"v": 2, **page, "has_more": has_more} if version == 2 else page


def _sent(notices: list[Notice], version: int) -> list[Any]:
    form: Callable[[Notice], Any] = _entry_of if version == 2 else _record_of
    return [form(notice) for notice in notices if form(notice) is not None]


def _record_of(notice: Notice) -> Any:  # noqa: ANN401 - whatever JSON holds
    return notice.record


def _entry_of(notice: Notice) -> Any:  # noqa: ANN401 - whatever JSON holds
    return notice.entry


def _after(notices: list[Notice], since: str | None) -> list[Notice]:
    found = [notice for notice in notices if since is None or notice.at > since]
    return sorted(found, key=lambda notice: notice.at)


def _read(notices: list[Notice], since: str | None, limit: int) -> tuple[list[Notice], bool]:
    rows = _after(notices, since)
    # One more than asked for is read; a negative number of rows is no limit to the database.
    if limit + 1 >= 0:
        rows = rows[: limit + 1]
    return rows[:limit], len(rows) > limit


def _read_v1(notices: list[Notice], since: str | None, limit: int) -> tuple[list[Notice], bool]:
    return _after(notices, since)[:limit], False
