"""The service as a systemd runs it: started, reloaded, watched, ended, and started again.

The unit is the one that is installed, with its sandbox; a drop-in shortens its waits.  The peer
speaks mutual TLS, and our keys come as credentials.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from tests.e2e import machine as machines
from tests.e2e.machine import CODE, Machine
from tests.pages.receiver import Receiver
from tests.pages.server import PageServer
from tests.pages.tombstone_endpoint import CAPABILITY
from tests.pages.tombstones import add_tombstone

if TYPE_CHECKING:
    from tests.nodes.certificates import Authority

pytest_plugins = ("tests.pages.fixtures",)
pytestmark = pytest.mark.slow

UNIT: Final = "stigmem-replicator.service"
FOLDER: Final = "/etc/stigmem-replicator"
DROP_INS: Final = f"/etc/systemd/system/{UNIT}.d"
DATABASE: Final = "var/lib/stigmem/stigmem.db"
SETTINGS: Final = """\
allowed_networks = ["127.0.0.0/8", "::1"]
poll_interval_s = 0.5
http_listen = "127.0.0.1:0"
"""
WRONG: Final = "poll_interval_s = 'often'\n"
KEYS: Final = ("tls_cert", "tls_key", "tls_ca_bundle")
DROP_IN: Final = "[Service]\nRestartSec=100ms\nWatchdogSec=3s\n" + "".join(
    f"LoadCredential={name}:{FOLDER}/{name}\n" for name in KEYS
)
FACTS: Final = 20
PATIENCE_S: Final = 30.0
STOP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """The service on its machine."""

    machine: Machine

    def shown(self, name: str) -> str:
        """A property, as `systemctl show` has it."""
        return self.machine.shown(UNIT, name)

    def do(self, verb: str, *more: str) -> None:
        done = self.machine.run("systemctl", verb, UNIT, *more, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{self.machine.journal(UNIT)}"

    def fails_to_start(self) -> None:
        assert self.machine.run("systemctl", "start", UNIT, check=False).returncode != 0

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it logged of an event; the journal has lines of the manager as well."""
        said = self.machine.journal(UNIT).splitlines()
        logged = [json.loads(line) for line in said if line.startswith("{")]
        return [line for line in logged if line["event"] == event]

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not yet\n{self.machine.journal(UNIT)}"
            time.sleep(0.05)

    def wait_for_line(self, event: str, **values: object) -> None:
        self.wait_for(
            lambda: any(values.items() <= line.items() for line in self.lines(event)),
            f"{event} {values}",
        )

    def wait_for_another_process(self, than: str) -> None:
        self.wait_for(
            lambda: (
                self.shown("MainPID") not in ("0", than) and self.shown("SubState") == "running"
            ),
            f"another process than {than}",
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the service installed as docs/systemd.md says."""
    folder = tmp_path_factory.mktemp("machine")
    if reason := machines.why_not(folder):
        pytest.skip(reason)
    with machines.machine(folder) as made:
        made.run("systemctl", "start", "systemd-journald.socket")
        made.run("make", "-C", CODE, "install-systemd")
        made.run("systemd-sysusers", "stigmem-replicator.conf")
        made.run("systemd-tmpfiles", "--create", "stigmem-replicator.conf")
        made.write(f"{DROP_INS}/test.conf", DROP_IN)
        yield made


@pytest.fixture
def service(
    machine: Machine, receiver: Receiver, tls_server: PageServer, authority: Authority
) -> Iterator[Service]:
    """The service, not started, with one peer by name that has facts."""
    receiver.adopt(tls_server, url=f"https://localhost:{tls_server.port}")
    tls_server.origin.add_many(FACTS)
    own = authority.issue(receiver.meta("node_id"))
    for name, file in zip(KEYS, (own.certificate, own.key, own.bundle), strict=True):
        machine.write(f"{FOLDER}/{name}", file.read_text(), 0o600)
    machine.write(f"{FOLDER}/config.toml", SETTINGS)
    database = machine.root / DATABASE
    shutil.copyfile(receiver.database, database)
    home = database.parent.stat()
    os.chown(database, home.st_uid, home.st_gid)
    database.chmod(0o600)
    machine.run("systemctl", "daemon-reload")
    yield Service(machine)
    machine.run("systemctl", "stop", UNIT)
    machine.run("systemctl", "reset-failed", UNIT, check=False)
    for left in database.parent.iterdir():
        left.unlink()


def test_it_works_in_its_sandbox(service: Service, tls_server: PageServer, tmp_path: Path) -> None:
    """Names, TLS, the database, its locks and a port are all that it needs."""
    service.do("start")
    assert service.shown("StatusText").startswith("1 active peer")
    service.wait_for(lambda: "1 idle" in service.shown("StatusText"), "all is read")
    page = service.lines("replicator.http")[-1]
    assert httpx.get(f"{page['address']}healthz", trust_env=False).is_success

    running = service.shown("MainPID")
    status = (service.machine.root / f"proc/{running}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] == str((service.machine.root / DATABASE).stat().st_uid) != "0"
    assert (int(fields["CapEff"], 16), fields["NoNewPrivs"], fields["Seccomp"]) == (0, "1", "2")
    assert '"level": "warning"' not in service.machine.journal(UNIT)

    began = time.monotonic()
    service.do("stop")
    assert time.monotonic() - began < STOP_S
    assert (service.shown("Result"), service.shown("ExecMainStatus")) == ("success", "0")
    written = Receiver(tmp_path / "written.db")
    for end in ("", "-wal"):  # out of the machine, where SQLite cannot be led
        if (file := service.machine.root / f"{DATABASE}{end}").exists():
            shutil.copyfile(file, f"{written.database}{end}")
    assert len(written.fact_ids(tls_server)) == FACTS


def test_a_reload_reads_the_settings_again(service: Service) -> None:
    """Good ones are taken, bad ones are not, and it is the same process all the time."""
    service.do("start")
    running = service.shown("MainPID")
    for text, result in ((SETTINGS.replace("0.5", "0.7"), "applied"), (WRONG, "refused")):
        service.machine.write(f"{FOLDER}/config.toml", text)
        service.do("reload")
        service.wait_for_line("replicator.reload", result=result)
        service.wait_for(lambda: service.shown("SubState") == "running", "the reload's end")
    assert service.shown("MainPID") == running


def test_it_comes_back_whatever_ended_it(service: Service) -> None:
    """A crash, a stray signal and a hang, which only the watchdog sees."""
    service.do("start")
    for number in ("KILL", "TERM", "STOP"):
        before = service.shown("MainPID")
        service.do("kill", f"--signal={number}")
        service.wait_for_another_process(before)
    assert int(service.shown("NRestarts")) >= 3
    assert "Fatal Python error: Aborted" in service.machine.journal(UNIT)


def test_what_may_mend_itself_is_tried_again(service: Service) -> None:
    """A setting that is wrong (exit 3) keeps it down as long as it is wrong, and no longer."""
    service.machine.write(f"{FOLDER}/config.toml", WRONG)
    service.fails_to_start()
    service.wait_for(lambda: service.shown("NRestarts") != "0", "a second try")
    assert service.shown("ExecMainStatus") in ("0", "3")
    service.machine.write(f"{FOLDER}/config.toml", SETTINGS)
    service.wait_for_another_process("0")


def test_a_wrong_command_line_is_not_tried_again(service: Service) -> None:
    """Only a change of the unit mends it (exit 2)."""
    wrong = f"{DROP_INS}/wrong.conf"
    line = "/usr/local/bin/stigmem-replicate run --no-such-option"
    service.machine.write(wrong, f"[Service]\nExecStart=\nExecStart={line}\n")
    service.machine.run("systemctl", "daemon-reload")
    service.fails_to_start()
    assert (service.shown("ActiveState"), service.shown("ExecMainStatus")) == ("failed", "2")
    assert service.shown("NRestarts") == "0"
    (service.machine.root / wrong.lstrip("/")).unlink()


def test_a_capability_token_is_a_credential_or_a_file(
    service: Service, tls_server: PageServer
) -> None:
    """As a credential it is named by where systemd puts it; as a file it needs no restart."""
    endpoint, machine = tls_server.tombstone_endpoint, service.machine
    endpoint.demands_capability = True
    add_tombstone(tls_server.origin, "person:kim")
    token = f"{FOLDER}/munich.token"
    table = f'[peer."{tls_server.node_id}"]\ncapability_token_file = '
    given = f'"/run/credentials/{UNIT}/munich.token"\n'
    machine.write(token, endpoint.capabilities.issue(tls_server.origin), 0o600)
    machine.write(f"{DROP_INS}/token.conf", f"[Service]\nLoadCredential=munich.token:{token}\n")
    machine.write(f"{FOLDER}/config.toml", f"{SETTINGS}{table}{given}")
    machine.run("systemctl", "daemon-reload")
    service.do("start")
    service.wait_for(lambda: answered(tls_server), "they are asked for with the credential")
    assert '"level": "warning"' not in machine.journal(UNIT)

    service.do("stop")
    (machine.root / f"{DROP_INS}/token.conf".lstrip("/")).unlink()
    machine.write(f"{FOLDER}/config.toml", SETTINGS)
    machine.run("systemctl", "daemon-reload")
    endpoint.requests.clear()
    service.do("start")
    service.wait_for(lambda: endpoint.requests, "they are asked for without a token")
    owned = ("install", "-o", "stigmem", "-m", "600")
    machine.run(*owned, token, f"{token}.new")
    machine.run("mv", f"{token}.new", token)
    machine.write(f"{FOLDER}/config.toml", f'{SETTINGS}{table}"munich.token"\n')
    service.do("reload")
    service.wait_for(lambda: answered(tls_server), "they are asked for with the file")


def answered(server: PageServer) -> bool:
    """Whether the last request for tombstones had a capability token that was taken."""
    requests = server.tombstone_endpoint.requests
    return bool(requests) and requests[-1].bearer == CAPABILITY and not requests[-1].refused
