"""How a peer stands, as text for people and as JSON for machines.

What is known of the peer is looked up by ``peers``; tables, times and numbers are formatted by
``render``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from stigmem_replicator.cli import render
from stigmem_replicator.errors import LocalError
from stigmem_replicator.observe.words import next_step
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store import node_loop
from stigmem_replicator.store.reads import PeerRow
from stigmem_replicator.store.streams import StreamView
from stigmem_replicator.store.views import PauseView, PeerView

NEVER_PULLED: Final = "never pulled"
HEADINGS: Final = (
    *("PEER", "STATE", "LAG", "RATE", "FAILURES", "NEXT ATTEMPT", "CAUGHT UP"),
    "TOMBSTONES",
)
TOMBSTONES: Final = "tombstones"
"""The name under which :func:`lines` tells how the tombstones stand; what belongs to it follows."""

OF_TOMBSTONES: Final = "  "
"""With what the names begin that belong to it."""

_NOTHING: Final = "-"
_LONGEST_POLL: Final = 1.2  # in intervals: a poll comes a fifth sooner or later


@dataclass(frozen=True, slots=True)
class Machine:
    """What is the same for all peers: the time (milliseconds since 1970) and this machine.

    ``daemon`` says whether a daemon runs, or why that cannot be told; ``hindrance`` why the
    database cannot be written, None when it can.
    """

    now_ms: int
    daemon: bool | LocalError
    hindrance: LocalError | None
    insecure: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One peer: its row in the node's registry, the node's cursor of it, and how it stands.

    ``view`` is None for a peer that was never worked on; ``node_loop`` says that the node's own
    loop pulls it too; ``poll_interval_s`` is how many seconds lie between two looks at it.
    ``tombstones`` is how that stream stands, None where nothing is known of it, and
    ``tombstone_interval_s`` how many seconds lie between two looks at it.
    """

    peer: PeerRow
    view: PeerView | None
    cursor: str | None
    node_loop: bool
    poll_interval_s: float
    tombstones: StreamView | None
    tombstone_interval_s: float

    @property
    def active(self) -> bool:
        """Whether the node's registry lets the peer be pulled."""
        return self.peer.status == "active"

    def lag_ms(self, now_ms: int) -> int | None:
        """Return how far we are behind the peer in milliseconds, None when it cannot be told."""
        if self.view is None or not self.active:
            return None
        return self.view.lag_ms(self.cursor, now_ms, self.poll_interval_s)


def document(shown: Shown, machine: Machine) -> dict[str, object]:
    """Return a peer for machines."""
    peer, view = shown.peer, shown.view
    return {
        "peer": peer.node_id,
        "id": peer.id,
        "url": without_secrets(peer.node_url),
        "status": peer.status,
        "scopes": sorted(peer.scopes),
        "entity_uri": None if peer.entity_uri is None else without_secrets(peer.entity_uri),
        "insecure": machine.insecure,
        "daemon_running": machine.daemon if isinstance(machine.daemon, bool) else None,
        "local_db": None if machine.hindrance is None else machine.hindrance.reason,
        "node_loop": shown.node_loop,
        "replication": None
        if view is None
        else {**asdict(view), "lag_ms": shown.lag_ms(machine.now_ms)},
        "tombstones": None if shown.tombstones is None else _stream_document(shown.tombstones),
    }


def _stream_document(view: StreamView) -> dict[str, object]:
    stands = view.standing
    return {
        "state": stands.state,
        "reason": stands.reason,
        "detail": stands.detail,
        "hint": stands.hint,
        "since_ms": stands.since_ms,
        "last_attempt_ms": view.last_attempt_ms,
        "caught_up_ms": view.caught_up_ms,
        "not_before_ms": stands.not_before_ms,
        "next_attempt_ms": stands.next_attempt_ms,
        "failures": stands.failures,
        "token_not_after_ms": view.token_not_after_ms,
    }


def cells(shown: Shown, machine: Machine) -> tuple[str, ...]:
    """Return a peer as a row under HEADINGS."""
    view, now_ms = shown.view, machine.now_ms
    caught_up = render.age(view.caught_up_ms if view else None, now_ms)
    if view is None or not shown.active:
        nothing = (_NOTHING,) * (len(HEADINGS) - 4)
        return (shown.peer.node_id, _state(shown), *nothing, caught_up, _tombstones_cell(shown))
    lags = []
    if (lag_ms := shown.lag_ms(now_ms)) is not None:
        lags.append(render.span(lag_ms / 1000))
    if view.upstream_lag_ms:
        lags.append(render.lag(view.upstream_lag_ms))
    rate = _current_rate(view)
    return (
        shown.peer.node_id,
        _state(shown),
        ", ".join(lags) or _NOTHING,
        _NOTHING if rate is None else render.rate(rate),
        str(view.failures),
        _next_attempt(shown, view, machine),
        caught_up,
        _tombstones_cell(shown),
    )


