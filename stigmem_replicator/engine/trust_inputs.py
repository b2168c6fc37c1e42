"""What trust scores are computed from, looked up at most once a minute.

The history of sources is one grouped query over the facts of 30 days, not one per source.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from stigmem_replicator.clock import Clock
from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import reads
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.trust import source_trust
from stigmem_replicator.trust.source_trust import Rule, TrustInputs, Weights

FRESH_SECONDS: Final = 60.0
HISTORY: Final = timedelta(days=30)


class TrustBook:
    """Scores sources from inputs that are at most a minute old.  Blocks: call it in a thread."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._file_rules = file_rules(settings.trust_rules_file)
        self._inputs: TrustInputs | None = None
        self._read_at = 0.0

    def scorer(self) -> Callable[[str, str], float] | None:
        """Return a function that scores (source, scope), or None when the node scores nothing."""
        if self._settings.trust_mode == "off":
            return None
        now = self._clock.monotonic()
        if self._inputs is None or now - self._read_at >= FRESH_SECONDS:
            self._inputs, self._read_at = self._look_up(), now
        inputs = self._inputs
        scores: dict[tuple[str, str], float] = {}

        def score(source: str, scope: str) -> float:
            key = (source, scope)
            if key not in scores:
                scores[key] = source_trust.score(inputs, source, scope)
            return scores[key]

        return score

    def _look_up(self) -> TrustInputs:
        settings = self._settings
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        parts = urlsplit(settings.node_url)
        with reading(self._database) as connection:
            return TrustInputs(
                weights=Weights(
                    settings.trust_weight_identity,
                    settings.trust_weight_peer_history,
                    settings.trust_weight_scope_authority,
                    settings.trust_weight_attestation_mode,
                ),
                table_rules=reads.trust_rules(connection),
                file_rules=self._file_rules,
                manifests=reads.proven_organisations(connection),
                agents=reads.active_agents(connection),
                history=reads.source_history(connection, (now - HISTORY).isoformat()),
                node_authority=parts.netloc or parts.path,
                attestation_factor=source_trust.attestation_factor(
                    settings.source_attestation_mode, active=settings.source_attestation_enabled
                ),
            )


def file_rules(path: Path | None) -> tuple[Rule, ...]:
    """Read the node's trust rules file, the rules that trust before those that do not.

    Raises :class:`LocalError`: scores are written once, so a file that cannot be read stops the
    pull, where the node would go on without it.
    """
    if path is None:
        return ()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return tuple(
            _rule(item, trusted=key == "always_trust")
            for key in ("always_trust", "never_trust")
            for item in document.get(key) or []
        )
    except (
        OSError,
        yaml.YAMLError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise LocalError(
            Reason.CONFIGURATION_INVALID,
            f"the trust rules file {path} cannot be read: {' '.join(str(error).split())[:200]}",
            hint="mend the file or unset STIGMEM_TRUST_RULES_FILE",
        ) from error


def _rule(item: dict[str, Any], *, trusted: bool) -> Rule:
    scope = item.get("scope")
    return Rule(str(item["org_uri"]), None if scope is None else str(scope), trusted)
