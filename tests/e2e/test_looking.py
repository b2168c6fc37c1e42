"""Commands that look at what pulls have left: peers, cursors, and what was refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stigmem_replicator.engine.pull import Pull
from tests.nodes.certificates import TlsFiles
from tests.pages.origin import Origin, now_ms
from tests.pages.poison import poison, serve
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result

pytest_plugins = ("tests.e2e.here", "tests.pages.fixtures")


# --- peers


def test_peers_before_anything_was_pulled(
    here: Here, bare_receiver: Receiver, server: PageServer
) -> None:
    """The peers are shown before the replicator has tables, and when there are none."""
    assert "no peers" in here("peers", "list", db=bare_receiver.database).stdout
    assert json.loads(here("peers", "list", "--json", db=bare_receiver.database).stdout) == []
    bare_receiver.adopt(server)
    assert "never pulled" in here("peers", "list", db=bare_receiver.database).stdout
    shown = here("peers", "show", server.node_id[-8:], db=bare_receiver.database).stdout
    assert "at the beginning" in shown
    document = json.loads(
        here("peers", "show", server.url, "--json", db=bare_receiver.database).stdout
    )
    assert document["peer"] == server.node_id
    assert document["scopes"] == ["company", "public"]
    assert document["replication"] is None
    assert document["events"] == []


def test_a_peer_whose_row_does_not_read(here: Here, adopted: Receiver, server: PageServer) -> None:
    """A peer whose scopes do not read is agreed nothing, and does not stop the others' commands."""
    adopted.execute("UPDATE peers SET allowed_scopes = '{'")
    shown = here("peers", "show", server.node_id, db=adopted.database)
    assert (shown.code, shown.stderr) == (0, "")
    assert re.search(r"scopes +none", shown.stdout)


def test_a_peer_shows_its_last_events(here: Here, adopted: Receiver, server: PageServer) -> None:
    """Of what happened with a peer the newest 50 events are shown."""
    for _ in range(52):
        here("cursor", "reset", "--peer", server.node_id, "--yes", db=adopted.database)
    assert len(adopted.events(server)) == 52
    words = ("peers", "show", server.node_id)
    assert here(*words, db=adopted.database).stdout.count("cursor_reset") == 50
    document = json.loads(here(*words, "--json", db=adopted.database).stdout)
    assert len(document["events"]) == 50


def test_a_peer_shows_certificates_and_how_far_it_is_behind(
    here: Here, adopted: Receiver, server: PageServer, certificate: TlsFiles
) -> None:
    """What its answers told is shown when there is something, our certificate when there is one."""

    def shown(**env: str) -> str:
        result = here("peers", "show", server.node_id, db=adopted.database, env=env)
        assert (result.code, result.stderr) == (0, "")
        return result.stdout

    assert here("pull", "--all", db=adopted.database).code == 0
    assert not re.search("certificate|upstream", shown())
    adopted.execute("UPDATE replicator_peers SET certificate_not_after_ms = 86400000")
    adopted.execute("UPDATE replicator_peers SET upstream_lag_ms = 180000, upstream_lag_at_ms = 0")
    assert re.search(r"its certificate +1970-01-02T00:00:00Z \(expired \d+ d ago\)\n", shown())
    assert re.search(r"upstream lag +3 min, told 1970-01-01T00:00:00Z\n", shown())
    listed = here("peers", "list", db=adopted.database).stdout
    assert re.search(r"  idle +0 s, upstream lag 3 min +- +0 ", listed)
    until = certificate.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
    environ = certificate.environ
    assert re.search(rf"own certificate +{until} \(30 d left\)\n", shown(**environ))
    certificate.certificate.write_text("no certificate")
    assert re.search(rf"own certificate +\D*{certificate.certificate}", shown(**environ))


