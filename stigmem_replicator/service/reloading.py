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
        "database_timeout_s",
    }
)
"""Settings that a running daemon does not change: which database, where it listens, and what its
health is judged by."""


_PLACE: Final = RESTART - {"http_listen", "database_timeout_s"}

FILES: Final = ("federation_privkey_file", "trust_rules_file")
"""Settings that name a file which is read once, when work begins: it may have changed."""


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
    again: list[str] = []
    for row in before.describe():
        name = row.name
        if getattr(before, name) != getattr(after, name):
            said = f"{name}: {row.value or 'nothing'} → {new[name] or 'nothing'}"
            (restart if name in RESTART else applied).append(said)
        elif name in FILES and getattr(after, name) is not None:
            again.append(f"{name}: {row.value} is read again")
    if any(getattr(before, name) != getattr(after, name) for name in _PLACE):
        # What the node's file beside the other database says is not meant for this one.
        return Change(before, (), (*restart, *applied))
    applied += [*again, *_of_peers(before, after)]
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
