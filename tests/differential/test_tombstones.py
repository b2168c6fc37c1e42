"""Tombstones and revocations: what the node's own functions store, we store, row for row.

Both wire versions, both backends. Each side takes the same pages once; the tests then look at
what became of them.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.differential import tombstone_differences as whys
from tests.differential.tombstone_cases import REVOCATIONS, TOMBSTONES, Case, Outcome, page_of
from tests.differential.tombstone_differences import (
    node_stores,
    refusals_on_record,
    signed_later,
    we_store,
)
from tests.differential.tombstone_rows import RECORDS, Difference, Rows, assert_same
from tests.differential.tombstone_sides import (
    Ours,
    Served,
    Sql,
    Step,
    Switch,
    manifest_stored,
    sides_of,
)
from tests.differential.tombstone_story import Story
from tests.nodes.environment import node_environment

if TYPE_CHECKING:
    from tests.nodes.postgres import PostgresServer

WAITING = "waiting_for_tombstone"
SIDES = [
    pytest.param((version, backend), id=f"{version}-{backend}")
    for version in ("0.9.0a12", "0.9.0a10")
    for backend in ("sqlite", "postgres")
]
SIGNED = pytest.mark.parametrize("told", SIDES[:2], indirect=True)
"""For what only wire version 2 has."""


Said = dict[str, list[str | None]]


@dataclass(frozen=True, slots=True)
class Told:
    """The story, told to both sides."""

    version: int
    story: Story
    said: dict[str, Said | None]
    """What the node's functions said of the entries of a page, by the page's name."""
    made: dict[str, Ours | None]
    """What we made of a page."""
    theirs: Rows
    """What the node has in the end."""
    ours: Rows

    def cases(self, *pages: list[Case]) -> list[tuple[Case, Outcome]]:
        """The records of pages that this version serves, each with what is expected of it."""
        found = ((case, case.outcome(self.version)) for page in pages for case in page)
        return [(case, outcome) for case, outcome in found if outcome is not None]

    def words(self, page: str) -> dict[str, list[str]]:
        said = self.said[page]
        assert said is not None
        return {stream: [word or "" for word in words] for stream, words in said.items()}

    def made_of(self, page: str) -> Ours:
        made = self.made[page]
        assert made is not None
        return made

    def letters(self, page: str) -> dict[str, str]:
        """The dead letters after a page: id to reason."""
        return {row["entry_id"]: row["reason"] for row in self.made_of(page).letters}


@pytest.fixture(scope="module", params=SIDES)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    number, backend = request.param
    version = 2 if number == "0.9.0a12" else 1
    postgres: PostgresServer | None = None
    if backend == "postgres":
        postgres = request.getfixturevalue("postgres_server")
    folder = tmp_path_factory.mktemp("tombstones")
    with sides_of(node_environment(number), version, folder, postgres) as sides:
        story = Story(sides.origin, sides.keys, on_sqlite=postgres is None)
        steps = _steps(story, version)
        said = sides.node_takes(list(steps.values()))
        made = sides.we_take(list(steps.values()))
        return Told(
            version,
            story,
            dict(zip(steps, said, strict=True)),
            dict(zip(steps, made, strict=True)),
            Rows(sides.theirs),
            Rows(sides.ours),
        )


def _steps(story: Story, version: int) -> dict[str, Step]:
    """What both sides go through, each step by its name."""

    def page(cases: list[Case]) -> Served:
        return page_of([case for case in cases if case.outcome(version) is not None], version)

    steps: dict[str, Step] = {
        **{str(number): manifest_stored(given) for number, given in enumerate(story.manifests())},
        "first": page(story.first),
        "good": page(story.good),
        "good again": page(story.good),
        "bad": page(story.bad),
        "bad again": page(story.bad),
        "late manifest": manifest_stored(story.late.manifest),
        "last": page(story.last),
    }
    if version == 2:
        steps |= {
            "pinned": Sql("UPDATE peers SET ingest_tenant = 'acme'"),
            "unsafe": page(story.tenants[:1]),
            "plugin": Switch("multi_tenant", on=True),
            "safe": page(story.tenants[1:]),
            "relay": Switch("relay", on=True),
            "relayed": page(story.relayed),
            "unbound": Sql("UPDATE peers SET entity_uri = NULL"),
            "unresolvable": page(story.unresolvable),
        }
    return steps


def test_good_ones_meet_no_objection(told: Told) -> None:
    """Neither side refuses any, and in both they stand in the same order."""
    for page in ("first", "good"):
        assert not any(word for words in told.words(page).values() for word in words)
        assert (told.made_of(page).failure, told.letters(page)) == (None, {})
    good = [case.record_id for case, _ in told.cases(told.story.first, told.story.good)]
    for table in RECORDS:
        theirs, mine = (
            [record_id for record_id in side.ids(table) if record_id in good]
            for side in (told.theirs, told.ours)
        )
        assert theirs == mine
        assert len(theirs) > 5


def test_each_bad_one_is_refused_for_its_reason(told: Told) -> None:
    """What the node's function says and what we say is as written down, record for record."""
    words = {stream: iter(said) for stream, said in told.words("bad").items()}
    letters = told.letters("bad")
    theirs, mine = ({*_ids(side)} for side in (told.theirs, told.ours))
    wrong = []
    for case, expected in told.cases(told.story.bad):
        found = Outcome(
            letters.get(case.letter_id(told.version), ""),
            next(words[case.stream]),
            stored=case.record_id in theirs,
            here=case.record_id in mine,
            why=expected.why,
        )
        if found != expected:
            wrong.append(f"{case.name}: {found}, expected {expected}")
        if (found.ours, found.stored) != (found.node, found.here):
            assert expected.why, case.name
    assert not wrong, "\n".join(wrong)