def lines(shown: Shown, machine: Machine) -> list[tuple[str, str]]:
    """Return all that there is to say of a peer, but for its events, by name."""
    peer, view = shown.peer, shown.view
    rows = [
        ("peer", peer.node_id),
        ("url", without_secrets(peer.node_url)),
        ("id", peer.id),
        ("registry", peer.status),
        ("scopes", ", ".join(sorted(peer.scopes)) or "none"),
        (
            "organisation",
            without_secrets(peer.entity_uri or "") or "not bound: nothing can be verified",
        ),
        ("state", _state(shown)),
    ]
    if view is not None:
        rows += _why(view)
    if step := _next_step(shown):
        rows.append(("next step", step))
    if view is not None:
        rows += _when_and_who(shown, view, machine)
    if shown.node_loop:
        rows.append(("node's loop", node_loop.ADVICE))
    rows.append(("cursor", shown.cursor or "at the beginning"))
    if view is not None:
        rows += _progress(shown, view, machine.now_ms) + _totals(view)
        rows += _observed(view, machine.now_ms)
    return rows + _tombstones(shown, machine)


def paused(node_id: str, before: PauseView | None, now: PauseView) -> str:
    """Return the sentence that a peer is paused; ``before`` is an earlier pause."""
    again = f"was paused already, by {before.by}, and is now" if before else "is"
    until = (
        "until it is resumed" if now.until_ms is None else f"until {render.moment(now.until_ms)}"
    )
    why = f" ({now.reason})" if now.reason else ""
    return render.clean(
        f"{node_id} {again} paused {until}{why}; only a pull by hand works on it meanwhile"
    )


def resumed(peer: PeerRow, before: PeerView | None, after: PeerView, machine: Machine) -> str:
    """Return the sentence that a peer is no longer paused, and what comes of that."""
    was_paused = before is not None and before.paused is not None
    words = ["is no longer paused" if was_paused else "was not paused"]
    if before is not None and before.failures:
        words.append(f"its failures ({before.failures}) are forgotten")
    if peer.status != "active":
        words.append(f"it is {peer.status} in the node's registry and not pulled")
    elif after.not_before_ms is not None and after.not_before_ms > machine.now_ms:
        words.append(f"it asked not to be asked before {render.moment(after.not_before_ms)}")
    elif after.state == PeerState.ELSEWHERE:
        words.append(after.detail or "another process works on it")
    elif machine.daemon is True:
        words.append("the daemon asks it now")
    else:
        words.append("a pull asks it, or the daemon once it runs")
    return render.clean(f"{peer.node_id} {'; '.join(words)}")


def _state(shown: Shown) -> str:
    if not shown.active:
        return shown.peer.status
    view = shown.view
    if view is None or _is_untouched(view):
        return NEVER_PULLED
    return _state_words(view.state, view.reason)


def _state_words(state: str, reason: str | None) -> str:
    return state if reason is None else f"{state} ({reason})"


def _is_untouched(view: PeerView) -> bool:
    begun = view.last_attempt_ms or view.caught_up_ms or view.pages
    return view.state == PeerState.CATCHING_UP and not begun


def _current_rate(view: PeerView) -> float | None:
    return view.rate_per_s if view.state == PeerState.CATCHING_UP else None


def _next_attempt(shown: Shown, view: PeerView, machine: Machine) -> str:
    return _next_look(view.state, view.next_attempt_ms, shown.poll_interval_s, machine)


def _next_look(state: str, at_ms: int | None, interval_s: float, machine: Machine) -> str:
    # Without a daemon nobody asks at the time that was written down.
    if at_ms is None or machine.daemon is False:
        return _NOTHING
    if state == PeerState.IDLE and at_ms <= machine.now_ms:
        # Of a quiet peer not every look is written down.
        return f"within {render.span(interval_s * _LONGEST_POLL)}"
    return render.until(at_ms, machine.now_ms)


def _why(view: PeerView) -> list[tuple[str, str]]:
    """Return since when and why a peer stands as it does."""
    rows = [("since", render.moment(view.since_ms))]
    if view.reason is not None and view.detail and view.state != PeerState.ELSEWHERE:
        rows.append(("last error", view.detail))
    if view.paused is not None:
        pause = view.paused
        until = "" if pause.until_ms is None else f", until {render.moment(pause.until_ms)}"
        why = f": {pause.reason}" if pause.reason else ""
        rows.append(("paused", f"by {pause.by} at {render.moment(pause.at_ms)}{until}{why}"))
    return rows


