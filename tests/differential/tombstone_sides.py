"""One receiver twice, on either backend: tombstones are taken by the node's functions and by us.

No node runs. Its functions take the pages in a process of its environment (inside_tombstones.py),
we in a pull from a server that answers with the very same bodies. What becomes of it is compared
in tombstone_rows.py.
"""

from __future__ import annotations

import json
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio

from stigmem_replicator.engine.pull import Pull, Streams, Wishes
from stigmem_replicator.engine.report import PullReport, TombstoneReport
from stigmem_replicator.settings import Settings
from stigmem_replicator.store import migrations, reads
from stigmem_replicator.store.engine import open_database, reading
from stigmem_replicator.store.locks import make_locks
from tests.differential.arena import surroundings
from tests.nodes.database import PostgresDatabase, SqliteDatabase
from tests.nodes.node import Node
from tests.nodes.postgres import node_settings
from tests.pages.origin import public_text
from tests.pages.server import PageServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stigmem_replicator.store.engine import Database
    from tests.nodes.database import NodeDatabase
    from tests.nodes.environment import NodeEnvironment
    from tests.nodes.postgres import PostgresServer
    from tests.pages.origin import Origin, Raw
    from tests.pages.server import Exchange

INSIDE_TOMBSTONES = Path(__file__).parents[1] / "nodes" / "inside_tombstones.py"
_WHEN = "2026-01-01T00:00:00+00:00"


@dataclass(frozen=True, slots=True)
class Sql:
    """A statement for both databases."""

    text: str
    parameters: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """Whether the node relays (`relay`), or several tenants are kept apart (`multi_tenant`)."""

    name: Literal["relay", "multi_tenant"]
    on: bool


@dataclass(frozen=True, slots=True)
class Served:
    """A page of the peer, with no more to come: what each list holds, in order."""

    tombstones: tuple[object, ...] = ()
    revocations: tuple[object, ...] = ()

    def body(self, version: int) -> Raw:
        """The answer in the dialect of a wire version."""
        page: Raw = {
            "tombstones": list(self.tombstones),
            "revocations": list(self.revocations),
            "cursor": _WHEN if self.tombstones else None,
        }
        return {"v": 2, **page, "has_more": False} if version == 2 else page


Step: TypeAlias = Sql | Switch | Served


@dataclass(frozen=True, slots=True)
class Ours:
    """What we made of one page: why the stream stopped, if it did, and all letters after it."""

    failure: str | None
    letters: list[dict[str, Any]]
    report: TombstoneReport


@dataclass(slots=True)
class Sides:
    """Both sides, at their beginning; `node` has prepared its database and does not run."""

    version: int
    node: Node
    theirs: NodeDatabase
    ours: NodeDatabase
    server: PageServer
    keys: tuple[Ed25519PrivateKey, ...]
    """The earlier keys of the peer's organisation, oldest first."""
    _settings: Settings
    _body: Raw = field(default_factory=dict)

    @property
    def origin(self) -> Origin:
        return self.server.origin

    def node_takes(self, steps: Sequence[Step]) -> list[dict[str, list[str | None]] | None]:
        """Have the node go through the steps; what its functions said of the entries of each."""
        order = {"node_id": self.origin.node_id, "steps": [self._ordered(step) for step in steps]}
        said: list[dict[str, list[str | None]] | None] = json.loads(
            self.node.run_inside(INSIDE_TOMBSTONES, stdin=json.dumps(order))
        )
        return said

    def _ordered(self, step: Step) -> Raw:
        match step:
            case Sql():
                return {"sql": step.text, "parameters": step.parameters}
            case Switch():
                return {"switch": step.name, "on": step.on}
            case Served():
                return {"body": json.dumps(step.body(self.version))}

    def we_take(self, steps: Sequence[Step]) -> list[Ours | None]:
        """Go through the steps, with a pull for each page."""
        return anyio.run(self._go_through, steps)

    async def _go_through(self, steps: Sequence[Step]) -> list[Ours | None]:
        made: list[Ours | None] = []
        database = open_database(self.ours.location, timeout_s=5.0)
        settings = self._settings
        try:
            for step in steps:
                done: Ours | None = None
                if isinstance(step, Sql):
                    self.ours.run(step.text, *step.parameters)
                elif isinstance(step, Switch):
                    settings = _turned(settings, step)
                else:
                    self._body = step.body(self.version)
                    done = await self._pull(database, settings)
                made.append(done)
        finally:
            database.close()
        return made

    async def _pull(self, database: Database, settings: Settings) -> Ours:
        report = TombstoneReport()
        wishes = Wishes(streams=Streams.TOMBSTONES)
        with make_locks(database) as locks:
            around = surroundings(database, settings, locks, None)
            with reading(database) as connection:
                (peer,) = reads.peers(connection)
            pull = Pull(peer, wishes, around, PullReport(), report, _ignore, _ignore)
            await pull.run()
        failure = pull.tombstone_failure
        letters = self.ours.rows("replicator_dead_letters")
        return Ours(None if failure is None else failure.reason.value, letters, report)

    def answer(self, exchange: Exchange) -> None:
        """Serve the page whose turn it is."""
        exchange.send(200, self._body)


