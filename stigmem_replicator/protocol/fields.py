"""Fields of the wire's objects: present, of the right type, and with a UTF-8 form, or refused."""

from __future__ import annotations

from typing import Any, Final

from stigmem_replicator.errors import Reason

ID_CHARACTERS: Final = 256


class FieldError(ValueError):
    """One field is missing or has the wrong type; ``reason`` is what the entry is refused for."""

    def __init__(self, message: str, reason: Reason = Reason.MALFORMED_FACT) -> None:
        super().__init__(message)
        self.reason = reason


def text_of(holder: dict[str, Any], key: str, where: str) -> str:
    """Return a text field.  ``where`` names the object; raises :class:`FieldError`."""
    value = holder.get(key)
    if not isinstance(value, str):
        message = f"{where}.{key} is not a text"
        raise FieldError(message)
    if not encodes(value):
        message = f"{where}.{key} holds a lone surrogate"
        raise FieldError(message)
    return value


def optional_text(holder: dict[str, Any], key: str, where: str) -> str | None:
    """Return a text field, or None where it is null or missing.  Raises :class:`FieldError`."""
    return None if holder.get(key) is None else text_of(holder, key, where)


def id_of(holder: dict[str, Any], where: str) -> str:
    """Return the id of an object, which no index must choke on.  Raises :class:`FieldError`."""
    text = text_of(holder, "id", where)
    if len(text) > ID_CHARACTERS:
        message = f"{where}.id has more than {ID_CHARACTERS} characters"
        raise FieldError(message)
    return text


def storable(text: str) -> bool:
    """Say whether every kind of database can hold a text: it has a UTF-8 form and no NUL."""
    return encodes(text) and "\x00" not in text


def encodes(text: str) -> bool:
    """Say whether a text has a UTF-8 form, which one with a lone surrogate has not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
