"""What we write for good facts is what the node's own loop writes, row for row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.differential.differences import (
    CAPPED_CONFLICTS,
    FINER_REASONS,
    REFUSALS_ON_RECORD,
    TENANT_REFUSALS,
    WHOLE_NUMBERS,
    trust_by_scope,
)
from tests.differential.pen import page
from tests.differential.rows import assert_same
from tests.nodes.fact_corpus import SCOPES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.differential.conftest import Both
    from tests.differential.pen import JsonObject, Pen


def signed(pen: Pen, facts: list[JsonObject]) -> bytes:
    """One answer with these facts and no more to come."""
    return page([pen.sign(fact) for fact in facts], cursor=facts[-1]["hlc"])


def scores_of(both: Both, *sources: str) -> dict[tuple[str, str], float]:
    """What the node would score each source in each scope now."""
    keys = [(source, scope) for source in sources for scope in SCOPES]
    return dict(zip(keys, both.inside.trust_scores(keys), strict=True))


def test_the_corpus_of_a_real_origin(both: Both) -> None:
    """Every value type, odd text, contradictions and both scopes, as a real origin served them."""
    scores = scores_of(both, "agent:corpus", "agent:uncarriable")
    allowed = [WHOLE_NUMBERS, trust_by_scope(scores), REFUSALS_ON_RECORD, FINER_REASONS]

    fed = both.feed(both.world.pages)
    assert fed.code == 0
    assert fed.summary["new"] > 350
    assert fed.summary["conflicts"] > 30
    assert_same(both.node_database, both.our_database, allowed)

    both.read_again()
    again = both.feed(both.world.pages, node_too=False)
    assert (again.code, again.summary["new"], again.summary["rejected"]) == (0, 0, {})
    assert_same(both.node_database, both.our_database, allowed)


def test_contradictions_of_every_kind(both: Both, pen: Pen) -> None:
    """Conflicts are found within a page, across pages, and by the node's exceptions.

    A retraction contradicts but is not contradicted; names of the node's own never conflict,
    URIs of its scheme do; a scope or an entity more is another key.
    """
    first = [
        pen.fact("key:one", value="a"),
        pen.fact("key:one", value="b"),
        pen.fact("key:one", value="a", source="agent:another"),
        pen.fact("key:one", value="a", scope="company"),
        pen.fact("key:retracted", value="a"),
        pen.fact("key:retracted", value="a", confidence=0.0),
        pen.fact("key:retracted", value="b"),
        pen.fact("stigmem:custom", value="a"),
        pen.fact("stigmem:custom", value="b"),
        pen.fact("key:relation", "stigmem:custom", "a"),
        pen.fact("key:relation", "stigmem:custom", "b"),
        pen.fact("stigmem://acme.example/x", value="a"),
        pen.fact("stigmem://acme.example/x", value="b"),
    ]
    second = [
        pen.fact("key:one", value="c"),
        pen.fact("key:retracted", value="c", valid_until="2020-01-01T00:00:00Z"),
        pen.fact("key:retracted", value="d"),
    ]
    scores = scores_of(both, "agent:pen", "agent:another")
    fed = both.feed([signed(pen, first)])
    assert (fed.code, fed.summary["conflicts"]) == (0, 3 + 2 + 1)
    fed = both.feed([signed(pen, second)])
    assert (fed.code, fed.summary["conflicts"]) == (0, 3 + 2 + 3)
    assert_same(both.node_database, both.our_database, [trust_by_scope(scores)])


def test_clocks_of_every_kind(both: Both, pen: Pen) -> None:
    """No HLC, one ahead of ours, and one behind that all leave the same kinds of rows."""
    plain, without, ahead, behind = (pen.fact(f"clock:{number}") for number in range(4))
    without["hlc"] = None
    ahead["hlc"] = f"{pen.wall_ms + 200_000}.7"
    behind["hlc"] = f"{pen.wall_ms - 86_400_000}.3"
    fed = both.feed(
        [page([pen.sign(fact) for fact in (plain, without, ahead, behind)], cursor=plain["hlc"])]
    )
    assert (fed.code, fed.summary["new"]) == (0, 4)
    assert_same(both.node_database, both.our_database)


def test_without_scores(both_with: Callable[..., Both], pen: Pen) -> None:
    """A node that does not score its sources stores no score, and neither do we."""
    both = both_with({"TRUST_MODE": "off"})
    both.feed([signed(pen, [pen.fact("trust:off"), pen.fact("trust:off", scope="company")])])
    assert_same(both.node_database, both.our_database)
    assert {row["source_trust"] for row in both.our_rows("SELECT source_trust FROM facts")} == {
        None
    }


def test_with_rules_about_sources(both_with: Callable[..., Both], pen: Pen, tmp_path: Path) -> None:
    """Rules of the database and of the rules file decide a score exactly as in the node."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "always_trust:\n"
        "  - org_uri: agent:always\n"
        "  - org_uri: agent:company-only\n"
        "    scope: company\n"
        "never_trust:\n"
        "  - org_uri: agent:never\n"
    )
    both = both_with({"TRUST_RULES_FILE": str(rules), "TRUST_WEIGHT_IDENTITY": "0.2"})
    columns = "id, rule_type, org_uri, scope, created_by, created_at"
    for number, (kind, source) in enumerate((("always_trust", "in-db"), ("never_trust", "bad"))):
        both.alter(
            f"INSERT INTO quarantine_rules ({columns}) VALUES (?, ?, ?, NULL, 'x', '2026-01-01')",  # noqa: S608
            str(number),
            kind,
            f"agent:{source}",
        )
    sources = ("always", "company-only", "never", "in-db", "bad", "unknown")
    both.feed([signed(pen, [pen.fact("trust:x", source=f"agent:{name}") for name in sources])])
    assert_same(both.node_database, both.our_database)
    found = both.our_rows("SELECT DISTINCT source_trust FROM facts WHERE received_from IS NOT NULL")
    assert {0.0, 1.0} < {row["source_trust"] for row in found}


