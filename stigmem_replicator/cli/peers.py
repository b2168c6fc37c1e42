"""``peers``: the node's peers, how replication from each stands, and pausing it.

The words for a peer are in ``peer_text``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Connection

from stigmem_replicator.cli import completion, looking, peer_text, render, times
from stigmem_replicator.cli.actor import actor
from stigmem_replicator.cli.context import all_peers, find_peer, opened, settings_of
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.errors import LocalError, Reason, UsageError
from stigmem_replicator.settings import Settings, insecure_warning
from stigmem_replicator.store import migrations, node_loop, pauses, reads, views
from stigmem_replicator.store.engine import Database, reading, writing
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.views import PeerView
from stigmem_replicator.transport import certificates

app = typer.Typer(no_args_is_help=True, help="The node's peers and how each stands.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ThePeer = Annotated[
    str,
    typer.Argument(
        help="Id, node id, URL or a unique part of one.", autocompletion=completion.peer_names
    ),
]

SHOWN_EVENTS = 50
REASON_CHARACTERS = 500


@app.command("list")
def list_peers(context: typer.Context, as_json: Json = False) -> None:
    """List all peers, one a line, and how replication from each stands."""
    settings = settings_of(context)
    with opened(settings) as database:
        machine = looking.machine_of(database, settings)
        with reading(database) as connection:
            shown = looking.shown(connection, reads.peers(connection), settings, machine)
    if as_json:
        print(render.document([peer_text.document(item, machine) for item in shown]))
        return
    if warning := insecure_warning(settings):
        print(f"stigmem-replicate: WARNING: {warning}", file=sys.stderr)
    looking.tell(machine)
    pulled_by_node = [item.peer.node_id for item in shown if item.node_loop]
    if pulled_by_node:
        words = render.clean(f"{node_loop.ADVICE} (it pulls {', '.join(pulled_by_node)})")
        print(f"stigmem-replicate: WARNING: {words}", file=sys.stderr)
    if not shown:
        print("this node has no peers; register one on the node first")
        return
    print(render.table(peer_text.HEADINGS, [peer_text.cells(item, machine) for item in shown]))


@app.command()
def show(context: typer.Context, peer: ThePeer, as_json: Json = False) -> None:
    """Show one peer: who it is, how it stands, what to do about it, what happened last."""
    settings = settings_of(context)
    with opened(settings) as database:
        machine = looking.machine_of(database, settings)
        with reading(database) as connection:
            found = find_peer(reads.peers(connection), peer)
            (shown,) = looking.shown(connection, [found], settings, machine)
            events = views.events(connection, found.node_id, SHOWN_EVENTS)
    own_end = _own_certificate(settings)
    if as_json:
        document = peer_text.document(shown, machine)
        document["own_certificate_not_after_ms"] = own_end if isinstance(own_end, int) else None
        document["events"] = [
            {**asdict(event), "detail": json.loads(event.detail)} for event in events
        ]
        print(render.document(document))
        return
    looking.tell(machine)
    rows = peer_text.lines(shown, machine)
    if own_end is not None:
        at_ms = machine.now_ms
        words = render.ending(own_end, at_ms) if isinstance(own_end, int) else own_end.message
        rows.append(("own certificate", words))
    print(render.pairs(rows))
    if events:
        print("\nwhat happened, newest first")
        print(
            render.table(
                ("WHEN", "WHAT", "WHO", "DETAIL"),
                [
                    (render.moment(event.at_ms), event.event, event.actor, event.detail)
                    for event in events
                ],
            )
        )


@app.command()
def pause(
    context: typer.Context,
    peer: ThePeer,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why, for others to read.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="TIME", help="Resume it then: 90s, 30m, 2h, 1d, or an ISO 8601 time."
        ),
    ] = None,
) -> None:
    """Have the daemon leave a peer alone; a pull by hand still works on it.

    Its cursor and its facts stay as they are. Pausing it again replaces reason and time.
    """
    clock = SystemClock()
    why = render.clean(reason or "").strip() or None
    if why is not None and len(why) > REASON_CHARACTERS:
        raise UsageError(
            Reason.USAGE, f"--reason has {len(why)} characters, {REASON_CHARACTERS} are taken"
        )
    until_ms = None if until is None else times.future_ms(until, "--until", clock.now_ms())

    def act(connection: Connection, node_id: str) -> None:
        pauses.pause(connection, node_id, why, until_ms, actor("peers pause"), clock)

    with opened(settings_of(context)) as database:
        found = find_peer(all_peers(database), peer)
        before, after = _changed(database, found, act, clock.now_ms())
    assert after.paused is not None  # noqa: S101 - in the same transaction
    print(peer_text.paused(found.node_id, before.paused if before else None, after.paused))


@app.command()
def resume(context: typer.Context, peer: ThePeer) -> None:
    """End a peer's pause, or have one that failed tried at once: its failures are forgotten.

    A peer that asked to be left alone for some time is left alone.
    """
    clock = SystemClock()
    settings = settings_of(context)

    def act(connection: Connection, node_id: str) -> None:
        pauses.resume(connection, node_id, actor("peers resume"), clock)

    with opened(settings) as database:
        found = find_peer(all_peers(database), peer)
        before, after = _changed(database, found, act, clock.now_ms())
        machine = looking.machine_of(database, settings)
    print(peer_text.resumed(found, before, after, machine))


def _changed(
    database: Database, peer: PeerRow, act: Callable[[Connection, str], None], now_ms: int
) -> tuple[PeerView | None, PeerView]:
    """Do something to a peer's standing; return how it stood before and how it stands now."""
    migrations.upgrade(database)
    with writing(database) as connection:
        before = views.peer_view(connection, peer.node_id, now_ms)
        act(connection, peer.node_id)
        after = views.peer_view(connection, peer.node_id, now_ms)
    assert after is not None  # noqa: S101 - whoever acts gives the peer its row
    return before, after


def _own_certificate(settings: Settings) -> int | LocalError | None:
    """Return when our own certificate ends, or why that cannot be told; None without one."""
    if not settings.mutual_tls or settings.tls_cert_path is None:
        return None
    try:
        return certificates.not_after_ms(settings.tls_cert_path)
    except LocalError as error:
        return error
