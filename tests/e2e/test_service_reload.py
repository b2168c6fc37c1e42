"""SIGHUP on the real process: good settings are swapped in, bad ones change nothing.

The first tests share one daemon: each writes the configuration file anew and has it read.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.daemon import SOON_S, Daemon, daemon, is_free, receiver_of
from tests.e2e.database_trouble import locked, move_away
from tests.pages import misbehaviour
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer, honestly

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = pytest.mark.slow

RARELY: Final = "poll_interval_s = 3600\n"
OFTEN: Final = "poll_interval_s = 0.2\n"
MINUTE_MS: Final = 60_000
SUCCESS: Final = "stigmem_replicator_config_last_reload_successful"


@dataclass(slots=True)
class World:
    """A running daemon with one peer, its configuration file, and its endpoint."""

    running: Daemon
    config: Path
    receiver: Receiver
    server: PageServer

    def reload(self, text: str | None = None) -> dict[str, Any]:
        """Have the file read, changed where a text is given; what the log says of it."""
        if text is not None:
            self.config.write_text(text)
        told = len(self.running.said("replicator.reload"))
        self.running.send(signal.SIGHUP)
        self.running.wait(lambda: len(self.told) > told, "the settings to be read again")
        return self.told[-1]

    @property
    def told(self) -> list[dict[str, Any]]:
        return self.running.said("replicator.reload")

    def rests_since(self, before_ms: int) -> bool:
        """Whether the peer was taken again after that, was asked, and is now left alone."""
        since_ms = self.running.row(self.server)["holder_since_ms"] or 0
        document = json.loads(self.running.get("/status")[1])
        (peer,) = document["peers"]
        next_ms = peer["replication"]["next_attempt_ms"]
        taken = before_ms < since_ms < document["at_ms"]
        return taken and next_ms is not None and next_ms > document["now_ms"] + MINUTE_MS

    def is_polled(self, times: int = 3) -> None:
        """Wait until the peer is asked some more times."""
        asked = len(self.server.requests)
        self.running.wait(
            lambda: len(self.server.requests) >= asked + times, f"{times} more requests"
        )

    def brings_new_facts(self) -> None:
        """Wait until what is new at the peer is here."""
        new = self.server.origin.add()
        self.running.wait(lambda: new in self.receiver.fact_ids(self.server), "a new fact")


@contextmanager
def world_of(folder: Path, receiver: Receiver, server: PageServer, text: str) -> Iterator[World]:
    config = folder / "replicator.toml"
    config.write_text(text)
    with daemon(
        folder,
        receiver.database,
        config=config,
        poll_interval_s=None,
        http_listen="127.0.0.1:0",
    ) as running:
        made = World(running, config, receiver, server)
        running.wait_for_state(server, "idle")
        yield made


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("reload")
    receiver = receiver_of(template, folder)
    with PageServer() as server:
        receiver.adopt(server)
        with world_of(folder, receiver, server, RARELY) as made:
            yield made
            assert made.running.running
            assert len(made.running.said("replicator.started")) == 1
            made.running.stop()


@pytest.fixture
def world(shared: World) -> World:
    """The daemon, which asks its peer rarely."""
    before = shared.running.row(shared.server)["holder_since_ms"]
    if shared.reload(RARELY)["result"] == "applied":
        shared.running.wait(lambda: shared.rests_since(before), "its peer to be taken and asked")
    return shared


# --- what is applied


def test_a_new_poll_interval_is_used_without_a_restart(world: World) -> None:
    """The peer is asked by it from now on, and the difference is told."""
    told = world.reload(OFTEN)
    assert (told["level"], told["result"]) == ("info", "applied")
    assert told["changed"] == ["poll_interval_s: 3600.0 → 0.2"]
    assert "needs_restart" not in told
    world.is_polled(5)
    world.brings_new_facts()
    assert world.running.metrics()[SUCCESS] == 1
    world.running.wait(
        lambda: world.running.get("/readyz")[0] == 200, "the new settings to be in use"
    )


def test_a_file_that_says_the_same_changes_nothing(world: World) -> None:
    """No peer is let go, and none is asked."""
    world.running.wait_for_state(world.server, "idle")
    asked, row = len(world.server.requests), world.running.row(world.server)
    told = world.reload(f"# a comment\n{RARELY}")
    assert (told["result"], told["changed"]) == ("nothing changed", [])
    assert world.running.row(world.server) == row
    assert len(world.server.requests) == asked


def test_a_table_for_one_peer_is_used(world: World) -> None:
    """And only what is in it changes."""
    told = world.reload(f'{RARELY}[peer."{world.server.node_id}"]\npage_size = 3\n')
    assert told["changed"] == [f"page_size of {world.server.node_id}: as for all → 3"]
    world.running.wait(lambda: world.server.requests[-1].limit == 3, "a smaller page")
    told = world.reload(RARELY)
    assert told["changed"] == [f"page_size of {world.server.node_id}: 3 → as for all"]
    world.running.wait(lambda: world.server.requests[-1].limit == 500, "a page of the usual size")


def test_the_level_of_the_log_changes(world: World) -> None:
    """The change itself is told at the more talkative level of the two."""
    told = world.reload(f'{OFTEN}log_level = "error"\n')
    assert "log_level: info → error" in told["changed"]
    lines = len(world.running.lines())
    world.brings_new_facts()
    assert len(world.running.lines()) == lines
    told = world.reload(OFTEN)
    assert told["changed"] == ["log_level: error → info"]
    pulled = len(world.running.said("federation.pull.ok"))
    world.brings_new_facts()
    world.running.wait(
        lambda: len(world.running.said("federation.pull.ok")) > pulled, "a line of info"
    )


# --- what is not


def test_what_needs_a_restart_is_named_and_not_applied(world: World) -> None:
    """Another database: it is named each time that the file is read, and nothing else is used.

    The settings of one node are not meant for another's database.
    """
    world.reload(OFTEN)
    for _ in range(2):
        told = world.reload(f'{RARELY}pg_schema = "other"\n')
        assert (told["result"], told["changed"]) == ("nothing changed", [])
        assert told["needs_restart"] == [
            "pg_schema: public → other",
            "poll_interval_s: 0.2 → 3600.0",
        ]
    world.is_polled()
    assert world.running.metrics()[SUCCESS] == 1


BROKEN: Final[dict[str, tuple[str | bytes, str]]] = {
    "no TOML": ("poll_interval_s = ", "is not valid TOML"),
    "an unknown key": ("pol_interval_s = 1", "did you mean 'poll_interval_s'?"),
    "a value that does not fit": ('log_level = "error"\npage_size = 0', "page_size"),
    "a peer's value that does not fit": ('[peer."x"]\npage_size = 0', "page_size"),
    "values that do not fit each other": ("backoff_base_s = 400", "backoff_cap_s"),
    "bytes that are no text": (b"\xff\xfe", "it is not UTF-8"),
    "a mode that is not supported": ('log_level = "error"\ntrust_mode = "strict"', "strict"),
    "a key that is not there": ('federation_privkey_file = "gone"', "gone is not there"),
    "rules that are not there": ('trust_rules_file = "gone.yml"', "gone.yml"),
    "a certificate that is not there": (
        'tls_cert_path = "gone.pem"\ntls_key_path = "gone.key"\ntls_ca_bundle = "ca.pem"',
        "gone.key is not there",
    ),
}


def test_a_broken_file_changes_nothing(world: World) -> None:
    """The old settings go on, and the metric tells until the file is mended."""
    world.reload(OFTEN)
    assert world.reload("page_size = 0")["result"] == "refused"
    assert world.running.metrics()[SUCCESS] == 0
    world.brings_new_facts()
    assert world.running.get("/healthz")[0] == 200
    world.running.wait(lambda: world.running.get("/readyz")[0] == 200, "it to be ready")
    assert world.reload(RARELY)["result"] == "applied"
    assert world.running.metrics()[SUCCESS] == 1


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_with_a_file_is_told_in_one_line(world: World, kind: str) -> None:
    """As an error; the level of the log stays, whatever the broken file says of it."""
    text, said = BROKEN[kind]
    world.config.write_bytes(text if isinstance(text, bytes) else text.encode())
    told = world.reload()
    assert (told["level"], told["result"]) == ("error", "refused")
    assert said in told["detail"] + told["hint"]
    assert told["reason"] in {"configuration_invalid", "trust_mode_unsupported"}
    assert world.reload(RARELY)["result"] == "nothing changed"


@pytest.mark.parametrize("kind", ["gone", "a folder", "a link to itself"])
def test_a_file_that_cannot_be_read_changes_nothing(world: World, kind: str) -> None:
    """It is named."""
    world.config.unlink()
    if kind == "a folder":
        world.config.mkdir()
    elif kind == "a link to itself":
        world.config.symlink_to(world.config)
    try:
        told = world.reload()
    finally:
        if kind == "a folder":
            world.config.rmdir()
        world.config.unlink(missing_ok=True)
    assert told["result"] == "refused"
    assert str(world.config) in told["detail"]


# --- in the midst of work


def test_in_the_middle_of_a_drain(world: World) -> None:
    """The peer is let go and taken again by the same process; nothing is lost or doubled."""
    running, server = world.running, world.server
    new = set(server.origin.add_many(100))
    server.always = misbehaviour.slow(0.02)
    for size in (5, 4, 3):
        world.reload(f"{OFTEN}page_size = {size}\n")
        running.wait(lambda: server.requests[-1].limit == size, "pages of the new size")  # noqa: B023 - waited for here
    server.always = honestly
    running.wait(lambda: new <= world.receiver.fact_ids(server), "all facts")
    assert running.holds(server)
    assert not is_free(world.receiver.database, running.row(server)["number"])
    assert running.row(server)["failures"] == 0
    world.receiver.assert_clean(server)


def test_many_signals_in_a_row(world: World) -> None:
    """Whatever they interrupt, what the file says last is what is used in the end."""
    for size in range(101, 121):
        world.config.write_text(f"{OFTEN}page_size = {size}\n")
        world.running.send(signal.SIGHUP)
        if size % 4:
            world.running.wait(lambda: f"→ {size}'" in str(world.told), "it to be read")  # noqa: B023 - waited for here
    world.running.wait(lambda: world.server.requests[-1].limit == 120, "the last size")
    world.is_polled()
    assert world.server.requests[-1].limit == 120


def test_settings_that_change_while_others_are_put_to_use(world: World, tmp_path: Path) -> None:
    """The first are not finished with, for a file of theirs keeps its reader waiting."""
    rules = tmp_path / "rules.yml"
    os.mkfifo(rules)
    world.config.write_text(f'{OFTEN}page_size = 76\ntrust_rules_file = "{rules}"\n')
    world.running.send(signal.SIGHUP)
    os.close(end_of(rules, world.running))
    world.running.wait(lambda: "→ 76'" in str(world.told), "the first to be read")
    end = end_of(rules, world.running)
    assert "page_size: 76 → 77" in world.reload(f"{OFTEN}page_size = 77\n")["changed"]
    os.close(end)
    world.running.wait(lambda: world.server.requests[-1].limit == 77, "the second to be used")


def test_settings_that_turn_out_to_be_no_good(world: World, tmp_path: Path) -> None:
    """A file of theirs that changed since they were checked: those of before are used again."""
    rules = tmp_path / "rules.yml"
    os.mkfifo(rules)
    world.config.write_text(f'{OFTEN}log_level = "debug"\ntrust_rules_file = "{rules}"\n')
    world.running.send(signal.SIGHUP)
    os.close(end_of(rules, world.running))
    world.running.wait_for_line(
        "replicator.reload",
        result="applied",
        changed=[
            "trust_rules_file: nothing → " + str(rules),
            "poll_interval_s: 3600.0 → 0.2",
            "log_level: info → debug",
        ],
    )
    end = end_of(rules, world.running)
    os.write(end, b"5")
    os.close(end)
    world.running.wait_for_line("replicator.reload", result="taken back")
    assert "rules.yml cannot be read" in world.told[-1]["detail"]
    assert world.running.metrics()[SUCCESS] == 0
    world.running.wait(lambda: world.running.get("/readyz")[0] == 200, "it to go on")
    told = world.reload(RARELY)
    assert (told["result"], told["changed"]) == ("nothing changed", [])
    assert world.running.metrics()[SUCCESS] == 1


def end_of(pipe: Path, running: Daemon) -> int:
    """The other end of a named pipe that the daemon reads, once it does."""
    found: list[int] = []

    def opened() -> bool:
        with suppress(OSError):
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(found)

    running.wait(opened, f"a reader of {pipe}")
    return found[0]


def test_a_peer_that_is_backing_off_is_tried_again(world: World) -> None:
    """New settings may be what it needed."""
    world.server.always = misbehaviour.status(500)
    world.reload(f"{OFTEN}backoff_base_s = 300\n")
    world.running.wait_for_state(world.server, "backing_off", "server_error")
    world.server.always = honestly
    world.reload(OFTEN)
    world.running.wait_for_state(world.server, "idle", seconds=SOON_S)


def test_while_the_database_is_locked(world: World) -> None:
    """They are in use once the lock is free."""
    with locked(world.receiver.database):
        assert world.reload(OFTEN)["result"] == "applied"
    world.is_polled()


def test_while_the_database_is_gone(world: World, tmp_path: Path) -> None:
    """That is no fault of the settings: they are taken, and used when it is back."""
    aside = tmp_path / "aside.db"
    move_away(world.receiver.database, aside)
    world.running.wait_for_line("replicator.local_db", gate="closed")
    assert world.reload(OFTEN)["changed"] == ["poll_interval_s: 3600.0 → 0.2"]
    assert world.running.metrics()[SUCCESS] == 1
    for kind in ("a value that does not fit", "a key that is not there"):
        text, _ = BROKEN[kind]
        assert isinstance(text, str)
        assert world.reload(text)["result"] == "refused"
    assert world.reload(OFTEN)["result"] == "nothing changed"
    move_away(aside, world.receiver.database)
    world.running.wait_for_line("replicator.local_db", gate="open")
    world.is_polled()


def test_a_file_that_keeps_its_reader_waiting(
    adopted: Receiver, server: PageServer, tmp_path: Path
) -> None:
    """The work goes on, and the daemon can be stopped."""
    with world_of(tmp_path, adopted, server, OFTEN) as world:
        world.config.unlink()
        os.mkfifo(world.config)
        world.running.send(signal.SIGHUP)
        world.brings_new_facts()
        world.running.send(signal.SIGTERM)
        assert world.running.ended() == 0
        assert world.told == []
