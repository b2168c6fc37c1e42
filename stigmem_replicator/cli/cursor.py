"""``cursor``: where reading stands, and setting it back."""

from __future__ import annotations

import getpass
import re
from dataclasses import asdict
from typing import Annotated, Final

import typer

from stigmem_replicator.cli import render
from stigmem_replicator.cli.context import all_peers, confirm, find_peer, opened, settings_of
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.errors import Reason, UsageError
from stigmem_replicator.protocol import hlc
from stigmem_replicator.replication.session import Position
from stigmem_replicator.store import migrations, reads, records
from stigmem_replicator.store.engine import reading, writing
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import PeerRow, StoredPosition

app = typer.Typer(no_args_is_help=True, help="Where reading from each peer stands.")

_SHOWN_CHECKPOINTS: Final = 5
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@app.command()
def show(
    context: typer.Context,
    peer: Annotated[str | None, typer.Option("--peer", metavar="X", help="Only this peer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show the cursor of every peer, and what it may be set back to."""
    with opened(settings_of(context)) as database, reading(database) as connection:
        found = reads.peers(connection)
        if peer is not None:
            found = [find_peer(found, peer)]
        stored = [(item, reads.stored_position(connection, item, FACTS)) for item in found]
    if as_json:
        print(render.document([_document(item, position) for item, position in stored]))
        return
    if not stored:
        print("this node has no peers")
        return
    print("\n\n".join(_text(item, position) for item, position in stored))


def _document(peer: PeerRow, stored: StoredPosition) -> dict[str, object]:
    return {
        "peer": peer.node_id,
        "stream": FACTS,
        "cursor": stored.position.frontier,
        "updated_at": stored.row.updated_at if stored.row else None,
        "settled": stored.position.settled,
        "checkpoints": [asdict(checkpoint) for checkpoint in stored.position.checkpoints],
    }


def _text(peer: PeerRow, stored: StoredPosition) -> str:
    position = stored.position
    rows = [
        ("peer", peer.node_id),
        ("cursor", _place(position.frontier)),
        ("updated", stored.row.updated_at if stored.row else "never"),
        ("settled", f"{_place(position.settled)}; the next pull reads from there"),
    ]
    rows += [
        ("checkpoint", _place(checkpoint.position))
        for checkpoint in position.checkpoints[-_SHOWN_CHECKPOINTS:]
    ]
    older = len(position.checkpoints) - _SHOWN_CHECKPOINTS
    if older > 0:
        rows.append(("", f"and {older} older ones (--json shows all)"))
    return render.pairs(rows)


def _place(position: str | None) -> str:
    if position is None:
        return "at the beginning"
    return f"{render.clean(position)}  ({render.moment(hlc.wall_ms(position))})"


@app.command()
def reset(
    context: typer.Context,
    peer: Annotated[str, typer.Option("--peer", metavar="X", help="The peer.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="To this position, one that `cursor show` lists."),
    ] = None,
    back: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="To what was settled so long ago: 90s, 30m, 1h, 2d."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Set a peer's cursor back, by default to the beginning.

    The next pull reads everything after it once more; what is known is skipped, so this loses
    and doubles nothing.
    """
    if to is not None and back is not None:
        raise UsageError(Reason.USAGE, "--to and --back exclude each other")
    clock = SystemClock()
    with opened(settings_of(context)) as database:
        found = find_peer(all_peers(database), peer)
        with reading(database) as connection:
            position = reads.stored_position(connection, found, FACTS).position
        target = _target(position, to, back, clock.now_ms())
        if not yes:
            confirm(
                f"Set the cursor of {render.clean(found.node_id)}\n"
                f"  from {_place(position.frontier)}\n  to   {_place(target)}?"
            )
        migrations.upgrade(database)
        with writing(database) as connection:
            actor = f"{getpass.getuser()} (cursor reset)"
            records.reset_cursor(connection, found, FACTS, target, actor, clock)
    print(f"the cursor of {render.clean(found.node_id)} is now {_place(target)}")


def _target(position: Position, to: str | None, back: str | None, now_ms: int) -> str | None:
    """Return where to go: only positions that the peer once gave, or the beginning."""
    kept = [checkpoint.position for checkpoint in position.checkpoints]
    if to is not None:
        if to not in {*kept, position.settled, position.frontier}:
            raise UsageError(
                Reason.USAGE,
                f"{to!r} is no position that this peer gave us",
                hint="`cursor show --json` lists all; without --to the reset goes to the beginning",
            )
        return to
    if back is not None:
        bound = now_ms - _duration_ms(back)
        old = [text for text in kept if (hlc.wall_ms(text) or 0) <= bound]
        return max(old, default=None)
    return None


def _duration_ms(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if match is None:
        raise UsageError(Reason.USAGE, f"--back {text!r} is no time", hint="say 90s, 30m, 1h or 2d")
    return int(match[1]) * _SECONDS[match[2]] * 1000
