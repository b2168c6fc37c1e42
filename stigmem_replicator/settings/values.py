"""What a setting's value may be: kinds of values, and the definition of one setting.

A kind reads a raw value (a text from the environment, a typed value from TOML or a flag) and
says what it allows; it does not know where the raw value came from.  ``option`` declares a
field of ``settings.Settings`` together with its definition.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar
from urllib.parse import quote, urlencode, urlsplit

NODE_PREFIX = "STIGMEM_"
OWN_PREFIX = "STIGMEM_REPLICATOR_"
DEFINITION = "definition"
HIDDEN = "***"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S", bound=str)

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})
_KEY_BYTES = 32
_SQLITE_URL = re.compile(r"sqlite(?:\+\w+)?://(?P<rest>.*)", re.DOTALL)
_POSTGRES_URL = re.compile(r"(?:postgres|postgresql)(?:\+\w+)?://(?P<rest>.*)", re.DOTALL)
# What libpq takes besides a URL: host=... dbname='...'.
# Whatever comes first, one of these is in it; a path with such a word before "=" is none of ours.
_DSN_START = re.compile(
    r"(?:[a-z_]+\s*=.*\s)?(?:host|hostaddr|port|dbname|user|password|service|sslmode)\s*=",
    re.DOTALL,
)
_DSN_PAIR = re.compile(
    r"\s*(?P<key>[a-z_]+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<plain>(?:[^\s'\\]|\\.)*))(?=\s|$)",
    re.DOTALL,
)
_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[^\[\]:@/?#,]*)(?::[0-9]*)?"
_LIBPQ_URL = re.compile(
    rf"(?:[^/@]*@)?{_HOST}(?:,{_HOST})*(?:/[^?@]*)?(?:\?[^=&]+=[^=&]*(?:&[^=&]+=[^=&]*)*)?"
)
_BAD_IN_URL = re.compile(r"%(?![0-9a-fA-F]{2})|%00|[\x00-\x20\x7f]")
_SCHEMA_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# A password may hold any character unescaped, so a URL is hidden up to its last @.
_URL_USER = re.compile(r"^((?:[^/?#]*://)?).*@", re.DOTALL)
_QUERY_SECRET = re.compile(r"([?&;][^=&;]*(?:pass|token|key|secret)[^=&;]*=)[^&]*", re.IGNORECASE)


class Kind(Protocol[T_co]):
    """One kind of value."""

    @property
    def allowed(self) -> str:
        """What fits, as the end of the sentence "it must be ..."."""

    def parse(self, raw: object, base: Path) -> T_co:
        """Return the value, or raise ValueError; relative paths start at ``base``."""


@dataclass(frozen=True, slots=True)
class Address:
    """The URL of a node; spaces around it do not count."""

    allowed: str = "a URL"

    def parse(self, raw: object, base: Path) -> str:
        """Return the text as it is, if it reads as a URL."""
        del base
        text = plain_text(raw)
        urlsplit(text)
        return text


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off, in the words that the node understands."""

    allowed: str = "true or false"

    def parse(self, raw: object, base: Path) -> bool:
        """Return the truth value."""
        del base
        if isinstance(raw, bool):
            return raw
        word = plain_text(raw).lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise ValueError


