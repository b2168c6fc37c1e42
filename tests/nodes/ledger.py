"""The oracle for facts: what was asserted at the origin against what the receiver holds.

The driver writes down every fact that it tries to assert and every id it got back; the verdict
then reads the receiver's database and nothing else. The ledger holds no opinion on how
the facts got there, and it looks at rows only: whether values survived is for the tests to compare.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.nodes.database import NodeDatabase, SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.nodes.bulk import Asserted
    from tests.nodes.fact_corpus import Fact

_SHOWN = 5
# A receiver may stop pairing a new fact with all siblings beyond this many.
_PAIRED_SIBLINGS = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one database says. Everything but the three counts of good news must be empty."""

    admitted: frozenset[str]
    quarantined: frozenset[str]
    refused: dict[str, str]
    """Dead letters, entry id to reason."""

    lost: frozenset[str]
    """Acknowledged, and neither admitted, quarantined nor refused."""
    duplicated: frozenset[str]
    """What is there more than once: a meta fact, a conflict pair, a dead letter."""
    unverified: frozenset[str]
    """Admitted although poisoned."""
    unexpected: frozenset[str]
    """Admitted although nobody tried to assert it."""
    incomplete: frozenset[str]
    """Admitted without what belongs to it: its meta fact, a conflict with a sibling."""
    unjustly_refused: frozenset[str]
    """Refused although neither poisoned nor expected to be."""

    def problems(self) -> list[str]:
        """One line for every kind of problem, empty when clean."""
        kinds = ("lost", "duplicated", "unverified", "unexpected", "incomplete", "unjustly_refused")
        lines = []
        for kind in kinds:
            found = sorted(getattr(self, kind))
            if found:
                more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
                shown = ", ".join(self._describe(entry) for entry in found[:_SHOWN])
                lines.append(f"{len(found)} {kind.replace('_', ' ')}: {shown}{more}")
        return lines

    def _describe(self, entry: str) -> str:
        reason = self.refused.get(entry)
        return entry if reason is None else f"{entry} ({reason})"


@dataclass(slots=True)
class Ledger:
    """The driver's book about one origin."""

    origin_node_id: str
    attempted: set[str] = field(default_factory=set)
    """Ids that may turn up."""
    acknowledged: set[str] = field(default_factory=set)
    """Ids that must turn up."""
    poisoned: set[str] = field(default_factory=set)
    """Ids that must not be admitted."""
    refusable: set[str] = field(default_factory=set)
    """Ids that must turn up, if only as a dead letter."""
    _unanswered: set[tuple[str, ...]] = field(default_factory=set)

    def attempt(self, facts: Iterable[Fact]) -> None:
        """Write down facts before asserting them: without an answer they may exist all the same."""
        self._unanswered.update(_content(fact) for fact in facts)

    def acknowledge(self, asserted: Iterable[Asserted | str], *, refusable: bool = False) -> None:
        """Write down what the origin said it has; `refusable` if nobody could verify it."""
        ids = {entry if isinstance(entry, str) else entry.id for entry in asserted}
        self.attempted |= ids
        self.acknowledged |= ids
        if refusable:
            self.refusable |= ids

    def poison(self, ids: Iterable[str]) -> None:
        """Write down entries that were tampered with on their way."""
        self.poisoned.update(ids)

    def adopt(self, origin_database: Path | NodeDatabase) -> None:
        """Allow what the origin's database already holds, without requiring it.

        For an origin that several tests share.
        """
        rows = _opened(origin_database).query("SELECT id FROM facts WHERE received_from IS NULL")
        self.attempted.update(fact_id for (fact_id,) in rows)

    def judge(self, receiver_database: Path | NodeDatabase) -> Verdict:
        """Compare the book with the receiver's database."""
        database = _opened(receiver_database)
        rows = database.records(
            "SELECT id, entity, relation, value_type, value_v, source, scope,"
            " quarantine_status FROM facts WHERE received_from = ?",
            [self.origin_node_id],
        )
        meta_facts = _meta_facts(database, self.origin_node_id)
        refused, twice_refused = _dead_letters(database, self.origin_node_id)
        duplicated_pairs = _duplicated_pairs(database)
        unpaired = _unpaired(database, self.origin_node_id)

        present = {row["id"] for row in rows}
        quarantined = {row["id"] for row in rows if row["quarantine_status"] is not None}
        admitted = present - quarantined
        unasked = {
            row["id"]
            for row in rows
            if row["id"] not in self.attempted and _row_content(row) not in self._unanswered
        }
        return Verdict(
            admitted=frozenset(admitted),
            quarantined=frozenset(quarantined),
            refused=refused,
            lost=frozenset(self.acknowledged - self.poisoned - present - refused.keys()),
            duplicated=frozenset(
                {entity for entity, count in meta_facts.items() if count > 1}
                | twice_refused
                | duplicated_pairs
            ),
            unverified=frozenset(admitted & self.poisoned),
            unexpected=frozenset(unasked),
            incomplete=frozenset((present - meta_facts.keys()) | unpaired),
            unjustly_refused=frozenset(
                (self.acknowledged & refused.keys()) - self.poisoned - self.refusable
            ),
        )

    def assert_clean(self, receiver_database: Path | NodeDatabase) -> Verdict:
        """Fail with every problem in words, or return the verdict."""
        verdict = self.judge(receiver_database)
        problems = verdict.problems()
        if problems:
            raise AssertionError(
                f"{len(self.acknowledged)} facts acknowledged by {self.origin_node_id}, "
                f"{len(verdict.admitted)} admitted, {len(verdict.quarantined)} quarantined, "
                f"{len(verdict.refused)} refused:\n  " + "\n  ".join(problems)
            )
        return verdict


