"""How much a source is trusted: a score from 0 to 1, stored with the fact when it is admitted.

The formula and its constants are the node's, so that a score does not depend on which process
wrote it.  One difference: the node remembers a score per source, so the first scope it meets
decides for a minute; here the scope always counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

OPEN_SCOPES: Final = frozenset({"public", "team"})

HISTORY_FACTS: Final = 10
"""Facts below which a source has no history yet."""

_ESTABLISHED_FACTS: Final = 100
_FAILURE_RATE_HIGH: Final = 0.05


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each term; the node's defaults add up to one."""

    identity: float = 0.35
    peer_history: float = 0.30
    scope_authority: float = 0.25
    attestation_mode: float = 0.10


@dataclass(frozen=True, slots=True)
class Rule:
    """An operator's rule: trust this source always or never, in one scope or in all (None)."""

    source: str
    scope: str | None
    trusted: bool


@dataclass(frozen=True, slots=True)
class History:
    """Facts seen of one source in the last 30 days, and how many failed attestation."""

    total: int
    failures: int


@dataclass(frozen=True, slots=True)
class TrustInputs:
    """Everything a score depends on, looked up beforehand.

    ``table_rules`` come from the node's quarantine_rules table in its order, ``file_rules``
    from its trust rules file.  ``manifests`` maps an organisation to whether its manifest has a
    transparency-log proof; ``agents`` are the sources with an active agent key.
    """

    weights: Weights
    table_rules: tuple[Rule, ...]
    file_rules: tuple[Rule, ...]
    manifests: Mapping[str, bool]
    agents: frozenset[str]
    history: Mapping[str, History]
    node_authority: str
    attestation_factor: float


def score(inputs: TrustInputs, source: str, scope: str) -> float:
    """Return the trust in ``source`` for a fact in ``scope``, between 0.0 and 1.0."""
    ruled = _ruled(inputs, source, scope)
    if ruled is not None:
        return ruled
    weights = inputs.weights
    raw = (
        weights.identity * _identity(inputs, source)
        + weights.peer_history * _peer_history(inputs.history.get(source))
        + weights.scope_authority * _scope_authority(inputs.node_authority, source, scope)
        + weights.attestation_mode * inputs.attestation_factor
    )
    return max(0.0, min(1.0, raw))


def _ruled(inputs: TrustInputs, source: str, scope: str) -> float | None:
    table = [rule for rule in inputs.table_rules if rule.source == source]
    # A rule of the table that distrusts a source counts in every scope, whatever its own.
    if any(not rule.trusted for rule in table):
        return 0.0
    for rule in (*table, *inputs.file_rules):
        if rule.source == source and rule.scope in (None, scope):
            return 1.0 if rule.trusted else 0.0
    return None


def _identity(inputs: TrustInputs, source: str) -> float:
    if source in inputs.manifests:
        return 1.0 if inputs.manifests[source] else 0.7
    if source in inputs.agents:
        return 0.4
    return 0.1 if "://" in source or source.startswith("stigmem:") else 0.0


def _peer_history(history: History | None) -> float:
    if history is None or history.total < HISTORY_FACTS:
        return 0.5
    rate = history.failures / history.total
    if history.total >= _ESTABLISHED_FACTS and rate == 0.0:
        return 1.0
    return 0.3 if rate >= _FAILURE_RATE_HIGH else 0.7


def _scope_authority(node_authority: str, source: str, scope: str) -> float:
    if source.startswith(f"stigmem://{node_authority}"):
        return 0.7
    return 0.5 if scope in OPEN_SCOPES else 0.2


def attestation_factor(mode: str, *, active: bool) -> float:
    """Return the attestation term; only an active attestation plugin raises it."""
    if not active:
        return 0.2
    return {"enforce": 1.0, "warn": 0.6}.get(mode, 0.2)
