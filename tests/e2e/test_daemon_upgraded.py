"""A node that is upgraded under the running daemon: noticed, named, and nothing is lost."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.daemon import daemon
from tests.nodes.environment import node_environment as installed_environment
from tests.nodes.node import Node
from tests.pages import misbehaviour
from tests.pages.origin import public_text
from tests.pages.receiver import SCOPES, Receiver
from tests.pages.server import PageServer, Reader, honestly

if TYPE_CHECKING:
    from tests.nodes.environment import NodeEnvironment

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = pytest.mark.slow

OLD: Final = "0.9.0a10"
EVENT: Final = "replicator.local_db"


def test_to_another_wire_version(
    node_environment: NodeEnvironment, server: PageServer, tmp_path: Path
) -> None:
    """The daemon opens the database anew and speaks the new version, as does the peer in time."""
    node = Node(installed_environment(OLD), tmp_path / "node")
    try:
        node.prepare()
        receiver = Receiver(node.database)
        register(receiver, server)
        server.always = misbehaviour.version_one
        with daemon(tmp_path, node.database, blocked_retry_s=1) as running:
            running.wait_for_state(server, "idle")
            node.environment = node_environment
            node.prepare()
            running.wait_for_line(EVENT, gate="open", wire_version="2")
            closed, *_ = running.said(EVENT)
            assert (closed["gate"], closed["cause"]) == ("closed", "schema_unsupported")
            assert "038_peer_approval_flow and is at 0" in closed["detail"]
            running.wait_for_state(server, "blocked", "wrong_dialect")
            server.always = honestly
            new = server.origin.add()
            running.wait_for_state(server, "blocked", "origin_unresolvable")
            receiver.store_manifest(server.origin.manifest)
            receiver.execute("UPDATE peers SET entity_uri = ?", [server.origin.entity_uri])
            running.wait(lambda: new in receiver.fact_ids(server), "the new fact")
            running.wait_for_state(server, "idle")
            running.stop()
        receiver.assert_clean(server)
    finally:
        node.close()


def register(receiver: Receiver, server: PageServer) -> None:
    """Have a server as a peer of a node that knows no organisations."""
    server.know(
        Reader(receiver.meta("node_id"), receiver.meta("federation_pubkey"), frozenset(SCOPES))
    )
    receiver.execute(
        "INSERT INTO peers (id, node_id, node_url, federation_pubkey, allowed_scopes, status,"
        " established_at, declaration_sig, signed_at) VALUES (?,?,?,?,?,'active',?,?,?)",
        [
            str(uuid.uuid4()),
            server.node_id,
            server.url,
            public_text(server.origin.key),
            json.dumps(SCOPES),
            *("2026-01-01T00:00:00+00:00", "signature", "2026-01-01T00:00:00+00:00"),
        ],
    )


def test_within_one_wire_version(adopted: Receiver, server: PageServer, tmp_path: Path) -> None:
    """Migrations that leave what we need as it was are noticed, and the daemon goes on."""
    server.origin.add_many(3)
    with daemon(tmp_path, adopted.database) as running:
        running.wait_for_state(server, "idle")
        for statement in (
            "ALTER TABLE facts ADD COLUMN shade TEXT",
            "INSERT INTO schema_migrations (version, applied_at) VALUES ('059_later', 'now')",
        ):
            adopted.execute(statement)
        new = server.origin.add()
        running.wait(lambda: new in adopted.fact_ids(server), "the new fact")
        running.wait_for_state(server, "idle")
        assert running.row(server)["failures"] == 0
        assert [line for line in running.lines() if "059_later" in json.dumps(line)]
        running.stop()
    adopted.assert_clean(server)
