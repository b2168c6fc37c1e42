"""``db``: the replicator's own tables in the node's database."""

from __future__ import annotations

from typing import Annotated

import typer

from stigmem_replicator.cli import render
from stigmem_replicator.cli.context import confirm, opened, settings_of
from stigmem_replicator.errors import PeerHeldError, Reason
from stigmem_replicator.store import migrations, own_schema, views
from stigmem_replicator.store.engine import Database, reading
from stigmem_replicator.store.locks import PeerLocks, make_locks
from stigmem_replicator.store.own_models import HEAD_REVISION

app = typer.Typer(no_args_is_help=True, help="The replicator's own tables.")


@app.command()
def upgrade(context: typer.Context) -> None:
    """Create or upgrade the tables (`pull` does so by itself)."""
    with opened(settings_of(context), own_tables=False) as database:
        changed = migrations.upgrade(database)
    print(f"the tables are {'now' if changed else 'already'} at revision {HEAD_REVISION}")


@app.command()
def current(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say at which revision the tables are."""
    with (
        opened(settings_of(context), own_tables=False) as database,
        reading(database) as connection,
    ):
        revision = migrations.current(connection)
        if revision in {None, HEAD_REVISION}:
            own_schema.check(connection)
    if as_json:
        print(render.document({"revision": revision, "needed": HEAD_REVISION}))
    elif revision is None:
        print(f"there are no tables yet; this version makes revision {HEAD_REVISION}")
    elif revision == HEAD_REVISION:
        print(f"{revision} (what this version needs)")
    else:
        print(f"{revision} (this version needs {HEAD_REVISION})")


@app.command()
def drop(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the tables and leave the node as it was; dead letters are lost."""
    with opened(settings_of(context), own_tables=False) as database:
        with reading(database) as connection:
            own_schema.refuse_newer(connection)
        if not yes:
            confirm(f"Remove the replicator's tables, dead letters included, from {database.name}?")
        with make_locks(database) as locks:
            _hold_every_peer(database, locks)
            dropped = migrations.drop(database)
    print("the tables are removed" if dropped else "there were no tables")


def _hold_every_peer(database: Database, locks: PeerLocks) -> None:
    """Make sure that nobody works on a peer: numbers begin anew after a drop."""
    with reading(database) as connection:
        numbers = views.peer_numbers(connection)
    for node_id, number in numbers.items():
        if not locks.take(number):
            raise PeerHeldError(
                Reason.PEER_HELD,
                f"another process works on peer {node_id}",
                hint="wait for it to end; nothing was removed",
            )
