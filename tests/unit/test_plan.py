"""Plans: which rows a page writes, column for column, and how they are cut into transactions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmem_replicator.errors import Reason
from stigmem_replicator.protocol import document
from stigmem_replicator.replication.plan import (
    Batch,
    ConflictKey,
    Counts,
    FactRow,
    Judged,
    PageContext,
    RefusedBefore,
    Row,
    Siblings,
    conflict_key,
    plan_batch,
)
from stigmem_replicator.trust.facts import Admit
from stigmem_replicator.trust.verdicts import Duplicate, Reject
from tests.unit.signed import NOW, NOW_MS, ORGANISATION, SENDER, decoded, raw_entry

FEDERATION_AUDIT_EVENTS: Final = frozenset(
    {
        "rejected_fact",
        "rejected_token",
        "scope_violation",
        "replay_attempt",
        "tl_proof_missing",
        "tl_proof_verified",
        "manifest_stored",
        "manifest_refresh_failed",
        "san_mismatch",
        "peer_approved",
        "peer_approval_failed",
        "peer_policy_updated",
        "origin_pin_set",
        "origin_pin_deleted",
        "dnssec_first_trust_confirmed",
        "dnssec_first_trust_rejected",
        "dnssec_first_trust_confirm_rejected",
    }
)
"""What the CHECK constraint of the node's federation_audit allows."""

ENTRY_REASONS: Final = tuple(
    itertools.takewhile(lambda reason: reason is not Reason.UNREACHABLE, Reason)
)
"""The reasons that stop one entry."""

PEER_ID: Final = "peer-1"
NO_BUDGET: Final = 10**9


def ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"id-{next(numbers)}"


def context(max_conflicts: int = 100) -> PageContext:
    return PageContext(
        peer_id=PEER_ID,
        sender_node_id=SENDER,
        stream="facts",
        generation="g1",
        now_iso=NOW.isoformat(),
        now_ms=NOW_MS,
        max_conflicts=max_conflicts,
        new_id=ids(),
    )


def admitted(
    fact_id: str = "f-1", *, tenant: str = "default", trust: float | None = 0.5, **fact: object
) -> Judged:
    entry = decoded(raw_entry(fact_id, fact=fact))
    return Judged(fact_id, Admit(entry, "CEO", tenant, trust))


def rejected(
    entry_id: str = "f-1", reason: Reason = Reason.CID_MISMATCH, **facts: object
) -> Judged:
    payload = document.payload({"fact": {"id": entry_id}})
    verdict = Reject(reason, f"why {reason}", facts)
    return Judged(entry_id, verdict, payload, document.payload_hash(payload))


def plan(
    judged: Sequence[Judged],
    siblings: Mapping[ConflictKey, Siblings] | None = None,
    *,
    open_letters: Sequence[str] = (),
    max_conflicts: int = 100,
    budget: int = NO_BUDGET,
) -> Batch:
    return plan_batch(judged, siblings or {}, open_letters, context(max_conflicts), budget)


KEY: Final = ConflictKey("default", "stigmem://acme.example/user/alice", "memory:role", "public")

NOTHING_SAID: Final[Row] = {
    "valid_until": None,
    "received_from": None,
    "origin_node_id": None,
    "origin_allowed_scopes": None,
    "re_federation_blocked": 0,
    "source_trust": None,
    "interpret_as": "content",
    "cid": None,
    "origin_tenant": None,
    "origin_allowed_tenants": None,
    "origin_sig": None,
    "origin_entity_uri": None,
}


def own_row(**values: object) -> Row:
    return {
        **NOTHING_SAID,
        "source": "system:stigmem",
        "timestamp": NOW.isoformat(),
        "confidence": 1.0,
        **values,
    }


# an admitted fact


