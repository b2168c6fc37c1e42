"""``run``: the daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from stigmem_replicator.cli.context import Invocation, check_trust_mode, opened
from stigmem_replicator.service import process
from stigmem_replicator.settings import Settings


def run(
    context: typer.Context,
    no_migrate: Annotated[
        bool, typer.Option("--no-migrate", help="Exit 3 where `db upgrade` has to be run first.")
    ] = False,
) -> None:
    """Replicate from all active peers until stopped.

    Peers start and stop as the node's registry says. SIGTERM and SIGINT end it in good order; a
    second signal ends it at once. SIGHUP reads the settings again.
    """
    invocation: Invocation = context.obj

    def load() -> Settings:
        settings = invocation.read()
        check_trust_mode(settings)
        return settings

    settings = load()
    process.serve(
        load,
        lambda settings, before: opened(settings, own_tables=False, before=before),
        settings,
        migrate=not no_migrate,
    )
