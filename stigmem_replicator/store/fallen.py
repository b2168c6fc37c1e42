"""Why a batch was not written although the database works: what an attempt can end in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fallen(StrEnum):
    """An assumption of the plan that no longer holds."""

    CURSOR = "cursor"
    FACTS = "facts"
    SIBLINGS = "siblings"
    ENTRY = "entry"
    """An entry's own values are what the database refuses."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the database did not take; ``why`` are its own words, without the values."""

    fallen: Fallen
    why: str = ""
