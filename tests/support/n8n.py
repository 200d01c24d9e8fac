"""A real n8n for tests: the fixture ``n8n``, one instance for each test process.

It starts in about 10 s, on free ports of its own, in a temporary folder of its own, and never
outlives pytest. A test module loads it, and groups its tests so that those of one run share one
instance (``pytest -n 2 --dist loadgroup``)::

    pytest_plugins = ["support.n8n"]
    pytestmark = [pytest.mark.n8n, pytest.mark.xdist_group("n8n")]

    async def test_something(n8n: N8n) -> None:
        workflow = n8n_workflow("send-event-standard.json")
        fill(workflow, "Settings", receiver_url=url, event_id="evt_1")
        async with n8n.secret("Prefect webhook secret", "the text"):
            id = await n8n.add(workflow)
            execution = await n8n.run(id)
        assert execution.status == "success", execution.error
        assert execution.output("Send") == [{"duplicate": False, ...}]

Where n8n is not installed such tests skip, and with ``PREFECT_N8N_REQUIRE_N8N=1`` they fail. The
end of n8n's log is shown with every failed test that uses it.

PYTEST_DONT_REWRITE: test modules import this before pytest loads it as their plugin.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import prefect_n8n
from support.n8n_install import (
    COMMAND,
    N8N_VERSION,
    Installation,
    end_session,
    ends_with_us,
    installation,
)

START_SECONDS = 180.0
RUN_SECONDS = 60.0
POLL_SECONDS = 0.1

Workflow = dict[str, Any]

_ENDED = {"success", "error", "canceled", "crashed"}
_OWNER = {
    "email": "owner@example.test",
    "firstName": "Test",
    "lastName": "Owner",
    "password": "Test-passw0rd",
}
_QUIET = (
    "N8N_DIAGNOSTICS_ENABLED",
    "N8N_VERSION_NOTIFICATIONS_ENABLED",
    "N8N_TEMPLATES_ENABLED",
    "N8N_PERSONALIZATION_ENABLED",
    "N8N_HIRING_BANNER_ENABLED",
    "N8N_DYNAMIC_BANNERS_ENABLED",
    "N8N_COMMUNITY_PACKAGES_ENABLED",
    "N8N_LICENSE_AUTO_RENEW_ENABLED",
    "N8N_SECURE_COOKIE",
)


def n8n_workflow(name: str) -> Workflow:
    """Return a template that is shipped with the package, by its file name."""
    return json.loads((Path(prefect_n8n.__file__).parent / "n8n" / name).read_text())


def node_of(workflow: Workflow, name: str) -> dict[str, Any]:
    """Return the workflow's node of that name, to be read or changed."""
    (node,) = (node for node in workflow["nodes"] if node["name"] == name)
    return node


def fill(workflow: Workflow, node: str, **fields: object) -> None:
    """Fill in fields of an *Edit Fields* (Set) node, as a user does in the editor.

    A text that begins with ``=`` is an expression.
    """
    rows = node_of(workflow, node)["parameters"]["assignments"]["assignments"]
    for name, value in fields.items():
        (row,) = (row for row in rows if row["name"] == name)
        row["value"] = value


