"""Compares open executions with Prefect: ends what has ended, brings back what was lost.

Prefect restarts nothing by itself: the run of a killed runner stays Running for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, StateType

from ..core.settings import Settings
from ..ledger import runs
from ..ledger.database import Database, Role
from ..ledger.runs import Run
from ..ledger.states import ExecutionState
from .outcome import outcome_of
from .prefect_api import PrefectApi
from .results import NOTHING, kept_elsewhere
from .runner import finish

logger = logging.getLogger("prefect_n8n.launcher")

PAGE = 100


class Reconciler:
    """Looks at executions that no live runner holds."""

    def __init__(
        self,
        *,
        database: Database,
        prefect: PrefectApi,
        owner: str,
        settings: Settings,
        held: Callable[[], Container[UUID]],
        on_rescued: Callable[[], None],
    ) -> None:
        self._database = database
        self._prefect = prefect
        self._owner = owner
        self._settings = settings
        self._held = held
        self._on_rescued = on_rescued

    async def turn(self) -> None:
        """Look at all of them once.

        Raises:
            Unavailable: Prefect or PostgreSQL is away.
        """
        after: UUID | None = None
        while True:
            async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
                page = await runs.open_runs(connection, most=PAGE, after=after)
            known = await self._prefect.read([run.flow_run_id for run in page])
            for run in page:
                await self._settle(run, known.get(run.flow_run_id))
            if len(page) < PAGE:
                return
            after = page[-1].flow_run_id

    async def _settle(self, run: Run, flow_run: FlowRun | None) -> None:
        end = (
            (ExecutionState.FAILED, "The flow run was deleted in Prefect.")
            if flow_run is None
            else outcome_of(flow_run.state)
        )
        if run.flow_run_id in self._held():
            # Running here: its lease ran out because this process was starved, not lost. Its runner
            # knows what it returned.
            return
        if end is not None:
            state = None if flow_run is None else flow_run.state
            kept = NOTHING if state is None else await kept_elsewhere(state)
            await finish(self._database, run, end, kept=kept, actor=f"launcher {self._owner}")
        elif run.leased and await self._take_over(run):
            # Read again: until just now its runner may have been alive.
            now = (await self._prefect.read([run.flow_run_id])).get(run.flow_run_id)
            await self._rescue(run, now)

    async def _take_over(self, run: Run) -> bool:
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            return await runs.take_over(
                connection, run.flow_run_id, owner=self._owner, lease=self._settings.lease_seconds
            )

    async def _rescue(self, run: Run, flow_run: FlowRun | None) -> None:
        """Decide about a run whose lease was lost and is now ours."""
        kind = None if flow_run is None else flow_run.state_type
        if flow_run is not None and kind is StateType.CANCELLING:
            await self._prefect.end_cancelled(run.flow_run_id)
            end = (ExecutionState.CANCELLED, "Cancelled in Prefect.")
            await finish(self._database, run, end, actor=f"launcher {self._owner}")
        elif kind in (StateType.RUNNING, StateType.PENDING):
            await self._run_again(run)
        else:
            # Scheduled or paused: anyone may run it. Ended: the next turn says so.
            await self._give_back(run, rescued=False)

    async def _run_again(self, run: Run) -> None:
        if run.rescues >= self._settings.max_claims:
            reason = f"its runner was lost {run.rescues + 1} times"
            await self._prefect.end_crashed(run.flow_run_id, f"Given up: {reason}.")
            end = (ExecutionState.FAILED, f"Crashed: {reason}")
            await finish(self._database, run, end, actor=f"launcher {self._owner}")
            return
        await self._prefect.run_again(run.flow_run_id)
        await self._give_back(run, rescued=True)
        logger.warning("flow run %s was lost with its runner; it runs again", run.flow_run_id)
        self._on_rescued()

    async def _give_back(self, run: Run, *, rescued: bool) -> None:
        give = runs.rescue if rescued else runs.release
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            await give(connection, run.flow_run_id, owner=self._owner)
