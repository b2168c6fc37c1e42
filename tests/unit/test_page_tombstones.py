"""What the status page and `/status` say of tombstones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stigmem_replicator.observe.board import StreamPicture
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service import status
from stigmem_replicator.service.page import page
from tests.pictures import DAY_MS, MINUTE_MS, NOW_MS, peer, picture, realistic
from tests.unit.test_page import heading, text_of

BLOCKED = StreamPicture(
    PeerState.BLOCKED,
    reason="capability_required",
    detail="it gives them only for a token",
    hint="ask its operator",
    since_ms=NOW_MS - 9 * MINUTE_MS,
    failures=2,
    next_attempt_ms=NOW_MS + MINUTE_MS,
)


def test_blocked_tombstones_are_told_with_what_to_do() -> None:
    """Beside the state of the facts, which is well; the heading warns."""
    shown = peer("a", tombstones=BLOCKED)
    assert (
        "idle for 5 min tombstones blocked capability_required for 9 min "
        "it gives them only for a token Next step: ask its operator; then: "
        f"stigmem-replicate peers resume {shown.node_id} "
    ) in text_of(picture(shown))
    assert heading(picture(shown, peer("b"))) == "The tombstones of 1 peer need you"
    assert heading(picture(shown, peer("b", PeerState.BLOCKED))) == "1 peer needs you"
    assert '<tr role="row" class="warn">' in page(picture(shown), NOW_MS)


def test_a_command_to_be_copied_is_whole() -> None:
    """The longest next step there is, of a peer that is called by a long name."""
    hint = f"the peer's operator runs: stigmem capability issue {'x' * 600} --json"
    shown = peer("a", tombstones=replace(BLOCKED, hint=hint))
    step = f"{hint}; then: stigmem-replicate peers resume {shown.node_id}"
    assert step in text_of(picture(shown))
    assert "capability_token_file under" in page(realistic(), NOW_MS)


def test_tombstones_that_fail_for_a_while_are_told() -> None:
    """That is nobody's to mend: the heading says nothing of it."""
    failing = StreamPicture(PeerState.BACKING_OFF, reason="timeout", detail="no answer")
    shown = picture(peer("a", tombstones=failing))
    assert "tombstones backing_off timeout no answer" in text_of(shown)
    assert heading(shown) == "Caught up with 1 peer"


@pytest.mark.parametrize(
    "shown",
    [
        peer("a", tombstones=StreamPicture(PeerState.IDLE)),
        peer("a", PeerState.PAUSED, tombstones=BLOCKED),
        peer("a", status="revoked", tombstones=BLOCKED),
        peer("a"),
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_say(shown: object) -> None:
    assert "tombstones" not in text_of(picture(shown))  # type: ignore[arg-type] # a peer


def test_a_token_that_ends_soon_is_noted() -> None:
    """With when; one that ends later is not mentioned."""
    soon = StreamPicture(
        PeerState.IDLE, token_not_after_ms=NOW_MS + 3 * DAY_MS, token_is_expiring=True
    )
    text = text_of(picture(peer("a", tombstones=soon)))
    assert "its capability token: 2026-09-24T14:13:20Z (3 d left)" in text
    later = StreamPicture(PeerState.IDLE, token_not_after_ms=NOW_MS + 80 * DAY_MS)
    assert "token" not in text_of(picture(peer("a", tombstones=later)))


def test_a_peers_words_of_its_tombstones_stay_words() -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    shown = StreamPicture(PeerState.BLOCKED, reason=evil, detail=evil, hint=evil)
    text = page(picture(peer("a", tombstones=shown)), NOW_MS)
    assert "<script" not in text
    assert "\x1b" not in text


def test_the_document_has_the_same() -> None:
    """Null where nothing is known of them yet."""
    shown = status.document(picture(peer("a", tombstones=BLOCKED), peer("b")), NOW_MS, (), ())
    peers = shown["peers"]
    assert isinstance(peers, list)
    assert [each["tombstones"] for each in peers if each["url"].startswith("https://b.")] == [None]
    (found,) = (each["tombstones"] for each in peers if each["tombstones"] is not None)
    assert found == {
        "state": "blocked",
        "reason": "capability_required",
        "detail": BLOCKED.detail,
        "hint": BLOCKED.hint,
        "since_ms": BLOCKED.since_ms,
        "caught_up_ms": None,
        "next_attempt_ms": BLOCKED.next_attempt_ms,
        "failures": 2,
        "token_not_after_ms": None,
        "token_is_expiring": False,
    }
