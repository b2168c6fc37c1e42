"""``config``: the settings in force and where each came from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stigmem_replicator.cli import render
from stigmem_replicator.cli.context import settings_of

app = typer.Typer(no_args_is_help=True, help="The settings in force.")


@app.command()
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show every setting, its value and where it came from; secrets are hidden."""
    settings = settings_of(context)
    described = settings.describe()
    if as_json:
        print(
            render.document(
                {
                    "settings": [asdict(item) for item in described],
                    "config_file": str(settings.config_file) if settings.config_file else None,
                    "env_file": str(settings.env_file) if settings.env_file else None,
                }
            )
        )
        return
    print(
        render.table(
            ("SETTING", "VALUE", "FROM"),
            [(item.name, item.value, item.origin) for item in described],
        )
    )
    print(f"\nconfiguration file: {settings.config_file or 'none'}")
    print(f"the node's .env file: {settings.env_file or 'none'}")
