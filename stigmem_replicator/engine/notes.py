"""What is to be written of how peers stand: changes at once, times seen once a minute.

All of it goes into one small transaction, so that an idle process hardly writes, and a hundred
peers that change at a time write once.  What a standing is, is decided in ``replication.states``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields, replace
from typing import Final, TypeAlias

import anyio
from sqlalchemy import Connection

from stigmem_replicator.clock import Clock
from stigmem_replicator.engine.gate import Gate
from stigmem_replicator.engine.surroundings import Surroundings
from stigmem_replicator.engine.waiting import rest
from stigmem_replicator.errors import LocalError
from stigmem_replicator.store import standings, streams
from stigmem_replicator.store.own_models import FACTS
from stigmem_replicator.store.standings import Note, Observed
from stigmem_replicator.store.streams import StreamNote

APART_SECONDS: Final = 0.25
"""How far apart two writes are at least, whatever is urgent."""

QUIET_SECONDS: Final = 60.0
"""How long what is no change may wait to be written."""


AnyNote: TypeAlias = Note | StreamNote
"""How a peer stands, or a stream of it that is worked on beside its facts."""

_Key: TypeAlias = tuple[str, str]


class Notes:
    """Collects notes and writes them; make one per process.

    ``ours`` says whether a peer of this node id is still this process's to write of.
    """

    def __init__(self, around: Surroundings, gate: Gate, ours: Callable[[str], bool]) -> None:
        self._around = around
        self._gate = gate
        self._ours = ours
        self._pending: dict[_Key, AnyNote] = {}
        self._writing: dict[_Key, AnyNote] = {}
        self._urgent = anyio.Event()
        self._written_at = around.clock.monotonic()

    def post(self, note: AnyNote, *, urgent: bool) -> None:
        """Have a note written, at once if it is urgent, else with the next ones."""
        before = self._pending.get(_key(note))
        self._pending[_key(note)] = note if before is None else merged(before, note)
        if urgent:
            self._urgent.set()

    def taken_out(self, node_ids: Collection[str]) -> list[AnyNote]:
        """Return what still waits to be written of these peers, for somebody else to write.

        What is being written of them at the moment is among it: should that fail, it is not
        tried again here.
        """
        found: list[AnyNote] = []
        for key in [key for key in {**self._writing, **self._pending} if key[0] in node_ids]:
            writing, later = self._writing.pop(key, None), self._pending.pop(key, None)
            if writing is not None and later is not None:
                later = merged(writing, later)
            if (note := later or writing) is not None:
                found.append(note)
        return found

    def put_back(self, notes: Iterable[AnyNote]) -> None:
        """Have what was taken out and could not be written wait again; what came since is newer."""
        for note in notes:
            later = self._pending.get(_key(note))
            self._pending[_key(note)] = note if later is None else merged(note, later)

    async def run(self) -> None:
        """Write what is posted until cancelled."""
        clock = self._around.clock
        while True:
            wait = self._written_at + QUIET_SECONDS - clock.monotonic()
            if not self._urgent.is_set():
                await rest(max(wait, 0.0), self._urgent, self._around.sleep)
            # A peer whose state goes back and forth must not keep the writer busy.
            soon = self._written_at + APART_SECONDS - clock.monotonic()
            if soon > 0:
                await self._around.sleep(soon)
            await self._gate.passed()
            self._urgent = anyio.Event()
            await self._write()

    async def _write(self) -> None:
        self._written_at = self._around.clock.monotonic()
        self._writing, self._pending = self._pending, {}
        if not self._writing:
            return
        try:
            await self._around.writer.run(self._write_ours, list(self._writing.values()))
        except BaseException as error:
            self.put_back(self._writing.values())
            if not isinstance(error, LocalError):
                raise
            self._urgent.set()
            self._gate.close(error)
        finally:
            self._writing = {}

    def _write_ours(self, connection: Connection, notes: list[AnyNote]) -> None:
        """Write of the peers that are ours: a session begun anew may have lost some of them."""
        ours = [note for note in notes if self._ours(note.node_id)]
        write(connection, ours, self._around.clock)


def write(connection: Connection, notes: Sequence[AnyNote], clock: Clock) -> None:
    """Write notes of both kinds."""
    standings.write(connection, [note for note in notes if isinstance(note, Note)], clock)
    streams.write(connection, [note for note in notes if isinstance(note, StreamNote)], clock)


def _key(note: AnyNote) -> _Key:
    return note.node_id, FACTS if isinstance(note, Note) else note.stream


def merged(before: AnyNote, after: AnyNote) -> AnyNote:
    """Return the later of two notes on the same with what only the earlier one says."""
    kept = {
        item.name: getattr(before, item.name)
        for item in fields(after)
        if getattr(after, item.name) is None
    }
    after = replace(after, **kept)
    if not isinstance(before, Note) or not isinstance(after, Note):
        return after
    observed = Observed(
        after.observed.certificate_not_after_ms or before.observed.certificate_not_after_ms,
        *(
            (before.observed.upstream_lag_ms, before.observed.upstream_lag_at_ms)
            if after.observed.upstream_lag_at_ms is None
            else (after.observed.upstream_lag_ms, after.observed.upstream_lag_at_ms)
        ),
    )
    return replace(after, observed=observed)
