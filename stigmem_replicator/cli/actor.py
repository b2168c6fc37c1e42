"""Who acts: the name by which events remember an operator."""

from __future__ import annotations

import getpass
import os


def actor(command: str) -> str:
    """Return the user of this process and the command that was given."""
    try:
        name = getpass.getuser()
    except (ImportError, KeyError, OSError):
        name = f"user {os.getuid()}"  # a container may run a user that has no name
    return f"{name} ({command})"
