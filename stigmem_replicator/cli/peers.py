"""``peers``: the node's peers and how replication from each stands."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from stigmem_replicator.cli import completion, render
from stigmem_replicator.cli.context import find_peer, opened, settings_of
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store import reads, views
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.views import PeerView

app = typer.Typer(no_args_is_help=True, help="The node's peers and how each stands.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

NEVER_PULLED = "never pulled"
SHOWN_EVENTS = 50


def _state(peer: PeerRow, view: PeerView | None) -> str:
    if peer.status != "active":
        return peer.status
    if view is None or (view.last_attempt_ms is None and view.caught_up_ms is None):
        return NEVER_PULLED
    return view.state if view.reason is None else f"{view.state} ({view.reason})"


def _document(peer: PeerRow, view: PeerView | None) -> dict[str, object]:
    return {
        "peer": peer.node_id,
        "id": peer.id,
        "url": without_secrets(peer.node_url),
        "status": peer.status,
        "scopes": sorted(peer.scopes),
        "entity_uri": None if peer.entity_uri is None else without_secrets(peer.entity_uri),
        "replication": None if view is None else asdict(view),
    }


@app.command("list")
def list_peers(context: typer.Context, as_json: Json = False) -> None:
    """List all peers, one a line."""
    with opened(settings_of(context)) as database, reading(database) as connection:
        rows = reads.peers(connection)
        seen = views.peer_views(connection)
    if as_json:
        print(render.document([_document(peer, seen.get(peer.node_id)) for peer in rows]))
        return
    if not rows:
        print("this node has no peers; register one on the node first")
        return
    now_ms = SystemClock().now_ms()
    lines = []
    for peer in rows:
        view = seen.get(peer.node_id)
        caught_up = render.age(view.caught_up_ms if view else None, now_ms)
        lines.append((peer.node_id, caught_up, _state(peer, view)))
    print(render.table(("PEER", "CAUGHT UP", "STATE"), lines))


@app.command()
def show(
    context: typer.Context,
    peer: Annotated[
        str,
        typer.Argument(
            help="Id, node id, URL or a unique part of one.", autocompletion=completion.peer_names
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show one peer: who it is, how it stands, what happened last."""
    with opened(settings_of(context)) as database, reading(database) as connection:
        found = find_peer(reads.peers(connection), peer)
        view = views.peer_views(connection).get(found.node_id)
        events = views.events(connection, found.node_id, SHOWN_EVENTS)
        stored = reads.stored_position(connection, found, FACTS)
    if as_json:
        shown = _document(found, view)
        shown["events"] = [
            {**asdict(event), "detail": json.loads(event.detail)} for event in events
        ]
        print(render.document(shown))
        return
    rows = [
        ("peer", found.node_id),
        ("url", without_secrets(found.node_url)),
        ("id", found.id),
        ("registry", found.status),
        ("scopes", ", ".join(sorted(found.scopes)) or "none"),
        (
            "organisation",
            without_secrets(found.entity_uri or "") or "not bound: nothing can be verified",
        ),
        ("state", _state(found, view)),
        ("cursor", stored.position.frontier or "at the beginning"),
    ]
    if view is not None:
        rows += _replication_rows(view)
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


def _replication_rows(view: PeerView) -> list[tuple[str, str]]:
    rows = [
        ("since", render.moment(view.since_ms)),
        ("last attempt", render.moment(view.last_attempt_ms)),
        ("last success", render.moment(view.last_success_ms)),
        ("caught up", render.moment(view.caught_up_ms)),
        ("failures", str(view.failures)),
        ("pages", str(view.pages)),
        ("new facts", str(view.admitted)),
        ("duplicates", str(view.duplicates)),
        ("rejected", str(view.rejected)),
    ]
    if view.detail:
        rows.append(("last error", view.detail))
    if view.not_before_ms is not None:
        rows.append(("not before", render.moment(view.not_before_ms)))
    if view.holder_host is not None:
        holder = f"process {view.holder_pid} on {view.holder_host} ({view.holder_command})"
        rows.append(("worked on by", holder))
    return rows
