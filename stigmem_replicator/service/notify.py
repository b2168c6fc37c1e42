"""What the service manager that started us is told, and what it expects (systemd's sd_notify).

One datagram each to the socket that ``NOTIFY_SOCKET`` names.  A failure here is never one of the
daemon: nothing raises and nothing waits, and without a manager nothing is sent.  When we are
ready, and whether we still make progress, is for the caller to know.

The daemon, in order:

1. ``notifier = notify.to_manager(os.environ)`` at its start, and ``close()`` at its very end;
2. ``ready(status)`` once the database is open, the locks are there and the supervisor has looked,
   and signals are received: SIGHUP ends a process that does not;
3. ``status(words)`` when the words change;
4. ``alive()`` every third of ``patience_s(os.environ, os.getpid())``, if that is not None, and
   only while the supervisor and the writer make progress: silence is how the manager learns;
5. on SIGHUP ``reloading(clock.monotonic())`` before anything else, and ``ready(status)`` when the
   new settings are in use or were refused;
6. ``stopping(status)`` as soon as it is told to stop.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Mapping
from typing import Final

from stigmem_replicator.observe.log import printable

ADDRESS_VARIABLE: Final = "NOTIFY_SOCKET"
PATIENCE_VARIABLE: Final = "WATCHDOG_USEC"
PATIENCE_OF_VARIABLE: Final = "WATCHDOG_PID"

STATUS_CHARACTERS: Final = 300
"""What is kept of a status: the manager drops a message of more than 4096 bytes unread."""

_READY: Final = "READY"
_RELOADING: Final = "RELOADING"
_STOPPING: Final = "STOPPING"
_MONOTONIC: Final = "MONOTONIC_USEC"
_WATCHDOG: Final = "WATCHDOG"
_EXTEND: Final = "EXTEND_TIMEOUT_USEC"
_STATUS: Final = "STATUS"
_PHASE: Final = frozenset({_READY, _RELOADING, _STOPPING, _MONOTONIC})
"""What says which part of its life the service is in: a new one makes an older one void."""


def message(fields: Mapping[str, str]) -> bytes:
    """Return the datagram that says ``fields``: a line each, NAME=value, in UTF-8.

    A value stays one line, so that no word of a peer in it can be taken for a field of ours.
    """
    lines = (f"{name}={printable(value, STATUS_CHARACTERS)}" for name, value in fields.items())
    return "\n".join(lines).encode()


def address(environ: Mapping[str, str]) -> bytes | None:
    """Return where the manager listens: a path, or a name that begins with NUL (abstract).

    None without a manager, and for an address of a kind that is not a socket of this machine.
    """
    named = os.fsencode(environ.get(ADDRESS_VARIABLE, ""))
    if named.startswith(b"@"):
        return b"\0" + named[1:]
    return named if named.startswith(b"/") else None


def patience_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds without :meth:`Notifier.alive` after which the manager ends us.

    None when it does not watch the process ``pid``, or does not say so in a form that is known.
    """
    of, usec = environ.get(PATIENCE_OF_VARIABLE, ""), environ.get(PATIENCE_VARIABLE, "")
    if (of and of != str(pid)) or not re.fullmatch("[0-9]{1,20}", usec):
        return None
    return int(usec) / 1_000_000 or None


class Notifier:
    """Tells the manager at ``where``; with None there is none, and nothing is done.

    May be used by several threads, not by handlers of signals.  What could not be sent, because
    the manager was restarting or its queue was full, goes with the next message, so ``alive`` also
    brings a lost ``ready``.
    """

    def __init__(self, where: bytes | None) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._unsent: dict[str, str] = {}
        # Opened once: a process that has run out of descriptors can still say that it lives.
        self._socket = None if where is None else _open()

    def ready(self, status: str = "") -> None:
        """Say that everything is up, at the start or after a reload."""
        self._tell(_with(status, {_READY: "1"}))

    def status(self, words: str) -> None:
        """Say in one line, for people, how things stand; ``systemctl status`` shows it."""
        self._tell({_STATUS: words})

    def starting(self, seconds: float) -> None:
        """Say that the start takes long and goes on: wait so many seconds more for ``ready``."""
        self._tell({_EXTEND: str(int(seconds * 1_000_000))})

    def alive(self) -> None:
        """Say that the watchdog need not worry."""
        self._tell({_WATCHDOG: "1"})

    def reloading(self, monotonic_s: float, status: str = "") -> None:
        """Say that the settings are read again; ``ready`` ends it.

        ``monotonic_s`` is the monotonic clock of the system now, in seconds: the manager tells by
        it which of several reloads is meant.
        """
        stamp = str(int(monotonic_s * 1_000_000))
        self._tell(_with(status, {_RELOADING: "1", _MONOTONIC: stamp}))

    def stopping(self, status: str = "") -> None:
        """Say that the end has begun."""
        self._tell(_with(status, {_STOPPING: "1"}))

    def close(self) -> None:
        """Say nothing any more."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _tell(self, fields: Mapping[str, str]) -> None:
        with self._lock:
            if self._socket is None or self._where is None:
                return
            if fields.keys() & _PHASE:
                self._unsent = {n: v for n, v in self._unsent.items() if n not in _PHASE}
            self._unsent |= fields
            try:
                self._socket.sendto(message(self._unsent), self._where)
            except (OSError, ValueError):
                # An old sign of life is worth nothing, and must not vouch for us later.
                self._unsent.pop(_WATCHDOG, None)
                self._unsent.pop(_EXTEND, None)
            else:
                self._unsent = {}


def to_manager(environ: Mapping[str, str]) -> Notifier:
    """Return what tells the manager that ``environ`` names, if it names one."""
    return Notifier(address(environ))


def _with(status: str, fields: Mapping[str, str]) -> Mapping[str, str]:
    return {**fields, _STATUS: status} if status else fields


def _open() -> socket.socket | None:
    try:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:
        return None
    opened.settimeout(0.0)
    return opened