def test_a_list_of_peers_warns_of_what_is_not_secured(
    here: Here, adopted: Receiver, certificate: TlsFiles
) -> None:
    """It says so on standard error, where peers may be called insecurely and only there."""
    insecure = here("peers", "list", db=adopted.database)
    assert insecure.warned.startswith("stigmem-replicate: WARNING: federation_insecure is on: ")
    assert "STIGMEM_TLS_CERT_PATH" in insecure.warned
    assert len(insecure.stdout.splitlines()) == 2
    secured = here("peers", "list", db=adopted.database, env=certificate.environ)
    assert (secured.stdout, secured.stderr) == (insecure.stdout, "")
    both = {**certificate.environ, "STIGMEM_FEDERATION_INSECURE": "true"}
    (line,) = here("peers", "list", db=adopted.database, env=both).stderr.splitlines()
    assert line.endswith("; unset STIGMEM_FEDERATION_INSECURE")
    for env in ({}, certificate.environ):
        said = here("peers", "list", "--json", db=adopted.database, env=env)
        assert (said.stderr, said.warned) == ("", "")
        assert [peer["insecure"] for peer in json.loads(said.stdout)] == [not env]


def test_a_mistake_with_one_peer_does_not_end_the_others(
    here: Here, adopted: Receiver, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is its peer's alone: exit 1, one line, a traceback only for debug."""
    server.origin.add()
    other = "stigmem:node:mistaken"
    adopted.register(other, "http://127.0.0.1:2")
    run = Pull.run

    async def mistaken(self: Pull) -> None:
        seed = "the-seed-of-a-key"
        if self._peer.node_id == other:
            raise RuntimeError(seed[:3] + "\x1b[2J")
        await run(self)

    monkeypatch.setattr(Pull, "run", mistaken)
    line = here("pull", "--all", db=adopted.database).failed("unexpected", 1)
    assert other in line
    assert "RuntimeError" in line
    assert len(adopted.assert_clean(server).admitted) == 1
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown)
        result = here("--log-level", "debug", "pull", "--peer", other, db=adopted.database)
        assert result.code == 1
        assert "Traceback" in result.stderr
        assert "the-seed-of-a-key" not in result.stderr
        assert "\x1b[2J" not in result.stderr


# --- cursors


def test_cursor_show_and_reset(here: Here, bare_receiver: Receiver, server: PageServer) -> None:
    """A cursor goes to the beginning or to a position that was given, and only after a yes."""
    db = bare_receiver.database
    assert "no peers" in here("cursor", "show", db=db).stdout
    bare_receiver.adopt(server)
    assert "at the beginning" in here("cursor", "show", db=db).stdout
    hours = 3_600_000
    for age in (5 * hours, 3 * hours, 1 * hours):
        server.origin.add(hlc=f"{now_ms() - age}.0")
    stamps = [row.hlc for row in server.origin.rows]
    env = {"STIGMEM_REPLICATOR_PAGE_SIZE": "1"}
    assert here("pull", "--all", db=db, env=env).code == 0

    (shown,) = json.loads(here("cursor", "show", "--json", db=db).stdout)
    assert (shown["cursor"], shown["settled"]) == (stamps[-1], stamps[-1])
    assert [item["position"] for item in shown["checkpoints"]] == stamps
    text = here("cursor", "show", "--peer", server.node_id, db=db).stdout
    assert all(stamp in text for stamp in stamps)

    def reset(*words: str) -> Result:
        return here("cursor", "reset", "--peer", server.node_id, *words, db=db)

    assert reset().failed_among("usage", 2).endswith("--yes answers for you")
    assert "no position" in reset("--to", "123.0", "--yes").failed("usage", 2)
    assert bare_receiver.cursor(server) == stamps[-1]
    assert reset("--to", stamps[1], "--yes").code == 0
    assert bare_receiver.cursor(server) == stamps[1]
    assert reset("--back", "4h", "--yes").code == 0
    assert bare_receiver.cursor(server) == stamps[0]
    assert reset("--back", "9d", "--yes").code == 0
    assert bare_receiver.cursor(server) is None
    assert reset("--yes").code == 0
    assert bare_receiver.events(server).count("cursor_reset") == 4

    asked = len(server.requests)
    result = here("pull", "--peer", server.node_id, db=db)
    assert "duplicates  3" in result.stdout
    assert server.requests[asked].cursor is None
    bare_receiver.assert_clean(server)
    assert bare_receiver.cursor(server) == stamps[-1]


