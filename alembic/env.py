"""Run the migrations of our own tables, on a connection given or on ``-x database=PATH``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import context
from stigmem_replicator.store.engine import open_database, writing
from stigmem_replicator.store.own_models import PREFIX, VERSION_TABLE, OwnBase


def _is_ours(name: str | None, kind: str, _parents: Any) -> bool:  # noqa: ANN401 - Alembic's form
    return kind != "table" or (name or "").startswith(PREFIX)


def _migrate(connection: Any) -> None:  # noqa: ANN401 - Alembic's form
    context.configure(
        connection=connection,
        target_metadata=OwnBase.metadata,
        version_table=VERSION_TABLE,
        include_name=_is_ours,
        render_as_batch=True,
    )
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    database = open_database(
        Path(context.get_x_argument(as_dictionary=True)["database"]), timeout_s=5.0
    )
    with writing(database) as own:
        _migrate(own)
