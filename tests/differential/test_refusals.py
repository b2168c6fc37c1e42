"""What we refuse the node refuses too, and a refusal leaves no row that the node would not leave.

One page with an entry for every reason. The node's loop mostly dies of them; it is started again
for each entry, so that both sides judge them all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.differential.conftest import make_both
from tests.differential.differences import (
    FINER_REASONS,
    RECORDED_ONCE,
    REFUSALS_ON_RECORD,
    TENANT_REFUSALS,
    UNAGREED_SCOPES,
    UNREADABLE_TIMES,
    WHOLE_NUMBERS,
    WORDS_FOR_EXTENSION,
    mistyped,
)
from tests.differential.pen import Pen, content_id, legacy_content_id, page
from tests.differential.rows import Dump, assert_same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.differential.conftest import Both, Fed, World
    from tests.differential.pen import JsonObject

SKIPPED = None  # the node's loop goes on past the entry, whether it stored it or not
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Case:
    """One entry and what becomes of it: `node_ends` is how the node's loop dies of it."""

    entry: object
    node_ends: str | None
    ours: str
    """The reason of the dead letter, or `stored`, or `known`."""
    node_stores: bool = False

    @property
    def fact_id(self) -> str | None:
        fact = self.entry.get("fact") if isinstance(self.entry, dict) else None
        found: str | None = fact.get("id") if isinstance(fact, dict) else None
        return found or None