def test_a_reset_of_an_unknown_peer(here: Here, adopted: Receiver) -> None:
    """A reset names its peer as a pull does: nobody and two are exit 4."""
    words = ("cursor", "reset", "--yes", "--peer")
    here(*words, "nobody", db=adopted.database).failed("unknown_peer", 4)
    adopted.register("stigmem:node:second", "http://127.0.0.1:2")
    here(*words, "stigmem:node", db=adopted.database).failed("ambiguous_peer", 4)


# --- dead letters


def test_dead_letters(here: Here, bare_receiver: Receiver, server: PageServer) -> None:
    """What was refused is listed, narrowed and shown whole; nothing refused is said so."""
    db = bare_receiver.database
    for words in (["list"], ["list", "--json"], ["show", "absent"]):
        result = here("dead-letters", *words, db=db)
        assert result.code == (2 if words[0] == "show" else 0)
    assert here("dead-letters", "list", db=db).stdout == "nothing was refused\n"

    bare_receiver.adopt(server)
    server.origin.add()
    refused = serve(server.origin, poison("a content beside its id"))
    assert refused is not None
    serve(server.origin, poison("a scope that was not agreed"))
    serve(server.origin, poison("an entry that is a text"))
    assert here("pull", "--all", db=db).code == 0

    text = here("dead-letters", "list", db=db).stdout
    assert len(text.splitlines()) == 4
    assert refused in text
    documents = json.loads(here("dead-letters", "list", "--json", db=db).stdout)
    assert sorted(item["reason"] for item in documents) == [
        "cid_mismatch",
        "malformed_entry",
        "scope_not_permitted",
    ]
    narrowed = here("dead-letters", "list", "--reason", "cid_mismatch", db=db).stdout
    assert len(narrowed.splitlines()) == 2
    assert "and more" in here("dead-letters", "list", "--limit", "2", db=db).stdout
    of_peer = here("dead-letters", "list", "--peer", server.node_id, "--json", db=db).stdout
    assert json.loads(of_peer) == documents

    shown = here("dead-letters", "show", refused, db=db).stdout
    assert "cid_mismatch" in shown
    assert "open" in shown
    (document,) = json.loads(here("dead-letters", "show", refused, "--json", db=db).stdout)
    served = next(
        row.entry
        for row in server.origin.rows
        if isinstance(row.entry, dict) and row.entry["fact"]["id"] == refused
    )
    assert document["payload"] == served
    assert document["times_seen"] == 1


def test_no_dead_letter_speaks_to_the_terminal(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """Whatever a peer puts into an entry, what is shown of it holds no control character."""
    stranger = Origin("https://stranger.example\x1b[2J")
    stranger.node_id = "stigmem:node:\x1b]0;owned\x07"
    entry = stranger.entry(stranger.fact(fact_id="\x1b[31mred", hlc=server.origin.stamp()))
    server.origin.add(entry)
    server.origin.add(server.origin.entry(server.origin.fact(scope="\x9b2J\u202e")))
    server.origin.rows[-1] = replace(server.origin.rows[-1], scope="public")
    serve(server.origin, poison("a lone surrogate"))
    assert here("pull", "--all", db=adopted.database).code == 0
    words = [["dead-letters", "list"], ["dead-letters", "list", "--json"]]
    words += [["peers", "show", server.node_id], ["peers", "show", server.node_id, "--json"]]
    for row in adopted.query("SELECT entry_id FROM replicator_dead_letters"):
        words += [["dead-letters", "show", row["entry_id"]]]
        words += [["dead-letters", "show", row["entry_id"], "--json"]]
    assert len(words) == 10
    for command in words:
        result = here(*command, db=adopted.database)
        assert (result.code, result.stderr) == (0, "")
        assert all(line.isprintable() for line in result.stdout.split("\n")), repr(result.stdout)