@contextmanager
def sides_of(
    environment: NodeEnvironment, version: int, folder: Path, postgres: PostgresServer | None
) -> Iterator[Sides]:
    """Prepare a node's database, on PostgreSQL where a server is given, with one peer, twice.

    The peer's organisation has rotated its key twice; its manifest is stored.
    """
    settings = None if postgres is None else node_settings(postgres.node_database(environment))
    node = Node(environment, folder / "node", name="receiver", settings=settings)
    node.prepare()
    with PageServer() as server:
        keys = []
        for _ in range(2):
            keys.append(server.origin.key)
            server.origin.rotate(hours_ago=48.0)
        register(node.store, server)
        store_manifest(node.store, server.origin.manifest)
        if postgres is None:
            ours: NodeDatabase = SqliteDatabase(node.copy_database(folder / "ours.db"))
        else:
            name = str(node.store.location).rsplit("/", 1)[1]
            ours = PostgresDatabase(postgres.create_database(name))
        with closing(open_database(ours.location, timeout_s=5.0)) as database:
            migrations.upgrade(database)
        # Refusals are what is looked for here: however many, they stop nothing.
        own = Settings(database=str(ours.location), federation_insecure=True, node_url=node.url)
        sides = Sides(version, node, node.store, ours, server, tuple(keys), own)
        server.tombstone_endpoint.version = version
        server.tombstone_endpoint.always = sides.answer
        try:
            yield sides
        finally:
            node.close()
            if postgres is not None:
                for side in (node.store, ours):
                    postgres.drop_database(str(side.location))


def _turned(settings: Settings, switch: Switch) -> Settings:
    if switch.name == "relay":
        return replace(settings, relay_enabled=switch.on)
    return replace(settings, multi_tenant=switch.on)


def register(database: NodeDatabase, server: PageServer) -> None:
    """Put the origin into a registry, as far as that node's registry has columns."""
    values: dict[str, object] = {
        "id": "peer-1",
        "node_id": server.origin.node_id,
        "node_url": server.url,
        "federation_pubkey": public_text(server.origin.key),
        "allowed_scopes": json.dumps(["company", "public"]),
        "status": "active",
        "established_at": _WHEN,
        "declaration_sig": "signature",
        "signed_at": _WHEN,
        "entity_uri": server.origin.entity_uri,
    }
    there = database.columns("peers")
    database.insert("peers", **{name: value for name, value in values.items() if name in there})


def store_manifest(database: NodeDatabase, manifest: Raw) -> None:
    """Store a manifest as the last accepted of its organisation."""
    step = manifest_stored(manifest)
    database.run(step.text, *step.parameters)


def manifest_stored(manifest: Raw) -> Sql:
    """The statement by which that happens."""
    values: dict[str, str] = {
        "id": f"manifest of {manifest['entity_uri']}",
        "entity_uri": manifest["entity_uri"],
        "manifest_json": json.dumps(manifest, sort_keys=True, separators=(",", ":")),
        **{key: manifest[key] for key in ("signature", "key_id", "issued_at", "expires_at")},
        "created_at": _WHEN,
        "updated_at": _WHEN,
    }
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    text = f"INSERT INTO federation_manifests ({names}) VALUES ({marks})"  # noqa: S608 - our own
    return Sql(text, tuple(values.values()))


def _ignore(_told: object) -> None:
    pass