class Story:
    """The facts that come first, and the cases that follow them."""

    def __init__(self, pen: Pen) -> None:
        self.pen = pen
        self.first: list[JsonObject] = []
        self.cases: dict[str, Case] = {}
        self._whole()
        self._tampered_with()
        self._not_granted()
        self._known()
        self._out_of_time()
        self._malformed()
        self._mistyped()

    def pages(self) -> tuple[bytes, bytes]:
        """The first facts, and the cases with a good fact after every fifth."""
        entries: list[object] = []
        for number, case in enumerate(self.cases.values()):
            entries.append(case.entry)
            if number % 5 == 4:
                entries.append(self.pen.sign(self.pen.fact(f"good:{number}")))
        last = self.pen.fact("good:last")
        return (
            page([self.pen.sign(fact) for fact in self.first], cursor=self.first[-1]["hlc"]),
            page([*entries, self.pen.sign(last)], cursor=last["hlc"]),
        )

    def _case(
        self,
        name: str,
        entry: object,
        node_ends: str | None,
        ours: str,
        *,
        node_stores: bool = False,
    ) -> None:
        assert name not in self.cases
        self.cases[name] = Case(entry, node_ends, ours, node_stores)

    def _changed(self, name: str, **fields: object) -> JsonObject:
        """A fact with fields replaced and a content id that fits them."""
        fact = {**self.pen.fact(f"case:{name}"), **fields}
        fact["cid"] = content_id(fact)
        return fact

    def _whole(self) -> None:
        pen = self.pen
        stored = {"ours": "stored", "node_stores": True}
        self._case("plain", pen.sign(pen.fact("case:plain")), SKIPPED, **stored)  # type: ignore[arg-type]
        twice = pen.sign(pen.fact("case:twice"))
        self._case("twice on a page", twice, SKIPPED, **stored)  # type: ignore[arg-type]
        self._case("its second time", twice, SKIPPED, **stored)  # type: ignore[arg-type]
        whole = pen.fact("case:whole", value=42, type="number")
        self._case("whole number as JSON integer", pen.sign(whole), SKIPPED, **stored)  # type: ignore[arg-type]
        served = pen.fact("case:served", value=43, type="number")
        served["value"]["v"] = 43.0
        self._case("whole number as served", pen.sign(served), "IntegrityError", "stored")
        for kind, value in (("boolean", True), ("null", None), ("number", -0.0)):
            fact = pen.fact(f"case:{kind}", value=value, type=kind)
            self._case(f"a {kind}", pen.sign(fact), SKIPPED, **stored)  # type: ignore[arg-type]

    def _tampered_with(self) -> None:
        pen = self.pen
        other_key = Ed25519PrivateKey.generate()
        invalid = "origin_sig_invalid"
        self._case(
            "signed by another key", pen.sign(pen.fact("x:1"), by=other_key), SKIPPED, invalid
        )
        longer = pen.sign(pen.fact("x:2", valid_until="2030-01-01T00:00:00Z"))
        longer["fact"]["valid_until"] = "2031-01-01T00:00:00Z"
        self._case("valid_until changed after signing", longer, SKIPPED, invalid)
        nowhere = pen.sign(pen.fact("x:3"), entity_uri="")
        self._case("no organisation", nowhere, SKIPPED, invalid)
        garbled = {**pen.sign(pen.fact("x:4")), "origin_sig": "not base64!"}
        self._case("signature that does not decode", garbled, SKIPPED, invalid)
        changed = pen.sign(pen.fact("x:5"))
        changed["fact"]["value"]["v"] = "changed after signing"
        self._case("value changed after signing", changed, "IntegrityError", "cid_mismatch")
        legacy = pen.fact("x:6")
        legacy["cid"] = legacy_content_id(legacy)
        self._case("content id of wire 1", pen.sign(legacy), "IntegrityError", "cid_legacy")
        spelled = pen.fact("x:7", value="007", type="number")
        spelled["value"]["v"] = 7.0
        number = "number_not_reproducible"
        self._case("number in its own spelling", pen.sign(spelled), "IntegrityError", number)

    def _not_granted(self) -> None:
        pen = self.pen
        relayed = pen.sign(pen.fact("y:1"), node_id="stigmem:node:another")
        self._case("of another origin", relayed, SKIPPED, "origin_not_sender")
        narrow = pen.sign(pen.fact("y:2"), allowed_scopes=["company"])
        self._case("scope outside the grant", narrow, SKIPPED, "scope_not_in_origin_grant")
        galaxy = pen.sign(pen.fact("y:3", scope="galaxy"), allowed_scopes=["galaxy"])
        self._case("unknown scope", galaxy, SKIPPED, "invalid_scope")
        for scope in ("team", "local"):
            beyond = pen.sign(pen.fact(f"y:{scope}", scope=scope), allowed_scopes=[scope])
            self._case(f"{scope} scope", beyond, SKIPPED, "scope_not_permitted", node_stores=True)
        outside = pen.sign(pen.fact("y:4"), allowed_tenants=["another"])
        self._case("tenant outside the grant", outside, SKIPPED, "tenant_not_in_origin_grant")
        foreign = pen.sign(pen.fact("y:5"), tenant="another", allowed_tenants=["another"])
        self._case("tenant without policy", foreign, "IntegrityError", "tenant_policy_unsafe")
        advice = pen.fact("y:6", interpret_as="advice")
        reason = "invalid_interpret_as"
        self._case("unknown interpretation", pen.sign(advice), reason, reason)
        reason = "quarantine_garden_required"
        for number, fact in enumerate(
            (
                pen.fact("y:7", interpret_as="instruction"),
                pen.fact("instruction:y"),
                pen.fact("y:8", "instruction:do"),
            )
        ):
            self._case(f"instruction {number}", pen.sign(fact), reason, reason)

    def _known(self) -> None:
        pen = self.pen

        def known(name: str, until: str | None = None) -> JsonObject:
            fact = pen.fact(f"known:{name}", valid_until=until)
            self.first.append(fact)
            return dict(fact)

        self._case("known", pen.sign(known("same")), SKIPPED, "known", node_stores=True)
        year = "2030-01-01T00:00:00+00:00"
        for name, until, ends, ours in (
            ("earlier", "2029-12-31T23:59:59Z", SKIPPED, "known"),
            ("the same moment", "2030-01-01T01:00:00+01:00", SKIPPED, "known"),
            ("later", "2030-01-01T00:00:01Z", "Extension", "valid_until_extension"),
            ("never", None, "Extension", "valid_until_extension"),
            ("unreadable", "some day", "ValueError", "valid_until_extension"),
        ):
            fact = known(name, year)
            fact["valid_until"] = until
            self._case(f"valid until {name}", pen.sign(fact), ends, ours, node_stores=True)
        open_ended = known("open ended")
        open_ended["valid_until"] = year
        self._case("shortened", pen.sign(open_ended), SKIPPED, "known", node_stores=True)
        taken = known("taken")
        taken["value"] = {**taken["value"], "v": "another"}
        taken["cid"] = content_id(taken)
        reason = "wire_id_collision"
        self._case("id taken", pen.sign(taken), "IntegrityError", reason, node_stores=True)

    def _out_of_time(self) -> None:
        for name, offset in (("past", -31 * DAY_MS), ("future", 600_000)):
            fact = self.pen.fact(f"time:{name}")
            fact["hlc"] = f"{self.pen.wall_ms + offset}.0"
            self._case(f"{name} clock", self.pen.sign(fact), "HlcSkewError", "hlc_skew")

    def _malformed(self) -> None:
        pen, missing = self.pen, "missing_origin_block"
        self._case("not an object", 7, SKIPPED, "malformed_entry")
        self._case("no fact", {**pen.sign(pen.fact("z:1")), "fact": None}, SKIPPED, missing)
        self._case("no origin", {**pen.sign(pen.fact("z:2")), "origin": []}, SKIPPED, missing)
        self._case(
            "no signature", {**pen.sign(pen.fact("z:3")), "origin_sig": ""}, SKIPPED, missing
        )
        partial = pen.sign(pen.fact("z:4"))
        del partial["origin"]["allowed_tenants"]
        self._case("half an origin", partial, SKIPPED, missing)
        self._case("no id", pen.sign({**pen.fact("z:5"), "id": ""}), SKIPPED, "id_required")
        self._case(
            "no content id", pen.sign({**pen.fact("z:6"), "cid": None}), SKIPPED, "cid_required"
        )
        blob = {"type": "blob", "v": "x", "interpret_as": "content"}
        for name, ends, fields in (
            ("HLC that is none", "ValueError", {"hlc": "yesterday"}),
            ("confidence above one", "IntegrityError", {"confidence": 1.5}),
            ("unknown type", "IntegrityError", {"value": blob}),
            ("number for entity", "AttributeError", {"entity": 5}),
            ("half a character", "UnicodeEncodeError", {"entity": "case:\ud800"}),
        ):
            self._case(name, pen.sign(self._changed(name, **fields)), ends, "malformed_fact")
        timeless = pen.fact("z:7")
        del timeless["timestamp"]
        self._case("no timestamp", pen.sign(timeless), "KeyError", "malformed_fact")

    def _mistyped(self) -> None:
        content = {"interpret_as": "content"}
        for name, fields in (
            ("one for true", {"value": {"type": "boolean", "v": 1, **content}}),
            ("number for text", {"value": {"type": "string", "v": 5, **content}}),
            ("no value", {"value": {"type": "text", **content}}),
            ("number for timestamp", {"timestamp": 5}),
            ("text for confidence", {"confidence": "0.5"}),
        ):
            entry = self.pen.sign(self._changed(name, **fields))
            self._case(name, entry, SKIPPED, "malformed_fact", node_stores=True)

    def mistyped(self) -> set[str]:
        """Ids of facts that only the node stores, because their JSON has the wrong type."""
        return {
            case.fact_id
            for case in self.cases.values()
            if case.ours == "malformed_fact" and case.node_stores and case.fact_id
        }


