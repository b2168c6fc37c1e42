"""Writing to a node past its HTTP API: many facts at once, late commits, a stopped clock.

It drives a second process of the same node (inside_node.py) beside the serving one, as an
operator's script would; the two share the database and, like any two processes of a node, not
their HLC. It is not for ordinary assertions (see node.py).
"""

from __future__ import annotations

import json
import selectors
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from tests.nodes.node import INSIDE_NODE, Node, NodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from tests.nodes.fact_corpus import Fact

HoldPoint = Literal["before_write", "before_commit"]

_ORDER_FACTS = 1_000
_ANSWER_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Asserted:
    """What the node made of one assertion: the id and HLC of the fact."""

    id: str
    hlc: str


class HeldCommit:
    """A fact whose id and HLC are assigned and whose transaction waits to be told."""

    def __init__(self, inside: InsideNode, number: int, fact_id: str, hlc: str) -> None:
        self._inside = inside
        self._number = number
        self.id = fact_id
        self.hlc = hlc

    def commit(self) -> Asserted:
        """Let it commit; returns once it has."""
        done = self._inside.order("commit", number=self._number)
        return Asserted(done["id"], done["hlc"])

    def abandon(self) -> None:
        """Let it roll back; the fact never existed."""
        self._inside.order("abandon", number=self._number)


class InsideNode:
    """A process in a node's environment that asserts, scores and pulls with the node's own code.

    A context manager. Whatever is still held at its end is rolled back, as in a crash. `database`
    takes the place of the node's own, so that a copy can be worked on; `settings` are names
    without the `STIGMEM_` prefix and win over the node's.
    """

    def __init__(
        self,
        node: Node,
        *,
        database: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._node = node
        self._environ = {
            **node.environ,
            **{f"STIGMEM_{name}": value for name, value in (settings or {}).items()},
            "STIGMEM_DB_PATH": str(database or node.database),
        }
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        with self._node.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._node.environment.python), str(INSIDE_NODE), "work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                cwd=self._node.folder,
                env=self._environ,
                start_new_session=True,
            )
        try:
            self._answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def assert_facts(self, facts: Iterable[Fact], *, batch: int = 200) -> list[Asserted]:
        """Assert facts in their order, `batch` to a transaction (the node takes one each).

        A transaction holds the write lock for its length, so keep `batch` small beside a node
        that is at work.
        """
        requests = [fact.request() for fact in facts]
        asserted: list[Asserted] = []
        for start in range(0, len(requests), _ORDER_FACTS):
            part = requests[start : start + _ORDER_FACTS]
            done = self.order("assert", facts=part, batch=batch)["asserted"]
            asserted.extend(Asserted(fact_id, hlc) for fact_id, hlc in done)
        return asserted

    def hold(self, fact: Fact, *, at: HoldPoint = "before_write") -> HeldCommit:
        """Assert a fact as far as a point and leave it there, its HLC assigned.

        `before_write` holds no lock, so that others may commit in the meantime: what happens to a
        request that waits for its turn. `before_commit` has written and holds the write lock; on
        SQLite everybody else waits, and after five seconds fails.
        """
        held = self.order("hold", fact=fact.request(), point=at)
        return HeldCommit(self, held["number"], held["id"], held["hlc"])

    @contextmanager
    def frozen_clock(self, wall_ms: int | None = None) -> Iterator[int]:
        """Stop the HLC's clock, so that all facts share one millisecond and count up: .0, .1, ...

        Without `wall_ms` it stands at a millisecond that no HLC of this process has used. With
        one in the past the HLC goes on counting where it was, unless it is told to forget.
        """
        frozen: int = self.order("freeze", wall_ms=wall_ms)["wall_ms"]
        try:
            yield frozen
        finally:
            self.order("thaw")

    def forget_clock(self) -> None:
        """Let the HLC start anew from the clock, as after a restart: it may fall back."""
        self.order("forget_clock")

    def trust_scores(self, sources: Iterable[tuple[str, str]]) -> list[float]:
        """What the node would score each (source, scope) now, remembering nothing."""
        scores: list[float] = self.order("trust", sources=list(sources))["scores"]
        return scores

    def peer_token(self, peer: Node) -> str:
        """A token with which this node may ask a peer once, as its own loop makes them."""
        token: str = self.order("token", node_id=peer.node_id)["token"]
        return token

    def pull_all_peers_once(self) -> None:
        """One turn of the node's own loop: one page from every active peer."""
        self.order("pull_all_peers_once")

    def ingest_pages(self, node_id: str, bodies: Iterable[bytes]) -> list[str | None]:
        """Have the node's own loop take answers of a peer, an entry at a time.

        Returns for each entry the exception that ended the loop there, None where it went on.
        Cursors are saved as the loop does after each page.
        """
        ended: list[str | None] = []
        for body in bodies:
            ended += self.order("ingest", node_id=node_id, body=body.decode())["ended"]
        return ended

    def order(self, do: str, **details: object) -> dict[str, Any]:
        """Have one order carried out; the vocabulary is inside_node.py's."""
        process = self._process
        if process is None or process.stdin is None:
            raise NodeError("the process inside the node is not running")
        with self._turn:
            with suppress(BrokenPipeError):  # it has ended; the missing answer says so
                process.stdin.write(json.dumps({"do": do, **details}) + "\n")
                process.stdin.flush()
            done: dict[str, Any] = self._answer()["ok"]
        return done

    def _answer(self) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdout is None:
            raise NodeError("the process inside the node is not running")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(_ANSWER_TIMEOUT_S):
                raise NodeError(f"no answer from inside {self._node!r}")
        line = process.stdout.readline()
        if not line:
            raise NodeError(f"the process inside ended\n{self._node.log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise NodeError(f"inside {self._node!r}: {answer['error']}")
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def assert_in_bulk(node: Node, facts: Iterable[Fact], *, batch: int = 200) -> list[Asserted]:
    """Assert many facts on a node, which may be running or not."""
    with InsideNode(node) as inside:
        return inside.assert_facts(facts, batch=batch)
