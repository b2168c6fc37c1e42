"""Every attack that an answer can be: one reason each, nothing let in, nothing moved.

The command runs in this process against page servers that are honest for a page and then hostile
as tests/pages/attacks.py says.  Attacks on the connection itself are in test_who_answers.py and
test_names.py, what attacks cost is in test_hostile_bounds.py, and spoiled entries are in
test_entries.py.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.page_pulls import servers, settings
from tests.pages import hostility
from tests.pages.attacks import (
    BROKEN,
    DOCUMENTS,
    ENDLESS,
    HARMLESS,
    REDIRECTS,
    SLOW,
    Attack,
)
from tests.pages.receiver import Receiver
from tests.pages.server import Behaviour, PageServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.here import Here

pytest_plugins = ("tests.pages.fixtures", "tests.e2e.here")

BYTES_MIN: Final = 65_536
"""The smallest cap on a body that can be set."""

COMPLAINT: Final = "stigmem-replicate: "

EARLIER, ENTRIES = 2, 6
"""How many entries a server is honest about, and how many it has."""


GROUPS: dict[str, tuple[list[Attack], dict[str, str]]] = {
    "broken": (BROKEN, {}),
    "unreadable": (DOCUMENTS, {}),
    "endless": (ENDLESS, settings(page_bytes_max=BYTES_MIN)),
    "elsewhere": (REDIRECTS, {}),
    "slow": (SLOW, settings(read_timeout_s=1, page_timeout_s=1.5)),
}
"""Attacks with the same exit code, and what limits are needed to try them in a short time."""


@contextmanager
def attackers(
    receiver: Receiver, attacks: Sequence[Behaviour], *, times: int | None = None
) -> Iterator[list[PageServer]]:
    """A peer for each attack, which sends a good page and then attacks, so many times or always."""
    with servers(receiver, len(attacks)) as peers:
        for peer, behaviour in zip(peers, attacks, strict=True):
            peer.origin.add_many(ENTRIES)
            peer.always = hostility.after_a_page(behaviour, times=times)
        yield peers


@pytest.mark.parametrize("group", GROUPS)
def test_an_attack_is_one_named_reason_and_moves_nothing(
    here: Here, receiver: Receiver, group: str
) -> None:
    """Each attack fails its pull for its own reason; the good page before it stays, no more."""
    attacks, limits = GROUPS[group]
    (code,) = {attack.code for attack in attacks}
    env = settings(page_size=EARLIER) | limits
    with attackers(receiver, [attack.behaviour for attack in attacks]) as peers:
        words = ("pull", "--all", "--json", "--wait", "0")
        result = here(*words, db=receiver.database, env=env)
        told = {item["peer"]: item for item in json.loads(result.stdout)}
        seen, expected = {}, {}
        for peer, attack in zip(peers, attacks, strict=True):
            error = told[peer.node_id]["error"] or {}
            seen[attack.name] = (error.get("reason"), receiver.state(peer))
            expected[attack.name] = (attack.reason, (attack.state, attack.reason))
        differing = {name: seen[name] for name in seen if seen[name] != expected[name]}
        assert differing == {}
        assert result.code == code
        complaints = [line for line in result.stderr.splitlines() if line.startswith(COMPLAINT)]
        assert len(complaints) == len(peers), complaints
        for peer, attack in zip(peers, attacks, strict=True):
            assert_only_the_good_page(receiver, peer, attack.name)


def assert_only_the_good_page(receiver: Receiver, peer: PageServer, name: str) -> None:
    """What came before the attack is there, and the peer stands right behind it."""
    rows = peer.origin.rows[:EARLIER]
    assert receiver.fact_ids(peer) == {row.entry["fact"]["id"] for row in rows}, name
    assert receiver.cursor(peer) == rows[-1].hlc, name
    assert receiver.letters(peer) == {}, name
    assert receiver.holder(peer) is None, name
    assert any(request.attacked for request in peer.requests), name


def test_numbers_beyond_every_float_are_refused_alone(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A number that reads as infinite makes a dead letter of its entry; the others arrive."""
    sure = server.origin.add(confidence=0.25)
    large = server.origin.add(kind="number", value=1.5)
    good = server.origin.add()

    def inflated(body: bytes) -> bytes:
        return body.replace(b'"confidence": 0.25', b'"confidence": 1e999').replace(
            b'"v": 1.5', b'"v": 1e999'
        )

    server.always = hostility.rewritten(inflated)
    result = here("pull", "--peer", server.node_id, db=adopted.database)
    assert (result.code, result.stderr) == (0, "")
    assert adopted.fact_ids(server) == {good}
    assert adopted.letters(server) == {sure: "malformed_fact", large: "number_not_reproducible"}


def test_what_no_fact_is_made_of_may_hold_anything(
    here: Here, adopted: Receiver, server: PageServer
) -> None:
    """A byte order mark is read past, and so are fields that are not ours, whatever is in them."""
    server.origin.add()

    def marked(body: bytes) -> bytes:
        return codecs.BOM_UTF8 + body.replace(b'"warnings": []', b'"warnings": ["\\ud800"]')

    server.always = hostility.rewritten(marked)
    result = here("pull", "--peer", server.node_id, db=adopted.database)
    assert (result.code, result.stderr) == (0, "")
    assert len(adopted.assert_clean(server).admitted) == 1


def assert_not_used_again(peer: PageServer, name: str) -> None:
    """A connection over which a hostile answer came carries no further request."""
    burnt: set[int] = set()
    for request in peer.requests:
        assert request.connection.number not in burnt, name
        if request.attacked:
            burnt.add(request.connection.number)
    assert burnt, name


def test_after_an_attack_everything_still_arrives(here: Here, receiver: Receiver) -> None:
    """A page that was attacked once is asked for again over another connection, and all is there.

    So nothing that was sent with a hostile answer was taken for an honest one.
    """
    attacks = {attack.name: attack.behaviour for attack in [*BROKEN, *ENDLESS]} | HARMLESS
    env = settings(
        page_size=EARLIER, page_bytes_max=BYTES_MIN, backoff_base_s=0.1, backoff_cap_s=0.1
    )
    with attackers(receiver, list(attacks.values()), times=1) as peers:
        result = here("pull", "--all", db=receiver.database, env=env)
        assert result.code == 0, result.stderr
        for peer, name in zip(peers, attacks, strict=True):
            assert receiver.fact_ids(peer) == {
                row.entry["fact"]["id"] for row in peer.origin.rows
            }, name
            assert receiver.cursor(peer) == peer.origin.rows[-1].hlc, name
            assert_not_used_again(peer, name)
