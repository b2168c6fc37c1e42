"""What is wrong with the files of capability tokens, told before a peer says no.

They are read as a pass over tombstones reads them.  How they are kept from others is for the
settings.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

from stigmem_replicator.cli import render
from stigmem_replicator.engine.capability import token_for
from stigmem_replicator.protocol.capability import CapabilityFormatError
from stigmem_replicator.settings import Settings
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store.reads import PeerRow


def doubts(settings: Settings, peers: Sequence[PeerRow], now_ms: int) -> list[str]:
    """Return a sentence about each file that no tombstones can be asked for with, or not for long.

    ``peers`` are those that the node knows: an issuer is compared with the organisation of one of
    them.  Nothing said holds a token.
    """
    organisations = {peer.node_id: peer.entity_uri for peer in peers}
    said: list[str] = []
    named: defaultdict[str, list[str]] = defaultdict(list)
    for node_id in settings.peer_tables:
        path = settings.for_peer(node_id).capability_token_file
        if path is None:
            continue
        name = without_secrets(node_id)
        named[os.path.realpath(path)].append(name)
        try:
            token = token_for(organisations.get(node_id), path)
        except CapabilityFormatError as error:
            said.append(f"{path} has no capability token for peer {name}: {error}")
            continue
        if token.not_after_ms is not None and token.is_expiring(now_ms):
            verb = "has ended" if token.has_ended(now_ms) else "ends soon"
            said.append(
                f"the capability token in {path} for peer {name} {verb}: "
                f"{render.ending(token.not_after_ms, now_ms)}; its operator issues another one"
            )
    said += [
        f"{path} is named as capability_token_file of {' and '.join(names)}: a token is good at "
        "one of them, and the other gets to see it; name a file for each"
        for path, names in named.items()
        if len(names) > 1
    ]
    return said
