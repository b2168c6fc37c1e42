"""The whole daemon at a glance, as text for people, as JSON for machines and as a verdict.

How a single peer is said is in ``peer_text``, which peers need an operator in
``service.ranking``, and who counts as behind in ``service.health``: as on the page and at
``/readyz``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from stigmem_replicator.cli import daemon, peer_text, render
from stigmem_replicator.cli.peer_text import Machine, Shown
from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.observe.board import PeerPicture, StreamPicture
from stigmem_replicator.observe.words import next_step
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service import health, manager, ranking
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store import node_loop
from stigmem_replicator.store.streams import StreamView

VERDICTS: Final[Mapping[ExitCode, str]] = {
    ExitCode.CONFIGURATION: "down",
    ExitCode.BLOCKED: "blocked",
    ExitCode.UNREACHABLE: "behind",
    ExitCode.DONE: "ok",
}
"""What a check can come to, the worst first, with the word that its line begins with."""

_NAMED: Final = 5
_ALL_OF_IT: Final = 20
_OF_THOSE_THAT_NEED_YOU: Final = ("peer", "state", "since", "last error", "next step")
_OF_BLOCKED_TOMBSTONES: Final = (
    peer_text.TOMBSTONES,
    *(f"{peer_text.OF_TOMBSTONES}{name}" for name in ("since", "last error", "next step")),
)
_NODE_LOOP: Final = "node's loop"


@dataclass(frozen=True)
class Glance:
    """The daemon at one moment, as was written last.

    ``database`` is its name without secrets, ``peers`` all of the node's registry, ``letters``
    how many open dead letters there are by peer, of those that have any.
    """

    database: str
    machine: Machine
    peers: Sequence[Shown]
    letters: Mapping[str, int]

    @cached_property
    def ranked(self) -> list[tuple[PeerPicture, Shown]]:
        """All peers, those that need an operator first."""
        pictures = [(_picture(shown, self.machine.now_ms), shown) for shown in self.peers]
        return sorted(pictures, key=lambda item: ranking.rank(item[0]))

    @property
    def pictures(self) -> list[PeerPicture]:
        """The same, as the page has them."""
        return [picture for picture, _ in self.ranked]

    @property
    def tombstones_blocked(self) -> list[Shown]:
        """The peers whose tombstones need an operator."""
        return [shown for peer, shown in self.ranked if ranking.tombstones_need_operator(peer)]

    @property
    def furthest_behind(self) -> PeerPicture | None:
        """The peer that we are furthest behind, of the active ones that nobody paused."""
        known = [
            peer
            for peer in self.pictures
            if peer.lag_ms is not None and peer.state is not PeerState.PAUSED
        ]
        return max(known, key=lambda peer: peer.lag_ms or 0, default=None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check came to: an exit code, and a sentence for each thing that is not well.

    ``notes`` are what wants an operator, but fails no check.
    """

    code: ExitCode
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _picture(shown: Shown, now_ms: int) -> PeerPicture:
    """Return a peer as the page has it, of what the tables know."""
    peer, view = shown.peer, shown.view
    state = PeerState.CATCHING_UP if view is None else PeerState(view.state)
    if view is not None and view.paused is not None:
        state = PeerState.PAUSED  # also while a pull by hand works on it
    return PeerPicture(
        node_id=peer.node_id,
        url=peer.node_url,
        status=peer.status,
        state=state,
        held=view is not None and view.holder_pid is not None,
        reason=None if view is None else view.reason,
        detail=None if view is None else view.detail,
        hint=None if view is None else view.hint,
        lag_ms=shown.lag_ms(now_ms),
        node_loop=shown.node_loop,
        tombstones=None if shown.tombstones is None else _stream_picture(shown.tombstones),
    )


def _stream_picture(view: StreamView) -> StreamPicture:
    stands = view.standing
    return StreamPicture(
        state=stands.state, reason=stands.reason, detail=stands.detail, hint=stands.hint
    )


# --- the verdict


def verdict(glance: Glance, max_lag_ms: int) -> Verdict:
    """Judge how the daemon stands; the worst that is found gives the code."""
    found = [
        *_down(glance.machine),
        *_blocked(glance),
        *_tombstones_blocked(glance),
        *_behind(glance, max_lag_ms),
    ]
    code = next((code for code in VERDICTS if any(code is of for of, _ in found)), ExitCode.DONE)
    return Verdict(code, tuple(words for _, words in found), tuple(_notes(glance)))


