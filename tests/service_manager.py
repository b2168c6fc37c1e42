"""A service manager as a daemon sees it: the notify socket, and the variables that name it.

It only listens, as the real one does: what it would do about what it hears is for the test to say.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PATIENCE_S: Final = 20.0
"""How long a message may be in coming; what decides a test is that it comes."""

DATAGRAM_BYTES: Final = 4096
"""What systemd reads of a message; a longer one is dropped."""


class ServiceManager:
    """Listens at ``where``: a path of at most 107 bytes, or ``@`` and an abstract name."""

    def __init__(self, where: Path | str) -> None:
        self.address = str(where)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = os.fsencode(self.address)
        self._socket.bind(b"\0" + name[1:] if name.startswith(b"@") else name)

    def __enter__(self) -> Self:
        """Itself, listening."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Listen no more; the name of a path stays, as that of a manager that died."""
        self._socket.close()

    def environ(self, *, watchdog_s: float | None = None, pid: int | None = None) -> dict[str, str]:
        """Return what a service of ours has in its environment."""
        said = {"NOTIFY_SOCKET": self.address}
        if watchdog_s is not None:
            said["WATCHDOG_USEC"] = str(int(watchdog_s * 1_000_000))
        if pid is not None:
            said["WATCHDOG_PID"] = str(pid)
        return said

    def hear(self, patience_s: float = PATIENCE_S) -> dict[str, str]:
        """Return the next message, field by field.  Raises :class:`TimeoutError`."""
        self._socket.settimeout(max(patience_s, 0.001))
        datagram = self._socket.recv(DATAGRAM_BYTES + 1)
        assert len(datagram) <= DATAGRAM_BYTES, "the manager drops so long a message"
        fields = [line.partition("=") for line in datagram.decode().split("\n")]
        assert all(equals for _, equals, _ in fields), f"a line without '=': {datagram!r}"
        return {name: value for name, _, value in fields}

    def wait_for(
        self, wanted: Mapping[str, str], patience_s: float = PATIENCE_S
    ) -> list[dict[str, str]]:
        """Return the messages up to the first that says all of ``wanted``.

        Raises :class:`TimeoutError` when none did in ``patience_s`` seconds.
        """
        heard: list[dict[str, str]] = []
        deadline = time.monotonic() + patience_s
        while True:
            try:
                heard.append(self.hear(deadline - time.monotonic()))
            except TimeoutError:
                raise TimeoutError(f"no {wanted} after {heard}") from None
            if wanted.items() <= heard[-1].items():
                return heard