def test_a_fact_is_written_as_the_node_would() -> None:
    """The wire gives what the fact says, the envelope its origin, the sender is whom we asked."""
    raw = raw_entry(
        "f-1",
        fact={"valid_until": "2027-01-01", "confidence": 0.75, "garden_id": "g", "attested": True},
        origin={"tenant": "acme", "allowed_tenants": ["zeta", "acme"]},
    )
    judged = Judged("f-1", Admit(decoded(raw), "CEO", "local-tenant", 0.25))
    row, _ = plan([judged]).facts
    said = raw["fact"]
    assert row == FactRow(
        {
            "id": "f-1",
            "entity": said["entity"],
            "relation": said["relation"],
            "value_type": "string",
            "value_v": "CEO",
            "source": said["source"],
            "timestamp": said["timestamp"],
            "valid_until": "2027-01-01",
            "confidence": 0.75,
            "scope": "public",
            "received_from": SENDER,
            "origin_node_id": SENDER,
            "origin_allowed_scopes": '["company", "public"]',
            "re_federation_blocked": 0,
            "source_trust": 0.25,
            "interpret_as": "content",
            "cid": said["cid"],
            "tenant_id": "local-tenant",
            "origin_tenant": "acme",
            "origin_allowed_tenants": '["acme", "zeta"]',
            "origin_sig": raw["origin_sig"],
            "origin_entity_uri": ORGANISATION,
        },
        said["hlc"],
    )


def test_the_text_that_was_verified_is_stored() -> None:
    """The stored value is the text that the content id stands for, not the wire's number."""
    raw = raw_entry("f-1", value={"type": "number", "v": 42.0}, value_text="42")
    row, _ = plan([Judged("f-1", Admit(decoded(raw), "42", "default", None))]).facts
    assert (row.values["value_type"], row.values["value_v"]) == ("number", "42")


@pytest.mark.parametrize(("scope", "blocked"), [("public", 0), ("company", 1), ("team", 0)])
def test_company_facts_are_not_federated_further(scope: str, blocked: int) -> None:
    """A fact of scope company is marked so that this node never serves it on."""
    row, _ = plan([admitted(scope=scope)]).facts
    assert row.values["re_federation_blocked"] == blocked


def test_a_fact_without_a_clock_is_stamped_as_our_own_event() -> None:
    """There is no wire HLC to step past."""
    row, _ = plan([admitted(hlc=None)]).facts
    assert row.remote_hlc is None


def test_each_fact_has_a_meta_fact_of_its_sender() -> None:
    """A local fact says from whom the fact was received, in the same tenant."""
    _, meta = plan([admitted(tenant="acme", scope="company")]).facts
    assert meta == FactRow(
        own_row(
            id="id-1",
            entity="f-1",
            relation="stigmem:received_from",
            value_type="ref",
            value_v=SENDER,
            scope="local",
            tenant_id="acme",
        ),
        None,
    )


def test_every_fact_row_has_the_same_columns() -> None:
    """Facts, meta facts and conflict facts go into one statement."""
    batch = plan([admitted()], {KEY: Siblings(("s",), 1)})
    assert len(batch.facts) == 4
    assert len({frozenset(row.values) for row in batch.facts}) == 1


# conflicts


def pairs(batch: Batch) -> list[tuple[object, object]]:
    return [(row["fact_a_id"], row["fact_b_id"]) for row in batch.conflicts]


def test_a_conflict_is_two_facts_and_a_row() -> None:
    """Each sibling gives a conflict with its own id, what it is between, and its status."""
    batch = plan(
        [admitted(scope="company", tenant="acme")],
        {replace(KEY, tenant="acme", scope="company"): Siblings(("s",), 1)},
    )
    conflict = "stigmem:conflict:id-2"
    shared = {"entity": conflict, "scope": "company", "tenant_id": "acme"}
    assert batch.facts[2:] == [
        FactRow(
            own_row(
                **shared,
                id="id-3",
                relation="stigmem:conflict:between",
                value_type="text",
                value_v="f-1 s",
            ),
            None,
        ),
        FactRow(
            own_row(
                **shared,
                id="id-4",
                relation="stigmem:conflict:status",
                value_type="string",
                value_v="unresolved",
            ),
            None,
        ),
    ]
    assert batch.conflicts == [
        {
            "id": conflict,
            "fact_a_id": "f-1",
            "fact_b_id": "s",
            "status": "unresolved",
            "detected_at": NOW.isoformat(),
        }
    ]


