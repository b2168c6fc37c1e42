"""What the program says, read from its source: messages, reasons with their exit codes, names.

For tests of documents that quote it.  The source is read as a tree and nothing of it is run, so
a message counts as said wherever it stands.  What a command may be given is not known here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import stigmem_replicator
from stigmem_replicator import errors
from stigmem_replicator.errors import Reason, ReplicatorError

PACKAGE: Final = Path(stigmem_replicator.__file__).parent

LETTERS_MIN: Final = 8
"""A message with fewer letters of its own could be anything."""

WORDS_MIN: Final = 4
"""What is put into a message and has fewer words is a name or a number, not a sentence of ours."""

_AROUND: Final = " :;,()'"
_SEAMS: Final = re.compile(r": |, | \(")


@cache
def source() -> str:
    """Return all of the package's source as one text."""
    return "\n".join(path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py")))


@cache
def _nodes() -> tuple[ast.AST, ...]:
    return tuple(
        node
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


@cache
def messages() -> tuple[re.Pattern[str], ...]:
    """Return what the program may say, a group for each thing that is put in."""
    return tuple(_patterns())


def _patterns() -> Iterator[re.Pattern[str]]:
    for node in _nodes():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts: list[ast.expr] = [node]
        elif isinstance(node, ast.JoinedStr):
            parts = node.values
        else:
            continue
        own = [part.value for part in parts if isinstance(part, ast.Constant)]
        if sum(char.isalpha() for char in "".join(map(str, own))) >= LETTERS_MIN:
            yield re.compile(
                "".join(
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else "(.*?)"
                    for part in parts
                )
            )


def is_said(text: str, foreign: frozenset[str]) -> bool:
    """Tell whether the program says this; ``foreign`` are words of peers and of the system.

    What is put into a message must be said too, part by part, unless it is short.
    """
    found = (pattern.fullmatch(text) for pattern in messages())
    return any(
        match is not None and all(_may_be_put_in(part, foreign) for part in match.groups())
        for match in found
    )


def _may_be_put_in(text: str, foreign: frozenset[str]) -> bool:
    bare = text.strip(_AROUND)
    if len(bare.split()) < WORDS_MIN or bare in {words.strip(_AROUND) for words in foreign}:
        return True
    if any(is_said(form, foreign) for form in {text, text.strip(), bare}):
        return True
    parts = _SEAMS.split(text)
    return len(parts) > 1 and all(_may_be_put_in(part, foreign) for part in parts)


@cache
def raised() -> dict[Reason, frozenset[type[ReplicatorError]]]:
    """Return as what each reason is raised, where the source names both in one place."""
    found: dict[Reason, set[type[ReplicatorError]]] = {}
    for node in _nodes():
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        kind, first = getattr(errors, node.func.id, None), node.args[0]
        if not (isinstance(kind, type) and issubclass(kind, ReplicatorError)):
            continue
        if isinstance(first, ast.Attribute) and ast.unparse(first.value) == "Reason":
            found.setdefault(Reason[first.attr], set()).add(kind)
    return {reason: frozenset(kinds) for reason, kinds in found.items()}


def groups() -> dict[str, list[Reason]]:
    """Return the reasons by what they stop, as the comments in the enumeration say it."""
    found: dict[str, list[Reason]] = {}
    text = Path(errors.__file__).read_text("utf-8").partition("class Reason")[2]
    for line in text.partition("\nclass ")[0].splitlines():
        if comment := re.fullmatch(r" {4}# (one \w+|this command or this machine)\b.*", line):
            found[comment[1]] = []
        elif member := re.fullmatch(r" {4}([A-Z_]+) = .*", line):
            found[list(found)[-1]].append(Reason[member[1]])
    return found
