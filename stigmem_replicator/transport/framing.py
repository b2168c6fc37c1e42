"""Whether a connection's bytes after a request are one answer and nothing more.

It counts; it does not read HTTP, which is the library's task.  The library keeps bytes that come
after an answer and would take them for the answer to the next request.
"""

from __future__ import annotations

import re
from typing import Final

HEAD_BYTES_MAX: Final = 256 * 1024
"""How much may come before a body; interim answers count, of which there is no bound in HTTP."""

_FRAMING_SPARE: Final = 256 * 1024
_FRAMING_PER_BYTE: Final = 2

# As the library finds it, to which bare line feeds are good enough: where the two differed, a
# second answer could hide.
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_END_OF_HEAD_BYTES: Final = 3
_INTERIM: Final = re.compile(rb"HTTP/\d\.\d 1\d\d")


class AnswerBytes:
    """What was received for one request."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._head_start = 0
        self._searched = 0
        self._before_body: int | None = None
        self._received = 0

    @property
    def began(self) -> bool:
        """Whether anything was received."""
        return self._received > 0

    def add(self, data: bytes) -> None:
        """Note received bytes."""
        self._received += len(data)
        if self._before_body is None and not self.head_too_long:
            self._head += data
            self._look_for_body()

    @property
    def head_too_long(self) -> bool:
        """Whether there is no body yet after more than ``HEAD_BYTES_MAX`` bytes."""
        return self._before_body is None and self._received > HEAD_BYTES_MAX

    def mostly_framing(self, body_bytes: int) -> bool:
        """Tell whether far more came than so many bytes of a body need, even in tiny chunks."""
        return self._received > HEAD_BYTES_MAX + _FRAMING_SPARE + _FRAMING_PER_BYTE * body_bytes

    def excess(self, content_length: int) -> int | None:
        """Return how many bytes came after a body of a length; None when that cannot be told."""
        if self._before_body is None:
            return None
        return self._received - self._before_body - content_length

    def _look_for_body(self) -> None:
        # From where the last search ended: a peer may send its head byte by byte.
        while (end := _END_OF_HEAD.search(self._head, self._searched)) is not None:
            if not _INTERIM.match(self._head, self._head_start):
                self._before_body = end.end()
                self._head.clear()
                return
            # An interim answer (RFC 9110 section 15.2), the real one follows.
            self._head_start = self._searched = end.end()
        self._searched = max(len(self._head) - _END_OF_HEAD_BYTES + 1, self._head_start)
