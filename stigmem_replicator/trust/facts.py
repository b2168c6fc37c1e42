"""The ordered checks on one fact: from a decoded entry to a verdict.

The order is the node's, and the first check that fails decides.  Every check fails closed.
Nothing here looks anything up: keys, policies, known rows and the time come in as values.

An entry of wire version 1 has no origin and no signature: its facts are taken as the sender's
own, its content id has seven keys and may be missing, and a known id is never a collision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import cid, hlc, signatures
from stigmem_replicator.protocol.envelope import Entry, PlainEntry, SignedEntry
from stigmem_replicator.protocol.fact import INTERPRETATIONS, SCOPES, Fact
from stigmem_replicator.protocol.times import parse_time
from stigmem_replicator.trust.origins import refuse_relayed
from stigmem_replicator.trust.tenants import DEFAULT_TENANT, Denied, TenantPolicy, local_tenant
from stigmem_replicator.trust.verdicts import BlockPeer, Duplicate, Reject

JUDGEMENT_VERSION: Final = 2
"""Raised when a check changes, so that what was refused before is judged again."""

_SHOWN_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class KnownFact:
    """What the database holds under an id."""

    cid: str | None
    valid_until: str | None


@dataclass(frozen=True, slots=True)
class FactPolicy:
    """What the checks compare an entry with; one per peer and page.

    ``signed`` says that this node speaks wire version 2, where an entry without a signature is
    refused; ``scopes`` are those agreed with the sender.  ``admit_legacy_cid`` admits facts of
    version 2 that carry the content id of version 1, ``require_cid`` refuses facts of version 1
    that carry none.  Skew bounds are milliseconds, 0 lifts a bound.  ``trust`` scores a source
    in a scope, or is None when the node does not score.
    """

    sender_node_id: str
    keys: frozenset[str]
    scopes: frozenset[str]
    tenants: TenantPolicy
    relay_enabled: bool
    relay_trusted: bool
    future_skew_ms: int
    past_skew_ms: int
    trust: Callable[[str, str], float] | None
    signed: bool = True
    admit_legacy_cid: bool = False
    require_cid: bool = False


@dataclass(frozen=True, slots=True)
class Admit:
    """Every check passed: the fact may be written as this.

    ``agreed_scopes`` are those agreed with the sender, which stand in for the origin's grant where
    an entry carries none.  ``new_cid`` is the content id of wire version 2 where the entry carries
    the one of version 1: a node of version 2 refuses to read a row under the old one.
    """

    entry: Entry
    value_text: str
    tenant: str
    source_trust: float | None
    agreed_scopes: frozenset[str] = frozenset()
    new_cid: str | None = None

    @property
    def cid(self) -> str | None:
        """The content id under which the fact is stored."""
        return self.new_cid or self.entry.fact.cid


@dataclass(frozen=True, slots=True)
class _Content:
    """The value's text that a content id stands for; ``new_cid`` as in :class:`Admit`."""

    text: str
    new_cid: str | None = None


Verdict = Admit | Duplicate | Reject | BlockPeer


def is_duplicate(fact: Fact, known: KnownFact | None) -> bool:
    """Say whether a known row makes the fact a duplicate without any further check."""
    return known is not None and known.cid == fact.cid and known.valid_until == fact.valid_until


def judge(entry: Entry, policy: FactPolicy, known: KnownFact | None, now_ms: int) -> Verdict:
    """Judge one decoded entry against the policy and what is known under its id."""
    fact = entry.fact
    if is_duplicate(fact, known):
        return Duplicate(fact.id)
    tenant: str | Reject | BlockPeer
    if isinstance(entry, SignedEntry):
        tenant = _tenant_of_signed(entry, policy)
    else:
        tenant = _tenant_of_plain(entry, policy)
    if not isinstance(tenant, str):
        return tenant
    content = (
        _content_of_signed(fact, policy, known)
        if policy.signed
        else _content_of_plain(fact, policy)
    )
    if isinstance(content, Reject):
        return content
    refused = _check_interpretation(fact)
    if refused is not None:
        return refused
    if known is not None:
        return _judge_known(fact, known, policy, {fact.cid, content.new_cid})
    refused = _check_skew(fact, policy, now_ms)
    if refused is not None:
        return refused
    trust = policy.trust(fact.source, fact.scope) if policy.trust else None
    return Admit(entry, content.text, tenant, trust, policy.scopes, content.new_cid)


