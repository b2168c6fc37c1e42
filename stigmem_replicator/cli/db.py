"""``db``: the replicator's own tables in the node's database."""

from __future__ import annotations

from typing import Annotated

import typer

from stigmem_replicator.cli import render
from stigmem_replicator.cli.context import confirm, opened, settings_of, tell
from stigmem_replicator.service import upgrading
from stigmem_replicator.store import migrations, own_schema
from stigmem_replicator.store.engine import reading
from stigmem_replicator.store.own_models import HEAD_REVISION

app = typer.Typer(no_args_is_help=True, help="The replicator's own tables.")


@app.command()
def upgrade(context: typer.Context) -> None:
    """Create or upgrade the tables (`pull` does so by itself)."""
    settings = settings_of(context)
    with opened(settings, own_tables=False) as database:
        changed = upgrading.upgrade(database, settings.database_timeout_s, tell)
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
        dropped = migrations.drop(database)
    print("the tables are removed" if dropped else "there were no tables")