def unusable(error: LocalError) -> Verdict:
    """Judge a daemon of which nothing can be seen."""
    return Verdict(ExitCode.CONFIGURATION, (f"{error.message} ({error.reason})",))


def check_line(judged: Verdict, glance: Glance | None = None) -> str:
    """Return a verdict in one line; a ``glance`` is for what is said when all is well."""
    said = list(judged.problems)
    if not said and glance is not None:
        said = [
            manager.counts(glance.pictures),
            f"largest lag {_largest_lag(glance)}",
            f"{_letters(glance)} dead letter{'' if sum(glance.letters.values()) == 1 else 's'}",
        ]
    said += judged.notes
    return render.clean(f"{VERDICTS[judged.code]}: {'; '.join(said)}")


def _down(machine: Machine) -> Iterator[tuple[ExitCode, str]]:
    if isinstance(machine.daemon, LocalError):
        yield ExitCode.CONFIGURATION, machine.daemon.message
    elif not machine.daemon:
        yield ExitCode.CONFIGURATION, "the daemon is not running"
    if (hindrance := machine.hindrance) is not None:
        words = f"the database cannot be used: {hindrance.message} ({hindrance.reason})"
        yield ExitCode.CONFIGURATION, words


def _blocked(glance: Glance) -> Iterator[tuple[ExitCode, str]]:
    needing = [peer for peer in glance.pictures if ranking.needs_operator(peer)]
    for peer in needing[:_NAMED]:
        blocked = peer.state is PeerState.BLOCKED
        why = f" is {peer.state} ({peer.reason})" if blocked else ""
        yield ExitCode.BLOCKED, f"{peer.node_id}{why}: {_what_to_do(peer)}"
    if len(needing) > _NAMED:
        yield ExitCode.BLOCKED, f"and {len(needing) - _NAMED} more peers need an operator"


def _tombstones_blocked(glance: Glance) -> Iterator[tuple[ExitCode, str]]:
    """Yield whose tombstones are blocked for more than want of a token."""
    blocked = [shown for shown in glance.tombstones_blocked if not _wants_token(shown)]
    for shown in blocked[:_NAMED]:
        yield ExitCode.BLOCKED, f"{_how_blocked(shown)}: {peer_text.tombstones_step(shown)}"
    if len(blocked) > _NAMED:
        yield ExitCode.BLOCKED, f"and the tombstones of {len(blocked) - _NAMED} more peers"


def _notes(glance: Glance) -> Iterator[str]:
    """Yield whose tombstones want a token.

    A peer may never give one: a check that failed for that would never pass, and be turned off.
    """
    wanting = [shown for shown in glance.tombstones_blocked if _wants_token(shown)]
    yield from map(_how_blocked, wanting[:_NAMED])
    if len(wanting) > _NAMED:
        yield f"and the tombstones of {len(wanting) - _NAMED} more peers"


def _wants_token(shown: Shown) -> bool:
    beside = shown.tombstones
    return beside is not None and beside.standing.reason == Reason.CAPABILITY_REQUIRED


def _how_blocked(shown: Shown) -> str:
    reason = shown.tombstones and shown.tombstones.standing.reason
    return f"the tombstones of {shown.peer.node_id} are blocked ({reason})"


def _behind(glance: Glance, max_lag_ms: int) -> Iterator[tuple[ExitCode, str]]:
    others = (peer for peer in glance.pictures if peer.state is not PeerState.BLOCKED)
    for words in health.laggards(others, max_lag_ms):
        yield ExitCode.UNREACHABLE, words


def _what_to_do(peer: PeerPicture) -> str:
    """Return what an operator has to do for a peer that needs one."""
    if peer.node_loop and peer.state is not PeerState.BLOCKED:
        return node_loop.ADVICE
    step = next_step(peer.node_id, peer.status, peer.state, detail=peer.detail, hint=peer.hint)
    return step or ""


# --- for machines


