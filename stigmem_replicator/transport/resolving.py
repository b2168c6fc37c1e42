"""Names to addresses, in threads that hold up nobody.

The system's resolver blocks and cannot be cancelled.  A lookup that hangs leaves one thread behind
however often its name is asked for, and the end of the process does not wait for it.  Which
addresses are safe is judged in ``addresses``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import anyio
import anyio.from_thread
import anyio.lowlevel

Resolve = Callable[[str, int], list[str]]
"""Returns the addresses of a host and port as text, or raises OSError; it may block."""

_Key: TypeAlias = tuple[str, int]


def system_resolve(host: str, port: int) -> list[str]:
    """Ask the system for the addresses of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Resolver:
    """The lookups of one process; belongs to one event loop."""

    def __init__(self, resolve: Resolve = system_resolve) -> None:
        self._resolve = resolve
        self._running: dict[_Key, _Lookup] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host.

        Who asks while the same question is open gets the same answer.  Raises ``OSError``, and
        ``UnicodeError`` for a name that cannot be one.
        """
        lookup = self._running.get((host, port)) or self._start((host, port))
        await lookup.done.wait()
        if lookup.error is not None:
            raise lookup.error
        return lookup.found

    def _start(self, key: _Key) -> _Lookup:
        lookup = self._running[key] = _Lookup()
        token = anyio.lowlevel.current_token()

        def finish() -> None:
            del self._running[key]
            lookup.done.set()

        def work() -> None:
            try:
                lookup.found = self._resolve(*key)
            except (OSError, UnicodeError) as error:
                lookup.error = error
            # Nobody is there any more when the process is at its end.
            with suppress(RuntimeError, anyio.RunFinishedError):
                anyio.from_thread.run_sync(finish, token=token)

        threading.Thread(target=work, name=f"resolve {key[0]}", daemon=True).start()
        return lookup


class _Lookup:
    """A question that is open, and then its answer."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.found: list[str] = []
        self.error: OSError | UnicodeError | None = None