def _tenant_of_signed(entry: SignedEntry, policy: FactPolicy) -> str | Reject | BlockPeer:
    """Return the local tenant of an entry that its origin signed and granted."""
    if not policy.signed:
        return Reject(Reason.MALFORMED_ENTRY, "the entry is not of this node's wire version")
    refused = _check_origin(entry, policy) or _check_grant(entry, policy)
    if refused is not None:
        return refused
    tenant = local_tenant(policy.tenants, entry.origin.tenant)
    if isinstance(tenant, Denied):
        if tenant.whole_peer:
            return BlockPeer(Reason.TENANT_POLICY_UNSAFE, tenant.detail)
        return Reject(Reason.TENANT_POLICY_UNSAFE, tenant.detail)
    return tenant


def _tenant_of_plain(entry: PlainEntry, policy: FactPolicy) -> str | Reject:
    """Return the local tenant of an entry of wire version 1, which knows only one."""
    if policy.signed:
        return Reject(Reason.MISSING_ORIGIN_BLOCK, "the entry carries no origin and no signature")
    return _check_agreed(entry.fact.scope, policy) or DEFAULT_TENANT


def origin_fits(entry: Entry, policy: FactPolicy) -> bool:
    """Say whether the sender itself signed an entry with one of its keys."""
    return isinstance(entry, SignedEntry) and _check_origin(entry, policy) is None


def _check_origin(entry: SignedEntry, policy: FactPolicy) -> Reject | None:
    fact, origin = entry.fact, entry.origin
    if origin.node_id != policy.sender_node_id:
        return refuse_relayed(
            "fact", origin, enabled=policy.relay_enabled, trusted=policy.relay_trusted
        )
    if fact.cid is None:
        return Reject(Reason.CID_REQUIRED, "fact.cid is missing")
    if not origin.entity_uri:
        return Reject(Reason.ORIGIN_SIG_INVALID, "the origin block names no organisation")
    body = signatures.fact_tuple(
        fact_id=fact.id,
        cid=fact.cid,
        valid_until=fact.valid_until,
        origin_node_id=origin.node_id,
        origin_tenant=origin.tenant,
        origin_entity_uri=origin.entity_uri,
        allowed_scopes=origin.allowed_scopes,
        allowed_tenants=origin.allowed_tenants,
    )
    if not signatures.verifies(entry.origin_sig, body, policy.keys):
        return Reject(Reason.ORIGIN_SIG_INVALID, "no key of the origin made this signature")
    return None


def _check_grant(entry: SignedEntry, policy: FactPolicy) -> Reject | None:
    scope, origin = entry.fact.scope, entry.origin
    shown = {"scope": scope[:40]}
    if scope not in origin.allowed_scopes:
        return Reject(
            Reason.SCOPE_NOT_IN_ORIGIN_GRANT, f"the origin did not grant {scope[:40]!r}", shown
        )
    if scope in SCOPES and origin.tenant not in origin.allowed_tenants:
        return Reject(
            Reason.TENANT_NOT_IN_ORIGIN_GRANT, f"the origin did not grant {origin.tenant[:60]!r}"
        )
    return _check_agreed(scope, policy)


def _check_agreed(scope: str, policy: FactPolicy) -> Reject | None:
    shown = {"scope": scope[:40]}
    if scope not in SCOPES:
        return Reject(Reason.INVALID_SCOPE, f"{scope[:40]!r} is no scope", shown)
    if scope == "local" or scope not in policy.scopes:
        detail = f"this node did not agree to {scope!r} facts from this peer"
        return Reject(Reason.SCOPE_NOT_PERMITTED, detail, shown)
    return None


def _content_of_signed(
    fact: Fact, policy: FactPolicy, known: KnownFact | None
) -> _Content | Reject:
    """Return what a content id of wire version 2 stands for."""
    text = _stored_text(fact, _content_id)
    if isinstance(text, str):
        return _Content(text)
    legacy = _stored_text(fact, _legacy_content_id)
    if isinstance(legacy, Reject):
        return text
    new_cid = _content_id(fact, legacy)
    if known is not None and known.cid in (fact.cid, new_cid):
        # Here since before the upgrade, or since the setting was on.
        return _Content(legacy, new_cid)
    # The old id does not cover interpret_as, so under it nothing but content is believed.
    if policy.admit_legacy_cid and fact.interpret_as == "content":
        return _Content(legacy, new_cid)
    detail = "the content id is of wire version 1 (the origin was upgraded, this fact was not)"
    return Reject(Reason.CID_LEGACY, detail, text.facts)


def _content_of_plain(fact: Fact, policy: FactPolicy) -> _Content | Reject:
    """Return what a content id of wire version 1 stands for, or the wire's own text without one."""
    if fact.cid is not None:
        text = _stored_text(fact, _legacy_content_id)
        return text if isinstance(text, Reject) else _Content(text)
    if policy.require_cid:
        return Reject(Reason.CID_REQUIRED, "the fact has no content id and require_cid is on")
    return _check_number(fact) or _Content(cid.value_texts(fact.value_type, fact.value)[0])


