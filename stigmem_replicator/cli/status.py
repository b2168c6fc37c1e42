"""``status``: the whole daemon at a glance, once, again and again, or as a verdict for scripts.

It reads the tables, so it works while the daemon is down.  The words are in ``status_text``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from stigmem_replicator.cli import looking, render, status_text, times
from stigmem_replicator.cli.context import opened, settings_of
from stigmem_replicator.cli.status_text import Glance
from stigmem_replicator.clock import system_pause
from stigmem_replicator.errors import ExitCode, LocalError, Reason, UsageError
from stigmem_replicator.settings import Settings, insecure_warning
from stigmem_replicator.store import letters, reads
from stigmem_replicator.store.engine import reading

MAX_LAG: Final = "5m"
REDRAWN_SECONDS: Final = 1.0
LINE_SECONDS: Final = 5.0

Look = Callable[[], Glance]
"""Looks at the tables.  Raises :class:`LocalError`."""


def status(
    context: typer.Context,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on until Ctrl-C: redrawn, or a line each 5 seconds."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="One line, and an exit code for monitoring.")
    ] = False,
    max_lag: Annotated[
        str | None,
        typer.Option(
            "--max-lag",
            metavar="SPAN",
            help=f"With --check: 90s, 5m, 1h or 2d. [default: {MAX_LAG}]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say how the whole daemon stands, also while it is down: who needs you comes first.

    --check exits with 0 when all is well; with 3 when no daemon runs or the database cannot be
    used; else with 9 when a peer or its tombstones are blocked, or it is pulled by the node's own
    loop too; else with 5 when one that nobody paused is further behind than --max-lag, or how far
    cannot be told.
    Tombstones that only want a capability token are named, and fail nothing.
    """
    if watch and (check or as_json):
        raise UsageError(Reason.USAGE, "--watch goes with neither --check nor --json")
    if max_lag is not None and not (watch or check or as_json):
        raise UsageError(Reason.USAGE, "--max-lag goes with --check, --watch or --json")
    max_lag_ms = times.span_ms(MAX_LAG if max_lag is None else max_lag, "--max-lag")

    if check and not as_json:
        raise typer.Exit(_check(context, max_lag_ms))
    settings = settings_of(context)
    if watch:
        _watch(lambda: _look(settings), max_lag_ms)
        return
    glance = _look(settings)
    if as_json:
        judged = status_text.verdict(glance, max_lag_ms)
        print(render.document(status_text.document(glance, judged)))
        raise typer.Exit(judged.code if check else ExitCode.DONE)
    if warning := insecure_warning(settings):
        print(f"stigmem-replicate: WARNING: {warning}", file=sys.stderr)
    print(status_text.head(glance), status_text.table(glance), sep="\n\n")


def _look(settings: Settings) -> Glance:
    # Opened anew each time: the file may have been replaced.
    with opened(settings) as database:
        machine = looking.machine_of(database, settings)
        with reading(database) as connection:
            peers = reads.peers(connection)
            shown = looking.shown(connection, peers, settings, machine)
            counts = letters.open_counts(connection) if reads.has_own_tables(connection) else {}
    return Glance(settings.location_shown, machine, shown, counts)


def _check(context: typer.Context, max_lag_ms: int) -> ExitCode:
    """Print the verdict in one line, whatever the matter is; return its code."""
    glance = None
    try:
        glance = _look(settings_of(context))
    except LocalError as error:
        judged = status_text.unusable(error)
    else:
        judged = status_text.verdict(glance, max_lag_ms)
    print(status_text.check_line(judged, glance))
    return judged.code


def _watch(look: Look, max_lag_ms: int) -> None:
    """Show it again and again until Ctrl-C, also while the database cannot be used."""
    console = Console()
    with suppress(KeyboardInterrupt):
        if console.is_terminal and not console.is_dumb_terminal:
            _redraw(console, look)
        _repeat(look, max_lag_ms)


def _redraw(console: Console, look: Look) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                glance = look()
            except LocalError as error:
                live.update(Text(render.failure(error)), refresh=True)
            else:
                head = Text(
                    f"{render.moment(glance.machine.now_ms)}\n\n{status_text.head(glance)}\n"
                )
                table = Text(status_text.table(glance), no_wrap=True, overflow="ellipsis")
                live.update(Group(head, table), refresh=True)
            system_pause(REDRAWN_SECONDS)


def _repeat(look: Look, max_lag_ms: int) -> None:
    while True:
        try:
            glance = look()
        except LocalError as error:
            print(render.failure(error), flush=True)
        else:
            line = status_text.check_line(status_text.verdict(glance, max_lag_ms), glance)
            print(f"{render.moment(glance.machine.now_ms)} {line}", flush=True)
        system_pause(LINE_SECONDS)
