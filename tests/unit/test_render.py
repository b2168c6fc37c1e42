"""What people are shown: tables, times, failures and summaries."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stigmem_replicator.cli import progress, render
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.engine.report import PullReport
from stigmem_replicator.errors import LocalError, Reason, TransientPeerError
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.settings import Settings, insecure_warning
from stigmem_replicator.store.reads import PeerRow
from tests.unit.signed import NOW_MS, SENDER

PEER = PeerRow(
    id="peer-1",
    node_id=SENDER,
    node_url="http://127.0.0.1:8765",
    status="active",
    scopes=frozenset({"public"}),
    ingest_tenant=None,
    entity_uri=None,
    relay_trusted=False,
)


def test_tables_align_and_leave_no_blanks_at_the_end() -> None:
    """Columns are as wide as their widest cell; lines do not end in blanks."""
    assert render.table(["peer", "state"], [["a", "idle"], ["longer", ""]]) == (
        "peer    state\na       idle\nlonger"
    )


def test_a_table_without_rows_is_its_headings() -> None:
    """Nothing to show is still a table."""
    assert render.table(["a", "b"], []) == "a  b"


def test_pairs_align_their_values() -> None:
    """Names are padded to the longest."""
    assert render.pairs([("a", "1"), ("long", "2")]) == "a     1\nlong  2"


@pytest.mark.parametrize(
    ("at_ms", "expected"),
    [
        (None, "never"),
        (0, "1970-01-01T00:00:00Z"),
        (NOW_MS, "2026-01-02T03:04:05Z"),
        (253_402_300_799_000, "9999-12-31T23:59:59Z"),
    ],
)
def test_times_are_iso_8601_in_utc(at_ms: int | None, expected: str) -> None:
    """A time is shown to the second; none is ``never``."""
    assert render.moment(at_ms) == expected


@given(st.integers(min_value=0, max_value=10**18 - 1))
def test_any_wall_part_can_be_shown(at_ms: int) -> None:
    """A position may hold a time that no calendar knows; showing it does not fail."""
    assert render.moment(at_ms)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7_199, "120 min"),
        (7_200, "2 h"),
        (172_799, "48 h"),
        (172_800, "2 d"),
    ],
)
def test_durations_are_rough(seconds: float, expected: str) -> None:
    """A duration is shown in the unit of which there are two or more."""
    assert render.span(seconds) == expected


def test_an_age_counts_from_now() -> None:
    """How long ago something was; what never was is ``never``, the future is no time ago."""
    assert render.age(NOW_MS - 7_000, NOW_MS) == "7 s ago"
    assert render.age(NOW_MS + 7_000, NOW_MS) == "0 s ago"
    assert render.age(None, NOW_MS) == "never"


def test_a_time_to_come_counts_from_now() -> None:
    """How long it is to something; what is due or over is ``now``."""
    assert render.until(NOW_MS + 12_000, NOW_MS) == "in 12 s"
    assert render.until(NOW_MS + 1, NOW_MS) == "in 1 s"
    assert render.until(NOW_MS + 7_200_000, NOW_MS) == "in 2 h"
    assert render.until(NOW_MS, NOW_MS) == render.until(NOW_MS - 1, NOW_MS) == "now"


def test_a_slow_rate_has_a_fraction() -> None:
    """A few facts a second are told apart."""
    rates = (0.04, 0.5, 9.94, 10.0, 1522.4)
    assert [render.rate(rate) for rate in rates] == ["0.0/s", "0.5/s", "9.9/s", "10/s", "1522/s"]


def test_a_peer_that_asked_to_be_left_alone_is_said_to_wait() -> None:
    """Until when, as long as that is to come."""
    said = render.left_alone(NOW_MS, NOW_MS - 1)
    assert said.startswith("; it asked not to be asked before 2026-01-02T03:04:05Z")
    assert render.left_alone(NOW_MS, NOW_MS) == render.left_alone(None, NOW_MS) == ""


def test_a_failure_is_one_line_with_its_reason_and_what_to_do() -> None:
    """Line breaks of a message do not break the line."""
    error = LocalError(Reason.DATABASE_MISSING, "there is\nno file", hint="name\n  one")
    assert render.failure(error) == (
        "stigmem-replicate: there is no file (database_missing); name one"
    )
    assert render.failure(LocalError(Reason.USAGE, "no")) == "stigmem-replicate: no (usage)"


def test_reasons_come_with_their_counts_the_commonest_first() -> None:
    """Equal counts are in the order of their names."""
    counts = {Reason.HLC_SKEW: 2, Reason.CID_MISMATCH: 9, Reason.CID_LEGACY: 2}
    assert render.reasons(counts) == "cid_mismatch 9, cid_legacy 2, hlc_skew 2"
    assert render.reasons({}) == ""


def report(**counts: object) -> PullReport:
    totals: dict[str, object] = {"admitted": 7, "duplicates": 3, **counts}
    return PullReport(
        cursor_before=None,
        cursor=f"{NOW_MS}.0",
        pages=2,
        counts=Counts(**totals),  # type: ignore[arg-type]
        caught_up_ms=NOW_MS,
    )


def summary(done: PullReport, **changes: object) -> dict[str, str]:
    said = {"dry_run": False, "interrupted": False, "error": None, **changes}
    text = render.pull_summary(PEER, done, 2.0, **said)  # type: ignore[arg-type]
    lines = [line.split("  ", 1) for line in text.splitlines()]
    return {line[0]: line[1].strip() for line in lines}


def test_a_summary_says_what_was_added_and_where_the_cursor_stands() -> None:
    """A pull that caught up: how much, how fast, and nothing that does not apply."""
    assert summary(report()) == {
        "peer": f"{SENDER} at http://127.0.0.1:8765",
        "end": "caught up after 2.0 s",
        "pages": "2",
        "added": "7 new facts (4 new/s)",
        "duplicates": "3",
        "rejected": "0",
        "cursor": f"{NOW_MS}.0",
    }


def test_a_summary_names_what_was_refused_and_where_to_look() -> None:
    """Rejections, conflicts left out and a cursor that moved are each a line."""
    done = report(
        rejected={Reason.CID_MISMATCH: 2},
        refused_before={Reason.CID_LEGACY: 1},
        conflicts=5,
        conflicts_capped=4,
    )
    done.moved_elsewhere = 1
    said = summary(done)
    assert said["rejected"] == "cid_mismatch 2"
    assert said["refused before"] == "cid_legacy 1"
    assert said["conflicts"] == "5"
    assert said["conflicts left out"].startswith("4 ")
    assert said["cursor changed"] == "1 times by somebody else"
    assert said["see"] == f"stigmem-replicate dead-letters list --peer {SENDER}"


def test_a_summary_says_how_the_pull_ended() -> None:
    """A failure, an interruption, a limit and a dry run each have their words."""
    stopped = TransientPeerError(Reason.TIMEOUT, "slow")
    assert summary(report(), error=stopped)["end"].startswith("stopped: timeout")
    assert summary(report(), interrupted=True)["end"].startswith("interrupted")
    limited = report()
    limited.caught_up_ms = None
    limited.cursor = None
    assert summary(limited)["end"].startswith("stopped as asked, more remains")
    assert summary(limited)["cursor"] == "at the beginning"
    assert summary(report(), dry_run=True)["would add"].startswith("7 new facts")


def test_a_document_is_for_machines() -> None:
    """The JSON has plain numbers and reason codes, and survives a round trip."""
    done = report(rejected={Reason.CID_MISMATCH: 2})
    error = TransientPeerError(Reason.TIMEOUT, "slow", hint="wait")
    got = render.pull_document(PEER, done, 2.00049, error, dry_run=False, interrupted=False)
    assert json.loads(render.document(got)) == {
        "peer": SENDER,
        "url": "http://127.0.0.1:8765",
        "caught_up": False,
        "dry_run": False,
        "interrupted": False,
        "seconds": 2.0,
        "pages": 2,
        "new": 7,
        "duplicates": 3,
        "rejected": {"cid_mismatch": 2},
        "refused_before": {},
        "conflicts": 0,
        "conflicts_left_out": 0,
        "cursor_before": None,
        "cursor": f"{NOW_MS}.0",
        "upstream_lag_ms": None,
        "error": {"reason": "timeout", "message": "slow", "hint": "wait"},
    }


def test_a_pull_that_took_no_time_has_a_rate() -> None:
    """No duration divides by zero."""
    assert render.progress(report(), 0.0).endswith("new/s")


def test_words_of_a_peer_do_not_speak_to_a_terminal() -> None:
    """Control characters, turns of the writing direction and line breaks become blanks."""
    assert render.clean("a\x1b[2Jb\x9bc\u202ed\ne\ud800") == "a [2Jb c d e "
    error = TransientPeerError(Reason.TIMEOUT, "slow\x1b[2J")
    assert render.failure(error).isprintable()


def test_a_bar_shows_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that looks like markup is shown as it is, and one with an escape without it."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=200, stderr=True)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    outcomes = [
        progress.Outcome(replace(PEER, node_id=node_id), began=1.0)
        for node_id in ("stigmem:node:[/x]", "stigmem:node:\x1b[2Jab")
    ]

    async def briefly() -> None:
        with anyio.move_on_after(0.3):
            await progress.show(outcomes, SystemClock())

    anyio.run(briefly)
    assert "[/x]" in shown.getvalue()
    assert " [2Jab" in shown.getvalue()
    assert "\x1b[2Jab" not in shown.getvalue()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (30 * 86_400, "2026-02-01T03:04:05Z (30 d left)"),
        (7_200, "2026-01-02T05:04:05Z (2 h left)"),
        (0, "2026-01-02T03:04:05Z (expired 0 s ago)"),
        (-3 * 86_400, "2025-12-30T03:04:05Z (expired 3 d ago)"),
    ],
)
def test_what_ends_says_how_long_that_is_from_now(seconds: int, expected: str) -> None:
    """A certificate is good until the moment that it names, and expired in that moment."""
    assert render.ending(NOW_MS + seconds * 1000, NOW_MS) == expected


def test_what_federation_insecure_gives_up_is_said_as_it_is_set() -> None:
    """Nothing when it is off; with mutual TLS set up beside it, only what is given up then."""
    mutual = Settings(tls_cert_path=Path("cert.pem"), tls_key_path=Path("key.pem"))
    assert insecure_warning(Settings()) is None
    assert insecure_warning(mutual) is None
    plain = insecure_warning(Settings(federation_insecure=True))
    assert plain is not None
    assert "STIGMEM_TLS_CERT_PATH, STIGMEM_TLS_KEY_PATH and STIGMEM_TLS_CA_BUNDLE" in plain
    both = insecure_warning(replace(mutual, federation_insecure=True))
    assert both is not None
    assert "at any address" in both
    assert "STIGMEM_TLS" not in both
