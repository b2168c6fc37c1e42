"""A checkpoint of the cursors as a file: JSON, written and read.

The file is the node's own (``stigmem federation cursor-export``), byte for byte but for a
password in a peer's address, which no import needs.  What only we know stands under one key more,
which the node passes over.  Reading believes nothing: a file that is damaged anywhere is refused
as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from stigmem_replicator.errors import LocalError, Reason
from stigmem_replicator.protocol.fields import storable
from stigmem_replicator.replication.positions import Checkpoint
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store.checkpoints import DIRECTIONS, CursorEntry, Statement, StreamState
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.reads import INBOUND

STATE_KEY: Final = "stigmem_replicator"
"""The top-level key of what only we know."""

_VERSION: Final = 1
_CHARACTERS: Final = 256  # as many as a page's cursor may have
_LARGEST_MS: Final = 2**63 - 1


class _Damaged(Exception):  # noqa: N818 - becomes an error with the file's name where it is read
    """What is wrong with a file, in words."""


def document(
    entries: Sequence[CursorEntry],
    states: Mapping[str, StreamState] | None,
    *,
    at: str,
    db_path: str,
) -> str:
    """Return a checkpoint as JSON, without the line break at its end.

    ``at`` is when, in ISO 8601; ``states``, by node id, are added unless None.
    """
    content: dict[str, object] = {
        "checkpoint_timestamp": at,
        "db_path": db_path,
        "cursors": [
            asdict(entry) | {"peer_url": without_secrets(entry.peer_url)} for entry in entries
        ],
    }
    if states is not None:
        content[STATE_KEY] = {
            "version": _VERSION,
            "streams": [
                {"peer_node_id": node_id, "stream": FACTS, **asdict(state)}
                for node_id, state in states.items()
            ],
        }
    return json.dumps(content, indent=2)


def read(path: Path) -> tuple[list[Statement], int]:
    """Return what a checkpoint states, and how many entries name no peer or no direction.

    Raises :class:`LocalError` when the file cannot be read or is no whole checkpoint.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise LocalError(
            Reason.FILE_FAILED,
            f"the checkpoint {path} cannot be read: {error.strerror}",
            hint="nothing was changed",
        ) from error
    except UnicodeDecodeError as error:
        raise _invalid(path, "it is not UTF-8 text") from error
    try:
        return _statements(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise _invalid(path, "it is not JSON") from error
    except _Damaged as error:
        raise _invalid(path, str(error)) from error


def _invalid(path: Path, why: str) -> LocalError:
    return LocalError(
        Reason.CHECKPOINT_INVALID,
        f"{path} is no checkpoint: {why}",
        hint="nothing was changed; take a file that `cursor export` wrote",
    )


def _statements(content: object) -> tuple[list[Statement], int]:
    if not isinstance(content, dict) or not isinstance(content.get("cursors"), list):
        raise _Damaged('it has no array "cursors"')
    states = _states(content[STATE_KEY]) if STATE_KEY in content else {}
    statements = []
    nameless = 0
    for number, entry in enumerate(content["cursors"], start=1):
        where = f"cursor {number}"
        fields = _object(entry, where)
        peer_id = _optional_text(fields, "peer_id", where)
        direction = _optional_text(fields, "direction", where)
        node_id = _optional_text(fields, "peer_node_id", where)
        cursor = _position(fields.get("cursor"), where)
        if direction and direction not in DIRECTIONS:
            raise _Damaged(f"{where} has the direction {direction[:40]!r}")
        if not peer_id or not direction:
            nameless += 1
            continue
        state = states.get(node_id or "") if direction == INBOUND else None
        statements.append(Statement(peer_id, node_id, direction, cursor, state))
    return statements, nameless


def _states(content: object) -> dict[str, StreamState]:
    whole = _object(content, STATE_KEY)
    streams = whole.get("streams")
    if whole.get("version") != _VERSION or not isinstance(streams, list):
        raise _Damaged(f"{STATE_KEY} is not of version {_VERSION}")
    found = {}
    for number, item in enumerate(streams, start=1):
        where = f"{STATE_KEY} stream {number}"
        fields = _object(item, where)
        node_id = _optional_text(fields, "peer_node_id", where)
        kept = fields.get("checkpoints")
        if not node_id or fields.get("stream") != FACTS or not isinstance(kept, list):
            raise _Damaged(f"{where} is not a stream of facts with its checkpoints")
        checkpoints = sorted(
            (_checkpoint(item, where) for item in kept), key=lambda item: item.kept_at_ms
        )
        if len({item.position for item in checkpoints}) != len(checkpoints):
            raise _Damaged(f"{where} has a checkpoint twice")
        found[node_id] = StreamState(_position(fields.get("settled"), where), tuple(checkpoints))
    return found


def _checkpoint(item: object, where: str) -> Checkpoint:
    fields = _object(item, where)
    position = _position(fields.get("position"), where)
    kept_at_ms = fields.get("kept_at_ms")
    if position is None or type(kept_at_ms) is not int or not 0 <= kept_at_ms <= _LARGEST_MS:
        raise _Damaged(f"{where} has a checkpoint without position or time")
    return Checkpoint(position, kept_at_ms)


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Damaged(f"{where} is not an object")
    return value


def _optional_text(fields: dict[str, Any], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is not None and not (isinstance(value, str) and storable(value)):
        raise _Damaged(f"{where} has a {name} that is no text")
    return value


def _position(value: object, where: str) -> str | None:
    """Return a position as a page's cursor may be; a peer's own need not be an HLC."""
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= _CHARACTERS or not storable(value):
        raise _Damaged(f"{where} has a position that no peer can have given")
    return value
