"""The flows that come with this package: deployed by every launcher, run by whichever is first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow
from prefect.types._datetime import now

from ..core.errors import PrefectUnavailable
from ..core.settings import Settings
from ..flows import inbox
from ..flows.fall_back import fall_back
from ..flows.redrive import TIMEOUT, redrive
from .deploying import deploy_shipped
from .falling_back import FallingBack
from .prefect_api import PrefectApi
from .threads import LoopThreads

logger = logging.getLogger("prefect_n8n.launcher")

MAX_RUNS = 4
LOST_SECONDS = 2.0 * TIMEOUT
"""A redrive that has not ended by then has lost its launcher: it may take half of that."""


class Shipped:
    """Deploys the shipped flows, and executes their runs that an operator starts."""

    def __init__(
        self,
        *,
        client: PrefectClient,
        prefect: PrefectApi,
        threads: LoopThreads,
        falling_back: FallingBack,
        settings: Settings,
    ) -> None:
        self._client = client
        self._prefect = prefect
        self._threads = threads
        self._falling_back = falling_back
        self._settings = settings
        self._flows: dict[UUID, Flow[..., Any]] = {}
        self._held: dict[UUID, asyncio.Task[None]] = {}

    async def turn(self) -> None:
        """Deploy them, once; then start runs that are due.

        Raises:
            PrefectUnavailable: Prefect is away.
        """
        if not self._flows:
            self._flows = await deploy_shipped(self._client, (fall_back, redrive))
        for run in await self._prefect.due(list(self._flows), MAX_RUNS - len(self._held)):
            if run.id not in self._held:
                task = asyncio.create_task(self._guarded(run))
                self._held[run.id] = task
                task.add_done_callback(lambda _, id=run.id: self._held.pop(id))

    async def rescue(self) -> None:
        """Let redrives run again whose launcher was lost: repeated, they change nothing.

        Raises:
            PrefectUnavailable: Prefect is away.
        """
        old = await self._prefect.stale_runs(redrive, older_than=LOST_SECONDS)
        before = now("UTC") - timedelta(seconds=LOST_SECONDS)
        for id, run in (await self._prefect.read(old)).items():
            since = None if run.state is None else run.state.timestamp
            if id not in self._held and since is not None and since < before:
                logger.warning("redrive %s was lost with its launcher; it runs again", id)
                await self._prefect.run_again(id)

    async def drain(self, seconds: float) -> None:
        """Wait for the runs at hand."""
        if self._held:
            await asyncio.wait(self._held.values(), timeout=seconds)

    async def execute(self, run: FlowRun) -> None:
        """Execute a redrive that an operator started, if no other launcher has it."""
        if await self._prefect.claim(run):
            tenant = self._settings.tenant_id
            await self._threads.run(lambda: _execute(run, tenant), lambda _: None)

    async def _guarded(self, run: FlowRun) -> None:
        flow = self._flows.get(cast(UUID, run.deployment_id))
        handle: Callable[[FlowRun], Coroutine[Any, Any, None]] = (
            self._falling_back.by_hand if flow is fall_back else self.execute
        )
        try:
            await handle(run)
        except PrefectUnavailable as error:
            logger.warning("flow run %s: %s", run.id, error)
        except Exception:
            logger.exception("flow run %s could not be executed", run.id)


async def _execute(run: FlowRun, tenant: UUID) -> State[Any]:
    inbox.tenant.set(tenant)
    made = run_flow(redrive, flow_run=run, parameters=run.parameters, return_type="state")
    return await cast(Awaitable[State[Any]], made)
