"""``cursor export`` and ``cursor import``: the cursors of all peers in a file."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from stigmem_replicator.cli import checkpoint_file, files, render
from stigmem_replicator.cli.actor import actor
from stigmem_replicator.cli.context import opened, settings_of
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.store import checkpoints, migrations
from stigmem_replicator.store.checkpoints import Outcome, Restored
from stigmem_replicator.store.engine import reading, writing


def export(
    context: typer.Context,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Write to this file, not to the terminal.")
    ] = files.STDOUT,
    with_state: Annotated[
        bool,
        typer.Option("--with-state", help="Add settled positions and checkpoints for our import."),
    ] = False,
) -> None:
    """Write the cursors of all peers as a checkpoint.

    It is the node's own JSON, for `stigmem federation cursor-import` as for `cursor import`.
    """
    with opened(settings_of(context)) as database:
        with reading(database) as connection:
            entries = checkpoints.entries(connection)
            states = checkpoints.states(connection) if with_state else None
        at = SystemClock().now_iso()
        text = checkpoint_file.document(entries, states, at=at, db_path=database.name)
    with files.output(out) as file:
        print(text, file=file)
    if out != files.STDOUT:
        print(f"{len(entries)} cursors written to {out}", file=sys.stderr)


def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="The checkpoint.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also set cursors that are set already.")
    ] = False,
) -> None:
    """Set cursors from a checkpoint, ours or the node's.

    Only into a database that has the facts before them: they are not read again.
    """
    clock = SystemClock()
    statements, nameless = checkpoint_file.read(Path(file))
    with opened(settings_of(context)) as database:
        migrations.upgrade(database)
        with writing(database) as connection:
            done = checkpoints.restore(
                connection,
                statements,
                force=force,
                actor=actor("cursor import"),
                clock=clock,
            )
    for item in done:
        print(_told(item, clock.now_ms()))
    if nameless:
        print(f"left out: {nameless} entries without peer_id or direction")
    counts = Counter(item.outcome for item in done)
    total = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    print(total or "the checkpoint holds no cursors")


def _told(item: Restored, now_ms: int) -> str:
    statement = item.statement
    name = item.peer.node_id if item.peer else statement.node_id or statement.peer_id
    name = render.clean(name)
    if item.outcome is Outcome.RESTORED:
        place = f"{render.place(statement.cursor)}{render.ahead(statement.cursor, now_ms)}"
        return f"the {statement.direction} cursor of {name} is now {place}"
    why = {
        Outcome.PEER_NOT_FOUND: "is not registered on this node: register it, then import again",
        Outcome.ALREADY_SET: "has a cursor already: --force sets it all the same",
        Outcome.SAID_BEFORE: "was named before in this file",
    }
    return f"left out: {name} ({statement.direction}) {why[item.outcome]}"