@dataclass(frozen=True)
class Execution:
    """One run of a workflow, ended."""

    id: str
    status: str
    """``success``, ``error``, ``canceled`` or ``crashed``."""
    raw: dict[str, Any] = field(repr=False)
    """n8n's whole answer, with its data."""

    def output(self, node: str) -> list[dict[str, Any]]:
        """Return the JSON items of the node's last run; empty where it did not run."""
        runs: list[dict[str, Any]] = self.raw["data"]["resultData"]["runData"].get(node, [])
        if not runs or "data" not in runs[-1]:
            return []
        items: list[dict[str, Any]] = runs[-1]["data"]["main"][0] or []
        return [item["json"] for item in items]

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed: ``message``, often ``description``, ``httpCode`` (a text) and ``node``."""
        return self.raw["data"]["resultData"].get("error")


@dataclass
class N8n:
    """A running n8n. ``url`` is its base, for the editor, ``/webhook/…`` and ``/api/v1``."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    api_key: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)

    @property
    def log(self) -> Path:
        """Everything that n8n wrote."""
        return self.folder / "n8n.log"

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    async def add(self, workflow: Workflow) -> str:
        """Import a workflow and return its id.

        A credential that a node names without an id is found by its name, as in the editor.
        """
        # The public API refuses whatever else an export holds.
        wanted = {key: workflow[key] for key in ("name", "nodes", "connections", "settings")}
        return (await self.api("POST", "/workflows", wanted))["id"]

    async def publish(self, workflow_id: str) -> None:
        """Publish a workflow and wait until it is live: what starts itself or is called must be."""
        await self.api("POST", f"/workflows/{workflow_id}/activate")
        workflow = await self.api("GET", f"/workflows/{workflow_id}")
        for node in workflow["nodes"]:
            if node["type"] == "n8n-nodes-base.webhook":
                await self._until_registered(node["parameters"]["path"])

    async def run(self, workflow_id: str, trigger: str = "Try it") -> Execution:
        """Run a workflow as *Execute workflow* does, from ``trigger``; return how it ended.

        That trigger must need nothing from outside. To start one with a webhook, publish it and
        post to ``{url}/webhook/<path>``; then await :meth:`execution`.
        """
        body = {"triggerToStartFrom": {"name": trigger}}
        answer = await self._call("POST", f"/rest/workflows/{workflow_id}/run", body)
        return await self.execution(answer["data"]["executionId"])

    async def retry(self, execution_id: str) -> Execution:
        """Retry a failed execution, as *Retry* does: from the failed node, with its input."""
        answer = await self.api("POST", f"/executions/{execution_id}/retry", {})
        return await self.execution(answer["id"])

    async def execution(self, execution_id: str) -> Execution:
        """Wait until an execution has ended, and return it."""
        deadline = time.monotonic() + RUN_SECONDS
        while True:
            raw = await self.api("GET", f"/executions/{execution_id}?includeData=true")
            if raw["status"] in _ENDED:
                return Execution(str(raw["id"]), raw["status"], raw)
            if time.monotonic() > deadline:
                raise TimeoutError(f"Execution {execution_id} is still {raw['status']!r}.")
            await asyncio.sleep(POLL_SECONDS)

    @asynccontextmanager
    async def credential(self, name: str, type: str, data: dict[str, str]) -> AsyncGenerator[str]:
        """Hold a credential for a while; gives its id."""
        created = await self.api("POST", "/credentials", {"name": name, "type": type, "data": data})
        try:
            yield created["id"]
        finally:
            await self.api("DELETE", f"/credentials/{created['id']}")

    def secret(self, name: str, text: str) -> AbstractAsyncContextManager[str]:
        """Hold a *Crypto* credential with that Hmac Secret for a while; gives its id."""
        return self.credential(name, "crypto", {"hmacSecret": text})

    async def api(self, method: str, path: str, body: object = None) -> Any:
        """Call n8n's public API, ``path`` behind ``/api/v1``; return its JSON.

        Raises:
            RuntimeError: any answer but 2xx.
        """
        return await self._call(method, f"/api/v1{path}", body)

    async def _call(self, method: str, path: str, body: object) -> Any:
        # A client for each call: the event loop is the test's, n8n outlives it.
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60) as client:
            client.headers["X-N8N-API-KEY"] = self.api_key
            client.cookies.set("n8n-auth", self.cookie)
            answer = await client.request(method, path, json=body)
        if not answer.is_success:
            raise RuntimeError(f"n8n: {method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    async def _until_registered(self, path: str) -> None:
        """Publishing is asynchronous. A wrong method tells, without a run, whether it is done."""
        deadline = time.monotonic() + RUN_SECONDS
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            while "Did you mean" not in (await client.delete(f"/webhook/{path}")).text:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"The webhook {path!r} did not come up.")
                await asyncio.sleep(POLL_SECONDS)


