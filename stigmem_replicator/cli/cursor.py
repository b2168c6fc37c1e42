"""``cursor``: where reading stands, how it came there, and setting it elsewhere.

Files of cursors are ``checkpoint``'s; how tombstones and revocations stand is said in ``streams``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import typer

from stigmem_replicator.cli import checkpoint, completion, daemon, render, streams, times
from stigmem_replicator.cli.actor import actor
from stigmem_replicator.cli.context import all_peers, confirm, find_peer, opened, settings_of
from stigmem_replicator.cli.streams import BESIDE, Beside, Stream
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.errors import Reason, UsageError
from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication.session import Checkpoint, Position
from stigmem_replicator.store import checkpoints, events, migrations, reads, records, standings
from stigmem_replicator.store.checkpoints import CursorEvent
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import INBOUND, PeerRow, StoredPosition

app = typer.Typer(no_args_is_help=True, help="Where reading from each peer stands.")

ThePeer = Annotated[
    str,
    typer.Option("--peer", metavar="X", help="The peer.", autocompletion=completion.peer_names),
]

OneStream = Annotated[Stream, typer.Option("--stream", help="Which stream of the peer's is meant.")]

_SHOWN_CHECKPOINTS: Final = 5


@app.command()
def show(
    context: typer.Context,
    peer: Annotated[
        str | None,
        typer.Option(
            "--peer", metavar="X", help="Only this peer.", autocompletion=completion.peer_names
        ),
    ] = None,
    stream: Annotated[
        Stream | None, typer.Option("--stream", help="Only this stream of each peer.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show the cursor of every peer, and what it may be set back to.

    Without --stream that of the facts, and a line each for tombstones and revocations: a pull, and
    the daemon when it starts and at times, reads these in full wherever they stand.
    """
    with opened(settings_of(context)) as database:
        daemon_runs = daemon.runs(database)
        with reading(database) as connection:
            found = reads.peers(connection)
            if peer is not None:
                found = [find_peer(found, peer)]
            facts = [reads.stored_position(connection, item, FACTS) for item in found]
            beside = [streams.beside(connection, item) for item in found]
    stands = list(zip(found, facts, beside, strict=True))
    if as_json:
        print(render.document([_shown_document(stream, *item) for item in stands]))
        return
    daemon.tell(daemon_runs)
    if not stands:
        print("this node has no peers")
        return
    print("\n\n".join(_shown_text(stream, *item) for item in stands))


def _shown_document(
    stream: Stream | None, peer: PeerRow, stored: StoredPosition, beside: dict[Stream, Beside]
) -> dict[str, Any]:
    if stream is not None and stream in beside:
        return streams.document(peer, stream, beside[stream])
    facts = _document(peer, stored)
    if stream is None:
        facts |= {
            name: {"cursor": stands.newest, "settled": stands.begins}
            for name, stands in beside.items()
        }
    return facts


def _shown_text(
    stream: Stream | None, peer: PeerRow, stored: StoredPosition, beside: dict[Stream, Beside]
) -> str:
    if stream is not None and stream in beside:
        return streams.text(peer, stream, beside[stream])
    lines = [] if stream else [(name.value, stands.line) for name, stands in beside.items()]
    return render.pairs([*_rows(peer, stored), *lines])


def _document(peer: PeerRow, stored: StoredPosition) -> dict[str, Any]:
    return {
        "peer": peer.node_id,
        "stream": FACTS,
        "cursor": stored.position.frontier,
        "updated_at": stored.row.updated_at if stored.row else None,
        "settled": stored.position.settled,
        "checkpoints": [asdict(checkpoint) for checkpoint in stored.position.checkpoints],
    }


def _rows(peer: PeerRow, stored: StoredPosition) -> list[tuple[str, str]]:
    position = stored.position
    rows = [
        ("peer", peer.node_id),
        ("cursor", render.place(position.frontier)),
        ("updated", stored.row.updated_at if stored.row else "never"),
        ("settled", f"{render.place(position.settled)}; the next pull reads from there"),
    ]
    rows += [
        ("checkpoint", render.place(checkpoint.position))
        for checkpoint in position.checkpoints[-_SHOWN_CHECKPOINTS:]
    ]
    older = len(position.checkpoints) - _SHOWN_CHECKPOINTS
    if older > 0:
        rows.append(("", f"and {older} older ones (--json shows all)"))
    return rows


