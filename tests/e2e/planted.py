"""Secrets that a test plants, all that came out of a program, and where the one is in the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class Search:
    """What was planted, all that came out, and where the one is in the other."""

    def __init__(self) -> None:
        self._planted: dict[str, str] = {}
        self._came_out: list[tuple[str, str]] = []

    def plant(self, where: str, secret: str | None = None) -> str:
        """Return a text that stands nowhere else, or plant the one given."""
        words = "".join(char for char in where if char.isalnum())
        text = secret or f"hush{len(self._planted)}{words}"
        assert len(text) >= 10, text
        self._planted[where] = text
        return text

    def url(self, where: str, scheme: str = "postgresql", host: str = "127.0.0.1:1") -> str:
        """Return a URL with a secret of each kind that a URL can hold."""
        user, query = self.plant(f"{where}-user"), self.plant(f"{where}-query")
        return f"{scheme}://node:{user}@{host}/x?sslpassword={query}"

    def add(self, where: str, text: str) -> None:
        self._came_out.append((where, text))

    def add_files(self, folder: Path, *, but: Iterable[Path]) -> None:
        """Add every file that a command left."""
        for path in folder.rglob("*"):
            if path.is_file() and path not in but:
                self.add(str(path), path.read_text("utf-8", errors="replace"))

    def text(self, word: str) -> str:
        """Return what came out of the places with this word in their name."""
        return "\n".join(text for where, text in self._came_out if word in where)

    def assert_nothing_found(self) -> None:
        found = [
            (where, name)
            for where, text in self._came_out
            for name, secret in self._planted.items()
            if secret in text
        ]
        assert found == []