def test_conflicts_are_with_the_newest_siblings_first() -> None:
    """A new fact contradicts what stands, newest first, and the facts of its own page."""
    batch = plan(
        [admitted("f-1"), admitted("f-2")],
        {KEY: Siblings(("s-9", "s-8"), 2)},
    )
    assert pairs(batch) == [
        ("f-1", "s-9"),
        ("f-1", "s-8"),
        ("f-2", "f-1"),
        ("f-2", "s-9"),
        ("f-2", "s-8"),
    ]
    assert batch.standing == {KEY: Siblings(("f-2", "f-1", "s-9", "s-8"), 4)}
    assert batch.sibling_counts == {KEY: 2}


def test_the_cap_keeps_the_newest_and_counts_the_rest() -> None:
    """At most so many conflicts a fact; how many were left out is told."""
    batch = plan(
        [admitted("f-1"), admitted("f-2"), admitted("f-3")],
        {KEY: Siblings(("s-9", "s-8"), 7)},
        max_conflicts=2,
    )
    assert pairs(batch) == [
        ("f-1", "s-9"),
        ("f-1", "s-8"),
        ("f-2", "f-1"),
        ("f-2", "s-9"),
        ("f-3", "f-2"),
        ("f-3", "f-1"),
    ]
    assert batch.counts.conflicts == 6
    assert batch.counts.conflicts_capped == 5 + 6 + 7
    assert batch.standing == {KEY: Siblings(("f-3", "f-2"), 10)}


def test_without_a_cap_every_sibling_conflicts() -> None:
    """A cap of 0 means what the node does: all of them."""
    siblings = tuple(f"s-{number}" for number in range(150))
    batch = plan([admitted()], {KEY: Siblings(siblings, 150)}, max_conflicts=0)
    assert [b for _, b in pairs(batch)] == list(siblings)
    assert batch.counts.conflicts_capped == 0


@pytest.mark.parametrize(
    "fact",
    [
        {"entity": "stigmem:conflict:1"},
        {"relation": "stigmem:received_from"},
        {"entity": "stigmem:"},
        {"entity": "a\x00b"},
        {"relation": "\x00"},
    ],
)
def test_some_names_never_conflict(fact: dict[str, Any]) -> None:
    """Bookkeeping and names that no lookup finds: only the fact and its meta fact are written."""
    batch = plan([admitted("f-1", **fact), admitted("f-2", **fact)])
    assert (len(batch.facts), batch.conflicts, batch.sibling_counts) == (4, [], {})


@pytest.mark.parametrize("name", ["stigmem://acme/x", "stigmemory", "x:stigmem:y"])
def test_other_names_do_conflict(name: str) -> None:
    """A URI of the stigmem scheme is a name like any other."""
    verdict = admitted(entity=name, relation=name).verdict
    assert isinstance(verdict, Admit)
    assert conflict_key(verdict) == ConflictKey("default", name, name, "public")


def test_facts_of_another_key_do_not_conflict() -> None:
    """Tenant, entity, relation and scope must all be the same."""
    batch = plan(
        [
            admitted("f-1"),
            admitted("f-2", tenant="acme"),
            admitted("f-3", entity="other"),
            admitted("f-4", relation="other"),
            admitted("f-5", scope="company"),
        ]
    )
    assert batch.conflicts == []
    assert list(batch.sibling_counts.values()) == [0] * 5