def document(glance: Glance, judged: Verdict) -> dict[str, object]:
    """Return all of it for machines."""
    machine, furthest = glance.machine, glance.furthest_behind
    active = [peer for peer in glance.pictures if peer.active]
    return {
        "at_ms": machine.now_ms,
        "database": glance.database,
        "daemon_running": machine.daemon if isinstance(machine.daemon, bool) else None,
        "local_db": None if machine.hindrance is None else machine.hindrance.reason,
        "insecure": machine.insecure,
        "active": len(active),
        "inactive": len(glance.peers) - len(active),
        "states": dict(Counter(peer.state.value for peer in active)),
        "largest_lag_ms": None if furthest is None else furthest.lag_ms,
        "largest_lag_peer": None if furthest is None else furthest.node_id,
        "dead_letters": sum(glance.letters.values()),
        "needs_operator": [
            {
                "peer": peer.node_id,
                "url": without_secrets(peer.url),
                "state": peer.state.value,
                "reason": peer.reason,
                "detail": peer.detail,
                "next_step": _what_to_do(peer),
                "node_loop": peer.node_loop,
            }
            for peer in active
            if ranking.needs_operator(peer)
        ],
        "tombstones_blocked": [
            {
                "peer": shown.peer.node_id,
                "url": without_secrets(shown.peer.node_url),
                "reason": stands.reason,
                "detail": stands.detail,
                "next_step": peer_text.tombstones_step(shown),
            }
            for shown in glance.tombstones_blocked
            if shown.tombstones is not None
            for stands in (shown.tombstones.standing,)
        ],
        "check": {
            "exit_code": int(judged.code),
            "problems": list(judged.problems),
            "notes": list(judged.notes),
        },
    }


# --- for people


def head(glance: Glance) -> str:
    """Return all but the table of peers: the whole, then those that need an operator."""
    machine = glance.machine
    rows = [("daemon", _daemon(glance)), ("database", glance.database)]
    if (hindrance := machine.hindrance) is not None:
        rows.append(("held up by", f"{hindrance.message} ({hindrance.reason})"))
        if hindrance.hint:
            rows.append(("next step", hindrance.hint))
    inactive = sum(not peer.active for peer in glance.pictures)
    others = f"; {inactive} not active" if inactive else ""
    rows += [
        ("peers", f"{manager.counts(glance.pictures)}{others}"),
        ("largest lag", _largest_lag(glance)),
        ("dead letters", _letters(glance)),
    ]
    if beside := glance.tombstones_blocked:
        rows.append(("tombstones", f"{len(beside)} peer{'s' * (len(beside) > 1)} blocked"))
    needing = [
        (peer, shown)
        for peer, shown in glance.ranked
        if ranking.needs_operator(peer) or ranking.tombstones_need_operator(peer)
    ]
    parts = [render.pairs(rows)]
    for peer, shown in needing[:_ALL_OF_IT]:
        names = _said_of(peer)
        parts.append(
            render.pairs([row for row in peer_text.lines(shown, machine) if row[0] in names])
        )
    if len(needing) > _ALL_OF_IT:
        parts.append(f"and {len(needing) - _ALL_OF_IT} more peers need an operator")
    return "\n\n".join(parts)


def table(glance: Glance) -> str:
    """Return the table of all peers, in the words of ``peers list``."""
    if not glance.peers:
        return "this node has no peers; register one on the node first"
    cells = [peer_text.cells(shown, glance.machine) for _, shown in glance.ranked]
    return render.table(peer_text.HEADINGS, cells)


def _said_of(peer: PeerPicture) -> tuple[str, ...]:
    """Return what is told of a peer that needs an operator, by the names of ``peers show``."""
    return (
        *_OF_THOSE_THAT_NEED_YOU,
        *((_NODE_LOOP,) if peer.node_loop else ()),
        *(_OF_BLOCKED_TOMBSTONES if ranking.tombstones_need_operator(peer) else ()),
    )


def _daemon(glance: Glance) -> str:
    running = glance.machine.daemon
    if isinstance(running, LocalError):
        return running.message
    if not running:
        return daemon.DOWN.removeprefix("the daemon is ")
    processes = sorted(
        {
            f"process {view.holder_pid} on {view.holder_host}"
            for view in (shown.view for shown in glance.peers)
            if view is not None and view.holder_command == "run"
        }
    )
    return f"running, {' and '.join(processes)}" if processes else "running"


def _largest_lag(glance: Glance) -> str:
    peer = glance.furthest_behind
    if peer is None or peer.lag_ms is None:
        return "not known"
    return render.span(peer.lag_ms / 1000) + (f" ({peer.node_id})" if peer.lag_ms else "")


def _letters(glance: Glance) -> str:
    return f"{sum(glance.letters.values())} open"
