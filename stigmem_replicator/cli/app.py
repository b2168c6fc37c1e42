"""The command line as a whole: the options before the command, and how it ends."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from stigmem_replicator import __version__
from stigmem_replicator.cli import config, cursor, db, dead_letters, peers, pull, render
from stigmem_replicator.cli.context import Invocation
from stigmem_replicator.cli.run import run as run_daemon
from stigmem_replicator.cli.status import status
from stigmem_replicator.errors import ExitCode, ReplicatorError
from stigmem_replicator.observe.log import printable_lines

app = typer.Typer(
    name="stigmem-replicate",
    help="Pull signed facts from the peers of a Stigmem node into the node's database.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
app.command("run")(run_daemon)
app.command("status")(status)
app.command("pull")(pull.pull)
app.add_typer(peers.app, name="peers")
app.add_typer(cursor.app, name="cursor")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(config.app, name="config")
app.add_typer(db.app, name="db")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"stigmem-replicate {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    db: Annotated[
        str | None,
        typer.Option(metavar="PATH|URL", help="The node's database. [env: STIGMEM_DB_PATH]"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Our own settings, a TOML file.")
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The node's .env file, if not beside its database."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning, error or critical."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Pull signed facts from the peers of a Stigmem node into the node's database."""
    context.obj = Invocation({"database": db, "log_level": log_level}, config, env_file)


def main() -> None:
    """Run the command line and exit with the code that the README documents."""
    sys.exit(run())


def run() -> int:
    """Run the command line; every failure is one line on standard error and an exit code."""
    try:
        return int(app(standalone_mode=False, prog_name="stigmem-replicate") or ExitCode.DONE)
    except ReplicatorError as error:
        print(render.failure(error), file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        told = getattr(error, "format_message", error.__str__)()
        print(told if "\n" in told else f"stigmem-replicate: {told}", file=sys.stderr)
        return ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        print("stigmem-replicate: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain at exit.
        sys.stdout = None
        return ExitCode.DONE
    except Exception as error:  # noqa: BLE001 - the last resort of the program
        print(printable_lines(traceback.format_exc()), file=sys.stderr, end="")
        line = f"stigmem-replicate: unexpected {type(error).__name__}: {error}"
        print(render.clean(line), file=sys.stderr)
        return ExitCode.UNEXPECTED