def test_a_retraction_contradicts_but_is_not_contradicted() -> None:
    """A fact of confidence zero conflicts with what stands, and nothing conflicts with it."""
    batch = plan(
        [admitted("f-1"), admitted("f-2", confidence=0.0), admitted("f-3")],
    )
    assert pairs(batch) == [("f-2", "f-1"), ("f-3", "f-1")]
    assert batch.standing == {KEY: Siblings(("f-3", "f-1"), 2)}


# other verdicts


def test_a_duplicate_writes_nothing() -> None:
    """What is here already is only counted."""
    batch = plan([Judged("f-1", Duplicate("f-1"))])
    assert batch == Batch(entries=1, counts=Counts(duplicates=1))


def test_a_rejected_entry_becomes_a_dead_letter() -> None:
    """The letter keeps the entry, why it was refused, and under which policy and keys."""
    item = rejected("f-1", Reason.ORIGIN_SIG_INVALID)
    batch = plan([item])
    assert batch.dead_letters == [
        {
            "node_id": SENDER,
            "stream": "facts",
            "entry_id": "f-1",
            "reason": "origin_sig_invalid",
            "detail": "why origin_sig_invalid",
            "payload": '{"fact":{"id":"f-1"}}',
            "payload_hash": item.payload_hash,
            "generation": "g1",
            "first_seen_at_ms": NOW_MS,
            "last_seen_at_ms": NOW_MS,
            "times_seen": 1,
            "status": "open",
        }
    ]
    assert batch.counts == Counts(rejected={Reason.ORIGIN_SIG_INVALID: 1})
    assert batch.facts == []


@pytest.mark.parametrize(
    "reason", [reason for reason in ENTRY_REASONS if reason is not Reason.WAITING_FOR_TOMBSTONE]
)
def test_every_rejection_is_audited_as_the_node_allows(reason: Reason) -> None:
    """The federation audit has a closed list of events; one outside it would fail the page."""
    batch = plan([rejected("f-1", reason, scope="team")])
    (row,) = batch.federation_audit
    assert row["event_type"] in FEDERATION_AUDIT_EVENTS
    scoped = {"scope_not_in_origin_grant", "invalid_scope", "scope_not_permitted"}
    assert row["event_type"] == ("scope_violation" if reason in scoped else "rejected_fact")
    assert (row["id"], row["peer_id"], row["ts"]) == ("id-1", PEER_ID, NOW.isoformat())
    detail = {"fact_id": "f-1", "reason": reason.value, "node_id": SENDER}
    if reason in scoped:
        detail["scope"] = "team"
    assert json.loads(str(row["detail"])) == detail


def test_what_only_came_too_early_is_kept_and_not_audited() -> None:
    """A revocation that waits for its tombstone is no refusal that the node's audit knows."""
    batch = plan([rejected("r-1", Reason.WAITING_FOR_TOMBSTONE)])
    assert [letter["reason"] for letter in batch.dead_letters] == ["waiting_for_tombstone"]
    assert (batch.federation_audit, batch.fact_audit) == ([], [])
    assert batch.counts == Counts(rejected={Reason.WAITING_FOR_TOMBSTONE: 1})