def _opened(database: Path | NodeDatabase) -> NodeDatabase:
    return SqliteDatabase(database) if isinstance(database, Path) else database


def _content(fact: Fact) -> tuple[str, ...]:
    value = _value(fact.type, fact.stored_value)
    return (fact.entity, fact.relation, fact.type, value, fact.source, fact.scope)


def _row_content(row: dict[str, Any]) -> tuple[str, ...]:
    value = _value(row["value_type"], row["value_v"])
    text = (row["entity"], row["relation"], row["value_type"], value, row["source"], row["scope"])
    return tuple(str(part) for part in text)


def _value(kind: str, stored: str) -> str:
    """The stored value, numbers in one spelling: a receiver may store 42 as 42.0."""
    if kind != "number":
        return stored
    try:
        return repr(float(stored))
    except ValueError:
        return stored


def _meta_facts(database: NodeDatabase, origin: str) -> dict[str, int]:
    rows = database.query(
        "SELECT entity, COUNT(*) FROM facts"
        " WHERE relation = 'stigmem:received_from' AND value_v = ? GROUP BY entity",
        origin,
    )
    return dict(rows)


def _duplicated_pairs(database: NodeDatabase) -> set[str]:
    rows = database.query(
        "SELECT pair FROM (SELECT CASE WHEN fact_a_id < fact_b_id"
        " THEN fact_a_id || ' with ' || fact_b_id"
        " ELSE fact_b_id || ' with ' || fact_a_id END AS pair FROM conflicts) AS pairs"
        " GROUP BY pair HAVING COUNT(*) > 1"
    )
    return {pair for (pair,) in rows}


def _unpaired(database: NodeDatabase, origin: str) -> set[str]:
    """Pairs of admitted facts of one key without a conflict between them.

    Left out: facts without confidence, which only the older of two has to have, and keys with so
    many facts that a receiver may leave pairs out.
    """
    rows = database.query(
        """
        WITH contradicting AS (
            SELECT id, entity, relation, scope, tenant_id,
                   COUNT(*) OVER (PARTITION BY entity, relation, scope, tenant_id) AS siblings
            FROM facts
            WHERE received_from = ? AND confidence > 0 AND quarantine_status IS NULL
              AND (entity NOT LIKE 'stigmem:%' OR entity LIKE 'stigmem://%')
              AND (relation NOT LIKE 'stigmem:%' OR relation LIKE 'stigmem://%')
        )
        SELECT a.id || ' without ' || b.id FROM contradicting AS a JOIN contradicting AS b
          ON a.entity = b.entity AND a.relation = b.relation AND a.scope = b.scope
         AND a.tenant_id = b.tenant_id AND a.id < b.id
        WHERE a.siblings BETWEEN 2 AND ?
          AND NOT EXISTS (SELECT 1 FROM conflicts
                          WHERE fact_a_id = a.id AND fact_b_id = b.id)
          AND NOT EXISTS (SELECT 1 FROM conflicts
                          WHERE fact_a_id = b.id AND fact_b_id = a.id)
        """,
        origin,
        _PAIRED_SIBLINGS,
    )
    return {pair for (pair,) in rows}


def _dead_letters(database: NodeDatabase, origin: str) -> tuple[dict[str, str], frozenset[str]]:
    """The refused entries with their reasons, and those refused twice."""
    if "replicator_dead_letters" not in database.tables():
        return {}, frozenset()
    rows = database.query(
        "SELECT entry_id, MAX(reason), COUNT(*) FROM replicator_dead_letters"
        " WHERE node_id = ? AND stream = 'facts' AND status <> 'resolved' GROUP BY entry_id",
        origin,
    )
    return (
        {entry_id: reason for entry_id, reason, _ in rows},
        frozenset(entry_id for entry_id, _, count in rows if count > 1),
    )
