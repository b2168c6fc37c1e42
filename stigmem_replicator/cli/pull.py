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
from stigmem_replicator.engine.pull import Pull, Streams, Wishes
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
    stream: Annotated[
        Streams,
        typer.Option(help="Only facts, or only tombstones with their revocations."),
    ] = Streams.ALL,
    max_pages: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop after so many pages of each stream (exit 0)."),
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

    Pulls what is new, verifies it, and stores it with the cursor that it moves: tombstones and
    revocations first, then facts.
    """
    if (peer is None) == (not all_):
        raise UsageError(Reason.USAGE, "pull needs either --peer X or --all")
    if not math.isfinite(wait):
        raise UsageError(Reason.USAGE, f"--wait {wait} is no number of seconds")
    settings = settings_of(context)
    check_trust_mode(settings)
    wishes = Wishes(
        streams=stream,
        max_pages=max_pages,
        dry_run=dry_run,
        backfill=backfill,
        patience_s=wait,
    )
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
    counts = outcome.report.counts + outcome.tombstones.counts
    refused = counts.rejected or counts.refused_before
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
            outcome.tombstones,
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
        _judge_tombstones(outcome, pulling.tombstone_failure, wishes)


def _judge_tombstones(outcome: Outcome, failure: ReplicatorError | None, wishes: Wishes) -> None:
    """Say whether what the tombstones ended in is the end of the pull.

    That they are not given without a token is told and stops nothing, unless they alone were
    asked for: facts go on without it.
    """
    outcome.tombstone_failure = failure
    alone = wishes.streams is Streams.TOMBSTONES
    goes_on = failure is None or failure.reason is Reason.CAPABILITY_REQUIRED
    if outcome.error is None and (alone or not goes_on):
        outcome.error = failure


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
            | _beside(item, wishes)
            for item in outcomes
        ]
        print(render.document(documents if one_line else documents[0]))
    elif one_line:
        if not outcomes:
            print("this node has no active peers")
        for item in outcomes:
            print(render.clean(_line(item, wishes)))
    else:
        for item in outcomes:
            print(_summary(item, wishes))
    for item in outcomes:
        for failure in _told_failures(item):
            print(render.failure(failure), file=sys.stderr)


def _beside(outcome: Outcome, wishes: Wishes) -> dict[str, object]:
    """Return what the JSON says beside the facts."""
    said: dict[str, object] = {
        "stream": wishes.streams,
        "tombstones": None
        if wishes.streams is Streams.FACTS
        else render.tombstones_document(outcome.tombstones, outcome.tombstone_failure),
    }
    if wishes.streams is Streams.TOMBSTONES:
        said["caught_up"] = outcome.tombstones.caught_up_ms is not None and outcome.error is None
    return said


def _line(outcome: Outcome, wishes: Wishes) -> str:
    alone = wishes.streams is Streams.TOMBSTONES
    report = outcome.tombstones if alone else outcome.report
    end = render.end(report, outcome.error, interrupted=outcome.interrupted)
    parts = [f"{outcome.peer.node_id}: {end}"]
    if alone:
        parts.append(f"tombstones: {render.new_tombstones(outcome.tombstones)}")
        return "; ".join(parts)
    parts.append(render.progress(outcome.report, outcome.seconds))
    if wishes.streams is Streams.ALL:
        beside = render.tombstones(outcome.tombstones, outcome.tombstone_failure)
        parts.append(f"tombstones: {beside}")
    return "; ".join(parts)


def _summary(outcome: Outcome, wishes: Wishes) -> str:
    if wishes.streams is Streams.TOMBSTONES:
        return render.tombstones_summary(
            outcome.peer,
            outcome.tombstones,
            outcome.seconds,
            outcome.error,
            interrupted=outcome.interrupted,
        )
    summary = render.pull_summary(
        outcome.peer,
        outcome.report,
        outcome.seconds,
        outcome.error,
        dry_run=wishes.dry_run,
        interrupted=outcome.interrupted,
    )
    if wishes.streams is Streams.FACTS:
        return summary
    beside = render.tombstones(outcome.tombstones, outcome.tombstone_failure)
    return f"{summary}\n{render.pairs([('tombstones', beside)])}"


def _told_failures(outcome: Outcome) -> list[ReplicatorError]:
    """Return what is told on standard error, the same trouble of both streams once."""
    told = [] if outcome.error is None else [outcome.error]
    beside = outcome.tombstone_failure
    if beside is not None and all(beside.reason is not error.reason for error in told):
        told.append(beside)
    return told
