"""Check that the migrations make what the models say: `python -m tests.check_migrations`.

On scratch databases that are no node's, on SQLite and on PostgreSQL, it runs the scripts up and
down again one by one, with rows in every table, beside a table that is not ours.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Connection,
    Integer,
    MetaData,
    Table,
    create_engine,
    func,
    insert,
    inspect,
    select,
    text,
)

from alembic import command
from stigmem_replicator.store.own_models import HEAD_REVISION, PREFIX, VERSION_TABLE, OwnBase
from tests.nodes.postgres import postgres_server

SCRIPTS = Path(__file__).resolve().parents[1] / "alembic"
NEIGHBOUR = "facts"
TEXT, NUMBER = "open", 1
"""What every column of a sample row holds: values that all constraints of our tables admit."""


def problems() -> list[str]:
    """Return what is wrong with the migrations on SQLite, nothing when they fit the models."""
    with tempfile.TemporaryDirectory() as folder:
        return problems_in(f"sqlite:///{Path(folder) / 'scratch.db'}")


def problems_in(url: str) -> list[str]:
    """The same in the empty database of a URL, `sqlite:///PATH` or `postgresql://...`."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    heads = scripts.get_heads()
    if heads != [HEAD_REVISION]:
        return [f"HEAD_REVISION is {HEAD_REVISION}, the scripts end at {', '.join(heads)}"]
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    if revisions != sorted(revisions):
        return [f"revisions do not grow as text, by which a newer one is told: {revisions}"]
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            return _Walk(config, connection, revisions).problems()
    finally:
        engine.dispose()


@dataclass(frozen=True, slots=True)
class _Walk:
    """All scripts up and down, twice, the second time over what the first has left."""

    config: Config
    connection: Connection
    revisions: list[str]

    def problems(self) -> list[str]:
        self.connection.execute(text(f"CREATE TABLE {NEIGHBOUR} (id INTEGER)"))
        self.connection.execute(text(f"INSERT INTO {NEIGHBOUR} VALUES (7)"))  # noqa: S608
        found: list[str] = []
        for _ in range(2):
            found += self._up()
            found += [f"models and scripts differ: {item}" for item in self._differences()]
            found += self._down()
            if found:
                return found
        kept = self.connection.execute(text(f"SELECT id FROM {NEIGHBOUR}")).scalars().all()  # noqa: S608
        if kept != [7]:
            found.append(f"the table beside ours holds {kept}")
        return found

    def _up(self) -> list[str]:
        """Upgrade step by step; a row that was there before a step must be there after it."""
        found = []
        for revision in self.revisions:
            before = self._counts()
            command.upgrade(self.config, revision)
            after = self._counts()
            lost = [name for name, count in before.items() if after.get(name, count) != count]
            found += [f"upgrade to {revision} loses rows of {name}" for name in lost]
            self._fill()
        return found

    def _down(self) -> list[str]:
        """Downgrade step by step with rows in every table; nothing of ours is left."""
        for revision in [*self.revisions[-2::-1], "base"]:
            command.downgrade(self.config, revision)
        left = self._ours() - {VERSION_TABLE}
        return [f"downgrade leaves {', '.join(sorted(left))}"] if left else []

    def _fill(self) -> None:
        """Put a row into every table of ours that has none."""
        for name, count in self._counts().items():
            if count == 0:
                table = Table(name, MetaData(), autoload_with=self.connection)
                row = {
                    column.name: NUMBER if isinstance(column.type, Integer) else TEXT
                    for column in table.columns
                }
                self.connection.execute(insert(table).values(row))

    def _counts(self) -> dict[str, int]:
        counts = {}
        for name in sorted(self._ours() - {VERSION_TABLE}):
            table = Table(name, MetaData(), autoload_with=self.connection)
            counts[name] = self.connection.scalar(select(func.count()).select_from(table)) or 0
        return counts

    def _ours(self) -> set[str]:
        return {
            name for name in inspect(self.connection).get_table_names() if name.startswith(PREFIX)
        }

    def _differences(self) -> list[object]:
        context = MigrationContext.configure(
            self.connection,
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


def main() -> int:
    found = [f"SQLite: {problem}" for problem in problems()]
    with postgres_server() as server:
        found += [f"PostgreSQL: {problem}" for problem in problems_in(server.create_database())]
    print("; ".join(found) if found else f"migrations fit the models at revision {HEAD_REVISION}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
