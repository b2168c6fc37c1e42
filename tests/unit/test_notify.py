"""What the service manager hears from us, over a socket as the real one has it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.service import notify
from stigmem_replicator.service.notify import Notifier
from tests.service_manager import DATAGRAM_BYTES, ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """A manager that listens at a path."""
    with ServiceManager(tmp_path / "notify") as listening:
        yield listening


@pytest.fixture
def notifier(manager: ServiceManager) -> Iterator[Notifier]:
    """What a daemon of that manager tells it with."""
    made = notify.to_manager(manager.environ())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("say", "heard"),
    [
        (lambda n: n.ready(), {"READY": "1"}),
        (lambda n: n.ready("3 peers"), {"READY": "1", "STATUS": "3 peers"}),
        (lambda n: n.status("2 of 3 peers idle"), {"STATUS": "2 of 3 peers idle"}),
        (lambda n: n.alive(), {"WATCHDOG": "1"}),
        (lambda n: n.reloading(17.25), {"RELOADING": "1", "MONOTONIC_USEC": "17250000"}),
        (lambda n: n.stopping("SIGTERM"), {"STOPPING": "1", "STATUS": "SIGTERM"}),
    ],
)
def test_each_thing_said_is_one_message(
    manager: ServiceManager,
    notifier: Notifier,
    say: Callable[[Notifier], None],
    heard: dict[str, str],
) -> None:
    """The fields are those of sd_notify(3)."""
    say(notifier)
    assert manager.hear() == heard


def test_an_abstract_name_is_called_too() -> None:
    """A name that begins with @ stands for a socket without a file."""
    with ServiceManager(f"@stigmem-{uuid.uuid4()}") as manager:
        notifier = notify.to_manager(manager.environ())
        notifier.ready()
        assert manager.hear() == {"READY": "1"}
        notifier.close()


@pytest.mark.parametrize("named", ["", "vsock:2:1234", "relative", "@", "/nobody/listens"])
def test_without_a_manager_nothing_happens(named: str) -> None:
    """An address that is empty, unknown or deserted raises nothing and keeps nobody waiting."""
    notifier = notify.to_manager({"NOTIFY_SOCKET": named})
    for _ in range(3):
        notifier.ready("up")
        notifier.alive()
    notifier.close()
    notifier.stopping()


def test_a_variable_that_is_not_set_is_no_manager() -> None:
    """Started by hand, nobody is told."""
    assert notify.address({}) is None


def test_a_manager_that_does_not_read_holds_nobody_up(
    manager: ServiceManager, notifier: Notifier
) -> None:
    """The queue of the socket takes some messages; those beyond are not waited for."""
    for _ in range(2000):
        notifier.alive()
    assert manager.hear() == {"WATCHDOG": "1"}


def test_what_could_not_be_sent_goes_with_the_next_message(tmp_path: Path) -> None:
    """A manager that is away for a moment still hears that the service is ready."""
    notifier = notify.to_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.ready("3 peers")
    notifier.alive()
    notifier.status("4 peers")
    with ServiceManager(tmp_path / "notify") as manager:
        notifier.alive()
        assert manager.hear() == {"READY": "1", "STATUS": "4 peers", "WATCHDOG": "1"}
        notifier.alive()
        assert manager.hear() == {"WATCHDOG": "1"}
    notifier.close()


def test_an_old_sign_of_life_is_not_sent_later(tmp_path: Path) -> None:
    """A watchdog is fed by what is true now."""
    notifier = notify.to_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.alive()
    with ServiceManager(tmp_path / "notify") as manager:
        notifier.status("stuck")
        assert manager.hear() == {"STATUS": "stuck"}
    notifier.close()


def test_the_end_makes_void_what_was_not_sent_before(tmp_path: Path) -> None:
    """A service that stops is neither ready nor reloading."""
    notifier = notify.to_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.reloading(1.0)
    notifier.ready()
    notifier.stopping()
    with ServiceManager(tmp_path / "notify") as manager:
        notifier.status("one batch left")
        assert manager.hear() == {"STOPPING": "1", "STATUS": "one batch left"}
    notifier.close()


def test_words_of_a_peer_are_no_field(manager: ServiceManager, notifier: Notifier) -> None:
    """A status is one line whatever is in it."""
    notifier.status("blocked:\nREADY=1\x00\r\u2028STOPPING=1")
    assert manager.hear() == {"STATUS": "blocked: READY=1   STOPPING=1"}


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_message_has_its_lines_and_fits(one: str, other: str) -> None:
    """Two values are two lines of UTF-8, in less than the manager reads."""
    said = notify.message({"STATUS": one, "ERRNO": other})
    assert len(said) < DATAGRAM_BYTES
    first, second = said.decode().split("\n")
    assert first.startswith("STATUS=")
    assert second.startswith("ERRNO=")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_PID": "7"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "30s"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
    ],
)
def test_patience_of_the_watchdog(said: dict[str, str], expected: float | None) -> None:
    """It is read from two variables; what does not fit is no watchdog."""
    assert notify.patience_s(said, 7) == expected


def test_the_harness_says_what_the_manager_would(manager: ServiceManager) -> None:
    """The variables of a watched service are those that are read."""
    environ = manager.environ(watchdog_s=2.5, pid=os.getpid())
    assert notify.patience_s(environ, os.getpid()) == 2.5
    assert notify.address(environ) == os.fsencode(manager.address)


def test_waiting_for_a_message_passes_over_others(
    manager: ServiceManager, notifier: Notifier
) -> None:
    """All that was said on the way is returned, the wanted last."""
    notifier.alive()
    notifier.ready("up")
    assert manager.wait_for({"READY": "1"}) == [
        {"WATCHDOG": "1"},
        {"READY": "1", "STATUS": "up"},
    ]
    with pytest.raises(TimeoutError, match=r"no .*STOPPING"):
        manager.wait_for({"STOPPING": "1"}, patience_s=0.01)
