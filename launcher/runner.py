"""The resident runner: executes flow runs of loaded flows in this process, warm.

A run is leased in the ledger, then claimed in Prefect, then executed, then settled. Killed
anywhere in between, the lease runs out and the reconciler brings the same run back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow

from ..core.errors import LedgerUnavailable, PrefectUnavailable
from ..core.settings import Settings
from ..flows import inbox
from ..flows.webhook import WebhookFlow
from ..ledger import launches, runs
from ..ledger.database import Database, Role
from ..ledger.runs import Run
from ..ledger.states import ExecutionState
from .hooks import run_cancellation_hooks
from .manual import Manual
from .outcome import outcome_of
from .prefect_api import PrefectApi
from .results import NOTHING, Kept, kept_of
from .threads import LoopThreads, Work

logger = logging.getLogger("prefect_n8n.launcher")


@dataclass(frozen=True, slots=True)
class Ended:
    """A run's last state, and what its flow returned."""

    state: State[Any]
    kept: Kept


@dataclass(slots=True)
class _Held:
    work: Work[Ended] | None = None
    leased: bool = False
    cancelled: bool = False
    lost: bool = False

    def stop(self) -> None:
        if self.work is not None:
            self.work.cancel()


class Runner:
    """Executes runs of the deployments in ``flows`` (by deployment id)."""

    def __init__(
        self,
        *,
        database: Database,
        prefect: PrefectApi,
        flows: Mapping[UUID, WebhookFlow],
        threads: LoopThreads,
        owner: str,
        settings: Settings,
        on_free: Callable[[], None],
    ) -> None:
        self.flows = flows
        self.turned_away = False
        """Whether a run had to wait in Prefect because every slot was taken."""
        self._database = database
        self._prefect = prefect
        self._owner = owner
        self._settings = settings
        self._on_free = on_free
        self._manual = Manual(database, prefect, settings.tenant_id)
        self._threads = threads
        self._held: dict[UUID, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def free(self) -> int:
        """How many more runs may be started."""
        return self._settings.runner_slots - len(self._held)

    @property
    def deployments(self) -> list[str]:
        """The names of the deployments whose runs are executed here."""
        return [flow.deployment for flow in self.flows.values()]

    @property
    def leased(self) -> set[UUID]:
        """The flow runs that are leased here."""
        return {id for id, held in self._held.items() if held.leased}

    def start(self, flow_run: FlowRun) -> None:
        """Execute the run in the background, if it is ours to run, due, and a slot is free."""
        due = flow_run.state is not None and flow_run.state.is_scheduled()
        if flow_run.deployment_id not in self.flows or flow_run.id in self._held or not due:
            return
        if self.free <= 0:
            self.turned_away = True
            return
        self._held[flow_run.id] = _Held()
        task = asyncio.create_task(self._guarded(flow_run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, flow_run: UUID, *, lost: bool = False) -> None:
        """Stop a run; ``lost``: another launcher has it now, so say nothing about it."""
        held = self._held.get(flow_run)
        if held is not None:
            held.cancelled = held.cancelled or not lost
            held.lost = held.lost or lost
            held.stop()

    async def drain(self, seconds: float) -> None:
        """Wait for the runs at hand; leave what is not done by then to be rescued at once."""
        if self._tasks:
            logger.info("waiting up to %.0f s for %d flow runs to end", seconds, len(self._tasks))
            await asyncio.wait(self._tasks, timeout=seconds)
        if self._held:
            logger.warning("%d flow runs go on elsewhere, or at the next start", len(self._held))
            await self._expire(None)

    async def _guarded(self, flow_run: FlowRun) -> None:
        try:
            await self._run(flow_run)
        except (PrefectUnavailable, LedgerUnavailable) as error:
            logger.warning("flow run %s: %s", flow_run.id, error)
            await self._expire(flow_run.id)
        except Exception:
            logger.exception("flow run %s could not be executed", flow_run.id)
            await self._expire(flow_run.id)
        finally:
            del self._held[flow_run.id]
            self._on_free()

    async def _run(self, flow_run: FlowRun) -> None:
        run = await self.lease(flow_run.id)
        flow = self.flows[cast(UUID, flow_run.deployment_id)]
        if run is None and await self._manual.admit(flow_run, flow.deployment):
            run = await self.lease(flow_run.id)
        if run is None:
            return
        if not await self.claim(flow_run):
            await self._release(flow_run.id)
            return
        await self.settle(flow_run, run, await self.execute(flow_run, run))

    async def lease(self, flow_run: UUID) -> Run | None:
        """Take the run's lease in the ledger; None where it is not known, ended, or another's."""
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            run = await runs.take(
                connection, flow_run, owner=self._owner, lease=self._settings.lease_seconds
            )
        self._held[flow_run].leased = run is not None
        return run

    async def claim(self, flow_run: FlowRun) -> bool:
        """Claim the run in Prefect."""
        return await self._prefect.claim(flow_run)

    async def execute(self, flow_run: FlowRun, run: Run) -> Ended | None:
        """Run the flow in one of the threads; None where the run was cancelled or lost."""
        held = self._held[flow_run.id]

        def on_start(work: Work[Ended]) -> None:
            held.work = work
            if held.cancelled or held.lost:
                work.cancel()

        flow = self.flows[cast(UUID, flow_run.deployment_id)]
        return await self._threads.run(lambda: _execute(flow, flow_run, run.tenant_id), on_start)

    async def settle(self, flow_run: FlowRun, run: Run, ended: Ended | None) -> None:
        """Store the run's end in the ledger; a run that has not ended is given back."""
        held = self._held[run.flow_run_id]
        end = None if ended is None else outcome_of(ended.state)
        if held.lost:
            return
        if held.cancelled and (end is None or end[0] is not ExecutionState.COMPLETED):
            flow = self.flows[cast(UUID, flow_run.deployment_id)]
            await run_cancellation_hooks(flow, flow_run)
            await self._prefect.end_cancelled(run.flow_run_id)
            end = (ExecutionState.CANCELLED, "Cancelled in Prefect.")
        if end is None:
            await self._release(run.flow_run_id)
            return
        kept = NOTHING if ended is None else ended.kept
        await finish(self._database, run, end, kept=kept, actor=f"launcher {self._owner}")

    async def _release(self, flow_run: UUID) -> None:
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            await runs.release(connection, flow_run, owner=self._owner)

    async def _expire(self, flow_run: UUID | None) -> None:
        try:
            async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
                await runs.expire(connection, owner=self._owner, run=flow_run)
        except LedgerUnavailable:
            logger.warning("leases are left to run out: the ledger is away")


async def finish(
    database: Database,
    run: Run,
    end: tuple[ExecutionState, str | None],
    *,
    kept: Kept = NOTHING,
    actor: str,
) -> bool:
    """End the run's execution in its tenant, with what its flow returned if it completed; False
    if it had ended already."""
    state, error = end
    if state is not ExecutionState.COMPLETED:
        kept = NOTHING
    async with database.transaction(run.tenant_id) as connection:
        return await launches.finish(
            connection,
            run.tenant_id,
            run.id,
            state,
            error=error or kept.reason,
            result=kept.json,
            actor=actor,
        )


async def _execute(flow: WebhookFlow, flow_run: FlowRun, tenant: UUID) -> Ended:
    inbox.tenant.set(tenant)
    run = run_flow(flow, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")
    state = await cast(Awaitable[State[Any]], run)
    return Ended(state, await kept_of(state))
