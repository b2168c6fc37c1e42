"""Source trust: the published scores, the operator's rules, and each term of the sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.trust import source_trust
from stigmem_replicator.trust.source_trust import History, Rule, TrustInputs, Weights, score


def inputs(**changes: Any) -> TrustInputs:  # noqa: ANN401 - fields of any type
    fields: dict[str, Any] = {
        "weights": Weights(),
        "table_rules": (),
        "file_rules": (),
        "manifests": {},
        "agents": frozenset(),
        "history": {},
        "node_authority": "me.example",
        "attestation_factor": source_trust.attestation_factor("off", active=False),
        **changes,
    }
    return TrustInputs(**fields)


def weighed(term: str, **changes: Any) -> TrustInputs:  # noqa: ANN401 - fields of any type
    """Return inputs in which only one term counts, wholly."""
    names = ("identity", "peer_history", "scope_authority", "attestation_mode")
    return inputs(weights=Weights(**{name: float(name == term) for name in names}), **changes)


@pytest.mark.parametrize(
    ("source", "scope", "expected"),
    [
        ("agent:bot", "public", 0.295),
        ("agent:bot", "company", 0.22),
        ("stigmem://x/y", "public", 0.33),
        ("stigmem://x/y", "company", 0.255),
        ("stigmem://me.example/agent/a", "company", 0.38),
    ],
)
def test_scores_are_the_nodes(source: str, scope: str, expected: float) -> None:
    """A source without any history scores what a fresh node gives it."""
    assert score(inputs(), source, scope) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("table", "file", "scope", "expected"),
    [
        ([Rule("s", None, trusted=True)], [], "public", 1.0),
        ([Rule("s", "public", trusted=True)], [], "public", 1.0),
        ([Rule("s", "public", trusted=True)], [], "company", None),
        ([Rule("s", None, trusted=False)], [], "public", 0.0),
        ([Rule("s", "company", trusted=False)], [], "public", 0.0),
        ([Rule("s", None, trusted=True), Rule("s", "team", trusted=False)], [], "public", 0.0),
        ([Rule("t", None, trusted=False)], [], "public", None),
        ([], [Rule("s", None, trusted=True)], "public", 1.0),
        ([], [Rule("s", None, trusted=False)], "public", 0.0),
        ([], [Rule("s", "company", trusted=False)], "public", None),
        ([], [Rule("s", "team", trusted=True), Rule("s", None, trusted=False)], "public", 0.0),
        ([], [Rule("s", None, trusted=True), Rule("s", None, trusted=False)], "public", 1.0),
        ([Rule("s", None, trusted=True)], [Rule("s", None, trusted=False)], "public", 1.0),
        ([Rule("s", None, trusted=False)], [Rule("s", None, trusted=True)], "public", 0.0),
        ([Rule("s", "team", trusted=True)], [Rule("s", None, trusted=False)], "public", 0.0),
    ],
)
def test_rules_decide_before_the_sum(
    table: list[Rule], file: list[Rule], scope: str, expected: float | None
) -> None:
    """Distrust of the table counts in every scope; then table, then file, the first that fits."""
    got = score(inputs(table_rules=tuple(table), file_rules=tuple(file)), "s", scope)
    assert got == (score(inputs(), "s", scope) if expected is None else expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://proven.example", 1.0),
        ("https://known.example", 0.7),
        ("agent:registered", 0.4),
        ("stigmem:node:x", 0.1),
        ("mailto://x", 0.1),
        ("agent:bot", 0.0),
        ("", 0.0),
    ],
)
def test_identity_is_how_well_a_source_is_known(source: str, expected: float) -> None:
    """A proven manifest counts most, then a manifest, an agent key, and the shape of a URI."""
    known = weighed(
        "identity",
        manifests={"https://proven.example": True, "https://known.example": False},
        agents=frozenset({"agent:registered", "https://known.example"}),
    )
    assert score(known, source, "public") == expected


@pytest.mark.parametrize(
    ("total", "failures", "expected"),
    [
        (0, 0, 0.5),
        (9, 9, 0.5),
        (10, 0, 0.7),
        (99, 0, 0.7),
        (100, 0, 1.0),
        (100, 4, 0.7),
        (100, 5, 0.3),
        (20, 1, 0.3),
        (21, 1, 0.7),
    ],
)
def test_history_rises_with_facts_and_falls_with_failures(
    total: int, failures: int, expected: float
) -> None:
    """Few facts say nothing, many without a failure count wholly, five percent are too many."""
    seen = weighed("peer_history", history={"s": History(total, failures)})
    assert score(seen, "s", "public") == expected


@pytest.mark.parametrize(
    ("source", "scope", "expected"),
    [
        ("stigmem://me.example/a", "company", 0.7),
        ("stigmem://me.example", "public", 0.7),
        ("stigmem://other/a", "public", 0.5),
        ("agent:bot", "team", 0.5),
        ("agent:bot", "company", 0.2),
    ],
)
def test_authority_is_the_nodes_own_or_an_open_scope(
    source: str, scope: str, expected: float
) -> None:
    """A source under the node's own name has authority in every scope."""
    assert score(weighed("scope_authority"), source, scope) == expected


@pytest.mark.parametrize(
    ("mode", "active", "expected"),
    [
        ("enforce", "active", 1.0),
        ("warn", "active", 0.6),
        ("off", "active", 0.2),
        ("unheard of", "active", 0.2),
        ("enforce", "", 0.2),
    ],
)
def test_attestation_counts_only_where_it_is_active(
    mode: str, active: str, expected: float
) -> None:
    """A mode without its plugin raises nothing."""
    factor = source_trust.attestation_factor(mode, active=bool(active))
    assert factor == expected
    assert score(weighed("attestation_mode", attestation_factor=factor), "s", "public") == factor


weights = st.floats(min_value=0, max_value=100)
counts = st.integers(min_value=0, max_value=1000)
histories = st.builds(lambda total, bad: History(total + bad, bad), counts, counts)


@given(
    st.builds(Weights, weights, weights, weights, weights),
    st.dictionaries(st.sampled_from(["agent:a", "stigmem://x/y"]), histories),
    st.sampled_from(["agent:a", "stigmem://x/y", ""]),
    st.sampled_from(["public", "team", "company", "local"]),
)
def test_a_score_is_between_0_and_1(
    given_weights: Weights, history: Mapping[str, History], source: str, scope: str
) -> None:
    """Whatever the weights and the history, a score stays within its bounds."""
    got = score(inputs(weights=given_weights, history=history), source, scope)
    assert 0.0 <= got <= 1.0
