"""Shell completion: what a shell is offered when Tab is pressed, and what it never sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stigmem_replicator.cli.app import run as run_app
from stigmem_replicator.cli.completion import names
from stigmem_replicator.store.reads import PeerRow
from tests.pages.receiver import Receiver

pytest_plugins = ("tests.pages.fixtures",)

COMMAND = Path(sys.executable).with_name("stigmem-replicate")
FIRST = "stigmem:node:5e2cd33f-fb87-4320-9b09-ec5340a6df8c"
SECOND = "stigmem:node:7a000000-fb87-4320-9b09-ec5340a6df8c"


Tab = Callable[..., list[str]]


@pytest.fixture
def tab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Tab:
    """What bash is offered for the last word of a line, having heard nothing else."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("STIGMEM_")]:
        monkeypatch.delenv(name)

    def run(line: str, **variables: str) -> list[str]:
        words = line.split(" ")
        variables |= {
            "_STIGMEM_REPLICATE_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["stigmem-replicate"])
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                run_app()
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        return said.out.split()

    return run


@pytest.fixture
def peered(bare_receiver: Receiver) -> Receiver:
    bare_receiver.register(FIRST, "http://127.0.0.1:1")
    bare_receiver.register(SECOND, "http://127.0.0.1:2")
    return bare_receiver


def test_the_script_for_a_shell(tmp_path: Path) -> None:
    """--show-completion prints a script that bash reads, and with which bash then completes."""
    lines = [
        "set -e",
        f"script=$({COMMAND} --show-completion)",
        'eval "$script"',
        "COMP_WORDS=(stigmem-replicate cur) COMP_CWORD=1",
        f"_stigmem_replicate_completion {COMMAND}",
        'echo "${COMPREPLY[*]}"',
    ]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)],
        env={"PATH": os.defpath, "HOME": str(tmp_path), "LANG": "C.UTF-8"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("cursor\n", "", 0)


def test_commands_and_options_complete(tab: Tab) -> None:
    """Words of the command line need no database."""
    assert tab("stigmem-replicate cur") == ["cursor"]
    assert "history" in tab("stigmem-replicate cursor ")
    assert tab("stigmem-replicate cursor export --w") == ["--with-state"]


@pytest.mark.parametrize(
    "command", ["pull --peer", "cursor set --peer", "dead-letters export --peer", "peers show"]
)
def test_peers_complete(peered: Receiver, tab: Tab, command: str) -> None:
    """A peer is offered by the last part of its node id, wherever one is asked for."""
    before = peered.dump()
    line = f"stigmem-replicate --db {peered.database} {command} "
    assert tab(line) == [FIRST[13:], SECOND[13:]]
    assert tab(f"{line}5e") == [FIRST[13:]]
    assert tab(f"{line}stigmem:") == [FIRST, SECOND]
    assert tab(f"{line}nobody") == []
    environment = {"STIGMEM_DB_PATH": str(peered.database)}
    assert tab(f"stigmem-replicate {command} 7", **environment) == [SECOND[13:]]
    assert peered.dump() == before


@pytest.mark.parametrize("content", [None, b"", b"hello"])
def test_what_cannot_be_read_offers_nothing(
    tab: Tab, tmp_path: Path, content: bytes | None
) -> None:
    """No database, or one that is none: nothing is offered and nothing is said."""
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    assert tab(f"stigmem-replicate --db {path} pull --peer ") == []
    assert tab("stigmem-replicate --config absent.toml pull --peer ") == []


def peer(node_id: str, url: str = "http://127.0.0.1:1") -> PeerRow:
    return PeerRow(
        id=f"id of {node_id}",
        node_id=node_id,
        node_url=url,
        status="active",
        scopes=frozenset(),
        ingest_tenant=None,
        entity_uri=None,
        relay_trusted=False,
    )


@pytest.mark.parametrize("name", ["$(reboot)", "`reboot`", 'a"b', "a b", "a\nb", "a;b", "\x1b[2J"])
def test_a_peers_name_does_not_reach_the_shell(name: str) -> None:
    """Names and URLs with anything that a shell could take for its own are not offered."""
    assert names([peer(f"stigmem:node:{name}")], "") == []
    assert names([peer("stigmem:node:a", f"http://{name}")], "") == [("a", "")]


def test_only_names_that_mean_one_peer_are_offered() -> None:
    """What two peers have in common completes to their whole ids, where those differ."""
    peers = [peer("one:same"), peer("two:same"), peer("three:same-not")]
    assert names(peers, "") == [
        ("one:same", "http://127.0.0.1:1"),
        ("two:same", "http://127.0.0.1:1"),
        ("same-not", "http://127.0.0.1:1"),
    ]
    assert names(peers, "same") == [("same-not", "http://127.0.0.1:1")]
