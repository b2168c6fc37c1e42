"""The only place that makes text for a terminal: tables, positions, failures, summaries.

Times, durations and rates are those of ``observe.words``, as on the status page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from stigmem_replicator.engine.report import PullReport, TombstoneReport
from stigmem_replicator.errors import Reason, ReplicatorError
from stigmem_replicator.observe.log import printable
from stigmem_replicator.observe.words import age, ending, moment, rate, span, until
from stigmem_replicator.protocol import hlc
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store.reads import PeerRow

__all__ = [
    "age",
    "ahead",
    "clean",
    "document",
    "end",
    "ending",
    "error_document",
    "failure",
    "lag",
    "left_alone",
    "moment",
    "new_tombstones",
    "pairs",
    "place",
    "progress",
    "pull_document",
    "pull_summary",
    "rate",
    "reasons",
    "span",
    "table",
    "tombstones",
    "tombstones_document",
    "tombstones_summary",
    "until",
]

_AHEAD_MS: Final = 300_000  # as far ahead as a page's cursor may lie and still be stored


def document(value: object) -> str:
    """Return a value as JSON for machines, which people read too: what does not print is escaped.

    A peer's text may hold what speaks to a terminal, and what no encoding can carry.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under headings, aligned; the last column is not padded."""
    rows = [[clean(text) for text in row] for row in rows]
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell if i == len(widths) - 1 else cell.ljust(widths[i]) for i, cell in enumerate(row)
        ).rstrip()
        for row in (headings, *rows)
    )


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values, one a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {clean(value)}" for name, value in rows)


def clean(text: str) -> str:
    """Return a text that may hold words of a peer, without what would speak to a terminal."""
    return printable(text, len(text))


def place(position: str | None) -> str:
    """Return a position of a stream with the time in it."""
    if position is None:
        return "at the beginning"
    wall_ms = hlc.wall_ms(position)
    return clean(position) if wall_ms is None else f"{clean(position)}  ({moment(wall_ms)})"


def ahead(position: str | None, now_ms: int) -> str:
    """Return a warning of a position that hides what is stamped before it, else nothing."""
    wall_ms = None if position is None else hlc.wall_ms(position)
    if wall_ms is None or wall_ms <= now_ms + _AHEAD_MS:
        return ""
    return "; that is ahead of this machine's clock: nothing stamped before it will be read"


def left_alone(not_before_ms: int | None, now_ms: int) -> str:
    """Return until when reading a peer waits, where it asked not to be asked yet, else nothing."""
    if not_before_ms is None or not_before_ms <= now_ms:
        return ""
    return f"; it asked not to be asked before {moment(not_before_ms)}: nothing is read until then"


def lag(lag_ms: int) -> str:
    """Return how far behind its own sources a peer says that it is."""
    return f"upstream lag {span(lag_ms / 1000)}"


def failure(error: ReplicatorError) -> str:
    """Return a failure as the one line of standard error."""
    hint = f"; {error.hint}" if error.hint else ""
    text = clean(f"stigmem-replicate: {error.message} ({error.reason}){hint}")
    return " ".join(text.split())


def reasons(counts: Mapping[Reason, int]) -> str:
    """Return reasons with their counts, the commonest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ordered)


def progress(report: PullReport, seconds: float) -> str:
    """Return a running pull in one line."""
    counts = report.counts
    return (
        f"{report.pages} pages, {counts.admitted} new, {counts.duplicates} duplicates, "
        f"{sum(counts.rejected.values())} rejected, {_rate(counts.admitted, seconds)}"
    )


def _new_facts(admitted: int, seconds: float) -> str:
    return f"{admitted} new facts ({_rate(admitted, seconds)})" if admitted else "no new facts"


def _rate(entries: int, seconds: float) -> str:
    return f"{entries / max(seconds, 0.001):.0f} new/s"


def pull_summary(
    peer: PeerRow,
    report: PullReport,
    seconds: float,
    error: ReplicatorError | None,
    *,
    dry_run: bool,
    interrupted: bool,
) -> str:
    """Return what a pull of one peer did, for a person."""
    counts = report.counts
    verb = "would add" if dry_run else "added"
    rows = [
        *_how_it_ended(peer, report, seconds, error, interrupted=interrupted),
        (verb, _new_facts(counts.admitted, seconds)),
        ("duplicates", str(counts.duplicates)),
        ("rejected", reasons(counts.rejected) or "0"),
    ]
    if counts.refused_before:
        rows.append(("refused before", reasons(counts.refused_before)))
    if counts.conflicts:
        rows.append(("conflicts", str(counts.conflicts)))
    if counts.conflicts_capped:
        rows.append(("conflicts left out", f"{counts.conflicts_capped} (max_conflicts_per_fact)"))
    if report.moved_elsewhere:
        rows.append(("cursor changed", f"{report.moved_elsewhere} times by somebody else"))
    if report.upstream_lag_ms:
        rows.append(("upstream", f"{lag(report.upstream_lag_ms)}: the peer itself lags behind"))
    rows.append(("cursor", report.cursor or "at the beginning"))
    if counts.rejected or counts.refused_before:
        rows.append(("see", f"stigmem-replicate dead-letters list --peer {peer.node_id}"))
    return pairs(rows)


def tombstones_summary(
    peer: PeerRow,
    report: TombstoneReport,
    seconds: float,
    error: ReplicatorError | None,
    *,
    interrupted: bool,
) -> str:
    """Return what a pull of one peer's tombstones alone did, for a person."""
    ended = _how_it_ended(peer, report, seconds, error, interrupted=interrupted)
    return pairs([*ended, ("tombstones", new_tombstones(report))])