@pytest.mark.parametrize(
    ("reason", "event", "facts"),
    [
        (Reason.CID_MISMATCH, "federation_integrity_rejected", {"stored_cid": "a"}),
        (Reason.CID_LEGACY, "federation_integrity_rejected", {"stored_cid": "a"}),
        (Reason.NUMBER_NOT_REPRODUCIBLE, "federation_integrity_rejected", {"stored_cid": "a"}),
        (Reason.WIRE_ID_COLLISION, "federation_integrity_rejected", {"computed_cid": "b"}),
        (
            Reason.VALID_UNTIL_EXTENSION,
            "federation_valid_until_extension_rejected",
            {"stored_valid_until": None},
        ),
        (Reason.TENANT_POLICY_UNSAFE, "federation_tenant_policy_rejected", {}),
        (Reason.HLC_SKEW, "peer_hlc_anomaly", {"direction": "past", "skew_ms": -7}),
    ],
)
def test_these_rejections_are_in_the_fact_audit_too(
    reason: Reason, event: str, facts: dict[str, object]
) -> None:
    """Integrity, extension, tenant and clock are what the node records beside the federation."""
    (row,) = plan([rejected("f-1", reason, **facts)]).fact_audit
    detail = {"sender_node_id": SENDER, **facts}
    if reason is not Reason.HLC_SKEW:
        detail["reason"] = reason.value
    assert json.loads(str(row.pop("detail"))) == detail
    assert row == {
        "id": "id-2",
        "fact_id": "f-1",
        "event_type": event,
        "entity_uri": "system:federation",
        "source": SENDER,
        "ts": NOW.isoformat(),
        "tenant_id": "default",
    }


def test_other_rejections_are_not_in_the_fact_audit() -> None:
    """A bad signature says nothing of the fact that it claims to be of."""
    assert plan([rejected("f-1", Reason.ORIGIN_SIG_INVALID)]).fact_audit == []


@pytest.mark.parametrize(("touch", "touched"), [(False, []), (True, ["f-1"])])
def test_an_entry_that_was_refused_before_is_counted_now_and_then(
    touch: object, touched: list[str]
) -> None:
    """It is no new letter and no new audit row; its letter is counted when told so."""
    batch = plan([Judged("f-1", RefusedBefore(Reason.CID_LEGACY, touch=bool(touch)))])
    assert batch.touched_letters == touched
    assert (batch.dead_letters, batch.federation_audit, batch.fact_audit) == ([], [], [])
    assert batch.counts == Counts(refused_before={Reason.CID_LEGACY: 1})
    assert batch.rows() == len(touched)


def test_an_admitted_entry_settles_its_dead_letter() -> None:
    """What is admitted at last is no longer an open letter; others stay as they are."""
    batch = plan([admitted("f-1"), admitted("f-2", entity="x")], open_letters=["f-2", "f-3"])
    assert batch.settled_letters == ["f-2"]
    assert batch.admitted_ids == ["f-1", "f-2"]


def test_counts_add_up() -> None:
    """Totals of two pages are the sums of both, reason by reason."""
    one = Counts(1, 2, {Reason.HLC_SKEW: 1}, {Reason.CID_LEGACY: 2}, 3, 4)
    other = Counts(10, 20, {Reason.HLC_SKEW: 5, Reason.CID_MISMATCH: 1}, {}, 30, 40)
    assert one + other == Counts(
        11, 22, {Reason.HLC_SKEW: 6, Reason.CID_MISMATCH: 1}, {Reason.CID_LEGACY: 2}, 33, 44
    )


# transactions


@pytest.mark.parametrize(
    ("budget", "entries", "rows"), [(1, 1, 2), (2, 1, 2), (3, 2, 4), (4, 2, 4), (5, 3, 6)]
)
def test_a_batch_ends_at_a_whole_entry(budget: int, entries: int, rows: int) -> None:
    """An entry is never split, and the batch ends with the entry that reaches the budget."""
    judged = [admitted(f"f-{n}", entity=f"e-{n}") for n in range(5)]
    batch = plan(judged, budget=budget)
    assert (batch.entries, batch.rows()) == (entries, rows)


def test_nothing_planned_is_an_empty_batch() -> None:
    """A page without entries is one batch without rows, which may still move the cursor."""
    assert plan([]) == Batch()


def transactions(
    judged: Sequence[Judged],
    siblings: Mapping[ConflictKey, Siblings],
    max_conflicts: int,
    budget: int,
) -> Iterator[Batch]:
    done = 0
    while done < len(judged):
        batch = plan(judged[done:], siblings, max_conflicts=max_conflicts, budget=budget)
        assert batch.entries >= 1
        yield batch
        done, siblings = done + batch.entries, batch.standing


