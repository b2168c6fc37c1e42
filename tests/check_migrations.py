"""Check that the migrations make what the models say: `python -m tests.check_migrations`.

It runs the migration scripts on a scratch database that is no node's, up, down and up again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from alembic import command
from stigmem_replicator.store.own_models import HEAD_REVISION, PREFIX, VERSION_TABLE, OwnBase

SCRIPTS = Path(__file__).resolve().parents[1] / "alembic"


def problems() -> list[str]:
    """Return what is wrong with the migrations, nothing when they fit the models."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    heads = ScriptDirectory.from_config(config).get_heads()
    if heads != [HEAD_REVISION]:
        return [f"HEAD_REVISION is {HEAD_REVISION}, the scripts end at {', '.join(heads)}"]
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'scratch.db'}")
        try:
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                return _up_and_down(config, connection)
        finally:
            engine.dispose()


def _up_and_down(config: Config, connection: Connection) -> list[str]:
    command.upgrade(config, "head")
    found = [f"models and scripts differ: {item}" for item in _differences(connection)]
    first = _tables(connection)
    command.downgrade(config, "base")
    left = _tables(connection) - {VERSION_TABLE}
    if left:
        found.append(f"downgrade leaves {', '.join(sorted(left))}")
    command.upgrade(config, "head")
    if _tables(connection) != first:
        found.append("a second upgrade makes other tables than the first")
    return found + [f"after a second upgrade: {item}" for item in _differences(connection)]


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "version_table": VERSION_TABLE,
            "include_name": lambda name, kind, _parents: (
                kind != "table" or (name or "").startswith(PREFIX)
            ),
        },
    )
    return list(compare_metadata(context, OwnBase.metadata))


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def main() -> int:
    found = problems()
    print("; ".join(found) if found else f"migrations fit the models at revision {HEAD_REVISION}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