def _when_and_who(shown: Shown, view: PeerView, machine: Machine) -> list[tuple[str, str]]:
    """Return when a peer is asked again, and who works on it or wants to."""
    rows = [("failures", str(view.failures))]
    next_attempt = _next_attempt(shown, view, machine)
    if next_attempt != _NOTHING:
        to_come = view.next_attempt_ms is not None and view.next_attempt_ms > machine.now_ms
        at = f", {render.moment(view.next_attempt_ms)}" if to_come else ""
        rows.append(("next attempt", f"{next_attempt}{at}"))
    if view.not_before_ms is not None:
        rows.append(("not before", render.moment(view.not_before_ms)))
    if view.holder_host is not None:
        holder = f"process {view.holder_pid} on {view.holder_host} ({view.holder_command})"
        rows.append(("worked on by", holder))
    if view.wanted_by is not None:
        rows.append(("wanted by", view.wanted_by))
    return rows


def _next_step(shown: Shown) -> str | None:
    """Return what an operator has to do for the peer to be pulled, None when nothing."""
    peer, view = shown.peer, shown.view
    if view is None:
        return next_step(peer.node_id, peer.status, None, detail=None, hint=None)
    # A pull by hand works on a paused peer, which is paused all the same.
    state = view.state if view.paused is None else PeerState.PAUSED
    return next_step(peer.node_id, peer.status, state, detail=view.detail, hint=view.hint)


def _progress(shown: Shown, view: PeerView, now_ms: int) -> list[tuple[str, str]]:
    rows = []
    if shown.active:
        lag_ms = shown.lag_ms(now_ms)
        rows.append(("lag", "not known" if lag_ms is None else render.span(lag_ms / 1000)))
    if view.rate_per_s is not None:
        rate = f"{render.rate(view.rate_per_s)} new"
        last = _current_rate(view) is None
        rows.append(("rate", f"{rate}, the last time that any came" if last else rate))
    return [
        *rows,
        ("caught up", render.moment(view.caught_up_ms)),
        ("last attempt", render.moment(view.last_attempt_ms)),
        ("last success", render.moment(view.last_success_ms)),
    ]


def _totals(view: PeerView) -> list[tuple[str, str]]:
    return [
        ("pages", str(view.pages)),
        ("new facts", str(view.admitted)),
        ("duplicates", str(view.duplicates)),
        ("rejected", str(view.rejected)),
    ]


def _tombstones_state(shown: Shown) -> str | None:
    """Return how a peer's tombstones stand, None where they were never asked for."""
    view = shown.tombstones
    if view is None or not shown.active:
        return None
    stands = view.standing
    if stands.state is PeerState.CATCHING_UP and view.last_attempt_ms is None:
        return None
    return _state_words(stands.state, stands.reason)


def _tombstones_cell(shown: Shown) -> str:
    return _tombstones_state(shown) or _NOTHING


def _tombstones(shown: Shown, machine: Machine) -> list[tuple[str, str]]:
    """Return how a peer's tombstones stand, and what belongs to that."""
    state, view = _tombstones_state(shown), shown.tombstones
    if state is None or view is None:
        return [(TOMBSTONES, NEVER_PULLED)] if shown.active else []
    stands = view.standing
    rows = [("since", render.moment(stands.since_ms))]
    if stands.reason is not None and stands.detail:
        rows.append(("last error", stands.detail))
    if step := tombstones_step(shown):
        rows.append(("next step", step))
    rows.append(("failures", str(stands.failures)))
    at_rest = shown.view is not None and shown.view.state in (PeerState.PAUSED, PeerState.ELSEWHERE)
    next_look = _next_look(
        stands.state, stands.next_attempt_ms, shown.tombstone_interval_s, machine
    )
    if next_look != _NOTHING and not at_rest:
        rows.append(("next attempt", next_look))
    rows.append(("caught up", render.moment(view.caught_up_ms)))
    if view.token_not_after_ms is not None:
        rows.append(("token", render.ending(view.token_not_after_ms, machine.now_ms)))
    return [(TOMBSTONES, state), *((f"{OF_TOMBSTONES}{name}", words) for name, words in rows)]


def tombstones_step(shown: Shown) -> str | None:
    """Return what an operator has to do for a peer's tombstones, None when nothing."""
    if shown.tombstones is None:
        return None
    stands, peer = shown.tombstones.standing, shown.peer
    return next_step(
        peer.node_id, peer.status, stands.state, detail=stands.detail, hint=stands.hint
    )


def _observed(view: PeerView, now_ms: int) -> list[tuple[str, str]]:
    """Return what the peer's answers told of it."""
    rows = []
    if view.certificate_not_after_ms is not None:
        rows.append(("its certificate", render.ending(view.certificate_not_after_ms, now_ms)))
    if view.upstream_lag_ms is not None:
        told = render.moment(view.upstream_lag_at_ms)
        rows.append(("upstream lag", f"{render.span(view.upstream_lag_ms / 1000)}, told {told}"))
    return rows