def start_n8n(installed: Installation, folder: Path) -> N8n:
    """Start n8n with its data in ``folder``, wait until it is ready, and make its owner.

    Raises:
        RuntimeError: it ended, or was not ready in time; the message holds its log.
    """
    port, broker_port = _free_ports(2)
    with (folder / "n8n.log").open("wb") as log:
        process = subprocess.Popen(
            [str(installed.node), str(installed.n8n), "start"],
            cwd=folder,
            env=_environment(installed, folder, port, broker_port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A session of its own, so that its children end with it, and a Ctrl-C is pytest's.
            start_new_session=True,
            preexec_fn=ends_with_us(),
        )
    n8n = N8n(f"http://127.0.0.1:{port}", folder, process)
    try:
        _wait_ready(n8n)
        _provision(n8n)
    except BaseException:
        stop_n8n(n8n)
        raise
    return n8n


def stop_n8n(n8n: N8n) -> None:
    """End n8n and its children at once: nobody needs its data any more."""
    end_session(n8n.process)


def _environment(
    installed: Installation, folder: Path, port: int, broker_port: int
) -> dict[str, str]:
    """The whole environment: nothing of the user's n8n, proxies or home comes through."""
    return {
        "PATH": installed.environment()["PATH"],
        "HOME": str(folder),
        "TZ": "UTC",
        "GENERIC_TIMEZONE": "UTC",
        "NODE_ENV": "production",  # otherwise errors carry stack traces
        "N8N_USER_FOLDER": str(folder),
        "N8N_ENCRYPTION_KEY": "a-fixed-key-for-tests",
        "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_HOST": "127.0.0.1",
        "N8N_PORT": str(port),
        "N8N_RUNNERS_BROKER_PORT": str(broker_port),
        "N8N_EXPRESSION_ENGINE": "legacy",  # twice as fast as an isolated VM for each execution
        "N8N_DISABLED_MODULES": "mcp-registry,chat-hub,instance-ai,agents",  # some call home
        "N8N_LOG_LEVEL": "warn",
        "EXECUTIONS_DATA_SAVE_ON_SUCCESS": "all",
        "EXECUTIONS_DATA_SAVE_ON_ERROR": "all",
    } | dict.fromkeys(_QUIET, "false")


def _free_ports(count: int) -> list[int]:
    """Ports below those that systems lend to outgoing connections: they stay free until used."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("No free port was found for n8n.")


def _wait_ready(n8n: N8n) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=n8n.url, trust_env=False) as client:
        while not _is_ready(client):
            if n8n.process.poll() is not None:
                raise RuntimeError(f"n8n ended while starting. Its log:\n{n8n.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"n8n was not ready after {START_SECONDS:.0f} s. Its log:\n{n8n.log_tail()}"
                )
            time.sleep(POLL_SECONDS)


def _is_ready(client: httpx.Client) -> bool:
    try:
        # While it migrates its database, n8n answers everything else with 200, too.
        return client.get("/healthz/readiness").status_code == 200
    except httpx.TransportError:
        return False


def _provision(n8n: N8n) -> None:
    """Make the owner and a key for the public API. The owner's cookie is for the editor's API."""
    with httpx.Client(base_url=n8n.url, trust_env=False, timeout=60) as client:
        # This also logs in; logging in again is limited to five times a minute.
        client.post("/rest/owner/setup", json=_OWNER).raise_for_status()
        n8n.cookie = client.cookies["n8n-auth"]
        scopes = client.get("/rest/api-keys/scopes").raise_for_status().json()["data"]
        key = {"label": "tests", "expiresAt": None, "scopes": scopes}
        made = client.post("/rest/api-keys", json=key).raise_for_status()
        n8n.api_key = made.json()["data"]["rawApiKey"]


@pytest.fixture(scope="session")
def n8n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    """A real n8n for this test process; see the module's docstring."""
    installed = installation()
    if not installed.is_ready():
        reason = f"n8n {N8N_VERSION} is not installed; install it with: {COMMAND}"
        if os.environ.get("PREFECT_N8N_REQUIRE_N8N") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    instance = start_n8n(installed, tmp_path_factory.mktemp("n8n"))
    yield instance
    stop_n8n(instance)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of n8n's log with a failed test that uses n8n."""
    report = yield
    used = getattr(item, "funcargs", {}).get("n8n")
    if report.failed and isinstance(used, N8n):
        report.sections.append(("End of n8n's log", used.log_tail()))
    return report
