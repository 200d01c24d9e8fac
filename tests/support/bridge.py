"""The road from a committed event to an ended flow run, with the launcher in the test's process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun

from prefect_n8n import webhook
from prefect_n8n.core.settings import DEFAULT_TENANT, Settings, settings
from prefect_n8n.core.specs import InboundEndpoint
from prefect_n8n.flows.inbox import close_database
from prefect_n8n.flows.webhook import WebhookFlow
from prefect_n8n.launcher.deploying import deploy
from prefect_n8n.launcher.service import Launcher, new_owner
from prefect_n8n.ledger.configuration import save
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.inbox import Arrival, record_arrivals
from prefect_n8n.ledger.status import event_with_executions
from support.postgres import Ledger

QUICK: dict[str, Any] = {
    "poll_seconds": 0.2,
    "prefect_poll_seconds": 0.5,
    "reconcile_seconds": 0.3,
    "drain_seconds": 10.0,
    "runner_threads": 2,
}
"""Settings with which a test need not wait long for what takes its time in production."""


async def until(
    condition: Callable[[], Awaitable[Any]], *, seconds: float = 30.0, what: str = "the condition"
) -> Any:
    """Wait until ``condition`` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        if found := await condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {seconds:.0f} s")
        await asyncio.sleep(0.05)


@dataclass
class Bridge:
    """One test's own ledger and names on the shared Prefect server.

    ``name`` is the endpoint's slug and the name of every deployment of this test.
    """

    ledger: Ledger
    database: Database
    client: PrefectClient
    folder: Path
    name: str = field(default_factory=lambda: f"t{uuid4().hex[:12]}")

    def webhook(
        self, fn: Callable[..., Any], *, types: list[str] | None = None, **flow_options: Any
    ) -> WebhookFlow:
        """Decorate ``fn`` as a user would, under a flow name of this test alone."""
        handler = Flow(fn, name=f"{fn.__name__}-{self.name}", **flow_options)
        return webhook(self.name, types=types or ["*"])(handler)

    async def deploy(self, *flows: WebhookFlow) -> dict[UUID, WebhookFlow]:
        """Register the flows as if they stood in one file of this test."""
        return await deploy(
            flows,
            self.folder / "flows.py",
            database=self.database,
            client=self.client,
            settings=Settings(),
        )

    @asynccontextmanager
    async def launcher(self, *flows: WebhookFlow, **changes: Any) -> AsyncIterator[Launcher]:
        """Run a launcher with ``flows`` on its resident runner."""
        database = Database(self.ledger.launcher_url, pool_size=10)
        launcher = Launcher(
            database=database,
            client=self.client,
            flows=await self.deploy(*flows) if flows else {},
            settings=Settings(**QUICK | changes),
            owner=new_owner(),
        )
        stop = asyncio.Event()
        running = asyncio.create_task(launcher.run(stop))
        try:
            yield launcher
        finally:
            stop.set()
            try:
                await running
            finally:
                await database.close()

    async def record(
        self,
        body: dict[str, Any] | None = None,
        *,
        id: str | None = None,
        type: str = "order.created",
        callback_url: str | None = None,
        block: str = "default",
    ) -> UUID:
        """Commit one event as the receiver does; return its row's id."""
        options = {"callback_url": callback_url, "block": block}
        rows = await self.record_many([id or uuid4().hex], body=body, type=type, **options)
        return rows[0]

    async def record_many(
        self,
        ids: list[str],
        *,
        body: dict[str, Any] | None = None,
        type: str = "order.created",
        callback_url: str | None = None,
        block: str = "default",
    ) -> list[UUID]:
        """Commit events as the receiver does; return their rows' ids.

        ``block`` is the endpoint's credentials block.
        """
        raw = json.dumps({"total": 12.5} if body is None else body).encode()
        async with self.database.transaction(DEFAULT_TENANT) as connection:
            spec = InboundEndpoint(self.name, credentials_block=block)
            endpoint = (await save(connection, DEFAULT_TENANT, spec, actor="test")).saved.id
            hash = hashlib.sha256(raw).digest()
            arrivals = [
                Arrival(endpoint, id, type, raw, hash, {}, None, callback_url) for id in ids
            ]
            recorded = await record_arrivals(connection, DEFAULT_TENANT, arrivals)
        return [recorded[arrival.id].id for arrival in arrivals]

    async def event(self, row_id: UUID) -> dict[str, Any]:
        """Return the event and its executions as operators see them."""
        async with self.database.transaction(DEFAULT_TENANT) as connection:
            found = await event_with_executions(connection, DEFAULT_TENANT, row_id)
        assert found is not None, row_id
        return found

    async def ended(self, row_id: UUID, *, seconds: float = 30.0) -> dict[str, Any]:
        """Wait for the event's end and return it with its executions."""

        async def has_ended() -> dict[str, Any] | None:
            event = await self.event(row_id)
            return event if event["state"] in ("completed", "dead", "cancelled") else None

        return await until(has_ended, seconds=seconds, what=f"the end of event {row_id}")

    async def runs(self) -> list[FlowRun]:
        """Return all flow runs of this test's deployments."""
        mine = DeploymentFilter(name=DeploymentFilterName(any_=[self.name]))
        found: list[FlowRun] = []
        while page := await self.client.read_flow_runs(
            deployment_filter=mine, limit=200, offset=len(found)
        ):
            found += page
        return found

    async def run(self, flow_run: UUID) -> FlowRun:
        """Return one flow run as Prefect has it now."""
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        return (await self.client.read_flow_runs(flow_run_filter=wanted))[0]


@pytest_asyncio.fixture
async def bridge(
    ledger: Ledger,
    database: Database,
    prefect: PrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Bridge]:
    """The road of one test."""
    monkeypatch.setenv("DATABASE_URL", ledger.app_url)
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    settings.cache_clear()
    yield Bridge(ledger, database, prefect, tmp_path)
    # Of flows that the test has run in its own loop.
    await close_database()
    settings.cache_clear()
