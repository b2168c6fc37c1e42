"""The `peers` commands of one peer, and how it stands.

What the commands should say is for the tests.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from stigmem_replicator.replication.states import PeerState
from tests.pages.origin import now_ms
from tests.pages.receiver import Receiver

if TYPE_CHECKING:
    from tests.e2e.here import Here, Result


class Peers:
    """The commands of one peer of a receiver, and its row."""

    def __init__(self, here: Here, receiver: Receiver, node_id: str) -> None:
        self._here = here
        self.receiver = receiver
        self.node_id = node_id

    def __call__(self, *words: str, **env: str) -> str:
        """Run `peers ...`; what it printed, having said nothing else."""
        result = self.run(*words, **env)
        assert (result.code, result.stderr) == (0, "")
        return result.stdout

    def run(self, *words: str, **env: str) -> Result:
        return self._here("peers", *words, db=self.receiver.database, env=env)

    def act(self, command: str, *words: str) -> str:
        """Pause or resume it; the one sentence that says what is so now."""
        (line,) = self(command, self.node_id, *words).splitlines()
        assert line.startswith(f"{self.node_id} ")
        return line.removeprefix(f"{self.node_id} ")

    def stand(self, state: PeerState, reason: str | None = None, **columns: object) -> None:
        """Have it stand somewhere, as a daemon would have written it."""
        values = {"state": state.value, "reason": reason, "since_ms": now_ms(), **columns}
        names = ", ".join(f"{name} = ?" for name in values)
        self.receiver.execute(f"UPDATE replicator_peers SET {names}", list(values.values()))  # noqa: S608

    @property
    def row(self) -> dict[str, Any]:
        (row,) = self.receiver.query("SELECT * FROM replicator_peers")
        return dict(row)

    def cells(self) -> dict[str, str]:
        """Its line of `peers list`, by heading."""
        headings, line = self("list").splitlines()
        names = re.findall(r"\S+(?: \S+)*", headings)
        begins = [*(headings.index(name) for name in names), len(line)]
        return {
            name: line[begin:end].strip()
            for name, begin, end in zip(names, begins, begins[1:], strict=False)
        }

    def lines(self) -> dict[str, str]:
        """What `peers show` says of it, by name."""
        text = self("show", self.node_id).partition("\n\n")[0]
        return {name: rest.strip() for name, rest in re.findall(r"(?m)^(.+?)  +(.*)$", text)}

    def document(self, **env: str) -> dict[str, Any]:
        """What `peers show --json` says of it; the same as `peers list --json`."""
        shown: dict[str, Any] = json.loads(self("show", self.node_id, "--json", **env))
        (listed,) = json.loads(self("list", "--json", **env))
        assert {name: shown[name] for name in listed if name != "replication"} == {
            name: value for name, value in listed.items() if name != "replication"
        }
        return shown

    def newest_event(self) -> tuple[str, str, dict[str, Any]]:
        rows = self.receiver.query("SELECT * FROM replicator_events ORDER BY id DESC LIMIT 1")
        return rows[0]["event"], rows[0]["actor"], json.loads(rows[0]["detail"])
