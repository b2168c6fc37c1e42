"""``dead-letters``: what was refused, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated

import typer

from stigmem_replicator.cli import completion, daemon, files, render
from stigmem_replicator.cli.context import all_peers, find_peer, opened, settings_of
from stigmem_replicator.cli.streams import Stream
from stigmem_replicator.errors import Reason, UsageError
from stigmem_replicator.store import letters, reads, views
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.store.letters import Narrowing
from stigmem_replicator.store.views import LetterView

app = typer.Typer(no_args_is_help=True, help="What was refused, and why.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
PeerOption = Annotated[
    str | None,
    typer.Option(
        "--peer", metavar="X", help="Only those of this peer.", autocompletion=completion.peer_names
    ),
]
StreamOption = Annotated[Stream | None, typer.Option("--stream", help="Only those of this stream.")]


@app.command("list")
def list_letters(
    context: typer.Context,
    peer: PeerOption = None,
    stream: StreamOption = None,
    reason: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those with this reason code.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List refused entries, the last seen first."""
    with opened(settings_of(context)) as database:
        daemon_runs = daemon.runs(database)
        with reading(database) as connection:
            node_id = find_peer(reads.peers(connection), peer).node_id if peer else None
            found = views.letters(
                connection,
                node_id=node_id,
                stream=stream,
                reason=reason,
                limit=limit + 1,
                payloads=False,
            )
    more, found = len(found) > limit, found[:limit]
    if as_json:
        print(render.document([asdict(letter) for letter in found]))
        return
    daemon.tell(daemon_runs)
    if not found:
        print("nothing was refused")
        return
    print(
        render.table(
            ("ENTRY", "STREAM", "REASON", "STATUS", "LAST SEEN"),
            [
                (
                    *(item.entry_id, item.stream, item.reason, item.status),
                    render.moment(item.last_seen_at_ms),
                )
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
    stream: StreamOption = None,
    as_json: Json = False,
) -> None:
    """Show one refused entry: why, since when, and what it was."""
    with opened(settings_of(context)) as database:
        daemon_runs = daemon.runs(database)
        with reading(database) as connection:
            node_id = find_peer(reads.peers(connection), peer).node_id if peer else None
            found = views.letters(connection, node_id=node_id, stream=stream, entry_id=entry)
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
    daemon.tell(daemon_runs)
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


@app.command()
def export(
    context: typer.Context,
    peer: PeerOption = None,
    stream: StreamOption = None,
    reason: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those with this reason code.")
    ] = None,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Write to this file, not to the terminal.")
    ] = files.STDOUT,
) -> None:
    """Write refused entries with their content, one JSON object a line.

    The content is what a peer sent and nobody verified.
    """
    written = 0
    with opened(settings_of(context)) as database:
        node_id = find_peer(all_peers(database), peer).node_id if peer else None
        narrowing = Narrowing(node_id, reason, stream)
        with files.output(out) as file:
            for letter in _all_letters(database, narrowing):
                print(_line(letter), file=file)
                written += 1
    if out != files.STDOUT:
        print(f"{written} dead letters written to {out}", file=sys.stderr)


def _line(letter: LetterView) -> str:
    # The content is JSON already, and no deeper or longer than what was once read.
    fields = asdict(replace(letter, payload=None))
    del fields["payload"]
    return f'{json.dumps(fields)[:-1]}, "payload": {letter.payload or "null"}}}'


def _all_letters(database: Database, narrowing: Narrowing) -> Iterator[LetterView]:
    """Yield letters chunk by chunk; whoever reads slowly keeps no transaction open."""
    after: letters.Key | None = None
    while True:
        with reading(database) as connection:
            chunk = letters.chunk(connection, narrowing, after)
        if not chunk:
            return
        yield from chunk
        after = letters.key(chunk[-1])


def _payload(text: str | None) -> object:
    """Return a letter's content, as text when it is nested too deeply to be laid out."""
    if text is None:
        return None
    try:
        content = json.loads(text)
        render.document(content)
    except RecursionError:
        return text
    return content
