"""The status page: what it says, in which order, and that a peer's words stay words."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Final

import pytest

from stigmem_replicator.observe.board import Picture
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service.page import PEERS_SHOWN, View, page
from stigmem_replicator.service.page_style import ICONS, STYLE
from stigmem_replicator.service.sparkline import sparkline
from stigmem_replicator.store import node_loop
from tests.pictures import DAY_MS, MINUTE_MS, NOW_MS, peer, picture, realistic, trouble

_VOID: Final = frozenset({"meta", "path", "circle", "use"})


class Read(HTMLParser):
    """What a browser makes of a page: its text, its elements, and what they point at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, "elements that are not closed"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)


def text_of(shown: Picture, **more: object) -> str:
    """The words of a page."""
    return Read(page(shown, NOW_MS + 1_000, **more)).text  # type: ignore[arg-type] # as given


def heading(shown: Picture) -> str:
    found = re.search(r"<title>(.*) · stigmem-replicate</title>", page(shown, NOW_MS))
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (picture(peer("a"), peer("b")), "Caught up with 2 peers"),
        (picture(peer("a")), "Caught up with 1 peer"),
        (picture(peer("a"), peer("b", PeerState.BLOCKED)), "1 peer needs you"),
        (
            picture(peer("a", PeerState.BLOCKED), peer("b", node_loop=True)),
            "2 peers need you",
        ),
        (picture(peer("a", PeerState.THROTTLED)), "1 peer cannot be pulled just now"),
        (picture(peer("a"), peer("b", PeerState.CATCHING_UP)), "Catching up with 1 peer"),
        (picture(peer("a"), peer("b", PeerState.PAUSED)), "1 of 2 peers caught up"),
        (picture(peer("a", status="pending")), "No active peers"),
        (picture(), "No active peers"),
        (picture(ready=False), "Starting"),
        (picture(ready=False, at_ms=NOW_MS - 11_000), "Starting"),
        (picture(peer("a"), trouble=trouble()), "Held up by the node&#x27;s database"),
        (picture(at_ms=NOW_MS - 11_000), "The engine does not say how it stands"),
    ],
)
def test_the_heading_says_how_it_stands(shown: Picture, said: str) -> None:
    assert heading(shown) == said


def test_a_peer_is_told_with_all_that_there_is() -> None:
    shown = peer(
        "a",
        PeerState.BLOCKED,
        reason="key_changed",
        detail="its key was changed",
        hint="ask its operator",
        failures=3,
        lag_ms=22 * MINUTE_MS,
        next_attempt_ms=NOW_MS + 61_000,
        since_ms=NOW_MS - 9 * MINUTE_MS,
        caught_up_ms=NOW_MS - 22 * MINUTE_MS,
        lag_history=(0, 10 * MINUTE_MS, 22 * MINUTE_MS),
    )
    text = text_of(picture(shown))
    assert (
        f"https://a.example:8765 {shown.node_id} blocked key_changed for 9 min "
        "its key was changed Next step: ask its operator; then: "
        f"stigmem-replicate peers resume {shown.node_id} 22 min caught up 22 min ago "
        "lag in the last 90 s: at most 22 min peak 22 min - 3 in 60 s"
    ) in text


def test_a_rate_is_shown_while_it_catches_up_and_only_then() -> None:
    catching_up = peer("a", PeerState.CATCHING_UP, rate_per_s=2310.4)
    assert "2310/s" in text_of(picture(catching_up))
    assert "2310/s" not in text_of(picture(replace(catching_up, state=PeerState.IDLE)))


def test_a_pause_says_when_it_ends() -> None:
    shown = peer("a", PeerState.PAUSED, next_attempt_ms=NOW_MS + 2 * 3_600_000 + 1_000)
    text = text_of(picture(shown))
    assert "resumed in 2 h" in text
    assert f"to go on: stigmem-replicate peers resume {shown.node_id}" in text


def test_a_peer_that_is_not_active_shows_its_status_and_nothing_else() -> None:
    shown = peer("a", PeerState.BLOCKED, status="revoked", reason="forbidden", failures=7)
    text = text_of(picture(shown))
    assert f"{shown.node_id} revoked - - - -" in text
    assert "blocked" not in text


def test_what_a_peer_told_of_itself_is_noted() -> None:
    shown = peer(
        not_before_ms=NOW_MS + 30_000,
        certificate_not_after_ms=NOW_MS + 3 * DAY_MS,
        upstream_lag_ms=5 * MINUTE_MS,
        dead_letters=1,
    )
    text = text_of(picture(shown))
    assert "it asked not to be asked before 2026-09-21T14:13:50Z" in text
    assert "its certificate: 2026-09-24T14:13:20Z (3 d left)" in text
    assert "it is itself 5 min behind its own sources" in text
    assert "1 open dead letter" in text


def test_a_certificate_that_ends_later_is_not_mentioned() -> None:
    shown = peer(certificate_not_after_ms=NOW_MS + 90 * DAY_MS)
    assert "certificate" not in text_of(picture(shown))


def test_trouble_with_the_database_is_said_above_all() -> None:
    text = text_of(picture(peer("a"), trouble=trouble()))
    assert text.index("The database cannot be used (disk_low)") < text.index("Peer State Lag")
    assert "7 min ago" in text
    assert "Next step: make room there, or lower free_space_min_mb" in text


def test_other_things_that_concern_all_peers_are_banners() -> None:
    shown = picture(
        peer("a", node_loop=True), insecure=True, own_certificate_not_after_ms=NOW_MS - DAY_MS
    )
    text = text_of(shown)
    assert node_loop.ADVICE in text
    assert "federation_insecure is on" in text
    assert "expired 24 h ago" in text