class Choice(Generic[S]):
    """One of a few words, in any case of letters."""

    def __init__(self, *words: S) -> None:
        self._words = {word.lower(): word for word in words}

    @property
    def allowed(self) -> str:
        """The words."""
        *others, last = self._words.values()
        return f"{', '.join(others)} or {last}"

    def parse(self, raw: object, base: Path) -> S:
        """Return the word as it is listed."""
        del base
        try:
            return self._words[plain_text(raw).lower()]
        except KeyError:
            raise ValueError from None


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    least: int
    most: int | None = None

    @property
    def allowed(self) -> str:
        """The bounds."""
        return f"a whole number {_bounds(self.least, self.most)}"

    def parse(self, raw: object, base: Path) -> int:
        """Return the number."""
        del base
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError  # noqa: TRY004 a caller asks whether the value fits, not its type
        value = int(raw)
        _check_bounds(value, self.least, self.most)
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within bounds."""

    least: float
    most: float | None = None

    @property
    def allowed(self) -> str:
        """The bounds."""
        return f"a number {_bounds(self.least, self.most)}"

    def parse(self, raw: object, base: Path) -> float:
        """Return the number."""
        del base
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError  # noqa: TRY004 as above
        try:
            value = float(raw)
        except OverflowError:
            raise ValueError from None
        if not math.isfinite(value):
            raise ValueError
        _check_bounds(value, self.least, self.most)
        return value


@dataclass(frozen=True, slots=True)
class Database:
    """Where the node's database is: a path, or a URL.

    A ``sqlite:`` URL becomes the path in it and every spelling of PostgreSQL's a
    ``postgresql:`` URL, so that the rest of the program meets one spelling; any other URL
    stays as it is.
    """

    allowed: str = "a path, sqlite:///PATH without parameters, or postgresql://HOST/DATABASE"

    def parse(self, raw: object, base: Path) -> str:
        """Return an absolute path or a URL."""
        text = plain_text(raw)
        if is_postgres(text) or _DSN_START.match(text):
            return _postgres_url(text)
        url = _SQLITE_URL.fullmatch(text)
        if url is None:
            if not text:
                raise ValueError
            return text if "://" in text else str(base / text)
        slash, path = url["rest"][:1], url["rest"][1:]
        if slash != "/" or not path or path == ":memory:" or "?" in path:
            raise ValueError
        return str(base / path)


@dataclass(frozen=True, slots=True)
class OptionalDsn:
    """How to reach a PostgreSQL database, in either spelling of libpq, or nothing."""

    allowed: str = "postgresql://HOST/DATABASE, libpq's host=... dbname=..., or nothing"

    def parse(self, raw: object, base: Path) -> str:
        """Return a ``postgresql:`` URL, or an empty text."""
        del base
        text = plain_text(raw)
        return _postgres_url(text) if text else ""


@dataclass(frozen=True, slots=True)
class SchemaName:
    """The name of a PostgreSQL schema; nothing means ``public``, as it does to the node."""

    allowed: str = "a name that matches [a-z][a-z0-9_]{0,62}"

    def parse(self, raw: object, base: Path) -> str:
        """Return the name."""
        del base
        text = plain_text(raw) or "public"
        if not _SCHEMA_NAME.fullmatch(text):
            raise ValueError
        return text


@dataclass(frozen=True, slots=True)
class Backend:
    """What a node keeps its data in, spelled as the node spells it.

    The node takes every other spelling, such as ``Postgres``, for SQLite: that is a mistake of
    its operator, which must not lead us to another database than the node's.
    """

    allowed: str = "sqlite, libsql or postgres, in small letters"

    def parse(self, raw: object, base: Path) -> str:
        """Return the word; an empty text is SQLite, as it is to the node."""
        del base
        if not isinstance(raw, str) or raw not in {"", "sqlite", "libsql", "postgres"}:
            raise ValueError
        return raw or "sqlite"


@dataclass(frozen=True, slots=True)
class OptionalFile:
    """The path of a file, or nothing."""

    allowed: str = "a path, or nothing"

    def parse(self, raw: object, base: Path) -> Path | None:
        """Return an absolute path, or None for an empty text."""
        text = plain_text(raw)
        return base / text if text else None


@dataclass(frozen=True, slots=True)
class OptionalKey:
    """An Ed25519 key or seed in base64url, or nothing."""

    allowed: str = "32 bytes in base64url, or nothing"

    def parse(self, raw: object, base: Path) -> str:
        """Return the text without its padding."""
        del base
        text = plain_text(raw).rstrip("=")
        try:
            decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise ValueError from None
        if text and len(decoded) != _KEY_BYTES:
            raise ValueError
        return text


@dataclass(frozen=True, slots=True)
class NodeVariable:
    """How the node reads the same setting; no name when it does not have it."""

    name: str = ""
    in_env_file: bool = True
    """False when the node looks for it in the environment alone."""
    fallbacks: tuple[str, ...] = ()
    """What the node reads next when this variable is missing or empty, in order."""


PerPeer: TypeAlias = bool | Literal["only"]
"""Whether single peers may differ in a setting; "only": it is nothing that all could share."""


@dataclass(frozen=True, slots=True)
class Definition:
    """Everything about one setting but its name and its default."""

    kind: Kind[object]
    help: str
    node: NodeVariable = NodeVariable()
    secret: bool = False
    flag: str = ""
    """The flag's spelling, when it is not the name with hyphens."""
    per_peer: PerPeer = False
    """True when our TOML file may say something else for one peer, "only" when nowhere else."""
    credential: str = ""
    """The name of the systemd credential that is the file, if it can be one."""

    @property
    def peer_only(self) -> bool:
        """Whether it is nothing that all peers could share."""
        return self.per_peer == "only"