@dataclass(slots=True)
class Written:
    """What batches write in order, without the ids that are made for it."""

    facts: list[Row] = field(default_factory=list)
    conflicts: list[tuple[object, object]] = field(default_factory=list)
    letters: list[object] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def add(self, batch: Batch) -> None:
        for row in batch.facts:
            values = dict(row.values)
            if str(values["entity"]).startswith("stigmem:conflict:"):
                values["entity"] = "a conflict"
            if values["source"] == "system:stigmem":
                values["id"] = "an id"
            self.facts.append(values)
        self.conflicts += pairs(batch)
        self.letters += [row["entry_id"] for row in batch.dead_letters]
        self.counts += batch.counts


names = st.sampled_from(["a", "b", "stigmem:own"])
kinds = st.sampled_from(["admit", "admit", "retract", "reject", "duplicate"])


def made(specs: Sequence[tuple[str, str]]) -> list[Judged]:
    judged = []
    for number, (kind, name) in enumerate(specs):
        fact_id = f"f-{number}"
        if kind == "reject":
            judged.append(rejected(fact_id))
        elif kind == "duplicate":
            judged.append(Judged(fact_id, Duplicate(fact_id)))
        else:
            confidence = 1.0 if kind == "admit" else 0.0
            judged.append(admitted(fact_id, entity=name, confidence=confidence))
    return judged


@settings(deadline=None)
@given(
    st.lists(st.tuples(kinds, names), max_size=12),
    st.integers(min_value=0, max_value=3),
    st.integers(min_value=1, max_value=40),
    st.integers(min_value=0, max_value=5),
)
def test_many_transactions_write_what_one_would(
    specs: list[tuple[str, str]], max_conflicts: int, budget: int, standing: int
) -> None:
    """However a page is cut, the same rows are written in the same order."""
    judged = made(specs)
    kept = min(standing, max_conflicts or standing)
    before = Siblings(tuple(f"s-{n}" for n in range(kept)), standing)
    siblings = {ConflictKey("default", "a", "memory:role", "public"): before} if standing else {}
    whole, cut = Written(), Written()
    whole.add(plan(judged, siblings, max_conflicts=max_conflicts))
    for batch in transactions(judged, siblings, max_conflicts, budget):
        cut.add(batch)
        heaviest = 2 + 3 * (max_conflicts or standing + len(judged))
        assert batch.rows() < budget + max(heaviest, 3)
    assert cut == whole
    assert whole.counts.admitted == sum(kind in ("admit", "retract") for kind, _ in specs)


@settings(deadline=None)
@given(st.lists(st.tuples(kinds, names), max_size=12), st.integers(min_value=1, max_value=40))
def test_each_transaction_expects_what_the_one_before_it_left(
    specs: list[tuple[str, str]], budget: int
) -> None:
    """The number of facts under a key that a batch demands is what is there when it begins."""
    there: dict[ConflictKey, int] = {}
    for batch in transactions(made(specs), {}, 100, budget):
        assert batch.sibling_counts == {key: there.get(key, 0) for key in batch.sibling_counts}
        there |= {key: siblings.count for key, siblings in batch.standing.items()}
    counted: dict[str, int] = {}
    for kind, name in specs:
        if kind == "admit" and not name.startswith("stigmem:"):
            counted[name] = counted.get(name, 0) + 1
    assert {key.entity: count for key, count in there.items()} == counted


def test_an_entry_planned_alone_is_one_even_where_it_writes_nothing() -> None:
    """What the database says of such a batch is said of that entry and no other."""
    judged = [Judged("f-0", Duplicate("f-0")), admitted("f-1")]
    batch = plan_batch(judged, {}, (), context(), NO_BUDGET, alone=True)
    assert (batch.entries, batch.rows()) == (1, 0)
