"""``run``: the daemon."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stigmem_replicator.cli.context import check_trust_mode, opened, settings_of
from stigmem_replicator.observe import log
from stigmem_replicator.service import process


def run(
    context: typer.Context,
    no_migrate: Annotated[
        bool, typer.Option("--no-migrate", help="Exit 3 where `db upgrade` has to be run first.")
    ] = False,
) -> None:
    """Replicate from all active peers until stopped.

    Peers start and stop as the node's registry says. SIGTERM and SIGINT end it in good order; a
    second signal ends it at once.
    """
    settings = settings_of(context)
    check_trust_mode(settings)
    log.configure(settings.log_level, terminal=sys.stderr.isatty())
    process.serve(
        lambda before: opened(settings, own_tables=False, before=before),
        settings,
        migrate=not no_migrate,
    )
