"""One real node: a process on loopback with its own folder, database, keys and port.

It is for bringing a node up, speaking to its HTTP API and taking it down by its process id. It is
not for introducing nodes to each other (federation.py), nor for writing past the API (bulk.py).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import httpx

from tests.nodes.database import NodeDatabase, PostgresDatabase, SqliteDatabase
from tests.nodes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from tests.nodes.environment import NodeEnvironment

INSIDE_NODE = Path(__file__).with_name("inside_node.py")

Scalar: TypeAlias = str | float | bool | None

_ADMIN_PERMISSIONS = ["admin", "write", "read", "federate", "admin:federation", "audit.read"]
_MANIFEST_DAYS = 300
_NEVER_S = 100_000_000
_STEP_TIMEOUT_S = 60.0
_LOG_TAIL_LINES = 30


class NodeError(RuntimeError):
    """A node did not do what the harness needs; the message ends with its log."""


class Node:
    """A node process and its folder.

    As a context manager it is prepared, started and has published its manifest on entry; on exit
    the process is ended, and the folder removed if the node made it. Each step is there by itself
    too: `prepare`, `start`, `publish_manifest`, `stop`, `close`. `settings` are names without the
    `STIGMEM_` prefix and win over the harness's own.
    """

    register_options: tuple[str, ...] = ()
    """What the node's own command needs besides to register it at another."""

    def __init__(
        self,
        environment: NodeEnvironment,
        folder: Path | None = None,
        *,
        name: str = "node",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.environment = environment
        self.name = name
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"stigmem-{name}-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.node_id = f"stigmem:node:{uuid.uuid4()}"
        self.entity_uri = self.url
        self.admin_key = secrets.token_hex(16)
        self.public_key = ""
        self._private_key = ""
        self.own_settings = dict(settings or {})
        self._manifest: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.url} {self.node_id}>"

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
            self.publish_manifest()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- where things are

    @property
    def database(self) -> Path:
        """The node's SQLite file, unused when its settings name another backend."""
        return self.folder / "node.db"

    @property
    def log(self) -> Path:
        """What the process and its helpers printed."""
        return self.folder / "node.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def admin(self) -> dict[str, str]:
        """The header of a request made as the node's administrator.

        A key costs the node a deliberately slow hash, so what anybody may do is done as nobody.
        """
        return {"Authorization": f"Bearer {self.admin_key}"}

    @property
    def settings(self) -> dict[str, str]:
        """The node's settings as environment variables, `STIGMEM_` prefix included."""
        named = {
            "DB_PATH": str(self.database),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "NODE_URL": self.url,
            "NODE_ID": self.node_id,
            "AUTH_REQUIRED": "false",
            "FEDERATION_ENABLED": "true",
            "FEDERATION_INSECURE": "true",  # loopback has no TLS
            "FEDERATION_PULL_INTERVAL_S": str(_NEVER_S),  # its own loop never pulls
            "NODE_PRIVATE_KEY": self._private_key,
            "TRUST_MODE": "relaxed",
            "TL_LOCAL_PATH": str(self.folder / "transparency.jsonl"),
            "RATE_LIMIT_WRITE_PER_HOUR": "0",
            "RATE_LIMIT_READ_PER_HOUR": "0",
            "RATE_LIMIT_DISABLED_ACK": "true",
            "METRICS_REQUIRE_AUTH": "false",
            "PLUGIN_AUTO_DISCOVERY_ENABLED": "false",
        }
        named.update(self.own_settings)
        return {f"STIGMEM_{key}": value for key, value in named.items()}

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of a process of this node: its settings and little else."""
        return {
            "PATH": f"{self.environment.bin}{os.pathsep}{os.defpath}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **self.settings,
        }

    # --- life

    def prepare(self) -> None:
        """Make the database: migrations, node id, keys, admin key."""
        order = {
            "admin_key": self.admin_key,
            "permissions": _ADMIN_PERMISSIONS,
            "manifest_days": _MANIFEST_DAYS,
        }
        made = json.loads(self.run_inside(INSIDE_NODE, "prepare", stdin=json.dumps(order)))
        self.node_id = made["node_id"]
        self.entity_uri = made["entity_uri"]
        self.public_key = made["public_key"]
        self._private_key = made["private_key"]
        self._manifest = made["manifest"]

    def start(self, *, timeout: float = 45.0) -> None:
        """Start the process and wait until it answers."""
        if self.running:
            raise NodeError(f"{self!r} is already running")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(self.environment.python), str(INSIDE_NODE), "serve"],
                stdin=subprocess.PIPE,  # its end is the end of the process
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environ,
                start_new_session=True,  # Ctrl-C is for us, who then end it in order
            )
        self._process = process
        deadline = time.monotonic() + timeout
        while not self._answers():
            if process.poll() is not None:
                self.stop()
                raise NodeError(f"{self!r} ended at once\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise NodeError(f"{self!r} not ready after {timeout:.0f} s\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self, *, timeout: float = 10.0) -> None:
        """End the process: ask, wait, then insist. Its database is complete afterwards."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def kill(self) -> None:
        """End the process as a crash does."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop()
        self.client.close()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def publish_manifest(self) -> None:
        """Publish the signed manifest; without it nobody can verify what this node says."""
        if self._manifest is None:
            raise NodeError(f"{self!r} has not been prepared")
        self._ask("PUT", "/v1/federation/manifest", json=self._manifest, headers=self.admin)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"

    # --- its HTTP API

    def assert_fact(
        self,
        entity: str,
        relation: str,
        value: Scalar,
        *,
        type: str = "string",  # noqa: A002 - the node's own word
        source: str = "agent:test",
        scope: str = "public",
        confidence: float = 1.0,
        valid_until: str | None = None,
    ) -> dict[str, Any]:
        """Assert one fact and return the node's record of it.

        An equal fact already there is not asserted again: the node returns the first one.
        """
        return self.post_fact(
            {
                "entity": entity,
                "relation": relation,
                "value": {"type": type, "v": value},
                "source": source,
                "scope": scope,
                "confidence": confidence,
                "valid_until": valid_until,
            }
        )

    def post_fact(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Assert one fact given as the body of the request (see `Fact.request`)."""
        return self._ask("POST", "/v1/facts", json=dict(request))

    def facts(self, **query: Scalar) -> list[dict[str, Any]]:
        """Ask for facts by `entity`, `relation`, `source`, `scope`; nothing is held back.

        One answer of at most 500. The node's own paging orders by time and continues by id, so
        it skips and repeats; rather than use it, a fuller answer is refused here.
        """
        parameters = {
            "limit": 500,
            "include_contradicted": True,
            "include_expired": True,
            "include_low_trust": True,
            **query,
        }
        answer = self._ask("GET", "/v1/facts", params=parameters)
        if answer["cursor"] is not None:
            raise NodeError(f"{self!r} has more facts than one answer holds; narrow the query")
        found: list[dict[str, Any]] = answer["facts"]
        return found

    def fact(self, fact_id: str) -> dict[str, Any] | None:
        """One fact by its id, or None."""
        response = self.client.get(f"/v1/facts/{fact_id}", headers=self._caller)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return self._checked(response)

    def peers(self) -> list[dict[str, Any]]:
        """The peers as the node's API lists them."""
        answer = self._ask("GET", "/v1/federation/peers", headers=self.admin)
        found: list[dict[str, Any]] = answer["peers"]
        return found

    # --- beside its HTTP API

    def run_cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the node's own `stigmem` command as this node."""
        done = subprocess.run(
            [str(self.environment.bin / "stigmem"), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environ,
            timeout=_STEP_TIMEOUT_S,
            check=False,
        )
        if check and done.returncode != 0:
            raise NodeError(f"stigmem {arguments[0]} failed:\n{done.stdout}{done.stderr}")
        return done

    def run_inside(self, script: Path, *arguments: str, stdin: str = "") -> str:
        """Run a script in this node's environment, with its settings; return what it printed."""
        with self.log.open("ab") as log:
            done = subprocess.run(
                [str(self.environment.python), str(script), *arguments],
                input=stdin.encode(),
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                env=self.environ,
                timeout=_STEP_TIMEOUT_S,
                check=False,
            )
        if done.returncode != 0:
            raise NodeError(f"{self!r} could not run {script.name}\n{self.log_tail()}")
        return done.stdout.decode()

    @property
    def store(self) -> NodeDatabase:
        """The node's database, on whichever backend it is."""
        if self.own_settings.get("STORAGE_BACKEND", "sqlite") == "sqlite":
            return SqliteDatabase(self.database)
        schema = self.own_settings.get("PG_SCHEMA", "public")
        return PostgresDatabase(self.own_settings["PG_DSN"], schema)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read the node's database directly."""
        return self.store.records(sql, parameters)

    def copy_database(self, target: Path) -> Path:
        """Copy the SQLite file, whether the node runs or not, readable by its owner only."""
        return SqliteDatabase(self.database).copy(target)

    def _answers(self) -> bool:
        try:
            return self.client.get("/healthz", timeout=2.0).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    @property
    def _caller(self) -> dict[str, str]:
        return {} if self.settings["STIGMEM_AUTH_REQUIRED"] == "false" else self.admin

    def _ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, Scalar] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        headers = self._caller if headers is None else headers
        return self._checked(
            self.client.request(method, path, json=json, params=params, headers=headers)
        )

    def _checked(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_error:
            request = response.request
            raise NodeError(
                f"{self!r} answered {request.method} {request.url.path} with "
                f"{response.status_code}: {response.text[:500]}"
                + (f"\n{self.log_tail()}" if response.is_server_error else "")
            )
        answer: dict[str, Any] = response.json()
        return answer