def test_tenants_that_are_mapped(both: Both, pen: Pen) -> None:
    """A peer's tenant map says into which tenant its facts go; what it does not name is refused."""
    origin = both.world.pair.origin.node_id
    for theirs, mine in (("acme", "default"), ("beta", "tenant-b")):
        both.alter(
            "INSERT INTO peer_tenant_map (peer_id, origin_tenant, local_tenant)"
            " SELECT id, ?, ? FROM peers WHERE node_id = ?",
            *(theirs, mine, origin),
        )
    tenants = ("acme", "beta", "beta", "acme", "default")
    facts = [pen.fact("tenant:x", value=str(number)) for number in range(len(tenants))]
    entries = [
        pen.sign(fact, tenant=tenant, allowed_tenants=[tenant])
        for fact, tenant in zip(facts, tenants, strict=True)
    ]
    fed = both.feed([page(entries, cursor=facts[-1]["hlc"])])
    assert fed.summary["rejected"] == {"tenant_policy_unsafe": 1}
    assert fed.summary["conflicts"] == 2
    assert_same(both.node_database, both.our_database, [REFUSALS_ON_RECORD, TENANT_REFUSALS])


def test_conflicts_beyond_the_cap(both_with: Callable[..., Both], pen: Pen) -> None:
    """Beyond the cap a new fact conflicts with the newest of its key and not with the oldest."""
    both = both_with({}, {"MAX_CONFLICTS_PER_FACT": "3"})
    fed = both.feed([signed(pen, [pen.fact("cap:x", value=str(number)) for number in range(6)])])
    assert (fed.summary["conflicts"], fed.summary["conflicts_left_out"]) == (12, 3)
    oldest = "00000000-0000-4000-8000-000000000001"
    assert_same(both.node_database, both.our_database, [CAPPED_CONFLICTS])
    pairs = both.our_rows("SELECT 1 FROM conflicts WHERE fact_b_id = ?", oldest)
    assert len(pairs) == 3