def _stored_text(fact: Fact, content_id: Callable[[Fact, str], str]) -> str | Reject:
    """Return the value text that the fact's content id stands for."""
    texts = cid.value_texts(fact.value_type, fact.value)
    computed = [content_id(fact, text) for text in texts]
    ids = {"stored_cid": _shown(fact.cid), "computed_cid": computed[0]}
    refused = _check_number(fact, ids)
    if refused is not None:
        return refused
    for text, candidate in zip(texts, computed, strict=True):
        if candidate == fact.cid:
            return text
    if fact.value_type == "number":
        detail = f"no text for the number {fact.value!r:.40} has this content id"
        return Reject(Reason.NUMBER_NOT_REPRODUCIBLE, detail, ids)
    return Reject(Reason.CID_MISMATCH, "the content id does not fit the fact", ids)


def _check_number(fact: Fact, ids: Mapping[str, object] | None = None) -> Reject | None:
    if fact.value_type != "number" or _is_finite(fact.value):
        return None
    # The node could not serve such a row again, and cannot be rid of it either.
    detail = f"{fact.value!r:.40} is no number that a node can serve"
    return Reject(Reason.NUMBER_NOT_REPRODUCIBLE, detail, ids or {})


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _content_id(fact: Fact, text: str) -> str:
    return cid.content_id(
        entity=fact.entity,
        relation=fact.relation,
        value_type=fact.value_type,
        value_text=text,
        source=fact.source,
        scope=fact.scope,
        confidence=fact.confidence,
        interpret_as=fact.interpret_as,
    )


def _legacy_content_id(fact: Fact, text: str) -> str:
    return cid.legacy_content_id(
        entity=fact.entity,
        relation=fact.relation,
        value_type=fact.value_type,
        value_text=text,
        source=fact.source,
        scope=fact.scope,
        confidence=fact.confidence,
    )


def _check_interpretation(fact: Fact) -> Reject | None:
    if fact.interpret_as not in INTERPRETATIONS:
        return Reject(Reason.INVALID_INTERPRET_AS, f"interpret_as is {fact.interpret_as[:40]!r}")
    instructs = fact.interpret_as == "instruction" or any(
        text.startswith("instruction:") for text in (fact.entity, fact.relation)
    )
    if instructs:
        detail = "an instruction fact needs a quarantine garden, which is not supported yet"
        return Reject(Reason.QUARANTINE_GARDEN_REQUIRED, detail)
    return None


def _judge_known(
    fact: Fact, known: KnownFact, policy: FactPolicy, cids: AbstractSet[str | None]
) -> Duplicate | Reject:
    if _extends(known.valid_until, fact.valid_until):
        stored, incoming = _shown(known.valid_until), _shown(fact.valid_until)
        detail = f"valid_until {incoming} would extend {stored}"
        times = {"stored_valid_until": stored, "incoming_valid_until": incoming}
        return Reject(Reason.VALID_UNTIL_EXTENSION, detail, times)
    if policy.signed and known.cid is not None and known.cid not in cids:
        ids = {"stored_cid": _shown(known.cid), "computed_cid": _shown(fact.cid)}
        return Reject(Reason.WIRE_ID_COLLISION, "the id is known with another content id", ids)
    return Duplicate(fact.id)


def _shown(text: str | None) -> str | None:
    """Return a text of the peer as details and audit rows show it: not endlessly."""
    return None if text is None else text[:_SHOWN_CHARACTERS]


def _extends(stored: str | None, incoming: str | None) -> bool:
    if stored is None:
        return False
    if incoming is None:
        return True
    stored_at, incoming_at = parse_time(stored), parse_time(incoming)
    # A time that does not read cannot be shown to be no extension.
    return stored_at is None or incoming_at is None or incoming_at > stored_at


def _check_skew(fact: Fact, policy: FactPolicy, now_ms: int) -> Reject | None:
    remote = hlc.wall_ms(fact.hlc) if fact.hlc else None
    if remote is None:
        return None
    direction = hlc.skew(remote, now_ms, policy.future_skew_ms, policy.past_skew_ms)
    if direction is None:
        return None
    measured = {
        "direction": direction,
        "skew_ms": remote - now_ms,
        "remote_wall_ms": remote,
        "local_wall_ms": now_ms,
        "max_future_skew_ms": policy.future_skew_ms,
        "max_past_skew_ms": policy.past_skew_ms,
    }
    return Reject(Reason.HLC_SKEW, f"its clock lies too far in the {direction}", measured)