def end(report: PullReport, error: ReplicatorError | None, *, interrupted: bool) -> str:
    """Return how a pull of one peer ended, in a few words."""
    if error is not None:
        return f"stopped: {error.reason}"
    if interrupted:
        return "interrupted"
    return "stopped as asked, more remains" if report.caught_up_ms is None else "caught up"


def _how_it_ended(
    peer: PeerRow,
    report: PullReport,
    seconds: float,
    error: ReplicatorError | None,
    *,
    interrupted: bool,
) -> list[tuple[str, str]]:
    ended = end(report, error, interrupted=interrupted)
    return [
        ("peer", f"{peer.node_id} at {without_secrets(peer.node_url)}"),
        ("end", f"{ended} after {seconds:.1f} s"),
        ("pages", str(report.pages)),
    ]


def pull_document(
    peer: PeerRow,
    report: PullReport,
    seconds: float,
    error: ReplicatorError | None,
    *,
    dry_run: bool,
    interrupted: bool,
) -> dict[str, object]:
    """Return what a pull of one peer did, for machines."""
    counts = report.counts
    return {
        "peer": peer.node_id,
        "url": without_secrets(peer.node_url),
        "caught_up": report.caught_up_ms is not None and error is None,
        "dry_run": dry_run,
        "interrupted": interrupted,
        "seconds": round(seconds, 3),
        "pages": report.pages,
        "new": counts.admitted,
        "duplicates": counts.duplicates,
        "rejected": dict(counts.rejected),
        "refused_before": dict(counts.refused_before),
        "conflicts": counts.conflicts,
        "conflicts_left_out": counts.conflicts_capped,
        "cursor_before": report.cursor_before,
        "cursor": report.cursor,
        "upstream_lag_ms": report.upstream_lag_ms,
        "error": error_document(error),
    }


def tombstones(report: TombstoneReport, error: ReplicatorError | None) -> str:
    """Return what a pull brought of tombstones and revocations, and what is left, in one line."""
    said = new_tombstones(report)
    if error is not None:
        return f"{said}, stopped: {error.reason}"
    return f"{said}, more remains" if report.more and report.caught_up_ms is None else said


def new_tombstones(report: TombstoneReport) -> str:
    """Return how many tombstones and revocations a pull brought."""
    parts = []
    for artifact in Artifact:
        counts = report.of[artifact]
        parts.append(f"{counts.admitted} new {artifact}{'' if counts.admitted == 1 else 's'}")
    counts = report.counts
    parts.append(f"{sum(counts.rejected.values())} rejected")
    return ", ".join(parts)


def tombstones_document(
    report: TombstoneReport, error: ReplicatorError | None
) -> dict[str, object]:
    """Return what a pull brought of tombstones and revocations, for machines."""
    return {
        "caught_up": report.caught_up_ms is not None and error is None,
        "pages": report.pages,
        **{
            f"{artifact}s": {
                "new": counts.admitted,
                "duplicates": counts.duplicates,
                "rejected": dict(counts.rejected),
                "refused_before": dict(counts.refused_before),
            }
            for artifact, counts in report.of.items()
        },
        "error": error_document(error),
    }


def error_document(error: ReplicatorError | None) -> dict[str, object] | None:
    """Return a failure for machines."""
    if error is None:
        return None
    return {"reason": error.reason, "message": error.message, "hint": error.hint}
