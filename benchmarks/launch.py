"""Seconds from the 202 to the first line of the flow's body, beside a process worker.

The resident runner is measured through the whole road: receiver, ledger, launcher. The worker gets
its runs created by Prefect's client directly, so its figure leaves our part of the road out.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from uuid import uuid4

import httpx
from parts import COMMAND, SECRET, ground, process, wait_for
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from prefect_n8n.cli import local
from prefect_n8n.cli.sending import PATH, send, signed_headers, test_event

EVENTS = 40
WORKER_RUNS = 8
LOG = "bodies.log"
OURS = f"""
import time
from pathlib import Path
from prefect import flow
from prefect_n8n import WebhookEvent, webhook

@webhook("orders")
@flow
async def on_order(event: WebhookEvent):
    with Path("{LOG}").open("a") as log:
        log.write(f"{{event.id}} {{time.time()}}\\n")
"""
THEIRS = """
import time
from pathlib import Path
from prefect import flow

@flow
async def plain(id: str):
    with Path({log!r}).open("a") as log:
        log.write(f"{{id}} {{time.time()}}\\n")
"""


def started(folder: Path) -> dict[str, float]:
    """Return when each body started, by event id."""
    log = folder / LOG
    rows = (line.split() for line in log.read_text().splitlines()) if log.exists() else ()
    return {id: float(at) for id, at in rows}


def wait_started(folder: Path, id: str, seconds: float = 120.0) -> float:
    """Wait for a body's first line, and return when it was."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (at := started(folder).get(id)) is not None:
            return at
        time.sleep(0.005)
    raise SystemExit(f"the flow over {id} did not start")


def ours(folder: Path, port: int) -> list[float]:
    """Send events one after another; return each one's seconds from 202 to body."""
    url = f"http://127.0.0.1:{port}{PATH}orders"
    waited: list[float] = []
    for n in range(EVENTS + 3):
        id, body = test_event("order.created", {})
        answer = send(url, signed_headers("standard", SECRET.encode(), id, body), body)
        accepted = time.time()
        if answer.status_code != 202:
            raise SystemExit(answer.text)
        seconds = wait_started(folder, id) - accepted
        # The first ones warm connections and imports.
        waited += [seconds] if n >= 3 else []
    return waited


async def worker_runs(folder: Path) -> list[float]:
    """Create runs of a deployment in a process pool; return each one's seconds to its body."""
    waited: list[float] = []
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("plain/bench")
        for _ in range(WORKER_RUNS):
            id = uuid4().hex
            await client.create_flow_run_from_deployment(deployment.id, parameters={"id": id})
            created = time.time()
            waited.append(await asyncio.to_thread(wait_started, folder, id) - created)
    return waited


def theirs(folder: Path, env: dict[str, str]) -> list[float]:
    """Measure a process worker of the same Prefect."""
    prefect = [sys.executable, "-m", "prefect"]
    (folder / "plain.py").write_text(THEIRS.format(log=str(folder / LOG)))
    local.use(env)
    asyncio.run(_deploy(folder))
    with process(
        [*prefect, "worker", "start", "--pool", "bench", "--type", "process"],
        env | {"PYTHONPATH": str(folder)},
        folder / "worker.log",
    ):
        return asyncio.run(worker_runs(folder))


async def _deploy(folder: Path) -> None:
    plain = await flow.from_source(source=str(folder), entrypoint="plain.py:plain")  # type: ignore[misc]
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name="bench", type="process"))
    await plain.deploy(name="bench", work_pool_name="bench", print_next_steps=False)


def show(name: str, seconds: list[float]) -> float:
    """Print median and 95th percentile; return the median."""
    cuts = quantiles(seconds, n=20, method="inclusive")
    print(f"{name:28} p50 {cuts[9]:6.3f} s   p95 {cuts[18]:6.3f} s   ({len(seconds)} runs)")
    return cuts[9]


def main() -> None:
    """Measure both on one Prefect server, one after the other."""
    with tempfile.TemporaryDirectory(prefix="pn8n-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.chdir(folder)
        (folder / "flows.py").write_text(OURS)
        with ground(folder) as (_, env):
            port = int(env["PREFECT_N8N_PORT"])
            with process([*COMMAND, "serve", "flows.py"], env, folder / "serve.log"):
                wait_for(f"http://127.0.0.1:{port}/readyz")
                wait_for_endpoint(port)
                mine = ours(folder, port)
            other = theirs(folder, env)
    resident = show("resident runner, from 202", mine)
    worker = show("process worker, from create", other)
    print(f"ratio of the medians: {worker / resident:.0f}")


def wait_for_endpoint(port: int) -> None:
    """Wait until the flow's endpoint takes events."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        id, body = test_event("warm", {})
        headers = signed_headers("standard", SECRET.encode(), id, body)
        url = f"http://127.0.0.1:{port}{PATH}orders"
        if httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 202:
            return
        time.sleep(0.2)
    raise SystemExit("endpoint orders does not take events")


if __name__ == "__main__":
    main()
