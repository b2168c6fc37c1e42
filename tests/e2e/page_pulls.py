"""What tests of pulls from the page server share: running one, and what it left behind.

What the server answers, and what a pull should have made of it, is for the tests to say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.conftest import Cli, CliResult


def settings(**values: object) -> dict[str, str]:
    """Settings as environment variables."""
    return {f"STIGMEM_REPLICATOR_{name.upper()}": str(value) for name, value in values.items()}


def complaint(result: CliResult) -> str:
    """Return the one line on standard error that says why the command failed."""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("stigmem-replicate: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def assert_failed(result: CliResult, reason: str, code: int) -> str:
    """The command failed for this reason, said so in one line and nothing else, once."""
    line = complaint(result)
    assert f" ({reason})" in line, line
    assert result.returncode == code, result.stderr
    return line


def assert_untouched(receiver: Receiver, server: PageServer, cursor: str | None) -> None:
    """Nothing was let in, the cursor stands, and nobody holds the peer."""
    assert receiver.cursor(server) == cursor
    assert receiver.count("facts") == 0
    assert receiver.letters(server) == {}
    assert receiver.holder(server) is None


def pull(cli: Cli, receiver: Receiver, *arguments: str, **options: Any) -> CliResult:  # noqa: ANN401
    """Pull the receiver's only peer without patience."""
    words = ("pull", "--peer", "stigmem:node:", "--wait", "0", *arguments)
    return cli(*words, db=receiver.database, check=False, **options)


def pull_all_new(cli: Cli, receiver: Receiver, *arguments: str, **options: Any) -> CliResult:  # noqa: ANN401
    """Pull, and expect it to succeed without a word on standard error."""
    result = pull(cli, receiver, *arguments, **options)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result


@contextmanager
def servers(receiver: Receiver, count: int) -> Iterator[list[PageServer]]:
    """So many page servers, each a peer of the receiver."""
    with ExitStack() as stack:
        made = [stack.enter_context(PageServer()) for _ in range(count)]
        for server in made:
            receiver.adopt(server)
        yield made


def complaints(result: CliResult, peers: Sequence[PageServer]) -> list[str]:
    """Return the one line about each peer that says why its pull failed."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("stigmem-replicate: ")]
    assert len(lines) == len(peers), result.stderr
    found = []
    for peer in peers:
        (line,) = [line for line in lines if peer.url in line or peer.node_id in line]
        found.append(line)
    return found


def config_file(folder: Path, **values: float) -> str:
    path = folder / "replicator.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    return str(path)


def wait_for(condition: Any, seconds: float = 20.0) -> None:  # noqa: ANN401 - any call
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
