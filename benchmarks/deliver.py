"""Deliveries a second at 1, 8 and 64 in flight, beside a bare httpx loop on the same target.

Also what the guard costs, the launcher's CPU for each delivery, and the time from a PATCH to the
first attempt. A delivery is claimed, made by a Prefect task, and kept as an attempt's row before
and after the wire; the bare loop only posts.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import quantiles

import httpx
import psutil
from parts import COMMAND, free_port, ground, process, wait_for

from prefect_n8n import OutboundEndpoint
from prefect_n8n.blocks.client import N8nClient
from prefect_n8n.cli import local
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.ledger.configuration import save, set_state
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.kinds import ENDPOINTS
from prefect_n8n.ledger.outbox import record
from prefect_n8n.ledger.registry import save_token
from prefect_n8n.ledger.states import EndpointState

IN_FLIGHT = (1, 8, 64)
COUNT = 400
PATCHES = 40
BODY = b'{"order": 7, "name": "a delivery of the benchmark", "total": 12.5}'
HEADERS = [(b"content-type", b"application/json")]

Post = Callable[[], Awaitable[object]]


async def rate(post: Post, in_flight: int) -> tuple[float, float]:
    """Post COUNT times; return calls a second and CPU milliseconds for each."""
    left = iter(range(COUNT))

    async def work() -> None:
        for _ in left:
            await post()

    await post()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    seconds = time.perf_counter() - began
    return COUNT / seconds, (time.process_time() - cpu) / COUNT * 1000


async def bare(url: str, in_flight: int) -> tuple[float, float]:
    """A loop over httpx."""
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as client:
        headers = {"content-type": "application/json"}
        return await rate(lambda: client.post(url, content=BODY, headers=headers), in_flight)


async def guarded(base: str, url: str, in_flight: int) -> tuple[float, float]:
    """The same through our client."""
    async with N8nClient(base) as client:
        return await rate(lambda: client.post_webhook(url, BODY, HEADERS), in_flight)


async def delivered(
    database: Database, base: str, url: str, in_flight: int, launcher: psutil.Process
) -> tuple[float, float]:
    """COUNT deliveries through the launcher, from the first arrival to the last."""
    slug = f"bench-{in_flight}"
    spec = OutboundEndpoint(slug, url=url, max_in_flight=in_flight)
    async with database.transaction(DEFAULT_TENANT) as connection:
        await save(connection, DEFAULT_TENANT, spec, actor="bench")
        await set_state(
            connection, DEFAULT_TENANT, ENDPOINTS, slug, EndpointState.PAUSED, actor="bench"
        )
        for n in range(COUNT):
            id = f"{slug}-{n}"
            await record(
                connection, DEFAULT_TENANT, endpoint=slug, body=BODY, event_id=id, actor="bench"
            )
    await arrivals(base)
    before = cpu_of(launcher)
    async with database.transaction(DEFAULT_TENANT) as connection:
        await set_state(
            connection, DEFAULT_TENANT, ENDPOINTS, slug, EndpointState.ON, actor="bench"
        )
    seen: dict[str, float] = {}
    while len(seen) < COUNT:
        await asyncio.sleep(0.2)
        seen |= await arrivals(base)
    used = cpu_of(launcher) - before
    return (COUNT - 1) / (max(seen.values()) - min(seen.values())), used / COUNT * 1000


async def arrivals(base: str) -> dict[str, float]:
    """What has arrived since the last question."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(base)).json()


def cpu_of(launcher: psutil.Process) -> float:
    """Seconds of CPU that the process has used."""
    times = launcher.cpu_times()
    return times.user + times.system


async def patch_latency(base: str, receiver: str, token: str) -> list[float]:
    """Seconds from each PATCH's answer to its first attempt at the target, one after another."""
    waited: list[float] = []
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"authorization": f"Bearer {token}"}
        for n in range(PATCHES + 3):
            wanted = {"endpoint": "bench-8", "id": f"patch-{n}", "body": {"order": n}}
            answer = await client.patch(receiver, json=wanted, headers=headers)
            accepted = time.time()
            answer.raise_for_status()
            seen: dict[str, float] = {}
            while wanted["id"] not in seen:
                await asyncio.sleep(0.01)
                seen |= await arrivals(base)
            waited += [seen[f"patch-{n}"] - accepted] if n >= 3 else []
    return waited


async def measure(env: dict[str, str], base: str, launcher: psutil.Process, token: str) -> None:
    """Print one line for each figure."""
    url = f"{base}/webhook/bench"
    database = Database(env["DATABASE_URL"])
    print(f"{COUNT} calls each; CPU in ms for each call, of the caller alone")
    for in_flight in IN_FLIGHT:
        plain, plain_cpu = await bare(url, in_flight)
        guard, guard_cpu = await guarded(base, url, in_flight)
        ours, ours_cpu = await delivered(database, base, url, in_flight, launcher)
        print(f"in flight {in_flight:2}: bare httpx {plain:6.0f}/s ({plain_cpu:5.2f} ms)")
        print(f"              guarded    {guard:6.0f}/s ({guard_cpu:5.2f} ms)"
              f"  ratio {guard / plain:.2f}")  # fmt: skip
        print(f"              deliveries {ours:6.0f}/s ({ours_cpu:5.2f} ms)"
              f"  ratio {ours / plain:.2f}")  # fmt: skip
    receiver = f"http://127.0.0.1:{env['PREFECT_N8N_PORT']}/api/webhooks/n8n"
    cuts = quantiles(await patch_latency(base, receiver, token), n=20, method="inclusive")
    print(f"PATCH to first attempt: p50 {cuts[9]:.3f} s, p95 {cuts[18]:.3f} s ({PATCHES} sends)")
    await database.close()


async def make_token(url: str) -> str:
    """Store a token that may send."""

    database, token = Database(url), "a-token-of-the-benchmark"
    async with database.transaction(DEFAULT_TENANT) as connection:
        await save_token(
            connection, DEFAULT_TENANT, name="bench", token=token, scopes=["send"], actor="bench"
        )
    await database.close()
    return token


def launcher_of(serve: psutil.Process) -> psutil.Process:
    """The launcher among the children of ``serve``."""
    (found,) = [p for p in serve.children(recursive=True) if "launch" in p.cmdline()]
    return found


def main() -> None:
    """Measure everything on one Prefect server, one after the other."""
    with tempfile.TemporaryDirectory(prefix="pn8n-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.chdir(folder)
        port = free_port()
        target = [sys.executable, str(Path(__file__).with_name("target.py")), str(port)]
        with ground(folder) as (_, env), process(target, {}, folder / "target.log"):
            env |= {"PREFECT_N8N_ALLOWED_TARGETS": "127.0.0.0/8"}
            local.use(env)
            with process([*COMMAND, "serve"], env, folder / "serve.log"):
                wait_for(f"http://127.0.0.1:{env['PREFECT_N8N_PORT']}/readyz")
                (serve,) = [p for p in psutil.Process().children() if "serve" in p.cmdline()]
                token = asyncio.run(make_token(env["DATABASE_URL"]))
                base = f"http://127.0.0.1:{port}"
                asyncio.run(measure(env, base, launcher_of(serve), token))


if __name__ == "__main__":
    main()
