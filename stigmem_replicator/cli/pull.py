"""``pull``: catch up with peers now, show how it goes, say how it went."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import anyio
import typer

from stigmem_replicator.cli import completion, progress, render
from stigmem_replicator.cli.context import (
    active_peer,
    all_peers,
    check_trust_mode,
    opened,
    settings_of,
    tell,
)
from stigmem_replicator.cli.progress import Outcome
from stigmem_replicator.engine.pull import Pull, Wishes
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.errors import (
    ExitCode,
    Reason,
    ReplicatorError,
    UsageError,
)
from stigmem_replicator.observe.log import logger
from stigmem_replicator.service import preparing, upgrading
from stigmem_replicator.settings import Settings, insecure_warning
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.reads import PeerRow

AT_ONCE: Final = 8

RANKED: Final = (
    ExitCode.UNEXPECTED,
    ExitCode.CONFIGURATION,
    ExitCode.BLOCKED,
    ExitCode.REFUSED,
    ExitCode.UNREACHABLE,
    ExitCode.HELD_ELSEWHERE,
    ExitCode.NO_SUCH_PEER,
    ExitCode.ENTRIES_REJECTED,
    ExitCode.DONE,
)
"""Exit codes by how much they want an operator, for several peers at once."""

PeerOption = Annotated[
    str | None,
    typer.Option(
        "--peer",
        metavar="X",
        help="Id, node id, URL or a unique part of one.",
        autocompletion=completion.peer_names,
    ),
]


def pull(  # noqa: PLR0913, PLR0917 - one parameter each option
    context: typer.Context,
    peer: PeerOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Every active peer.")] = False,
    max_pages: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after so many pages (exit 0).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Verify everything, write nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 7 when entries were rejected.")
    ] = False,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Also admit facts older than this node allows.")
    ] = False,
    no_migrate: Annotated[
        bool, typer.Option("--no-migrate", help="Exit 3 where `db upgrade` has to be run first.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0.0, metavar="S", help="Seconds to wait for a lock or the peer.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Catch up with a peer now, then exit.

    Pulls what is new, verifies it, and stores it with the cursor that it moves.
    """
    if (peer is None) == (not all_):
        raise UsageError(Reason.USAGE, "pull needs either --peer X or --all")
    if not math.isfinite(wait):
        raise UsageError(Reason.USAGE, f"--wait {wait} is no number of seconds")
    settings = settings_of(context)
    check_trust_mode(settings)
    wishes = Wishes(max_pages=max_pages, dry_run=dry_run, backfill=backfill, patience_s=wait)
    with opened(settings, own_tables=False) as database:
        peers = all_peers(database)
        chosen = (
            [item for item in peers if item.status == "active"]
            if peer is None
            else [active_peer(peers, peer)]
        )
        outcomes = _pull_all(database, settings, chosen, wishes, migrate=not no_migrate)
    _print_summary(outcomes, wishes, as_json=as_json, one_line=all_)
    if not as_json and (insecure := insecure_warning(settings)):
        print(f"WARNING: {insecure}")
    raise typer.Exit(_exit_code(outcomes, strict=strict))


def _exit_code(outcomes: Sequence[Outcome], *, strict: bool) -> ExitCode:
    if any(outcome.interrupted for outcome in outcomes):
        return ExitCode.INTERRUPTED
    codes = {_exit_code_of(outcome, strict=strict) for outcome in outcomes}
    return next((code for code in RANKED if code in codes), ExitCode.DONE)


def _exit_code_of(outcome: Outcome, *, strict: bool) -> ExitCode:
    if outcome.error is not None:
        return outcome.error.exit_code
    refused = outcome.report.counts.rejected or outcome.report.counts.refused_before
    return ExitCode.ENTRIES_REJECTED if strict and refused else ExitCode.DONE


def _pull_all(
    database: Database,
    settings: Settings,
    peers: Sequence[PeerRow],
    wishes: Wishes,
    *,
    migrate: bool,
) -> list[Outcome]:
    outcomes = [Outcome(peer) for peer in peers]

    def make_tables() -> None:
        if wishes.dry_run or not migrate:
            preparing.require_tables(database, present=not wishes.dry_run)
        else:
            upgrading.upgrade(database, wishes.patience_s, tell)

    with preparing.prepared(database, settings, "pull", make_tables) as around:
        anyio.run(_run, around, outcomes, wishes)
    return outcomes


async def _run(around: Surroundings, outcomes: Sequence[Outcome], wishes: Wishes) -> None:
    """Pull all peers side by side; the first SIGINT or SIGTERM ends it in good order."""
    async with anyio.create_task_group() as background:
        background.start_soon(progress.show, outcomes, around.clock)
        background.start_soon(_cancel_on_signal, background.cancel_scope)
        places = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as pulls:
            for outcome in outcomes:
                pulls.start_soon(_pull_one, outcome, wishes, around, places)
        background.cancel_scope.cancel()


async def _pull_one(
    outcome: Outcome, wishes: Wishes, around: Surroundings, places: anyio.CapacityLimiter
) -> None:
    async with places:
        outcome.began = around.clock.monotonic()
        pulling = Pull(
            outcome.peer,
            wishes,
            around,
            outcome.report,
            on_page=outcome.on_page,
            tell=tell,
        )
        try:
            await pulling.run()
        except ReplicatorError as error:
            outcome.error = error
        except Exception as error:  # noqa: BLE001 - the other peers go on
            # A mistake of ours in one pull must not end the others.
            logger().debug("replicator.unexpected", exc_info=True)
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            outcome.error = ReplicatorError(
                Reason.UNEXPECTED,
                f"pulling from {outcome.peer.node_id} ended in {type(cause).__name__}: {cause}",
                hint="please report it; --log-level debug shows where",
            )
        finally:
            outcome.seconds = around.clock.monotonic() - outcome.began
        outcome.interrupted = False


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            break
    # From here on a second signal stops the process at once, which is safe too.
    scope.cancel()


def _print_summary(
    outcomes: Sequence[Outcome], wishes: Wishes, *, as_json: bool, one_line: bool
) -> None:
    if as_json:
        documents = [
            render.pull_document(
                item.peer,
                item.report,
                item.seconds,
                item.error,
                dry_run=wishes.dry_run,
                interrupted=item.interrupted,
            )
            for item in outcomes
        ]
        print(render.document(documents if one_line else documents[0]))
    elif one_line:
        if not outcomes:
            print("this node has no active peers")
        for item in outcomes:
            end = "interrupted" if item.interrupted else "done"
            end = f"stopped: {item.error.reason}" if item.error else end
            line = f"{item.peer.node_id}: {end}; {render.progress(item.report, item.seconds)}"
            print(render.clean(line))
    else:
        for item in outcomes:
            print(
                render.pull_summary(
                    item.peer,
                    item.report,
                    item.seconds,
                    item.error,
                    dry_run=wishes.dry_run,
                    interrupted=item.interrupted,
                )
            )
    for item in outcomes:
        if item.error is not None:
            print(render.failure(item.error), file=sys.stderr)