@app.command()
def history(
    context: typer.Context,
    peer: ThePeer,
    stream: OneStream = Stream.FACTS,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many changes.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show how a peer's cursor was changed, and by whom.

    Newest first, with the checkpoints that it may be set to.
    Pulls move the cursor too; they leave checkpoints, no events.
    """
    with opened(settings_of(context)) as database:
        daemon_runs = daemon.runs(database)
        with reading(database) as connection:
            found = find_peer(reads.peers(connection), peer)
            stored = reads.stored_position(connection, found, FACTS)
            beside = streams.beside(connection, found)
            changes = checkpoints.history(connection, found.node_id, limit, stream=stream)
    if as_json:
        shown = _shown_document(stream, found, stored, beside)
        shown["checkpoints"] = list(reversed(shown["checkpoints"]))
        print(render.document({**shown, "changes": [asdict(item) for item in changes]}))
        return
    daemon.tell(daemon_runs)
    if stream in BESIDE:
        print(streams.text(found, stream, beside[stream]))
        kept: tuple[Checkpoint, ...] = ()
    else:
        cursor = render.place(stored.position.frontier)
        print(render.pairs([("peer", found.node_id), ("cursor", cursor)]))
        kept = stored.position.checkpoints
    headings = ("WHEN", "WHAT", "WHO", "BEFORE", "AFTER")
    if changes:
        print()
        print(render.table(headings, [_change(item) for item in changes]))
    if kept:
        print()
        rows = [
            (render.moment(item.kept_at_ms), render.place(item.position)) for item in reversed(kept)
        ]
        print(render.table(("KEPT", "CHECKPOINT"), rows))


def _change(item: CursorEvent) -> tuple[str, ...]:
    what = item.event if item.direction == INBOUND else f"{item.event} ({item.direction})"
    return (
        render.moment(item.at_ms),
        f"{what} --force" if item.forced else what,
        item.actor,
        item.before or streams.BEGINNING,
        item.after or streams.BEGINNING,
    )


@app.command()
def reset(
    context: typer.Context,
    peer: ThePeer,
    to: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="To this position, one that `cursor show` lists."),
    ] = None,
    back: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="To what was settled so long ago: 90s, 30m, 1h, 2d."),
    ] = None,
    stream: OneStream = Stream.FACTS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Set a peer's cursor back, by default to the beginning.

    The next pull reads everything after it once more; what is known is skipped, so this loses
    and doubles nothing.
    """
    if to is not None and back is not None:
        raise UsageError(Reason.USAGE, "--to and --back exclude each other")
    if stream in BESIDE:
        if back is not None:
            raise streams.cheap(stream, f"--back is for facts: {stream} keep no checkpoints")
        _place_beside(context, peer, stream, to, events.CURSOR_RESET, yes=yes)
        return
    clock = SystemClock()
    with opened(settings_of(context)) as database:
        found = find_peer(all_peers(database), peer)
        with reading(database) as connection:
            position = reads.stored_position(connection, found, FACTS).position
            given = checkpoints.given_positions(connection, found)
        if to is not None:
            target: str | None = _given(to, given)
        else:
            target = None if back is None else _settled_before(position, back, clock.now_ms())
        _place(database, Move(found, position.frontier, target, events.CURSOR_RESET), yes=yes)


@app.command("set")
def set_(
    context: typer.Context,
    cursor: Annotated[str, typer.Argument(help="The position, one that `history` lists.")],
    peer: ThePeer,
    force: Annotated[
        bool, typer.Option("--force", help="Also a position that this peer never gave us.")
    ] = False,
    stream: OneStream = Stream.FACTS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Set a peer's cursor to a position, forward too.

    The next pull reads from there; what lies before it is not looked for any more.
    """
    if stream in BESIDE:
        if force:
            raise streams.cheap(
                stream, f"--force is for facts: {stream} go only to a time that the peer gave"
            )
        _place_beside(context, peer, stream, cursor, events.CURSOR_SET, yes=yes)
        return
    with opened(settings_of(context)) as database:
        found = find_peer(all_peers(database), peer)
        with reading(database) as connection:
            position = reads.stored_position(connection, found, FACTS).position
            given = checkpoints.given_positions(connection, found)
        forced = force and cursor not in given
        target = cursor if forced and hlc.fits_wire(cursor) else _given(cursor, given)
        move = Move(found, position.frontier, target, events.CURSOR_SET, forced=forced)
        _place(database, move, yes=yes)


@dataclass(frozen=True, slots=True)
class Move:
    """A cursor that an operator wants elsewhere, and the event that remembers it."""

    peer: PeerRow
    before: str | None
    after: str | None
    event: str
    forced: bool = False


def _place(database: Database, move: Move, *, yes: bool) -> None:
    """Ask, then set the cursor; a page in flight does not overwrite it."""
    clock = SystemClock()
    name, after = render.clean(move.peer.node_id), render.place(move.after)
    if not yes:
        doubt = " (never given by this peer)" if move.forced else ""
        before = render.place(move.before)
        confirm(f"Set the cursor of {name}\n  from {before}\n  to   {after}{doubt}?")
    migrations.upgrade(database)
    with writing(database) as connection:
        records.reset_cursor(
            connection,
            move.peer,
            FACTS,
            move.after,
            actor(move.event.replace("_", " ")),
            clock,
            event=move.event,
            forced=move.forced,
        )
        asked_ms = standings.standing(connection, move.peer.node_id).not_before_ms
    now_ms = clock.now_ms()
    doubt = f"{render.ahead(move.after, now_ms)}{render.left_alone(asked_ms, now_ms)}"
    print(f"the cursor of {name} is now {after}{doubt}")


def _place_beside(
    context: typer.Context, peer: str, stream: Stream, to: str | None, event: str, *, yes: bool
) -> None:
    """Ask, then set where passes over tombstones or revocations begin."""
    clock = SystemClock()
    with opened(settings_of(context)) as database:
        found = find_peer(all_peers(database), peer)
        with reading(database) as connection:
            before = streams.beside(connection, found)[stream].settled
            known = checkpoints.given_times(connection, found)
        target = None if to is None else streams.given(stream, to, known)
        name, after = render.clean(found.node_id), render.clean(target or streams.BEGINNING)
        if not yes:
            stood = render.clean(before or streams.BEGINNING)
            confirm(f"Set the {stream} of {name}\n  from {stood}\n  to   {after}?")
        migrations.upgrade(database)
        who = actor(event.replace("_", " "))
        with writing(database) as connection:
            records.reset_beside(connection, found, stream, target, who, clock, event=event)
            asked_ms = standings.standing(connection, found.node_id).not_before_ms
            words = streams.beside(connection, found)[stream].words
    later = render.left_alone(asked_ms, clock.now_ms())
    print(render.clean(f"the {stream} of {name} now stand at {after}; {words}{later}"))


def _given(wanted: str, given: Collection[str]) -> str:
    """Return a position that the peer once gave.  Raises :class:`UsageError` for any other."""
    if wanted in given:
        return wanted
    if not hlc.fits_wire(wanted):
        raise UsageError(
            Reason.USAGE,
            f"{wanted[:80]!r} is no position: it reads <milliseconds since 1970>.<counter>",
            hint="`cursor history` lists those that this peer gave us",
        )
    raise UsageError(
        Reason.USAGE,
        f"{wanted!r} is no position that this peer gave us",
        hint="`cursor history` lists those; `cursor set --force` takes others",
    )


def _settled_before(position: Position, back: str, now_ms: int) -> str | None:
    bound = now_ms - times.span_ms(back, "--back")
    kept = [checkpoint.position for checkpoint in position.checkpoints]
    return max((text for text in kept if (hlc.wall_ms(text) or 0) <= bound), default=None)


app.command("export")(checkpoint.export)
app.command("import")(checkpoint.import_)