@dataclass(frozen=True, slots=True)
class Told:
    """The story, told to both sides."""

    story: Story
    both: Both
    pages: tuple[bytes, bytes]
    fed: Fed

    def ending(self, name: str) -> str | None:
        """How the node's loop ended at a case."""
        place = list(self.story.cases).index(name)
        return self.fed.ended[place + place // 5]

    def ours(self, case: Case) -> set[str]:
        """What we made of a case: the reasons of its dead letter, or that there is a fact."""
        letters = self.both.our_rows(
            "SELECT reason FROM replicator_dead_letters"
            " WHERE entry_id = ?1 OR (?1 = '' AND entry_id LIKE 'unidentified:%')",
            case.fact_id or "",
        )
        facts = self.both.our_rows("SELECT 1 FROM facts WHERE id = ?", case.fact_id or "")
        return {row["reason"] for row in letters} | ({"stored"} if facts else set())


@pytest.fixture(scope="module")
def told(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    both = make_both(world, tmp_path_factory.mktemp("refusals"), {}, {})
    story = Story(Pen.of(world.pair.origin))
    pages = story.pages()
    first = both.feed(pages[:1])
    assert first.code == 0
    assert not any(first.ended)
    yield Told(story, both, pages, both.feed(pages[1:]))
    both.close()


CASES = list(Story(Pen("stigmem:node:x", "http://x", Ed25519PrivateKey.generate())).cases)


@pytest.mark.parametrize("name", CASES)
def test_each_reason(told: Told, name: str) -> None:
    """The node stores or refuses the entry as written here, and we as written here."""
    case = told.story.cases[name]
    ending = told.ending(name)
    assert (case.node_ends or "None") in str(ending)
    at_node = told.both.node_rows("SELECT 1 FROM facts WHERE id = ?", case.fact_id or "")
    assert bool(at_node) == case.node_stores
    made = told.ours(case)
    if case.ours in ("known", "stored"):
        assert made == {"stored"}
    else:
        assert case.ours in made
        assert ("stored" in made) == (case.fact_id in {fact["id"] for fact in told.story.first})


def test_every_row_is_accounted_for(told: Told) -> None:
    """After all of them the two databases are equal but for what has a reason to differ."""
    assert told.fed.code == 0
    assert_same(told.both.node_database, told.both.our_database, _allowed(told))


def test_served_again_nothing_changes(told: Told) -> None:
    """The same page once more adds nothing on our side; the node records refusals once more."""
    before = _tables(told.both)
    again = told.both.feed(told.pages[1:])
    assert (again.code, again.summary["new"], again.summary["rejected"]) == (0, 0, {})
    assert _tables(told.both) == before
    assert_same(told.both.node_database, told.both.our_database, [RECORDED_ONCE, *_allowed(told)])


def _tables(both: Both) -> dict[str, Any]:
    """Our side but for the peers, whose URL is that of each page server."""
    tables = Dump(both.our_database).tables
    return {name: rows for name, rows in tables.items() if name != "peers"}


def _allowed(told: Told) -> list[Any]:
    return [
        WHOLE_NUMBERS,
        UNAGREED_SCOPES,
        mistyped(told.story.mistyped()),
        REFUSALS_ON_RECORD,
        TENANT_REFUSALS,
        FINER_REASONS,
        WORDS_FOR_EXTENSION,
        UNREADABLE_TIMES,
    ]


def test_a_sender_that_may_not_relay(both_with: Callable[..., Both], pen: Pen) -> None:
    """Where relaying is on, a sender that is not trusted to relay is refused all the same."""
    both = both_with({"FEDERATION_RELAY_ENABLED": "true"})
    own, relayed = pen.fact("relay:own"), pen.fact("relay:other")
    entries = [pen.sign(own), pen.sign(relayed, node_id="stigmem:node:another")]
    fed = both.feed([page(entries, cursor=relayed["hlc"])])
    assert fed.ended == [None, None]
    assert fed.summary["rejected"] == {"relay_sender_not_trusted": 1}
    assert_same(both.node_database, both.our_database, [REFUSALS_ON_RECORD])


def test_an_origin_without_organisation(both: Both, pen: Pen) -> None:
    """A peer whose keys cannot be told is blocked, its cursor kept; the node skips its facts."""
    both.alter("UPDATE peers SET entity_uri = NULL")
    fact = pen.fact("lost:x")
    fed = both.feed([page([pen.sign(fact)], cursor=fact["hlc"])])
    assert fed.ended == [None]
    assert fed.code == 9
    assert fed.summary["error"]["reason"] == "origin_unresolvable"
    assert both.our_rows("SELECT 1 FROM replication_cursors") == []
    (row,) = both.node_rows("SELECT cursor FROM replication_cursors")
    assert row["cursor"] == fact["hlc"]
    node, ours = Dump(both.node_database), Dump(both.our_database)
    node.take("replication_cursors", lambda _row: True)
    assert json.dumps(node.tables, sort_keys=True) == json.dumps(ours.tables, sort_keys=True)
    assert node["facts"] == []
