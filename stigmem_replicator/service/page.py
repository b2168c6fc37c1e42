"""The picture as one HTML page for people: what needs them first, and what to do about it.

Pure.  The page asks nothing of anybody: no script, no picture or font from elsewhere.  A peer's
words are foreign, so every text passes through :func:`_text`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from stigmem_replicator.observe import words
from stigmem_replicator.observe.board import PeerPicture, Picture, StreamPicture
from stigmem_replicator.observe.log import printable
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service.health import PICTURE_OLD_MS
from stigmem_replicator.service.page_style import STYLE, icon, symbols
from stigmem_replicator.service.ranking import (
    ORDER,
    needs_operator,
    rank,
    tombstones_need_operator,
)
from stigmem_replicator.service.sparkline import sparkline
from stigmem_replicator.settings.values import without_secrets
from stigmem_replicator.store import node_loop

REFRESH_SECONDS: Final = 5
PEERS_SHOWN: Final = 200
"""How many peers a page has unless all are asked for: it is fetched again and again."""

CERTIFICATE_SOON_MS: Final = 14 * 86_400_000

_STEP_CHARACTERS: Final = 2_000
"""A command that is to be copied is worth nothing when its end is cut off."""

_KINDS: Final[dict[PeerState, str]] = {
    PeerState.BLOCKED: "bad",
    PeerState.BACKING_OFF: "warn",
    PeerState.THROTTLED: "warn",
    PeerState.CATCHING_UP: "busy",
    PeerState.ELSEWHERE: "calm",
    PeerState.PAUSED: "calm",
    PeerState.IDLE: "good",
}
"""The colour of each state."""

_HEADINGS: Final = ("Peer", "State", "Lag, last half hour", "Rate", "Failures", "Next attempt")
_NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class View:
    """What a reader asked for: a page that refreshes itself, all peers on one page."""

    refresh: bool = True
    everyone: bool = False

    def link(self, *, refresh: bool | None = None, everyone: bool | None = None) -> str:
        """Return the address of this view with a change."""
        refresh = self.refresh if refresh is None else refresh
        everyone = self.everyone if everyone is None else everyone
        asked = [
            *(() if refresh else ("refresh=off",)),
            *(("peers=all",) if everyone else ()),
        ]
        return f"/?{'&amp;'.join(asked)}" if asked else "/"


@dataclass(frozen=True, slots=True)
class _Verdict:
    kind: str
    icon: str
    text: str


def page(picture: Picture, now_ms: int, stuck: Sequence[str] = (), view: View | None = None) -> str:
    """Return the page; ``stuck`` is why the engine counts as stuck, as ``health`` found."""
    view = view or View()
    peers = sorted(picture.peers.values(), key=rank)
    verdict = _verdict(picture, peers, now_ms, stuck)
    shown = peers if view.everyone else peers[:PEERS_SHOWN]
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if view.refresh else ""
    return "".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"{refresh}<title>{_text(verdict.text)} · stigmem-replicate</title>",
            f"<style>{STYLE}</style></head>\n<body>{symbols()}",
            '<header><p class="soft">stigmem-replicate</p>',
            f'<h1 class="{verdict.kind}">{icon(verdict.icon)} {_text(verdict.text)}</h1>',
            f'<p class="soft">{_about(picture, now_ms)}</p>',
            *_banners(picture, now_ms, stuck),
            _counts(peers),
            "</header>\n<main>",
            _table(shown, now_ms) if shown else "",
            _rest(len(peers), len(shown), view),
            f'</main>\n<footer><p class="soft">{_footer(picture, view)}</p></footer>',
            "</body></html>\n",
        )
    )


def _text(text: str, characters: int = 400) -> str:
    """Return a text of any origin as a page may hold it."""
    return escape(printable(text, characters))


def _is_old(picture: Picture, now_ms: int) -> bool:
    # Before the first look there is none to be newer.
    return picture.ready and now_ms - picture.at_ms > PICTURE_OLD_MS


def _verdict(
    picture: Picture, peers: Sequence[PeerPicture], now_ms: int, stuck: Sequence[str]
) -> _Verdict:
    """Return how it stands in one sentence."""
    if stuck:
        return _Verdict("bad", "blocked", "The engine stands still")
    if _is_old(picture, now_ms):
        return _Verdict("bad", "blocked", "The engine does not say how it stands")
    if picture.trouble is not None:
        return _Verdict("bad", "blocked", "Held up by the node's database")
    if not picture.ready:
        return _Verdict("busy", "catching_up", "Starting")
    active = [peer for peer in peers if peer.active]
    if not active:
        return _Verdict("calm", "inactive", "No active peers")
    return _verdict_on_peers(active)


def _verdict_on_peers(active: Sequence[PeerPicture]) -> _Verdict:
    if needing := sum(map(needs_operator, active)):
        return _Verdict("bad", "blocked", f"{_peers(needing)} need{_s(needing)} you")
    if beside := sum(map(tombstones_need_operator, active)):
        return _Verdict("warn", "blocked", f"The tombstones of {_peers(beside)} need you")
    failing = sum(peer.state in (PeerState.BACKING_OFF, PeerState.THROTTLED) for peer in active)
    if failing:
        return _Verdict("warn", "backing_off", f"{_peers(failing)} cannot be pulled just now")
    if behind := sum(peer.state is PeerState.CATCHING_UP for peer in active):
        return _Verdict("busy", "catching_up", f"Catching up with {_peers(behind)}")
    idle = sum(peer.state is PeerState.IDLE for peer in active)
    if idle < len(active):
        return _Verdict("calm", "idle", f"{idle} of {_peers(len(active))} caught up")
    return _Verdict("good", "idle", f"Caught up with {_peers(idle)}")


def _peers(number: int) -> str:
    return f"{number} peer{'' if number == 1 else 's'}"


def _s(number: int) -> str:
    return "s" if number == 1 else ""


def _about(picture: Picture, now_ms: int) -> str:
    said = [
        f"seen {words.moment(picture.at_ms)}, {words.age(picture.at_ms, now_ms)}",
        f"running for {words.span((now_ms - picture.started_ms) / 1000)}",
        f"database <code>{_text(picture.database)}</code>",
    ]
    if picture.wire_version is not None:
        said.append(f"wire version {picture.wire_version}")
    return " · ".join(said)


def _banners(picture: Picture, now_ms: int, stuck: Sequence[str]) -> Iterator[str]:
    for words_of_it in stuck:
        yield _banner("bad", "The engine stands still", words_of_it, _RESTART)
    if _is_old(picture, now_ms) and not stuck:
        old = f"What is shown here is {words.span((now_ms - picture.at_ms) / 1000)} old."
        yield _banner("bad", "Not of now", old, _RESTART)
    if (trouble := picture.trouble) is not None:
        heading = f"The database cannot be used ({trouble.cause})"
        since = f"since {words.moment(trouble.since_ms)}, {words.age(trouble.since_ms, now_ms)}"
        goes_on = "Every peer waits; it goes on by itself when this is mended."
        yield _banner("bad", heading, f"{trouble.detail}, {since}. {goes_on}", trouble.hint)
    if any(peer.node_loop for peer in picture.peers.values()):
        both = "The peers so marked are pulled twice, and cursors move under our hands."
        yield _banner("warn", "The node pulls too", both, node_loop.ADVICE)
    ends_ms = picture.own_certificate_not_after_ms
    if ends_ms is not None and ends_ms - now_ms < CERTIFICATE_SOON_MS:
        kind = "warn" if ends_ms > now_ms else "bad"
        ending = f"It ends {words.ending(ends_ms, now_ms)}."
        yield _banner(kind, "The node's own certificate", ending, "put a new one in its place")
    if picture.insecure:
        unsafe = "Peers are called without mutual TLS: this is for tests only."
        yield _banner("warn", "federation_insecure is on", unsafe, "")


_RESTART: Final = "look at the log; restarting the service is safe at any moment"


def _banner(kind: str, heading: str, detail: str, hint: str) -> str:
    step = f'<p class="step"><b>Next step:</b> {_text(hint)}</p>' if hint else ""
    return (
        f'<section class="banner {kind}"><h2>{_text(heading)}</h2>'
        f"<p>{_text(detail)}</p>{step}</section>"
    )


def _counts(peers: Sequence[PeerPicture]) -> str:
    """Return how many peers there are in each state."""
    states = Counter(peer.state for peer in peers if peer.active)
    items = [
        f"<li>{_badge(_KINDS[state], state.value, f'{states[state]} {state.value}')}</li>"
        for state in ORDER
        if states[state]
    ]
    if others := sum(not peer.active for peer in peers):
        items.append(f"<li>{_badge('calm', 'inactive', f'{others} not active')}</li>")
    return f'<ul class="counts" aria-label="Peers by state">{"".join(items)}</ul>' if items else ""


def _badge(kind: str, shape: str, text: str) -> str:
    return f'<span class="badge {kind}">{icon(shape)}{_text(text)}</span>'


def _table(peers: Sequence[PeerPicture], now_ms: int) -> str:
    # The roles stay what they are when a narrow page shows each row as a card.
    heads = "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in _HEADINGS)
    rows = "\n".join(_row(peer, now_ms) for peer in peers)
    return (
        '<table role="table"><caption>Peers, those that need an operator first</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}\n</tbody></table>'
    )


def _row(peer: PeerPicture, now_ms: int) -> str:
    kind = _kind(peer)
    who = (
        f"<code>{_text(without_secrets(peer.url), 160)}</code>"
        f'<small class="note"><code>{_text(peer.node_id, 120)}</code></small>'
    )
    return (
        f'<tr role="row" class="{kind}"><th scope="row" role="rowheader">{who}</th>'
        f'<td role="cell" class="state">{"".join(_state(peer, now_ms))}</td>'
        f"{_cell(2, _lag(peer, now_ms))}{_cell(3, _rate(peer))}"
        f"{_cell(4, _failures(peer))}{_cell(5, _next_attempt(peer, now_ms))}</tr>"
    )


def _kind(peer: PeerPicture) -> str:
    if not peer.active:
        return "calm"
    if needs_operator(peer):
        return "bad"
    return "warn" if tombstones_need_operator(peer) else _KINDS[peer.state]


def _cell(column: int, inside: str) -> str:
    none = "" if inside else " none"
    return (
        f'<td role="cell" class="number{none}" data-label="{_HEADINGS[column]}">'
        f"{inside or _NOTHING}</td>"
    )


def _state(peer: PeerPicture, now_ms: int) -> Iterator[str]:
    """Yield the state, why it is so, and what there is to do."""
    if not peer.active:
        yield _badge("calm", "inactive", peer.status)
        step = words.next_step(peer.node_id, peer.status, peer.state, detail=None, hint=None)
        if step is not None:
            yield _step(step)
        return
    yield _badge(_KINDS[peer.state], peer.state.value, peer.state.value)
    if peer.reason is not None:
        yield f" <code>{_text(peer.reason)}</code>"
    if peer.since_ms is not None:
        since = words.span((now_ms - peer.since_ms) / 1000)
        yield f' <small title="since {words.moment(peer.since_ms)}">for {since}</small>'
    if peer.detail and peer.state is not PeerState.ELSEWHERE:
        yield f"<p>{_text(peer.detail)}</p>"
    step = words.next_step(
        peer.node_id, peer.status, peer.state, detail=peer.detail, hint=peer.hint
    )
    if step is not None:
        yield _step_of(peer, step)
    if peer.node_loop:
        yield _step(node_loop.ADVICE)
    if peer.tombstones is not None:
        yield from _tombstones(peer, peer.tombstones, now_ms)
    for note in _notes(peer, now_ms):
        yield f'<small class="note">{_text(note)}</small>'


def _tombstones(peer: PeerPicture, beside: StreamPicture, now_ms: int) -> Iterator[str]:
    """Yield how the tombstones stand where that is not well, and when their token ends."""
    if beside.state is not PeerState.IDLE and peer.state is not PeerState.PAUSED:
        yield from _beside(peer, beside, now_ms)
    ends_ms = beside.token_not_after_ms
    if ends_ms is not None and (beside.token_is_expiring or ends_ms <= now_ms):
        ending = words.ending(ends_ms, now_ms)
        yield f'<small class="note">its capability token: {ending}</small>'


def _beside(peer: PeerPicture, beside: StreamPicture, now_ms: int) -> Iterator[str]:
    kind = "warn" if beside.state is PeerState.BLOCKED else _KINDS[beside.state]
    yield f"<div>{_badge(kind, beside.state.value, f'tombstones {beside.state.value}')}"
    if beside.reason is not None:
        yield f" <code>{_text(beside.reason)}</code>"
    if beside.since_ms is not None:
        since = words.span((now_ms - beside.since_ms) / 1000)
        yield f' <small title="since {words.moment(beside.since_ms)}">for {since}</small>'
    yield "</div>"
    if beside.reason is not None and beside.detail:
        yield f"<p>{_text(beside.detail)}</p>"
    step = words.next_step(
        peer.node_id, peer.status, beside.state, detail=beside.detail, hint=beside.hint
    )
    if step is not None:
        yield _step_of(peer, step)


def _step_of(peer: PeerPicture, step: str) -> str:
    command = _text(words.resume_command(peer.node_id))
    return _step(step).replace(command, f"<code>{command}</code>")


def _step(text: str) -> str:
    return f'<p class="step"><b>Next step:</b> {_text(text, _STEP_CHARACTERS)}</p>'


def _notes(peer: PeerPicture, now_ms: int) -> Iterator[str]:
    if peer.not_before_ms is not None and peer.not_before_ms > now_ms:
        yield f"it asked not to be asked before {words.moment(peer.not_before_ms)}"
    ends_ms = peer.certificate_not_after_ms
    if ends_ms is not None and ends_ms - now_ms < CERTIFICATE_SOON_MS:
        yield f"its certificate: {words.ending(ends_ms, now_ms)}"
    if peer.upstream_lag_ms:
        yield f"it is itself {words.span(peer.upstream_lag_ms / 1000)} behind its own sources"
    if peer.dead_letters:
        plural = "" if peer.dead_letters == 1 else "s"
        yield f"{peer.dead_letters} open dead letter{plural}"


def _lag(peer: PeerPicture, now_ms: int) -> str:
    if not peer.active:
        return ""
    now = "not known" if peer.lag_ms is None else words.span(peer.lag_ms / 1000)
    caught_up = f"caught up {words.age(peer.caught_up_ms, now_ms)}"
    return f'{now} <small class="note">{caught_up}</small>{sparkline(peer.lag_history)}'


def _rate(peer: PeerPicture) -> str:
    if peer.rate_per_s is None or peer.state is not PeerState.CATCHING_UP:
        return ""
    return words.rate(peer.rate_per_s)


def _failures(peer: PeerPicture) -> str:
    return str(peer.failures) if peer.failures and peer.active else ""


def _next_attempt(peer: PeerPicture, now_ms: int) -> str:
    if peer.next_attempt_ms is None or not peer.active:
        return ""
    when = words.until(peer.next_attempt_ms, now_ms)
    what = "resumed " if peer.state is PeerState.PAUSED else ""
    return f'<span title="{words.moment(peer.next_attempt_ms)}">{what}{when}</span>'


def _rest(all_of_them: int, shown: int, view: View) -> str:
    if not all_of_them:
        return "<p>This node has no peers; register one on the node first.</p>"
    if shown < all_of_them:
        link = f'<a href="{view.link(everyone=True)}">show all {all_of_them}</a>'
        return f"<p>{all_of_them - shown} more, in the same order: {link}</p>"
    return ""


def _footer(picture: Picture, view: View) -> str:
    if view.refresh:
        how = f"refreshes itself each {REFRESH_SECONDS} s"
        other = f'<a href="{view.link(refresh=False)}">stop that</a>'
    else:
        how = "does not refresh itself"
        other = f'<a href="{view.link(refresh=True)}">refresh it</a>'
    return (
        f"stigmem-replicate {_text(picture.version)}, process {picture.pid} · this page {how}, "
        f'{other} · the same for programs: <a href="/status">status</a>, '
        '<a href="/metrics">metrics</a>'
    )
