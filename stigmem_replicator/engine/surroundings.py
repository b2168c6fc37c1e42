"""What all pulls of a process share: the database, the way to write it, and the outside world."""

from __future__ import annotations

from dataclasses import dataclass, field

from stigmem_replicator.clock import Clock, NewId, Random, Sleep
from stigmem_replicator.engine.identity import Identity
from stigmem_replicator.engine.threads import Threads
from stigmem_replicator.engine.trust_inputs import TrustBook
from stigmem_replicator.engine.writer import Writer
from stigmem_replicator.observe.board import Board
from stigmem_replicator.observe.counting import Counting
from stigmem_replicator.protocol.envelope import ENVELOPES, Envelope
from stigmem_replicator.settings import Settings
from stigmem_replicator.store.engine import Database
from stigmem_replicator.store.locks import PeerLocks
from stigmem_replicator.store.standings import Holder
from stigmem_replicator.transport.network import Network


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The parts that are made once a process; ``process`` is how it names itself to others.

    ``counting`` takes note of what happens; ``board``, where there is one, shows how all stands.
    """

    database: Database
    settings: Settings
    writer: Writer
    trust: TrustBook
    identity: Identity
    locks: PeerLocks
    network: Network
    process: Holder
    clock: Clock
    sleep: Sleep
    random: Random
    new_id: NewId
    threads: Threads = field(default_factory=Threads)
    counting: Counting = field(default_factory=Counting)
    board: Board | None = None

    @property
    def envelope(self) -> Envelope:
        """How the wire version that this node speaks wraps its facts."""
        return ENVELOPES[self.database.schema.dialect]