def test_a_stuck_engine_and_an_old_picture_are_said() -> None:
    stuck = page(picture(peer("a")), NOW_MS, ["the writer is busy for 9 min"])
    assert "<title>The engine stands still" in stuck
    assert "the writer is busy for 9 min" in stuck
    assert "What is shown here is 60 s old." in page(picture(peer("a")), NOW_MS + 60_000)


def test_who_needs_an_operator_comes_first_and_who_is_not_pulled_last() -> None:
    text = page(realistic(), NOW_MS)
    places = [
        text.index(f"https://{name}.example")
        for name in ("oslo", "porto", "warsaw", "lisbon", "turin", "zurich", "munich", "ghent")
    ]
    assert places == sorted(places)


def test_of_two_in_one_state_the_one_further_behind_comes_first() -> None:
    text = page(picture(peer("a", lag_ms=1_000), peer("b", lag_ms=2_000)), NOW_MS)
    assert text.index("https://b.example") < text.index("https://a.example")


def test_a_peers_words_stay_words() -> None:
    """Markup, control characters and what turns the direction of text, in every field of it."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x00\x1b[31m\u202e\ud800"
    shown = peer(
        node_id=evil,
        url=f"https://user:hidden@a.example/{evil}?token=hidden",
        state=PeerState.BLOCKED,
        reason=evil,
        detail=evil,
        hint=evil,
        dead_letters=1,
    )
    odd = replace(shown, node_id=f"2{evil}", status=evil)
    text = page(
        picture(shown, odd, trouble=replace(trouble(), cause=evil, detail=evil, hint=evil)),
        NOW_MS,
        [evil],
    )
    text.encode()
    tags = {tag for tag, _ in Read(text).elements}
    assert not tags & {"script", "img"}
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", text)
    assert "hidden@" not in text
    assert "token=hidden" not in text


def test_long_words_are_cut() -> None:
    assert len(page(picture(peer("a", detail="x" * 100_000)), NOW_MS)) < 15_000


def test_nothing_is_fetched_from_anywhere() -> None:
    """What an element points at is in the page, or another page of ours; there is no script."""
    read = Read(page(realistic(), NOW_MS))
    assert {tag for tag, _ in read.elements} & {"script", "link", "img", "iframe"} == set()
    targets = {
        value
        for _, attributes in read.elements
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data", "xlink:href"}
    }
    assert targets == {f"#i-{name}" for name in ICONS} | {"/?refresh=off", "/status", "/metrics"}
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert not any("style" in attributes for _, attributes in read.elements)


def test_every_state_has_an_icon_and_its_word() -> None:
    for state in PeerState:
        text = page(picture(peer("a", state)), NOW_MS)
        assert f'<use href="#i-{state}"/></svg>{state}</span>' in text


def test_it_refreshes_itself_unless_told_not_to() -> None:
    refresh = '<meta http-equiv="refresh" content="5">'
    assert refresh in page(picture(), NOW_MS)
    still = page(picture(), NOW_MS, (), View(refresh=False, everyone=True))
    assert refresh not in still
    assert '<a href="/?peers=all">refresh it</a>' in still


def test_a_thousand_peers_are_a_page_of_bounded_size() -> None:
    history = tuple(range(0, 60 * 7_919, 7_919))
    many = [peer(f"p{i}", lag_history=history, lag_ms=i) for i in range(999)]
    shown = picture(*many, peer("zzz", PeerState.BLOCKED, detail="this one"))
    text = page(shown, NOW_MS)
    assert text.count('<tr role="row"') == PEERS_SHOWN + 1
    assert len(text) < 500_000
    assert text.index("this one") < text.index("https://p998.example")
    assert '800 more, in the same order: <a href="/?peers=all">show all 1000</a>' in text
    everyone = page(shown, NOW_MS, (), View(everyone=True))
    assert everyone.count('<tr role="row"') == 1_001
    assert '<a href="/?refresh=off&amp;peers=all">' in everyone


def _colours(block: str) -> dict[str, tuple[float, float, float]]:
    found = re.findall(r"--([a-z-]+): #([0-9a-f]{6})", block)
    return {name: tuple(int(h[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, h in found}  # type: ignore[misc] # three of them


def _luminance(colour: tuple[float, float, float]) -> float:
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_its_ground(scheme: int) -> None:
    """A contrast of 4.5 to 1 (WCAG 2 AA), in both schemes."""
    colours = _colours(STYLE.split(":root")[1 + scheme].split("}")[0])
    kinds = ("good", "busy", "warn", "bad", "calm")
    pairs = [(kind, f"{kind}-on") for kind in kinds]
    pairs += [("text", f"{kind}-on") for kind in kinds]
    pairs += list(itertools.product(("text", "soft", "busy"), ("page", "card")))
    for ink, ground in pairs:
        high, low = sorted(map(_luminance, (colours[ink], colours[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_no_history_draws_nothing() -> None:
    assert sparkline(()) == ""
    assert sparkline((None, None)) == ""


def test_a_history_ends_at_the_right_edge_and_breaks_where_it_is_not_known() -> None:
    drawn = sparkline((0, None, 60_000, 120_000))
    assert "lag in the last 2 min: at most 2 min, not known at times" in drawn
    assert '<path d="M113.9 26h0M118 14L120 2"/>' in drawn


def test_a_second_of_lag_is_no_mountain() -> None:
    assert "L120 25.6" in sparkline((0, 1_000))


def test_a_level_stretch_is_one_line() -> None:
    drawn = sparkline((0,) * 60)
    assert "no lag in the last 30 min" in drawn
    assert '<path d="M0 4L120 4"/>' in drawn


def test_only_the_last_half_hour_is_drawn() -> None:
    assert "peak 5 min" in sparkline((3_600_000, *(300_000,) * 60))
