"""The manual page, made from the commands: ``python -m stigmem_replicator.cli.manual``.

Whatever the page says of a command stands in the command itself; this module only knows the
form of a page, and what no command says: exit codes, environment, files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, cast

import typer

from stigmem_replicator import __version__
from stigmem_replicator.cli.app import app
from stigmem_replicator.errors import ExitCode

NAME: Final = "stigmem-replicate"

EXIT_CODES: Final[dict[ExitCode, str]] = {
    ExitCode.DONE: "done",
    ExitCode.UNEXPECTED: "unexpected: please report it",
    ExitCode.USAGE: "the command's words do not fit, or a question was not answered with yes",
    ExitCode.CONFIGURATION: "configuration, database or a file that was named cannot be used",
    ExitCode.NO_SUCH_PEER: "no such peer, more than one, or one that is not active",
    ExitCode.UNREACHABLE: (
        "the peer is unreachable, gave no usable answer, or asked us to wait longer than `--wait`"
    ),
    ExitCode.REFUSED: "the peer refused us, or is not who it should be",
    ExitCode.ENTRIES_REJECTED: "entries were rejected (only with `--strict`)",
    ExitCode.HELD_ELSEWHERE: "another process works on the peer and did not let go in time",
    ExitCode.BLOCKED: "the peer is blocked and an operator must decide; the reason says what",
    ExitCode.INTERRUPTED: "interrupted; what was committed stays",
}
"""What every exit code means, as the README has it."""

_ENVIRONMENT: Final = (
    ("`STIGMEM_REPLICATOR_*`", "Our own settings; `config show` lists them with what each is for."),
    ("`STIGMEM_*`", "The node's settings, as far as both have use for them."),
)
_FILES: Final = (
    ("`.env`", "The node's settings, beside its database or in the working directory."),
    (
        "*.replicator-lock",
        "Beside a SQLite database: peers that are worked on, daemons; may go after `db drop`.",
    ),
)


def page() -> str:
    """Return the manual page in the `man` macros of troff."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    # Typer's classes of commands and parameters are click's, for which it exports no types.
    root = cast("Any", typer.main.get_command(app))
    context = typer.Context(root, info_name=NAME, **root.context_settings)
    yield f'.TH {NAME.upper()} 1 "" "{NAME} {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"{page_text(NAME)} \\- {page_text(root.help.rstrip('.').replace('Pull', 'pull', 1))}"
    yield ".SH SYNOPSIS"
    yield f".B {page_text(NAME)}"
    yield "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield page_text(root.help)
    yield ".PP"
    yield page_text(
        "A Stigmem node's peers are pulled by this command, verified, and written into the node's "
        "database together with the cursor that they move. Every failure is one line on standard "
        "error: what, where, the reason code in parentheses, what to do."
    )
    yield ".SH OPTIONS"
    yield from _parameters(root, context)
    yield ".SH COMMANDS"
    yield from _commands(root, context, ())
    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_CODES.items():
        yield from _item(f"\\fB{code.value}\\fR", meaning)
    yield ".SH ENVIRONMENT"
    for name, meaning in _ENVIRONMENT:
        yield from _item(page_text(name), meaning)
    yield ".SH FILES"
    for name, meaning in _FILES:
        yield from _item(page_text(name), meaning)


def _commands(
    group: Any,  # noqa: ANN401 - see above
    context: typer.Context,
    path: tuple[str, ...],
) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.commands[name]
        here = (*path, name)
        if hasattr(command, "commands"):
            yield from _commands(command, context, here)
            continue
        yield f".SS {page_text(' '.join(here))}"
        usage = " ".join(_piece(piece) for piece in command.collect_usage_pieces(context))
        yield f"\\fB{page_text(NAME)} {page_text(' '.join(here))}\\fR {usage}".rstrip()
        for paragraph in command.help.split("\n\n"):
            yield ".PP"
            yield page_text(" ".join(paragraph.split()))
        yield from _parameters(command, context)


def _piece(piece: str) -> str:
    """Return one part of a usage line, in brackets if it may be left out."""
    word = f"\\fI{page_text(piece.strip('[]{}'))}\\fR"
    return f"[{word}]" if piece.startswith("[") else word


def _parameters(
    command: Any,  # noqa: ANN401 - see above
    context: typer.Context,
) -> Iterator[str]:
    shown = command.get_params(context) if context.command is command else command.params
    for parameter in shown:  # the option --help is every command's and shown once
        record = parameter.get_help_record(context)
        if record is not None:
            term, meaning = record
            yield from _item(_term(term), meaning)


def _term(term: str) -> str:
    """Set the words of a parameter bold and what stands for a value in italics."""
    words = [word for word in term.split() if word != "<str>"]
    return " ".join(
        f"\\fB{page_text(word)}\\fR" if word.startswith("-") else f"\\fI{page_text(word)}\\fR"
        for word in words
    )


def _item(term: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield term
    yield page_text(" ".join(meaning.split()))


def page_text(words: str) -> str:
    """Return a text as troff takes it: nothing in it is a request, commands in it are bold."""
    text = words.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    text = re.sub(r"[^\x00-\x7f]", lambda match: f"\\[u{ord(match[0]):04X}]", text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    print(page(), end="")
