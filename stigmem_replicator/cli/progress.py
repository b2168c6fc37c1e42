"""How running pulls are shown: a bar each on a terminal, else a line each every five seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from stigmem_replicator.cli import render
from stigmem_replicator.clock import Clock
from stigmem_replicator.engine.report import PullReport, TombstoneReport
from stigmem_replicator.errors import ReplicatorError
from stigmem_replicator.protocol import hlc
from stigmem_replicator.store.reads import PeerRow

LINE_SECONDS: Final = 5.0
BAR_SECONDS: Final = 0.125


@dataclass(slots=True)
class Outcome:
    """One peer's pull, as it goes and as it ended; seconds by a clock that never steps.

    ``began_at`` is the wall part (milliseconds) of the first cursor, where the bar begins.
    """

    peer: PeerRow
    report: PullReport = field(default_factory=PullReport)
    tombstones: TombstoneReport = field(default_factory=TombstoneReport)
    tombstone_failure: ReplicatorError | None = None
    began: float = 0.0
    seconds: float = 0.0
    began_at: int | None = None
    error: ReplicatorError | None = None
    interrupted: bool = True

    def on_page(self, report: PullReport) -> None:
        """Take note of a committed page."""
        if self.began_at is None:
            self.began_at = _wall_ms(report.cursor_before) or _wall_ms(report.cursor)

    def share(self, now_ms: int) -> tuple[int, int] | None:
        """Return how much of the time since the first cursor is read, and of how much.

        None while that cannot be told.
        """
        reached = _wall_ms(self.report.cursor)
        if reached is None or self.began_at is None or now_ms <= self.began_at:
            return None
        if self.report.caught_up_ms is not None:
            return 1, 1
        return min(max(reached, self.began_at), now_ms) - self.began_at, now_ms - self.began_at


def _wall_ms(cursor: str | None) -> int | None:
    return None if cursor is None else hlc.wall_ms(cursor)


async def show(outcomes: Sequence[Outcome], clock: Clock) -> None:
    """Show the outcomes on standard error until cancelled."""
    console = Console(stderr=True)
    if console.is_terminal:
        await _show_bars(console, outcomes, clock)
    while True:
        await anyio.sleep(LINE_SECONDS)
        for outcome in outcomes:
            if outcome.began and not outcome.seconds:
                print(
                    render.clean(f"{outcome.peer.node_id}: {_told(outcome, clock)}"),
                    file=console.file,
                )


async def _show_bars(console: Console, outcomes: Sequence[Outcome], clock: Clock) -> None:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[told]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        shown: dict[int, TaskID] = {}
        while True:
            for number, outcome in enumerate(outcomes):
                if not outcome.began:
                    continue
                if number not in shown:
                    name = render.clean(outcome.peer.node_id.rsplit(":", 1)[-1][:8])
                    shown[number] = bars.add_task(name, total=None, told="")
                done, total = outcome.share(clock.now_ms()) or (0, None)
                told = _told(outcome, clock)
                bars.update(shown[number], completed=done, total=total, told=told)
            await anyio.sleep(BAR_SECONDS)


def _told(outcome: Outcome, clock: Clock) -> str:
    seconds = outcome.seconds or clock.monotonic() - outcome.began
    return render.progress(outcome.report, seconds)
