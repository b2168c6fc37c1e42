"""The part of the demonstration in which a person is forgotten, and told of again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.nodes.demo_command import DemoError, command, say
from tests.nodes.tombstones import (
    capability_token,
    hand_manifest,
    keep_from_pushing,
    revoke,
    told,
    tombstone,
)

if TYPE_CHECKING:
    from tests.nodes.federation import Pair

_FIRST_WITH_MANIFESTS = "0.9.0a11"


def forget(pair: Pair, entity: str) -> None:
    """Tombstone an entity at the origin, pull, revoke, pull, and ask the receiver in between."""
    origin, receiver = pair.origin, pair.receiver
    before = told(receiver, entity)
    say(
        "   The receiver runs the node's tombstone plugin. A node also pushes a new tombstone once,"
    )
    say("   best effort; here it cannot reach the receiver, so that pulling is what brings it.")
    keep_from_pushing(origin, receiver)
    if origin.environment.version < _FIRST_WITH_MANIFESTS:
        say("   Nodes of this version read no manifests: the receiver's operator hands it over.")
        hand_manifest(origin, receiver)
    record = tombstone(origin, entity)
    say(f"   Tombstoned {entity} at the origin. Its operator has given no token yet:")
    command(pair, "pull", "--peer", origin.node_id, "--stream", "tombstones", ends_with=9)
    say("   The origin's operator runs the command above; its token goes into a file, and the file")
    say("   is named in our configuration. Facts would have gone on without.")
    token = receiver.folder / "origin-token.json"
    token.write_text(capability_token(origin), "utf-8")
    token.chmod(0o600)
    config = receiver.folder / "replicator.toml"
    path = json.dumps(str(token))
    config.write_text(f'[peer."{origin.node_id}"]\ncapability_token_file = {path}\n', "utf-8")
    pull = ("--config", str(config), "pull", "--peer", origin.node_id)
    command(pair, *pull)
    if told(receiver, entity):
        raise DemoError(f"the receiver still tells of {entity}")
    say(f"   Asked for {entity}, the receiver tells nothing. Revoked at the origin:")
    revoke(origin, record["id"])
    command(pair, *pull, "--stream", "tombstones")
    if told(receiver, entity) != before:
        raise DemoError(f"the receiver does not tell of {entity} again")
    say(f"   Asked for {entity}, the receiver tells its {len(before)} public facts again.")
