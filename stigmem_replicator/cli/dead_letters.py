"""``dead-letters``: what was refused, and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from stigmem_replicator.cli import render
from stigmem_replicator.cli.context import find_peer, opened, settings_of
from stigmem_replicator.errors import Reason, UsageError
from stigmem_replicator.store import reads, views
from stigmem_replicator.store.engine import reading

app = typer.Typer(no_args_is_help=True, help="What was refused, and why.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
PeerOption = Annotated[
    str | None, typer.Option("--peer", metavar="X", help="Only those of this peer.")
]


@app.command("list")
def list_letters(
    context: typer.Context,
    peer: PeerOption = None,
    reason: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those with this reason code.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List refused entries, the last seen first."""
    with opened(settings_of(context)) as database, reading(database) as connection:
        node_id = find_peer(reads.peers(connection), peer).node_id if peer else None
        found = views.letters(
            connection, node_id=node_id, reason=reason, limit=limit + 1, payloads=False
        )
    more, found = len(found) > limit, found[:limit]
    if as_json:
        print(render.document([asdict(letter) for letter in found]))
        return
    if not found:
        print("nothing was refused")
        return
    print(
        render.table(
            ("ENTRY", "REASON", "STATUS", "LAST SEEN"),
            [
                (item.entry_id, item.reason, item.status, render.moment(item.last_seen_at_ms))
                for item in found
            ],
        )
    )
    if more:
        print(f"… and more; list them with --limit {limit * 2}")


@app.command()
def show(
    context: typer.Context,
    entry: Annotated[str, typer.Argument(help="The entry's id, as `list` shows it.")],
    peer: PeerOption = None,
    as_json: Json = False,
) -> None:
    """Show one refused entry: why, since when, and what it was."""
    with opened(settings_of(context)) as database, reading(database) as connection:
        node_id = find_peer(reads.peers(connection), peer).node_id if peer else None
        found = views.letters(connection, node_id=node_id, entry_id=entry)
    if not found:
        raise UsageError(
            Reason.USAGE,
            f"there is no dead letter of an entry {entry!r}",
            hint="list them with: stigmem-replicate dead-letters list",
        )
    if as_json:
        print(
            render.document([{**asdict(item), "payload": _payload(item.payload)} for item in found])
        )
        return
    for item in found:
        print(
            render.pairs(
                [
                    ("entry", item.entry_id),
                    ("peer", item.node_id),
                    ("stream", item.stream),
                    ("reason", item.reason),
                    ("detail", item.detail),
                    ("status", item.status),
                    ("first seen", render.moment(item.first_seen_at_ms)),
                    (
                        "last seen",
                        f"{render.moment(item.last_seen_at_ms)}, {item.times_seen} times",
                    ),
                ]
            )
        )
        print(
            render.document(_payload(item.payload)) if item.payload else "its content was dropped"
        )


def _payload(text: str | None) -> object:
    return None if text is None else json.loads(text)
