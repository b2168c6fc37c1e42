"""``peers``: the node's peers and how replication from each stands."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from stigmem_replicator.cli import completion, render
from stigmem_replicator.cli.context import find_peer, opened, settings_of
from stigmem_replicator.clock import SystemClock
from stigmem_replicator.errors import LocalError
from stigmem_replicator.settings import Settings
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store import reads, views
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.views import PeerView
from stigmem_replicator.transport import certificates

app = typer.Typer(no_args_is_help=True, help="The node's peers and how each stands.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

NEVER_PULLED = "never pulled"
SHOWN_EVENTS = 50


def _state(peer: PeerRow, view: PeerView | None) -> str:
    if peer.status != "active":
        return peer.status
    if view is None or (view.last_attempt_ms is None and view.caught_up_ms is None):
        return NEVER_PULLED
    state = view.state if view.reason is None else f"{view.state} ({view.reason})"
    return f"{state}, {render.lag(view.upstream_lag_ms)}" if view.upstream_lag_ms else state


def _document(peer: PeerRow, view: PeerView | None, settings: Settings) -> dict[str, object]:
    return {
        "peer": peer.node_id,
        "id": peer.id,
        "url": without_secrets(peer.node_url),
        "status": peer.status,
        "scopes": sorted(peer.scopes),
        "entity_uri": None if peer.entity_uri is None else without_secrets(peer.entity_uri),
        "insecure": settings.federation_insecure,
        "replication": None if view is None else asdict(view),
    }


@app.command("list")
def list_peers(context: typer.Context, as_json: Json = False) -> None:
    """List all peers, one a line."""
    settings = settings_of(context)
    with opened(settings) as database, reading(database) as connection:
        rows = reads.peers(connection)
        seen = views.peer_views(connection)
    if as_json:
        documents = [_document(peer, seen.get(peer.node_id), settings) for peer in rows]
        print(render.document(documents))
        return
    if warning := render.insecure_warning(settings):
        print(f"stigmem-replicate: WARNING: {warning}", file=sys.stderr)
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
    settings = settings_of(context)
    with opened(settings) as database, reading(database) as connection:
        found = find_peer(reads.peers(connection), peer)
        view = views.peer_views(connection).get(found.node_id)
        events = views.events(connection, found.node_id, SHOWN_EVENTS)
        stored = reads.stored_position(connection, found, FACTS)
    own_end = _own_certificate(settings)
    if as_json:
        shown = _document(found, view, settings)
        shown["own_certificate_not_after_ms"] = own_end if isinstance(own_end, int) else None
        shown["events"] = [
            {**asdict(event), "detail": json.loads(event.detail)} for event in events
        ]
        print(render.document(shown))
        return
    now_ms = SystemClock().now_ms()
    rows = _peer_rows(found, view, stored.position.frontier)
    if view is not None:
        rows += _replication_rows(view) + _observed_rows(view, now_ms)
    if own_end is not None:
        words = render.ending(own_end, now_ms) if isinstance(own_end, int) else own_end.message
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


def _own_certificate(settings: Settings) -> int | LocalError | None:
    """Return when our own certificate ends, or why that cannot be told; None without one."""
    if not settings.mutual_tls or settings.tls_cert_path is None:
        return None
    try:
        return certificates.not_after_ms(settings.tls_cert_path)
    except LocalError as error:
        return error


def _peer_rows(peer: PeerRow, view: PeerView | None, cursor: str | None) -> list[tuple[str, str]]:
    organisation = without_secrets(peer.entity_uri or "")
    return [
        ("peer", peer.node_id),
        ("url", without_secrets(peer.node_url)),
        ("id", peer.id),
        ("registry", peer.status),
        ("scopes", ", ".join(sorted(peer.scopes)) or "none"),
        ("organisation", organisation or "not bound: nothing can be verified"),
        ("state", _state(peer, view)),
        ("cursor", cursor or "at the beginning"),
    ]


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


def _observed_rows(view: PeerView, now_ms: int) -> list[tuple[str, str]]:
    rows = []
    if view.certificate_not_after_ms is not None:
        rows.append(("its certificate", render.ending(view.certificate_not_after_ms, now_ms)))
    if view.upstream_lag_ms is not None:
        told = render.moment(view.upstream_lag_at_ms)
        rows.append(("upstream lag", f"{render.span(view.upstream_lag_ms / 1000)}, told {told}"))
    return rows
