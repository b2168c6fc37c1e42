"""``config``: the settings in force, where each came from, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from stigmem_replicator.cli import render, token_files
from stigmem_replicator.cli.context import (
    all_peers,
    check_trust_mode,
    opened,
    review_of,
    settings_of,
)
from stigmem_replicator.clock import SystemClock, system_sleep
from stigmem_replicator.engine.identity import doubt_about_key, load_identity
from stigmem_replicator.engine.trust_inputs import TrustBook
from stigmem_replicator.errors import ExitCode, LocalError
from stigmem_replicator.settings import (
    Review,
    Settings,
    listening_warning,
    plain_token_warnings,
    warnings_about_keys,
)
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.transport.certificates import doubts
from stigmem_replicator.transport.network import Network, open_network

app = typer.Typer(no_args_is_help=True, help="The settings in force.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show every setting, its value and where it came from; secrets are hidden."""
    settings = settings_of(context)
    described, of_peers = settings.describe(), settings.describe_peers()
    if as_json:
        print(
            render.document(
                {
                    "settings": [asdict(item) for item in described],
                    "peers": {
                        node_id: [asdict(item) for item in rows]
                        for node_id, rows in of_peers.items()
                    },
                    "config_file": str(settings.config_file) if settings.config_file else None,
                    "env_file": str(settings.env_file) if settings.env_file else None,
                }
            )
        )
        return
    headings = ("SETTING", "VALUE", "FROM")
    print(render.table(headings, [(item.name, item.value, item.origin) for item in described]))
    for node_id, rows in of_peers.items():
        print(f"\nfor peer {render.clean(node_id)}")
        print(render.table(headings, [(item.name, item.value, item.origin) for item in rows]))
    print()
    print(render.clean(f"configuration file: {settings.config_file or 'none'}"))
    print(render.clean(f"the node's .env file: {settings.env_file or 'none'}"))


@app.command()
def check(context: typer.Context, as_json: Json = False) -> None:
    """Check all settings and the node's database, and list everything that is wrong."""
    read = review_of(context)
    problems, warnings = list(read.problems), list(read.warnings)
    opened_it = read.database_is_known and _look(read.settings, problems, warnings)
    if as_json:
        print(
            render.document(
                {
                    "usable": not problems,
                    "database_opened": opened_it,
                    "problems": [
                        {"reason": error.reason, "message": error.message, "hint": error.hint}
                        for error in problems
                    ],
                    "warnings": warnings,
                }
            )
        )
    else:
        _print_findings(read, problems, warnings)
    raise typer.Exit(ExitCode.CONFIGURATION if problems else ExitCode.DONE)


def _look(settings: Settings, problems: list[LocalError], warnings: list[str]) -> bool:
    """Open the node's database and find what a pull would stumble over before it asks a peer.

    Returns whether it could be opened.
    """
    network: Network | None = None
    peers: list[PeerRow] = []

    def fits(look: Callable[[], object]) -> bool:
        try:
            look()
        except LocalError as error:
            problems.append(error)
            return False
        return True

    def look_outside() -> None:
        nonlocal network
        network = open_network(settings, SystemClock(), system_sleep)

    def look_inside() -> None:
        with opened(settings) as database:
            fits(lambda: _look_at_identity(database, settings, network, warnings))
            fits(lambda: TrustBook(database, settings, SystemClock()))
            peers.extend(all_peers(database))
            known = {peer.node_id for peer in peers}
            for node_id in settings.peer_tables:
                if node_id not in known:
                    place = f'[peer."{without_secrets(node_id)}"] of {settings.config_file}'
                    warnings.append(f"{place} names no peer of this node")

    warnings += warnings_about_keys(settings, uid=os.getuid())
    if (reachable := listening_warning(settings)) is not None:
        warnings.append(reachable)
    fits(lambda: check_trust_mode(settings))
    fits(look_outside)
    opened_it = fits(look_inside)
    warnings += token_files.doubts(settings, peers, SystemClock().now_ms())
    warnings += plain_token_warnings(settings, {peer.node_id: peer.node_url for peer in peers})
    return opened_it


def _look_at_identity(
    database: Database, settings: Settings, network: Network | None, warnings: list[str]
) -> None:
    """Find what peers will not like about who we say that we are.  Raises :class:`LocalError`."""
    identity = load_identity(database, settings)
    if (doubt := doubt_about_key(database, settings, identity)) is not None:
        warnings.append(doubt)
    if network is not None and network.certificates is not None:
        warnings += doubts(network.certificates.own, identity.node_id, SystemClock().now_ms())


def _print_findings(read: Review, problems: list[LocalError], warnings: list[str]) -> None:
    for error in problems:
        hint = f"; {error.hint}" if error.hint else ""
        print(render.clean(f"problem: {error.message} ({error.reason}){hint}"))
    for warning in warnings:
        print(render.clean(f"warning: {warning}"))
    if not read.database_is_known:
        print("the database was not looked at: it is not certain which one is meant")
    elif not problems:
        place = read.settings.location_shown
        print(render.clean(f"all settings fit, and the database can be used: {place}"))