def option(
    default: T,
    kind: Kind[T],
    help_: str,
    *,
    node: str | NodeVariable = "",
    secret: bool = False,
    flag: str = "",
    per_peer: PerPeer = False,
    credential: str = "",
) -> T:
    """Declare one field of ``Settings``; to a type checker it is the default value."""
    variable = NodeVariable(node) if isinstance(node, str) else node
    definition = Definition(kind, help_, variable, secret, flag, per_peer, credential)
    return field(default=default, metadata={DEFINITION: definition})


def own_variable(name: str) -> str:
    """Return what a setting is called in the environment."""
    return OWN_PREFIX + name.upper()


def shown(definition: Definition, value: object) -> str:
    """Return a value as it may be shown to people: nothing of a secret, none in a URL."""
    if value is None or value == "":
        return ""
    if definition.secret:
        return HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if _DSN_START.match(text.strip()):
        return HIDDEN
    return without_secrets(text) if "://" in text else text


def without_secrets(url: str) -> str:
    """Return a URL without who logs in and without each value of a key that sounds secret."""
    return _QUERY_SECRET.sub(rf"\1{HIDDEN}", _URL_USER.sub(rf"\1{HIDDEN}@", url))


def is_postgres(text: str) -> bool:
    """Tell whether a text is the URL of a PostgreSQL database."""
    return _POSTGRES_URL.fullmatch(text) is not None


def _postgres_url(text: str) -> str:
    """Return a libpq connection string of either spelling as a ``postgresql:`` URL.

    A URL that libpq would not read is refused here, since libpq's message shows all of it.
    """
    url = _POSTGRES_URL.fullmatch(text)
    if url is not None:
        if not _LIBPQ_URL.fullmatch(url["rest"]) or _BAD_IN_URL.search(url["rest"]):
            raise ValueError
        return f"postgresql://{url['rest']}"
    pairs: dict[str, str] = {}
    at = 0
    while at < len(text):
        pair = _DSN_PAIR.match(text, at)
        if pair is None:
            raise ValueError
        value = pair["plain"] if pair["quoted"] is None else pair["quoted"]
        pairs[pair["key"]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        at = pair.end()
    database = quote(pairs.pop("dbname", ""), safe="")
    return f"postgresql:///{database}?{urlencode(pairs, quote_via=quote)}"


def plain_text(raw: object) -> str:
    """Return a text or a path without the spaces around it, or raise ValueError."""
    if not isinstance(raw, str) and not hasattr(raw, "__fspath__"):
        raise ValueError
    text = str(raw).strip()
    if "\x00" in text:
        raise ValueError
    return text


def _bounds(least: float, most: float | None) -> str:
    return f"of at least {least}" if most is None else f"from {least} to {most}"


def _check_bounds(value: float, least: float, most: float | None) -> None:
    if value < least or (most is not None and value > most):
        raise ValueError
