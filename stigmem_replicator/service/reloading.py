"""What a new reading of the settings changes: applied now, or only by a restart.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from stigmem_replicator.settings import Settings

RESTART: Final = frozenset(
    {
        "database",
        "storage_backend",
        "pg_dsn",
        "pg_schema",
        "at_rest_encryption",
        "http_listen",
    }
)
"""Settings that a running daemon does not change: which database, and where it listens."""


@dataclass(frozen=True, slots=True)
class Change:
    """What two settings differ in, a text each such as ``page_size: 500 → 100``.

    ``settings`` are the new ones, with the old value of what needs a restart.
    """

    settings: Settings
    applied: tuple[str, ...]
    restart: tuple[str, ...]


def change(before: Settings, after: Settings) -> Change:
    """Compare settings as people see them: of secrets only that they changed."""
    new = {row.name: row.value for row in after.describe()}
    applied: list[str] = []
    restart: list[str] = []
    for row in before.describe():
        name = row.name
        if getattr(before, name) != getattr(after, name):
            said = f"{name}: {row.value or 'nothing'} → {new[name] or 'nothing'}"
            (restart if name in RESTART else applied).append(said)
    applied += _of_peers(before, after)
    kept = {name: getattr(before, name) for name in RESTART}
    return Change(replace(after, **kept), tuple(applied), tuple(restart))


def _of_peers(before: Settings, after: Settings) -> list[str]:
    old, new = (
        {
            f"{row.name} of {node_id}": row.value
            for node_id, rows in settings.describe_peers().items()
            for row in rows
        }
        for settings in (before, after)
    )
    return [
        f"{name}: {old.get(name, 'as for all')} → {new.get(name, 'as for all')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