def _ids(rows: Rows) -> list[str]:
    return [record_id for table in RECORDS for record_id in rows.ids(table)]


def test_every_row_is_accounted_for(told: Told) -> None:
    """The tables are equal on both sides but for what has a reason to differ."""
    assert_same(deepcopy(told.theirs), deepcopy(told.ours), _allowed(told))


def _allowed(told: Told) -> list[Difference]:
    parted: dict[tuple[bool, str], set[str]] = {}
    for case, outcome in told.cases(told.story.bad):
        if outcome.stored != outcome.here and case.record_id is not None:
            parted.setdefault((outcome.stored, outcome.why), set()).add(case.record_id)
    allowed = [
        (node_stores if at_node else we_store)(why, ids) for (at_node, why), ids in parted.items()
    ]
    pending = {case.record_id for case, _ in told.cases(told.story.last) if case.record_id}
    if told.version == 1:
        allowed.append(signed_later(pending))
    allowed.append(refusals_on_record(_refusals(told)))
    return allowed


def _refusals(told: Told) -> Counter[tuple[str, str]]:
    """What the audit must say of refusals: once each, and nothing of what merely waits."""
    return Counter(
        (case.letter_id(told.version), outcome.ours)
        for case, outcome in told.cases(told.story.bad, told.story.relayed)
        if outcome.ours not in ("", WAITING)
    )


def test_served_again_nothing_changes(told: Told) -> None:
    """Good ones are known by their ids and signatures, bad ones by their dead letters."""
    assert not any(word for words in told.words("good again").values() for word in words)
    counts = told.made_of("good again").report.counts
    assert (counts.admitted, counts.duplicates) == (0, len(told.story.good))
    counts = told.made_of("bad again").report.counts
    assert (counts.admitted, counts.rejected) == (0, {})
    assert told.letters("bad again") == told.letters("bad")
    assert sum(counts.refused_before.values()) > 40


def test_what_waited_is_settled(told: Told) -> None:
    """Once key and tombstone are here, the letters of what waited for them are resolved."""
    status = {row["entry_id"]: row["status"] for row in told.made_of("last").letters}
    for case, outcome in told.cases(told.story.bad):
        if outcome.ours and outcome.here and outcome.why != whys.TAKEN:
            assert status[case.letter_id(told.version)] == "resolved", case.name


@SIGNED
def test_a_pinned_tenant(told: Told) -> None:
    """A pin that the node cannot keep lets nothing in; one that it can says the tenant."""
    assert told.words("unsafe")[TOMBSTONES] == ["PeerPolicyError"]
    assert told.made_of("unsafe").failure == "tenant_policy_unsafe"
    assert told.words("safe") == {TOMBSTONES: [""], REVOCATIONS: [""]}
    assert told.made_of("safe").failure is None
    tenants = Counter(row["tenant_id"] for row in told.ours.tables[RECORDS[0]])
    assert tenants["acme"] == 1


@SIGNED
def test_a_sender_that_may_not_relay(told: Told) -> None:
    """Where relaying is on, a sender that is not trusted to relay is refused all the same."""
    words, letters = told.words("relayed"), told.letters("relayed")
    for case, expected in told.cases(told.story.relayed):
        assert words[case.stream] == [expected.node]
        assert letters[case.letter_id(told.version)] == expected.ours


@SIGNED
def test_an_origin_without_organisation(told: Told) -> None:
    """Both take nothing from a peer whose keys cannot be told; ours waits for an operator."""
    assert told.words("unresolvable")[TOMBSTONES] == ["origin_unresolvable"]
    assert told.made_of("unresolvable").failure == "origin_unresolvable"
