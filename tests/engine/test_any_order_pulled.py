"""Facts, tombstone, revocation and key in every order, pulled and stored: the end is the same.

What the pure pieces make of more events, duplicates and forgeries is in tests/unit/test_any_order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from stigmem_replicator.engine.pull import Streams, Wishes
from tests.engine.engine_room import Engine, engine_of
from tests.pages.origin import Origin
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstones import (
    make_revocation,
    make_tombstone,
    serve_revocation,
    serve_tombstone,
)

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

FACT = 0
"""The place of the fact among the events; the other three are of tombstones."""


@pytest.fixture
def anyio_backend() -> str:
    """One of the two: there are many pulls, and their order is no matter of the backend."""
    return "asyncio"


@pytest.fixture
def engine(adopted: Receiver) -> Iterator[Engine]:
    with engine_of(adopted) as made:
        yield made


class Story:
    """One organisation's order to forget an entity, and what belongs to it, each to happen once."""

    def __init__(self, number: int, receiver: Receiver, server: PageServer) -> None:
        self.issuer = Origin(f"https://issuer-{number}.example")
        self.entity = f"person:{number}"
        self.tombstone = make_tombstone(self.issuer, self.entity)
        self.revocation = make_revocation(self.issuer, self.tombstone["id"])
        origin = server.origin
        self.events: tuple[Callable[[], object], ...] = (
            lambda: origin.add(entity=self.entity),
            lambda: serve_tombstone(origin, self.tombstone),
            lambda: serve_revocation(origin, self.revocation),
            lambda: receiver.store_manifest(self.issuer.manifest),
        )

    def came(self, receiver: Receiver) -> bool:
        """Whether all of it is here."""
        facts = receiver.query("SELECT id FROM facts WHERE entity = ?", [self.entity])
        return (
            len(facts) == 1
            and self.tombstone["id"] in receiver.tombstone_ids()
            and self.revocation["id"] in receiver.revocation_ids()
        )


async def test_every_order_ends_the_same(
    engine: Engine, adopted: Receiver, server: PageServer
) -> None:
    """With a pull after each event, all is here after the last one, and nothing waits."""
    for number, order in enumerate(itertools.permutations(range(4))):
        story = Story(number, adopted, server)
        for place in order:
            story.events[place]()
            streams = Streams.FACTS if place == FACT else Streams.TOMBSTONES
            await engine.pull(server, Wishes(streams=streams)).run()
        assert story.came(adopted), order
        assert adopted.letters(server) == {}, order
