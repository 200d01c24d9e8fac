"""Delivers: claims due deliveries endpoint by endpoint, one flow run for each group.

Claimed, the group gets a flow run in Prefect, whose id is stored; then the run makes the attempts
in one of the threads. Killed anywhere in between, the leases run out and another launcher goes on
from the attempts' rows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow

from ..core.errors import LedgerUnavailable, PrefectUnavailable, Unavailable
from ..core.settings import Settings
from ..flows import inbox
from ..flows.deliver import deliver
from ..ledger import deliveries
from ..ledger.database import Database, Role
from ..ledger.deliveries import Group
from .prefect_api import PrefectApi
from .threads import LoopThreads, Work

logger = logging.getLogger("prefect_n8n.launcher")

MAX_RUNS = 8
RUNS_PER_ENDPOINT = 3
"""A run waits for its slowest delivery; those that come due meanwhile go with another."""

GROUP = 32
LOST_PAGE = 100


@dataclass(slots=True)
class _Held:
    group: Group
    run: UUID | None = None
    work: Work[State[Any]] | None = None
    cancelled: bool = False


class Delivering:
    """Keeps deliveries under way while some are due and there is room."""

    def __init__(
        self,
        *,
        database: Database,
        prefect: PrefectApi,
        threads: LoopThreads,
        owner: str,
        settings: Settings,
        on_free: Callable[[], None],
    ) -> None:
        self._database = database
        self._prefect = prefect
        self._threads = threads
        self._owner = owner
        self._settings = settings
        self._on_free = on_free
        self._tasks: dict[asyncio.Task[None], _Held] = {}
        self._failure: Unavailable | None = None

    @property
    def runs(self) -> set[UUID]:
        """The flow runs that are under way here."""
        return {held.run for held in self._tasks.values() if held.run is not None}

    async def turn(self) -> None:
        """Claim and start groups while there is room.

        Raises:
            Unavailable: a delivery since the last turn found Prefect or PostgreSQL away.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        while len(self._tasks) < MAX_RUNS:
            group = await self.claim()
            if group is None:
                return
            held = _Held(group)
            task = asyncio.create_task(self._guarded(held))
            self._tasks[task] = held
            task.add_done_callback(self._ended)

    async def claim(self) -> Group | None:
        """Claim one group, of an endpoint that has not enough runs yet."""
        counts = Counter(held.group.endpoint_id for held in self._tasks.values())
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            return await deliveries.claim(
                connection,
                owner=self._owner,
                lease=self._settings.lease_seconds,
                most=GROUP,
                busy=[id for id, count in counts.items() if count >= RUNS_PER_ENDPOINT],
            )

    async def rescue(self) -> None:
        """Give back the deliveries of lost launchers; they are due at once."""
        while True:
            async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
                lost = await deliveries.claim_lost(
                    connection,
                    owner=self._owner,
                    lease=self._settings.lease_seconds,
                    most=LOST_PAGE,
                )
            for tenant, ids in lost.items():
                logger.warning("%d deliveries were lost with their launcher; they go on", len(ids))
                await self._give_back(tenant, ids, delay=0.0, counted=True)
            if sum(map(len, lost.values())) < LOST_PAGE:
                return

    async def sweep(self) -> None:
        """End the runs in Prefect whose launcher is gone: nobody else would."""
        old = await self._prefect.stale_runs(deliver, older_than=2 * self._settings.lease_seconds)
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            live = await deliveries.live_runs(connection, old)
        for run in set(old) - live - self.runs:
            await self._prefect.end_crashed(run, "Its launcher was lost; another one goes on.")

    def cancel(self, run: UUID) -> None:
        """Stop a run that an operator cancels; its unfinished deliveries are cancelled with it."""
        for held in self._tasks.values():
            if held.run == run:
                held.cancelled = True
                if held.work is not None:
                    held.work.cancel()

    async def drain(self, seconds: float) -> None:
        """Wait for the runs at hand, and leave the rest to others at once."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def create(self, group: Group) -> FlowRun:
        """Create the group's flow run. Nobody else can pick it up: it has no deployment."""
        count = len(group.deliveries)
        name = f"{group.slug} · {count} {'delivery' if count == 1 else 'deliveries'}"
        return await self._prefect.create_own_run(
            deliver,
            parameters={"deliveries": list(map(str, group.deliveries)), "probe": group.probe},
            name=f"{name}{' · probe' if group.probe else ''}",
            tags=["n8n", f"endpoint:{group.slug}"],
        )

    async def store(self, group: Group, run: UUID) -> None:
        """Store the run's id."""
        async with self._database.transaction(group.tenant_id) as connection:
            await deliveries.set_run(connection, group, run, owner=self._owner)

    async def execute(self, held: _Held, run: FlowRun) -> None:
        """Run the flow in one of the threads."""

        def on_start(work: Work[State[Any]]) -> None:
            held.work = work
            if held.cancelled:
                work.cancel()

        await self._threads.run(lambda: _execute(run, held.group.tenant_id, self._owner), on_start)

    async def settle(self, held: _Held) -> None:
        """Give back what the run has not brought to an end."""
        group = held.group
        if held.cancelled:
            async with self._database.transaction(group.tenant_id) as connection:
                await deliveries.cancel(
                    connection, group.tenant_id, group.deliveries, owner=self._owner
                )
            if held.run is not None:
                await self._prefect.end_cancelled(held.run)
            return
        await self._give_back(group.tenant_id, group.deliveries, delay=5.0, counted=True)

    async def _guarded(self, held: _Held) -> None:
        try:
            await self._deliver(held)
        except Unavailable as error:
            self._failure = error
        except Exception:
            logger.exception("deliveries of endpoint %s", held.group.endpoint_id)

    async def _deliver(self, held: _Held) -> None:
        group = held.group
        try:
            run = await self.create(group)
        except PrefectUnavailable:
            await self._give_back(group.tenant_id, group.deliveries, delay=1.0, counted=False)
            raise
        held.run = run.id
        try:
            await self.store(group, run.id)
            await self.execute(held, run)
        finally:
            try:
                await self.settle(held)
            except LedgerUnavailable:
                logger.warning("deliveries are left to their leases: the ledger is away")

    async def _give_back(
        self, tenant: UUID, ids: list[UUID] | tuple[UUID, ...], *, delay: float, counted: bool
    ) -> None:
        async with self._database.transaction(tenant) as connection:
            await deliveries.give_back(
                connection, tenant, ids, owner=self._owner, delay=delay, counted=counted
            )

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._on_free()


async def _execute(run: FlowRun, tenant: UUID, owner: str) -> State[Any]:
    inbox.tenant.set(tenant)
    inbox.owner.set(owner)
    made = run_flow(deliver, flow_run=run, parameters=run.parameters, return_type="state")
    return await cast(Awaitable[State[Any]], made)
